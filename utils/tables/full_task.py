"""Table of the full task: what the search took, and what the network that it found is worth."""

import json
from collections.abc import Iterable

from utils.results.outcomes import as_row, outcome_of, schedule, selection
from utils.results.run_files import RunFiles, Runs
from utils.results.schema import FULL
from utils.results.settings import METHODS
from utils.tables.data_size import full_task_data
from utils.tables.layout import (
    NOT_RUN,
    RUN,
    UNFINISHED,
    Column,
    dataset,
    device,
    duration,
    measured,
    number,
    text,
)

TITLE = "Full task"
COMMANDS = """\
python -m utils.compare --task full --methods full onnas --dataset cifar10 --seeds 1 2 3 --path runs/full_task \\
    --epochs 50 --warm_up_epochs 25 --derived_epochs 100 --flags full ' --step_by_step 0' \\
    --flags onnas ' --step_by_step 1 --split_num 5'
python onnas.py --task full --dataset cifar10 --genotype FILE --path runs/full_task_given  # a genotype that you have"""
EXPECTED_DATASET, EXPECTED = "cifar10", ("full", "onnas")
GIVEN = "genotype given, no search"
# Flags that may differ between runs that are one but for the seed: where and how they ran, and the few-shot task's.
APART = (
    *("seed", "path", "name", "data_path", "download", "meta_cell", "genotype", "workers", "export", "memory_budget"),
    *("n", "k", "q", "eval_epochs", "hp_setting", "use_vinyals_split", "test_task_train_steps", "test_adapt_steps"),
    "transductive",
)
NOTE = "+- is the standard deviation over seeds; memory is the largest of them, the other numbers are their mean."


def rows(runs: Runs) -> list[dict]:
    """A row for runs that differ by the seed alone; a method that was expected and not run says so."""
    table = [*map(_row, _groups(runs.finished(FULL))), *map(_unfinished, runs.unfinished(FULL))]
    ran = {(row["dataset"], row["search"]) for row in table}
    table += [
        {"dataset": EXPECTED_DATASET, "search": method, "method": method, "state": NOT_RUN}
        for method in EXPECTED
        if (EXPECTED_DATASET, method) not in ran
    ]
    methods = [*METHODS, GIVEN]

    def place(row: dict) -> tuple:
        return row["dataset"] != EXPECTED_DATASET, row["dataset"], methods.index(row["search"])

    return sorted(table, key=place)


def _groups(runs: Iterable[RunFiles]) -> list[list[RunFiles]]:
    """Runs that differ by the seed alone, a seed once: where one was run twice, the second run starts a group."""
    groups: dict[tuple[str, int], list[RunFiles]] = {}
    for run in runs:
        alike, again = _alike(run), 0
        while run.settings.get("seed") in [other.settings.get("seed") for other in groups.get((alike, again), [])]:
            again += 1
        groups.setdefault((alike, again), []).append(run)
    return list(groups.values())


def _alike(run: RunFiles) -> str:
    settings = {flag: value for flag, value in run.settings.items() if flag not in APART}
    return json.dumps([settings, run.results.dataset, run.results.data, run.results.device], sort_keys=True)


def _described(settings: dict) -> dict:
    search = GIVEN if settings["genotype"] else settings["search"]
    row = {"dataset": settings["dataset"], "search": search, "method": selection(search, settings)}
    return row if search == GIVEN else {**row, "schedule": schedule(settings)}


def _row(group: list[RunFiles]) -> dict:
    run = group[0]
    outcome = outcome_of(run.settings["search"], group)
    row = {**as_row(outcome, outcome), **_described(run.settings)}
    if run.settings["genotype"]:
        del row["schedule"]
    return row | {
        "state": RUN,
        "data": full_task_data(run.results),
        "device": run.results.device,
        "seeds": list(outcome.samples),
        "search_epochs": run.results.search_epochs,
        "derived_epochs": run.results.derived_epochs,
        "runs": [str(run.path) for run in group],
    }


def _unfinished(run: RunFiles) -> dict:
    row = {**_described(run.settings), "state": UNFINISHED, "progress": run.progress}
    return {**row, "seeds": [run.settings.get("seed")], "runs": [str(run.path)]}


def _epochs(row: dict) -> str:
    epochs = (row.get("search_epochs"), row.get("derived_epochs"))
    return ", ".join("-" if value is None else f"{value:d}" for value in epochs) if row["state"] == RUN else ""


COLUMNS = (
    Column("data set", dataset, "data set"),
    Column("images (training + test)", text("data")),
    Column("method", text("method"), "method"),
    Column("back-propagation", text("schedule")),
    Column("epochs of search, training", _epochs),
    Column("seeds", lambda row: ", ".join(map(str, row.get("seeds", []))), "seeds"),
    Column("search memory (MiB)", number("peak_memory_mib", ".1f"), "MiB"),
    Column("process (MiB)", number("process_memory_mib", ".0f")),
    Column("search time (h:mm:ss)", duration("search_seconds"), "search time"),
    Column("derived accuracy (%)", measured("derived_accuracy", "derived_accuracy_sd"), "accuracy %"),
    Column("parameters", number("derived_parameters", ",.0f"), "parameters"),
    Column("MACs", number("derived_macs", ",.0f"), "MACs"),
    Column("device", device),
)
