"""Table of the full task: what the search took, and what the network that it found is worth."""

import json
from collections.abc import Iterable
from statistics import fmean

from utils.compare import METHODS
from utils.results.outcomes import FULL, MEASURES, as_row, read_outcome, schedule
from utils.tables.runs import Run, Runs, UnfinishedRun
from utils.tables.text import (
    NOT_RUN,
    device_name,
    duration,
    full_task_data,
    markdown_table,
    number,
    percent,
    selection,
    title,
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


def rows(runs: Runs) -> list[dict]:
    """A row for runs that differ by the seed alone; a method that was expected and not run says so."""
    table = [_row(group) for group in _groups(runs.full)]
    table += [_unfinished(run) for run in runs.unfinished if run.settings.get("task") == FULL]
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


def _groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that differ by the seed alone, a seed once: where one was run twice, the second run starts a group."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        alike, again = _alike(run.result), 0
        while run.result["settings"].get("seed") in _seeds(groups.get((alike, again), [])):
            again += 1
        groups.setdefault((alike, again), []).append(run)
    return list(groups.values())


def _seeds(group: list[Run]) -> list[int | None]:
    return [run.result["settings"].get("seed") for run in group]


def _alike(result: dict) -> str:
    settings = {flag: value for flag, value in result["settings"].items() if flag not in APART}
    return json.dumps([settings, result["dataset"], result.get("data"), result.get("device")], sort_keys=True)


def _search(result: dict) -> str:
    return GIVEN if result["settings"].get("genotype") else result["search"]


def _row(group: list[Run]) -> dict:
    first = group[0].result
    search, settings = _search(first), first["settings"]
    outcome = read_outcome(search, FULL, [run.path for run in group])
    row = {
        "dataset": first["dataset"],
        **as_row(outcome, outcome, MEASURES[FULL]),
        "search": search,
        "method": selection(search, settings),
        "state": "run",
        "data": full_task_data(first),
        "device": first.get("device"),
        "seeds": list(outcome.samples),
        "derived_epochs": settings.get("derived_epochs"),
        "runs": [str(run.path) for run in group],
    }
    if search == GIVEN:
        row = {key: value for key, value in row.items() if key not in ("schedule", "peak_memory_mib")}
    else:
        row["search_epochs"] = first.get("search_epochs")
        row["search_seconds"] = fmean(run.result["search_seconds"] for run in group)
    return row


def _unfinished(run: UnfinishedRun) -> dict:
    settings = run.settings
    search = GIVEN if settings.get("genotype") else settings["search"]
    row = {"dataset": settings["dataset"], "search": search, "method": selection(search, settings)}
    row |= {"state": "unfinished", "progress": run.progress, "seeds": [settings.get("seed")], "runs": [str(run.path)]}
    return row if search == GIVEN else {**row, "schedule": schedule(settings)}


def as_markdown(table: list[dict]) -> str:
    heads = (
        "data set",
        "images (training + test)",
        "method",
        "back-propagation",
        "epochs of search, training",
        "seeds",
    )
    heads += ("search memory (MiB)", "search time (h:mm:ss)", "derived accuracy (%)", "parameters", "MACs", "device")
    note = "+- is the standard deviation over seeds; memory is the largest of them, the other numbers are their mean."
    return f"{note}\n\n{markdown_table(heads, map(_cells, table))}"


def _cells(row: dict) -> list[str]:
    absent = NOT_RUN if row["state"] == NOT_RUN else ""
    accuracy = percent(row.get("derived_accuracy"), row.get("derived_accuracy_sd")) or absent
    if row["state"] == "unfinished":
        accuracy = f"unfinished: {row['progress']}"
    epochs = (row.get("search_epochs"), row.get("derived_epochs"))
    return [
        title(row["dataset"]),
        row.get("data", ""),
        row["method"],
        row.get("schedule", ""),
        ", ".join(number(value, "d", "-") for value in epochs) if row["state"] == "run" else "",
        ", ".join(str(seed) for seed in row.get("seeds", [])),
        number(row.get("peak_memory_mib"), ".1f", absent),
        duration(row.get("search_seconds")) or absent,
        accuracy,
        number(row.get("derived_parameters"), ",.0f", absent),
        number(row.get("derived_macs"), ",.0f", absent),
        device_name(row) if row["state"] == "run" else "",
    ]
