"""What to change when memory has run out: what would help, and is not in use yet."""

from collections.abc import Mapping

LARGE_CHANNELS = 4  # what --init_channels could still be lowered to, if it is larger


def less_memory(flags: Mapping[str, object]) -> str:
    """One clause that names the flags of a run of onnas.py or tfml.py that would lower its memory.

    Args:
        flags: every flag's value, by name; one that the script does not have, or that is not given, is absent or None.
    """
    value = {"split_num": 1, "batch_size": 2, "tasks_at_once": 1, "workers": 0, "init_channels": 0, **flags}
    helps = {
        "--step_by_step 1": value.get("step_by_step") == 0 and value.get("search") != "pcdarts",
        "--schedule leanest": value.get("step_by_step") == 1 and value.get("schedule") != "leanest",
        "--memory_budget MIB": value.get("memory_budget", 0) is None,
        f"a larger --split_num than {value['split_num'] or 1}": "split_num" in flags
        and (value["split_num"] or 1) < (value["batch_size"] or 2),
        "--tasks_at_once 1": (value["tasks_at_once"] or 1) > 1,
        "--workers 0": value["workers"] > 0,
        f"a smaller --batch_size than {value['batch_size']}": (value["batch_size"] or 2) > 2,
        f"a smaller --init_channels than {value['init_channels']}": (value["init_channels"] or 0) > LARGE_CHANNELS,
    }
    named = [help_ for help_, is_left in helps.items() if is_left][:3]
    return f"{' or '.join(named)} needs less" if named else "nothing but a machine with more memory helps"
