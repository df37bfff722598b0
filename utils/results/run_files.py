"""What the files in a run's folder say, of a run that is finished or not."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from utils.errors import InputError
from utils.results.checking import damaged, misfit, read_json
from utils.results.log_rows import (
    AnyRow,
    DerivedEpochRow,
    ExampleRow,
    MetaEpochRow,
    PhotographRow,
    SearchEpochRow,
    TaskRow,
)
from utils.results.row_log import read_rows
from utils.results.schema import FEW_SHOT, KINDS, TFML, Amount, AnyResults, Cells, read_results
from utils.results.settings import OWN, SCRIPTS, read_settings

LOGS = {
    "metrics": MetaEpochRow,
    "tasks": TaskRow,
    "search": SearchEpochRow,
    "derived": DerivedEpochRow,
    "examples": ExampleRow,
    "photographs": PhotographRow,
}


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    kind: TFML, FEW_SHOT or FULL. settings: args.json. logs: the rows of each of LOGS. genotype: genotype.json.
    finished: whether results.json is of these settings; if not, the run has not come to its end, or went on after it.
    """

    path: Path
    kind: str
    settings: dict
    logs: dict[str, list[AnyRow]]
    results: AnyResults | None
    genotype: Cells | None
    finished: bool

    @property
    def progress(self) -> str:
        """How far the run got, e.g. "3 of 200 tasks"."""
        settings, done = self.settings, {name: len(rows) for name, rows in self.logs.items()}
        if self.kind == OWN:
            return "it has not come to its end"
        if self.kind == FEW_SHOT:
            return f"{done['tasks']:,} of {settings['eval_epochs']:,} tasks"
        if self.kind == TFML:
            left = settings["meta_epochs"] - done["metrics"]
            said = f"{done['metrics']:,} of {settings['meta_epochs']:,} meta-epochs"
            return said if left > 0 else f"{said}, but no results.json: tfml.py --resume writes it"
        training = f"{done['derived']:,} of {settings['derived_epochs']:,} epochs of training"
        if settings["genotype"]:
            return training
        return f"{done['search']:,} of {settings['epochs']:,} epochs of search, {training}"


def read_run(path: Path) -> RunFiles:
    """Reads a run's folder.

    Raises:
        InputError: there is no run, or a file is damaged.
    """
    settings = read_settings(path / "args.json")
    kind = settings and settings.get("task", TFML)
    if kind not in KINDS:
        raise InputError(f"{path / 'args.json'} is not of a run of {SCRIPTS}: name the folder of one (its --path).")
    logs = {name: read_rows(path / f"{name}.jsonl", rows) for name, rows in LOGS.items()}
    results = read_results(path / "results.json") if (path / "results.json").exists() else None
    finished = results is not None and results.settings == settings
    if finished and results.task != kind:
        raise damaged(path / "results.json", "it is of another task than args.json", settings["script"])
    if finished and kind == FEW_SHOT and len(logs["tasks"]) != results.tasks:
        wrong = f"it has {len(logs['tasks'])} tasks, results.json {results.tasks}"
        raise damaged(path / "tasks.jsonl", wrong, settings["script"])
    return RunFiles(path, kind, settings, logs, results, _read_genotype(path / "genotype.json"), finished)


def _read_genotype(path: Path) -> Cells | None:
    if not path.exists():
        return None
    genotype = read_json(path, "onnas.py")
    wrong = misfit(genotype, Cells, "it")
    if wrong:
        raise damaged(path, wrong, "onnas.py")
    return genotype


# --- Many runs --------------------------------------------------------------------------------------------------------


class Measured(TypedDict):
    """A cell of the memory table."""

    adapting_mib: Amount
    testing_mib: Amount


class MemoryTable(TypedDict):
    """memory.json: peaks by data set and way to search."""

    device: str
    peaks: dict[str, dict[str, Measured]]


@dataclass(frozen=True)
class Runs:
    """All runs and memory tables (by file) that were found, in the order of the folders' names."""

    runs: list[RunFiles]
    memory: dict[Path, MemoryTable]

    def finished(self, kind: str) -> list[RunFiles]:
        return [run for run in self.runs if run.finished and run.kind == kind]

    def unfinished(self, *kinds: str) -> list[RunFiles]:
        return [run for run in self.runs if not run.finished and run.kind in kinds]


def find_runs(folders: Iterable[Path]) -> Runs:
    """Reads the runs in some folders and below them, each once.

    Raises:
        InputError: a folder holds no run, or a file of one is damaged.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        files = [path for path in folder.rglob("args.json") if read_settings(path) is not None]
        files += folder.rglob("memory.json")
        if not files:
            raise InputError(
                f"{folder} holds no run: name a folder that onnas.py, tfml.py or search_space.memory_table wrote, or "
                "one above such folders."
            )
        for path in sorted(files):
            found.setdefault(path.resolve(), path)
    runs = [read_run(path.parent) for path in found.values() if path.name == "args.json"]
    return Runs(runs, {path: read_memory(path) for path in found.values() if path.name == "memory.json"})


def read_memory(path: Path) -> MemoryTable:
    """Reads what search_space.memory_table measured, maybe not all of it yet.

    Raises:
        InputError: it is damaged.
    """
    table = read_json(path, "search_space.memory_table")
    wrong = misfit(table, MemoryTable, "it")
    if wrong:
        raise damaged(path, wrong, "search_space.memory_table")
    return table
