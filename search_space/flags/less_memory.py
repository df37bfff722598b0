"""What to change when memory has run out: what would help, and is not in use yet."""

from collections.abc import Mapping

# What needs the least; a flag that is absent, or None, counts as that.
LEAST = {"tasks_at_once": 1, "workers": 0, "batch_size": 2, "init_channels": 4}
NAMED = 3  # of what would help, the first so many


def less_memory(flags: Mapping[str, object]) -> str:
    """A clause that names the flags that would lower the memory of a run of tfml.py or onnas.py.

    Args:
        flags: every flag's value by its name, as args.json has them.
    """
    asked = {name: flags.get(name) or least for name, least in LEAST.items()}
    helps = {
        "--step_by_step 1": flags.get("step_by_step") == 0 and flags.get("search") != "pcdarts",
        "--schedule leanest": flags.get("step_by_step") == 1 and flags.get("schedule") != "leanest",
        "a larger --split_num": "split_num" in flags and (flags["split_num"] or 1) < asked["batch_size"] // 2,
        "--memory_budget MIB": "memory_budget" in flags and flags["memory_budget"] is None,
        "--tasks_at_once 1": asked["tasks_at_once"] > 1,
        "--workers 0": asked["workers"] > 0,
        "a smaller --batch_size": asked["batch_size"] > LEAST["batch_size"],
        "a smaller --init_channels": asked["init_channels"] > LEAST["init_channels"],
    }
    left = [name for name, is_left in helps.items() if is_left][:NAMED]
    return f"{' or '.join(left)} needs less" if left else "only a machine with more memory helps"
