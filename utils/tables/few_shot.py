"""Table of few-shot accuracy: by data set, ways, shots and method, with the paired difference to ``full``."""

from utils.compare import METHODS
from utils.results.outcomes import FEW_SHOT, MEASURES, Outcome, as_row, differences, read_outcome, schedule, tasks_of
from utils.results.published import REPTILE, TITLES
from utils.tables.runs import Run, Runs, UnfinishedRun
from utils.tables.text import (
    NOT_RUN,
    device_name,
    few_shot_data,
    markdown_table,
    meta_cell_name,
    number,
    percent,
    selection,
    title,
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
PUBLISHED = "Reptile, fixed network (published)"
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
META_CELL = "meta_cell (SHA-256)"
RUN, UNFINISHED, OF_PAPER = "run", "unfinished", "published"


def rows(runs: Runs) -> list[dict]:
    """Task by task: the published row, then method by method; one that was expected and not run says so."""
    ran = _ran(runs.few_shot)
    ran += [_unfinished(run) for run in runs.unfinished if run.settings.get("task") == FEW_SHOT]
    tasks = dict.fromkeys([*sorted(REPTILE, key=_place), *sorted((_task(row) for row in ran), key=_place)])
    table = []
    for task in tasks:
        here = [row for row in ran if _task(row) == task]
        here += [
            {**_named(task), "method": method, "state": NOT_RUN}
            for method in EXPECTED
            if method not in {row["search"] for row in here}
        ]
        if task in REPTILE:
            table.append(
                {**_named(task), "method": PUBLISHED, "state": OF_PAPER, "accuracy": REPTILE[task], "queries": 1}
            )
        table += sorted(here, key=lambda row: METHODS.index(row.get("search", row["method"])))
    return table


def _named(task: tuple[str, int, int]) -> dict:
    return dict(zip(("dataset", "ways", "shots"), task, strict=True))


def _task(row: dict) -> tuple[str, int, int]:
    return row["dataset"], row["ways"], row["shots"]


def _place(task: tuple[str, int, int]) -> tuple:
    """Omniglot first, then miniImageNet, then the others."""
    dataset, ways, shots = task
    order = ["omniglot", *(name for name in TITLES if name != "omniglot")]
    return order.index(dataset) if dataset in order else len(order), dataset, ways, shots


def _ran(runs: list[Run]) -> list[dict]:
    outcomes = [read_outcome(run.result["search"], FEW_SHOT, [run.path]) for run in runs]
    fulls = sorted((outcome for outcome in outcomes if outcome.method == "full"), key=_plainness)

    def reference(outcome: Outcome) -> Outcome:
        return next((full for full in fulls if _alike(outcome.results[0], full.results[0])), outcome)

    return [_row(run, outcome, reference(outcome)) for run, outcome in zip(runs, outcomes, strict=True)]


def _plainness(outcome: Outcome) -> tuple:
    """Back-propagation all at once and of whole batches first."""
    settings = outcome.results[0]["settings"]
    return settings.get("step_by_step") or 0, settings.get("split_num") or 1


def _alike(result: dict, full: dict) -> bool:
    """Whether two runs are of the same tasks, from the same meta-cell, and adapt in the same way but for the method."""
    flags = (META_CELL, *ADAPTATION, *(() if result["search"] in OWN_RELAXATION else RELAXATION))

    def what_counts(side: dict) -> tuple:
        return tasks_of(side), side.get("data"), [side["settings"].get(flag) for flag in flags]

    return what_counts(result) == what_counts(full)


def _row(run: Run, outcome: Outcome, reference: Outcome) -> dict:
    result, settings = run.result, run.result["settings"]
    row = {
        **_named(_task(result)),
        "queries": result["queries"],
        **as_row(outcome, reference, MEASURES[FEW_SHOT]),
        "search": result["search"],
        "method": selection(result["search"], settings),
        "state": RUN,
        "tasks": len(outcome.samples),
        "seconds_per_task": result["seconds_per_task"],
        "device": result.get("device"),
        "data": few_shot_data(result),
        "meta_cell": settings.get(META_CELL),
        "adaptation": _adaptation(settings),
        "run": str(run.path),
    }
    if outcome is not reference:
        row["difference_tasks"] = len(differences(outcome, reference))
    return row


def _adaptation(settings: dict) -> str:
    """E.g. "10 epochs, batches of 15, seed 21"."""
    epochs = settings.get("test_task_train_steps")
    text = f"{epochs} epoch{'' if epochs == 1 else 's'}, batches of {settings.get('batch_size')}"
    text += "" if settings.get("transductive", 1) else ", image by image"
    return f"{text}, seed {settings.get('seed')}"


def _unfinished(run: UnfinishedRun) -> dict:
    settings = run.settings
    return {
        **_named((settings["dataset"], settings["n"], settings["k"])),
        "queries": settings["q"],
        "search": settings["search"],
        "method": selection(settings["search"], settings),
        "schedule": schedule(settings),
        "state": UNFINISHED,
        "progress": run.progress,
        "meta_cell": settings.get(META_CELL),
        "adaptation": _adaptation(settings),
        "run": str(run.path),
    }


def as_markdown(table: list[dict]) -> str:
    heads = ("data set", "task", "queries a class", "method", "back-propagation", "tasks", "accuracy (%)")
    heads += ("difference to full (%)", "peak memory, adapting (MiB)", "s a task", "s a step", "device")
    heads += ("test images", "adaptation", "meta-cell")
    note = (
        "Accuracy with the 95 % interval over tasks; differences are task by task, to the full search from the same "
        "meta-cell and with the same settings. The meta-cell is named by its SHA-256."
    )
    return f"{note}\n\n{markdown_table(heads, map(_cells, table))}"


def _cells(row: dict) -> list[str]:
    measured = {
        RUN: percent(row.get("accuracy"), row.get("accuracy_ci95")),
        OF_PAPER: percent(row.get("accuracy"), None),
        NOT_RUN: NOT_RUN,
        UNFINISHED: f"unfinished: {row.get('progress')}",
    }
    absent = NOT_RUN if row["state"] == NOT_RUN else ""
    return [
        title(row["dataset"]),
        f"{row['ways']}-way {row['shots']}-shot",
        number(row.get("queries"), "d"),
        row["method"],
        row.get("schedule", ""),
        number(row.get("tasks"), "d"),
        measured[row["state"]],
        _difference(row),
        number(row.get("peak_memory_mib"), ".1f", absent),
        number(row.get("seconds_per_task"), ".2f", absent),
        number(row.get("seconds_per_step"), ".3f", absent),
        device_name(row) if row["state"] == RUN else "",
        row.get("data", ""),
        row.get("adaptation", ""),
        meta_cell_name(row.get("meta_cell")),
    ]


def _difference(row: dict) -> str:
    text = percent(row.get("difference"), row.get("difference_ci95"), "+")
    if text and row["difference_tasks"] < row["tasks"]:
        text += f" (on {row['difference_tasks']} tasks)"
    return text
