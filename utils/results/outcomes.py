"""What a method's runs came to, and the paired differences between two methods on the same tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median, stdev

from utils.errors import InputError
from utils.results.intervals import mean_and_ci95
from utils.results.run_files import RunFiles
from utils.results.schema import FEW_SHOT, FULL, AnyResults


def half_width(values: list[float]) -> float:
    """Of the mean's 95 % interval."""
    return mean_and_ci95(values)[1]


@dataclass(frozen=True)
class Measure:
    """How a task's methods are told apart.

    accuracy: its key in results.json. spread: of accuracies and differences, of two values or more; spread_key and
        spread_name are what compare.json and the table call it. summed: by key of results.json, what makes one number
        of those of several seeds.
    """

    accuracy: str
    spread: Callable[[list[float]], float]
    spread_key: str
    spread_name: str
    summed: dict[str, Callable[[list], float]]


FIGURES = {
    **dict.fromkeys(("peak_memory_mib", "peak_memory_test_mib", "process_memory_mib"), max),
    "seconds_per_step": median,
    **dict.fromkeys(("supernet_parameters", "macs"), fmean),
}
FOUND = {
    **dict.fromkeys(("found_accuracy", "found_parameters", "found_macs", "found_storage_mib"), fmean),
    "found_peak_memory_mib": max,
    **dict.fromkeys(("agreement", "candidate_entropy"), fmean),
}
DERIVED = dict.fromkeys(("search_seconds", "derived_parameters", "derived_macs"), fmean)
MEASURES = {
    FEW_SHOT: Measure("accuracy", half_width, "ci95", "95 % interval", FIGURES | FOUND),
    FULL: Measure("derived_accuracy", stdev, "sd", "standard deviation", FIGURES | DERIVED),
}


@dataclass(frozen=True)
class Outcome:
    """What a method's runs came to.

    samples: accuracies by number of the few-shot task, or by seed of the full task. results: of each run.
    """

    method: str
    samples: dict[int, float]
    results: list[AnyResults]


def outcome_of(method: str, runs: list[RunFiles]) -> Outcome:
    """Of one finished run on few-shot tasks, or of several with a seed each on a full task."""
    results = [run.results for run in runs]
    if runs[0].kind == FULL:
        samples = {result.settings.get("seed"): result.derived_accuracy for result in results}
    else:
        samples = {row.task: row.accuracy for row in runs[0].logs["tasks"]}
    return Outcome(method, samples, results)


def tasks_of(result: AnyResults) -> dict:
    """What settles the tasks that a run met, but for their number."""
    settings = result.settings
    return {
        "dataset": result.dataset,
        **{key: getattr(result, key, None) for key in ("ways", "shots", "queries")},
        **{f"--{flag}": settings.get(flag) for flag in ("seed", "use_vinyals_split", "input_size")},
        "--data_path (by its content)": settings.get("data_path (SHA-256)"),
    }


def differences(outcome: Outcome, reference: Outcome) -> list[float]:
    """Of the accuracies, pair by pair, where both have one."""
    pairs = ((value, reference.samples.get(number)) for number, value in outcome.samples.items())
    return [value - other for value, other in pairs if other is not None]


def check_same_tasks(outcome: Outcome, reference: Outcome) -> None:
    """Differences are between pairs, so both must have met the same tasks.

    Raises:
        InputError: they were run on other data, on other tasks or with other seeds.
    """
    first, second = (
        {**tasks_of(side.results[0]), "number of tasks (--eval_epochs)": len(side.samples)}
        for side in (outcome, reference)
    )
    for name, value in first.items():
        if value != second[name]:
            raise InputError(
                f"{outcome.method} and {reference.method} were not run on the same tasks: "
                f"{name} is {value} and {second[name]}."
            )


def schedule(settings: dict) -> str:
    """Which schedule was run, e.g. "step by step (fastest), split 5"."""
    split = f"split {settings.get('split_num') or 1}"
    if not settings.get("step_by_step"):
        return f"all at once, {split}"
    kind = f" ({settings['schedule']})" if settings.get("schedule") else ""
    return f"step by step{kind}, {split}"


def selection(search: str, settings: dict) -> str:
    """The search, and what it chooses where that is not the default, e.g. "onnas, 3 candidates"."""
    if search == "darts" and settings.get("unrolled"):
        return "darts, second order"
    if search not in ("onnas", "random"):
        return search
    words = [search]
    if settings.get("sampleno", 2) != 2:
        words.append(f"{settings['sampleno']} candidates")
    if not settings.get("beta_sampling", 1):
        words.append("all pairs")
    if search == "onnas" and not settings.get("alpha_expect", 1):
        words.append("chosen uniformly")
    return ", ".join(words)


def as_row(outcome: Outcome, reference: Outcome) -> dict:
    """A method's numbers under the keys of compare.json; one that does not apply is absent."""
    first = outcome.results[0]
    measure = MEASURES[first.task]
    row = {"method": outcome.method, "schedule": schedule(first.settings)}
    compared = {measure.accuracy: list(outcome.samples.values())}
    if outcome is not reference:
        compared["difference"] = differences(outcome, reference)
    for key, values in compared.items():
        row[key] = fmean(values)
        if len(values) > 1:
            row[f"{key}_{measure.spread_key}"] = measure.spread(values)
    for key, summed in measure.summed.items():
        values = [getattr(result, key) for result in outcome.results]
        if None not in values:
            row[key] = summed(values)
    return row
