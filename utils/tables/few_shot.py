"""Table of few-shot accuracy: by data set, ways, shots and method, with the paired difference to ``full``."""

from pathlib import Path

from utils.pictures.bars import draw_accuracy
from utils.results.outcomes import Outcome, as_row, differences, outcome_of, schedule, selection, tasks_of
from utils.results.published import REPTILE, TITLES
from utils.results.run_files import RunFiles, Runs
from utils.results.schema import FEW_SHOT, FewShotResults
from utils.results.settings import META_CELL, METHODS
from utils.tables.data_size import few_shot_data
from utils.tables.layout import (
    NOT_RUN,
    PUBLISHED,
    RUN,
    UNFINISHED,
    Column,
    count,
    dataset,
    device,
    measured,
    meta_cell,
    number,
    percent,
    text,
)

TITLE = "Few-shot accuracy"
COMMANDS = """\
omniglot='--dataset omniglot --normalizer_temp_anneal_mode none --seed 22'
# ways, shots, batch, epochs, learning rate, meta-cell
for task in '5 1 10 10 0.002 omniglot' '5 5 10 10 0.002 omniglot' \\
    '20 1 20 20 0.005 omniglot_20way' '20 5 20 10 0.005 omniglot_20way'; do
    set -- $task
    python -m utils.compare --methods full onnas $omniglot --meta_cell checkpoints/$6.pt --n $1 --k $2 --q 15 \\
        --batch_size $3 --test_task_train_steps $4 --w_lr $5 --eval_epochs 200 \\
        --flags full ' --step_by_step 0' --flags onnas ' --split_num 2' --path runs/few_shot/$1way_$2shot
done
./tfml.sh --path runs/tfml  # makes the meta-cell of miniImageNet
for task in '5 1' '5 5'; do
    set -- $task
    python -m utils.compare --methods full onnas --dataset miniimagenet --meta_cell runs/tfml/meta_cell.pt \\
        --n $1 --k $2 --q 15 --eval_epochs 200 --flags full ' --step_by_step 0' --flags onnas ' --split_num 5' \\
        --path runs/few_shot/miniimagenet_$1way_$2shot
done"""
# The methods that the tables are about: a task without one of them shows that it was not run.
EXPECTED = ("full", "onnas")
REPTILE_NAME = "Reptile (published)"
# What must be alike for a difference to be the method's; how alpha relaxes is some methods' own.
ADAPTATION = ("w_lr", "alpha_lr", "test_task_train_steps", "test_adapt_steps", "batch_size", "transductive")
RELAXATION = (
    "normalizer",
    "normalizer_temp_anneal_mode",
    "normalizer_t_max",
    "normalizer_t_min",
    "alpha_prune_threshold",
)
OWN_RELAXATION = ("darts", "pcdarts")
NOTE = (
    "Accuracy with the 95 % interval over tasks; Reptile's is of a fixed network. Differences are task by task, to "
    "the full search from the same meta-cell and with the same settings. The meta-cell is named by its SHA-256."
)


def rows(runs: Runs) -> list[dict]:
    """Task by task: the published row, then method by method; one that was expected and not run says so."""
    ran = [*_ran(runs.finished(FEW_SHOT)), *map(_unfinished, runs.unfinished(FEW_SHOT))]
    tasks = dict.fromkeys([*sorted(REPTILE, key=_place), *sorted((_task(row) for row in ran), key=_place)])
    table = []
    for task in tasks:
        named = dict(zip(("dataset", "ways", "shots"), task, strict=True))
        here = [row for row in ran if _task(row) == task]
        missing = [method for method in EXPECTED if method not in {row["search"] for row in here}]
        here += [{**named, "search": method, "method": method, "state": NOT_RUN} for method in missing]
        if task in REPTILE:
            published = {"method": REPTILE_NAME, "state": PUBLISHED, "accuracy": REPTILE[task], "queries": 1}
            table.append({**named, **published})
        table += sorted(here, key=lambda row: METHODS.index(row["search"]))
    return table


def _task(row: dict) -> tuple[str, int, int]:
    return row["dataset"], row["ways"], row["shots"]


def _place(task: tuple[str, int, int]) -> tuple:
    """Omniglot first, then miniImageNet, then the others."""
    order = ["omniglot", *(name for name in TITLES if name != "omniglot")]
    return order.index(task[0]) if task[0] in order else len(order), *task


def _ran(runs: list[RunFiles]) -> list[dict]:
    outcomes = [outcome_of(run.results.search, [run]) for run in runs]
    fulls = sorted((outcome for outcome in outcomes if outcome.method == "full"), key=_plainness)

    def reference(outcome: Outcome) -> Outcome:
        return next((full for full in fulls if _alike(outcome.results[0], full.results[0])), outcome)

    return [_row(run, outcome, reference(outcome)) for run, outcome in zip(runs, outcomes, strict=True)]


def _plainness(outcome: Outcome) -> tuple:
    """Back-propagation all at once and of whole batches first."""
    settings = outcome.results[0].settings
    return settings.get("step_by_step") or 0, settings.get("split_num") or 1


def _alike(result: FewShotResults, full: FewShotResults) -> bool:
    """Whether two runs are of the same tasks, from the same meta-cell, and adapt in the same way but for the method."""
    flags = (META_CELL, *ADAPTATION, *(() if result.search in OWN_RELAXATION else RELAXATION))

    def what_counts(side: FewShotResults) -> tuple:
        return tasks_of(side), side.data, [side.settings.get(flag) for flag in flags]

    return what_counts(result) == what_counts(full)


def _row(run: RunFiles, outcome: Outcome, reference: Outcome) -> dict:
    result = run.results
    row = {
        "dataset": result.dataset,
        "ways": result.ways,
        "shots": result.shots,
        "queries": result.queries,
        **as_row(outcome, reference),
        **_described(run),
        "state": RUN,
        "tasks": len(outcome.samples),
        "seconds_per_task": result.seconds_per_task,
        "device": result.device,
        "data": few_shot_data(result),
    }
    if outcome is not reference:
        row["difference_tasks"] = len(differences(outcome, reference))
    return row


def _unfinished(run: RunFiles) -> dict:
    settings = run.settings
    task = {"dataset": settings["dataset"], "ways": settings["n"], "shots": settings["k"], "queries": settings["q"]}
    return {**task, "schedule": schedule(settings), **_described(run), "state": UNFINISHED, "progress": run.progress}


def _described(run: RunFiles) -> dict:
    """Which method a run is of, and how it adapts, e.g. "10 epochs, batches of 15, seed 21"."""
    settings = run.settings
    epochs = settings.get("test_task_train_steps")
    adaptation = f"{epochs} epoch{'' if epochs == 1 else 's'}, batches of {settings.get('batch_size')}"
    adaptation += "" if settings.get("transductive", 1) else ", image by image"
    return {
        "search": settings["search"],
        "method": selection(settings["search"], settings),
        "meta_cell": settings.get(META_CELL),
        "adaptation": f"{adaptation}, seed {settings.get('seed')}",
        "run": str(run.path),
    }


def _task_name(row: dict) -> str:
    return f"{row['ways']}-way {row['shots']}-shot"


def _difference(row: dict) -> str:
    shown = percent("difference", "difference_ci95", "+")(row)
    if shown and row["difference_tasks"] < row["tasks"]:
        shown += f" (on {row['difference_tasks']} tasks)"
    return shown


COLUMNS = (
    Column("data set", dataset, "data set"),
    Column("task", _task_name, "task"),
    Column("queries a class", count("queries")),
    Column("method", text("method"), "method"),
    Column("back-propagation", text("schedule")),
    Column("tasks", count("tasks"), "tasks"),
    Column("accuracy (%)", measured("accuracy", "accuracy_ci95"), "accuracy %"),
    Column("difference to full (%)", _difference, "to full %"),
    Column("found network (%)", percent("found_accuracy", "found_accuracy_ci95"), "found %"),
    Column("peak memory, adapting (MiB)", number("peak_memory_mib", ".1f"), "MiB"),
    Column("process (MiB)", number("process_memory_mib", ".0f")),
    Column("s a task", number("seconds_per_task", ".2f"), "s a task"),
    Column("s a step", number("seconds_per_step", ".3f")),
    Column("device", device),
    Column("test images", text("data")),
    Column("adaptation", text("adaptation")),
    Column("meta-cell", meta_cell),
)


def draw(table: list[dict], path: Path) -> None:
    """Draws the rows as bars, a panel a data set."""
    panels: dict[str, list[dict]] = {}
    for row in table:
        words = [_task_name(row), row["method"], row.get("schedule", "")]
        words.append("subset" if row.get("data", "").startswith("subset") else "")
        known = "accuracy" in row
        bar = {
            "name": ", ".join(filter(None, words)),
            "label": measured("accuracy", "accuracy_ci95")(row),
            "value": 100 * row["accuracy"] if known else None,
            "half": 100 * row.get("accuracy_ci95", 0) if known else None,
            "kind": row.get("search"),
        }
        panels.setdefault(dataset(row), []).append(bar)
    draw_accuracy(panels, path)
