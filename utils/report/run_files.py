"""What the files in a run's folder say, of a run that is finished or not."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from utils.errors import InputError
from utils.results.intervals import mean_and_ci95
from utils.results.rows import read_rows
from utils.run.run_directory import read_lines

WRITER = "tfml.py or onnas.py"
TFML, FEW_SHOT, FULL = "tfml", "fewshot", "full"
# What each kind's args.json must hold, and each row of a log: the first that does not ends the log.
SETTINGS = {
    TFML: ("dataset", "n", "k", "q", "meta_epochs", "eval_epochs"),
    FEW_SHOT: ("dataset", "n", "k", "q", "search", "eval_epochs"),
    FULL: ("dataset", "search", "epochs", "derived_epochs", "genotype"),
}
LOGS = {
    "metrics": ("meta_epoch", "train_loss", "train_accuracy"),
    "tasks": ("task", "accuracy", "accuracy_before"),
    "search": ("epoch", "loss", "accuracy", "peak_memory_mib"),
    "derived": ("epoch", "loss", "accuracy"),
    "examples": ("classes", "shown"),
}


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run say.

    kind: TFML, FEW_SHOT or FULL. settings: args.json. logs: the rows of each of LOGS, none where the file is absent.
    figures: results.json, or what can be said without it. finished: whether the run got to its end.
    """

    kind: str
    settings: dict
    logs: dict[str, list[dict]]
    figures: dict
    finished: bool


def read_run(path: Path) -> RunFiles:
    """Reads a run's folder.

    Raises:
        InputError: there is no run, or its files are damaged.
    """
    (settings,) = read_rows(path / "args.json", "script", writer=WRITER)
    kind = TFML if settings["script"] == "tfml.py" else settings.get("task")
    if kind not in SETTINGS:
        raise InputError(f"{path / 'args.json'} is not of a run of {WRITER}: name the folder of one (its --path).")
    read_rows(path / "args.json", *SETTINGS[kind], writer=WRITER)
    logs = {name: list(read_lines(path / f"{name}.jsonl", _with(keys))) for name, keys in LOGS.items()}
    results = path / "results.json"
    figures = read_rows(results, "settings", writer=WRITER)[0] if results.exists() else {}
    if kind == TFML:
        tested = [row for row in logs["metrics"] if "test_accuracy" in row]
        finished = len(logs["metrics"]) >= settings["meta_epochs"]
        return RunFiles(kind, settings, logs, {**figures, **(tested[-1] if tested else {})}, finished)
    finished = figures.get("settings") == settings  # else the run went on after it
    if not finished:
        figures = _few_shot_so_far(logs["tasks"]) if kind == FEW_SHOT else _full_task_so_far(path, logs)
    return RunFiles(kind, settings, logs, figures, finished)


def _with(keys: tuple[str, ...]):
    return lambda number, row: all(key in row for key in keys)


def _few_shot_so_far(rows: list[dict]) -> dict:
    if not rows:
        return {}
    accuracy, ci95 = mean_and_ci95([row["accuracy"] for row in rows])
    before = fmean(row["accuracy_before"] for row in rows)
    return {"tasks": len(rows), "accuracy": accuracy, "accuracy_ci95": ci95, "accuracy_before": before} | _heaviest(
        rows
    )


def _full_task_so_far(path: Path, logs: dict[str, list[dict]]) -> dict:
    figures = logs["search"][-1] | _heaviest(logs["search"]) if logs["search"] else {}
    if (path / "genotype.json").exists():
        (figures["genotype"],) = read_rows(path / "genotype.json", "normal", "reduce", writer="onnas.py")
    return figures


def _heaviest(rows: list[dict]) -> dict:
    """The peak memory of the row where it is the highest, and its parts."""
    row = max(rows, key=lambda row: row.get("peak_memory_mib", 0))  # of the first tasks only it was measured
    return {key: row.get(key) for key in ("peak_memory_mib", "peak_memory_breakdown_mib")}
