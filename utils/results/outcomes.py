"""What a method's runs came to, and the paired differences between two methods on the same tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from utils.errors import InputError
from utils.results.intervals import mean_and_ci95
from utils.results.rows import read_rows

FEW_SHOT, FULL = "fewshot", "full"


def half_width(values: list[float]) -> float:
    """Of the mean's 95 % interval."""
    return mean_and_ci95(values)[1]


@dataclass(frozen=True)
class Column:
    """A number of results.json that is shown as it is.

    form: how it is printed. summed: what makes one number of those of several seeds.
    """

    key: str
    heading: str
    form: str
    summed: Callable[[list], float]


@dataclass(frozen=True)
class Measure:
    """How a task's methods are told apart.

    accuracy: its key in results.json. spread: of accuracies and differences, of two values or more; spread_key and
        spread_name are what compare.json and the table call it.
    """

    accuracy: str
    spread: Callable[[list[float]], float]
    spread_key: str
    spread_name: str
    columns: tuple[Column, ...]


COLUMNS = (
    Column("peak_memory_mib", "peak memory, adapting (MiB)", ".1f", max),
    Column("peak_memory_test_mib", "testing (MiB)", ".1f", max),
    Column("seconds_per_step", "seconds a step", ".3f", median),
    Column("supernet_parameters", "supernet parameters", ",.0f", fmean),
)
DERIVED_COLUMNS = (
    Column("derived_parameters", "derived parameters", ",.0f", fmean),
    Column("derived_macs", "derived MACs", ",.0f", fmean),
)
MEASURES = {
    FEW_SHOT: Measure("accuracy", half_width, "ci95", "95 % interval", COLUMNS),
    FULL: Measure("derived_accuracy", stdev, "sd", "standard deviation", COLUMNS + DERIVED_COLUMNS),
}


@dataclass(frozen=True)
class Outcome:
    """What a method's runs came to.

    samples: accuracies by number of the few-shot task, or by seed of the full task.
    results: what each run's results.json holds.
    """

    method: str
    samples: dict[int, float]
    results: list[dict]


def read_outcome(method: str, task: str, paths: list[Path]) -> Outcome:
    """Reads what onnas.py wrote into one folder, or for several seeds into several.

    Raises:
        InputError: a file is missing or damaged.
    """
    accuracy = MEASURES[task].accuracy
    kind = ("ways", "shots", "queries") if task == FEW_SHOT else ()
    keys = ("dataset", "settings", accuracy, *kind)
    results = [read_rows(path / "results.json", *keys, writer="onnas.py")[0] for path in paths]
    if task == FULL:
        return Outcome(method, {result["settings"].get("seed"): result[accuracy] for result in results}, results)
    rows = read_rows(paths[0] / "tasks.jsonl", "task", accuracy, writer="onnas.py")
    return Outcome(method, {row["task"]: row[accuracy] for row in rows}, results)


def tasks_of(result: dict) -> dict:
    """What settles the tasks that a run met, but for their number."""
    settings = result["settings"]
    return {
        **{key: result.get(key) for key in ("dataset", "ways", "shots", "queries")},
        **{f"--{flag}": settings.get(flag) for flag in ("seed", "use_vinyals_split", "input_size")},
        "--data_path (by its content)": settings.get("data_path (SHA-256)"),
    }


def differences(outcome: Outcome, reference: Outcome) -> list[float]:
    """Of the accuracies, pair by pair, where both have one."""
    pairs = ((value, reference.samples.get(number)) for number, value in outcome.samples.items())
    return [value - other for value, other in pairs if other is not None]


def check_same_tasks(outcome: Outcome, reference: Outcome) -> None:
    """Differences are between pairs, so that the two must have met the same.

    Raises:
        InputError: they were run on other data, on other tasks or with other seeds.
    """

    def met(side: Outcome) -> dict:
        return {**tasks_of(side.results[0]), "number of tasks (--eval_epochs)": len(side.samples)}

    first = met(reference)
    for name, value in met(outcome).items():
        if value != first[name]:
            raise InputError(
                f"{outcome.method} and {reference.method} were not run on the same tasks: "
                f"{name} is {value} and {first[name]}."
            )


def schedule(settings: dict) -> str:
    """Which schedule was run, e.g. "step by step (fastest), split 5"."""
    split = f"split {settings.get('split_num') or 1}"
    if not settings.get("step_by_step"):
        return f"all at once, {split}"
    kind = f" ({settings['schedule']})" if settings.get("schedule") else ""
    return f"step by step{kind}, {split}"


def as_row(outcome: Outcome, reference: Outcome, measure: Measure) -> dict:
    """A method's numbers under the keys of compare.json; one that does not apply is absent."""
    row = {"method": outcome.method, "schedule": schedule(outcome.results[0]["settings"])}
    compared = {measure.accuracy: list(outcome.samples.values())}
    if outcome is not reference:
        compared["difference"] = differences(outcome, reference)
    for key, values in compared.items():
        row[key] = fmean(values)
        if len(values) > 1:
            row[f"{key}_{measure.spread_key}"] = measure.spread(values)
    for column in measure.columns:
        values = [result[column.key] for result in outcome.results if result.get(column.key) is not None]
        if values:
            row[column.key] = column.summed(values)
    return row
