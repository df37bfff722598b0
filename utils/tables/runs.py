"""Finds the folders of runs and reads what came of each."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from utils.compare import METHODS
from utils.errors import InputError
from utils.results.outcomes import FEW_SHOT, FULL
from utils.results.rows import read_rows

TFML, MEMORY = "tfml", "memory"
# Each tells a run's folder.
SIGNS = ("results.json", "args.json", "memory.json")
WRITERS = {FEW_SHOT: "onnas.py", FULL: "onnas.py", TFML: "tfml.py"}
DATA = dict.fromkeys((FEW_SHOT, TFML), ("classes", "images"))
DATA[FULL] = ("classes", "train_images", "test_images")
# What args.json must say, by script.
SETTINGS = {
    "onnas.py": ("n", "k", "q", "eval_epochs", "epochs", "derived_epochs"),
    "tfml.py": ("meta_epochs",),
}
MAY_BE_ABSENT = ("accuracy_ci95", "peak_memory_mib", "search_seconds", "meta_cell_storage_mib")
# What the tables read of a task's results.json: text and others, then numbers.
KEYS = {
    FEW_SHOT: ("dataset", "search"),
    FULL: ("dataset",),
    TFML: ("dataset", "network"),
}
NUMBERS = {
    FEW_SHOT: (
        *("ways", "shots", "queries", "tasks", "accuracy", "accuracy_ci95", "seconds_per_task", "seconds_per_step"),
        *("peak_memory_mib", "supernet_storage_mib", "meta_cell_storage_mib"),
    ),
    FULL: ("derived_accuracy", "derived_parameters", "derived_macs", "peak_memory_mib", "search_seconds"),
    TFML: ("meta_epochs", "supernet_storage_mib", "meta_cell_storage_mib"),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its results.json (of the memory table, memory.json) holds."""

    path: Path
    result: dict


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is going on or was stopped: its settings, and how far it got."""

    path: Path
    settings: dict
    progress: str


@dataclass(frozen=True)
class Runs:
    """All runs that were found, by kind; each list in the order of the folders' names."""

    few_shot: list[Run] = field(default_factory=list)
    full: list[Run] = field(default_factory=list)
    tfml: list[Run] = field(default_factory=list)
    memory: list[Run] = field(default_factory=list)
    unfinished: list[UnfinishedRun] = field(default_factory=list)


def find_runs(folders: list[Path]) -> Runs:
    """Reads the runs in some folders and below them; each once.

    Raises:
        InputError: a folder holds no run, or a file of one is damaged.
    """
    runs, seen = Runs(), set()
    for folder in folders:
        found = sorted({path.parent for sign in SIGNS for path in folder.rglob(sign) if _is_ours(path)})
        if not found:
            raise InputError(
                f"{folder} holds no run: name a folder that onnas.py, tfml.py or search_space.memory_table wrote, or "
                "one above such folders."
            )
        for path in found:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _read_run(path, runs)
    return runs


def _is_ours(path: Path) -> bool:
    """args.json is a name that other programs use too, results.json and memory.json are read and refused if damaged."""
    if path.name != "args.json":
        return True
    return _read_settings(path) is not None


def _read_run(path: Path, runs: Runs) -> None:
    if (path / "memory.json").exists():
        runs.memory.append(Run(path, _read_memory(path / "memory.json")))
    settings = _read_settings(path / "args.json") if (path / "args.json").exists() else None
    if not (path / "results.json").exists():
        if settings is not None:
            runs.unfinished.append(UnfinishedRun(path, settings, _progress(path, settings)))
        return
    kind, result = _read_result(path / "results.json")
    settings = settings or result["settings"]
    if _went_on(path, kind, result, settings):
        runs.unfinished.append(UnfinishedRun(path, settings, _progress(path, settings)))
        return
    if kind == FEW_SHOT:
        _check_tasks(path / "tasks.jsonl", result["tasks"])
    {FEW_SHOT: runs.few_shot, FULL: runs.full, TFML: runs.tfml}[kind].append(Run(path, result))


def _went_on(path: Path, kind: str, result: dict, settings: dict) -> bool:
    """Whether a finished run was continued, and has not come to the new end."""
    if kind == FEW_SHOT:
        return result["tasks"] < settings.get("eval_epochs", 0) or _lines(path / "tasks.jsonl") > result["tasks"]
    return kind == TFML and result["meta_epochs"] < settings.get("meta_epochs", 0)


def _progress(path: Path, settings: dict) -> str:
    if settings["script"] == "tfml.py":
        done, asked = _lines(path / "metrics.jsonl"), settings["meta_epochs"]
        if done >= asked:
            return f"all {asked} meta-epochs, but no results.json: tfml.py --resume writes it"
        return f"{done} of {asked} meta-epochs"
    if settings.get("task") == FEW_SHOT:
        return f"{_lines(path / 'tasks.jsonl')} of {settings['eval_epochs']} tasks"
    searched, derived = _lines(path / "search.jsonl"), _lines(path / "derived.jsonl")
    training = f"{derived} of {settings['derived_epochs']} epochs of training"
    return training if settings.get("genotype") else f"{searched} of {settings['epochs']} epochs of search, {training}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- Checked files --------------------------------------------------------------------------------------------------


def _read_settings(path: Path) -> dict | None:
    """What args.json holds; None where another program wrote it."""
    (settings,) = read_rows(path, writer="onnas.py or tfml.py")
    script = settings.get("script")
    if script not in SETTINGS:
        return None
    text = ("task", "dataset", "search") if script == "onnas.py" else ()
    read_rows(path, *text, *SETTINGS[script], writer=script)
    check_numbers(path, {key: settings[key] for key in SETTINGS[script]}, script)
    if script == "onnas.py" and settings["search"] not in METHODS:
        raise _damaged(path, script)
    return settings


def _read_result(path: Path) -> tuple[str, dict]:
    """The task and what results.json holds."""
    (result,) = read_rows(path, "task", "settings", writer="onnas.py or tfml.py")
    kind = result["task"]
    if kind not in WRITERS or not isinstance(result["settings"], dict):
        raise InputError(f"{path} is damaged or of another program: remove its folder, or name another one.")
    needed = [key for key in (*KEYS[kind], *NUMBERS[kind]) if key not in MAY_BE_ABSENT]
    (result,) = read_rows(path, *needed, writer=WRITERS[kind])
    check_numbers(path, {key: result.get(key) for key in NUMBERS[kind]}, WRITERS[kind])
    if kind != TFML and result.get("search", METHODS[0]) not in METHODS:
        raise _damaged(path, WRITERS[kind])
    _check_recorded(path, kind, result)
    return kind, result


def _check_recorded(path: Path, kind: str, result: dict) -> None:
    """The network and the size of the data, which older runs do not say."""
    network, data = result.get("network", {}), result.get("data")
    if not isinstance(network, dict) or (data is not None and not isinstance(data, dict)):
        raise _damaged(path, WRITERS[kind])
    if data is not None:
        if not {*DATA[kind]} <= data.keys():
            raise _damaged(path, WRITERS[kind])
        check_numbers(path, {key: data[key] for key in DATA[kind]}, WRITERS[kind])


def _check_tasks(path: Path, number: int) -> None:
    tasks = read_rows(path, "task", "accuracy", writer="onnas.py")
    if [row["task"] for row in tasks] != list(range(number)):
        raise _damaged(path, "onnas.py")
    check_numbers(path, {row["task"]: row["accuracy"] for row in tasks}, "onnas.py")


def _read_memory(path: Path) -> dict:
    """device, and peaks by data set and way to search."""
    (table,) = read_rows(path, "device", "peaks", writer="search_space.memory_table")
    try:
        peaks = {
            f"{dataset}, {way}": measured["adapting_mib"]
            for dataset, ways in table["peaks"].items()
            for way, measured in ways.items()
        }
    except (AttributeError, TypeError, KeyError) as error:
        raise _damaged(path, "search_space.memory_table") from error
    check_numbers(path, peaks, "search_space.memory_table")
    return table


def check_numbers(path: Path, values: dict, writer: str) -> None:
    """Raises:
    InputError: one is neither absent nor a finite number.
    """
    for value in values.values():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise _damaged(path, writer)


def _damaged(path: Path, writer: str) -> InputError:
    return InputError(f"{path} is damaged: remove its folder and run {writer} again.")
