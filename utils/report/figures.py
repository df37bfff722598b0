"""Which numbers of a run the page shows, under which names, and how they are put."""

from statistics import fmean
from typing import NamedTuple

from utils.results.checking import as_values
from utils.results.intervals import mean_and_ci95
from utils.results.run_files import RunFiles
from utils.results.schema import FEW_SHOT, FULL, TFML
from utils.results.settings import OWN

SPACE = "\N{NARROW NO-BREAK SPACE}"
# In the page's order. Keys that begin with "derived_" get a table of their own.
LABELS = {
    "meta_epoch": "Meta-epoch of the last meta-test, from 0",
    "test_loss": "Loss, meta-test",
    "train_accuracy": "Accuracy, meta-training",
    "train_loss": "Loss, meta-training",
    "meta_epochs": "Meta-epochs",
    "tasks": "Tasks",
    "query_images": "Images classified",
    "unread_images": "Of these, not read",
    "labelled_images": "Images with a label",
    "folds_accuracy": "Accuracy on support images left out",
    "accuracy_before": "Accuracy before adapting",
    "found_accuracy": "Accuracy of the network found",
    "found_accuracy_ci95": "Its 95 % interval, half",
    "agreement": "Queries that both classify alike",
    "candidate_entropy": "Entropy of the candidates' probabilities (nats)",
    "epoch": "Last epoch, from 0",
    "accuracy": "Accuracy of the searched supernet",
    "validation_accuracy": "Accuracy on the architecture's half",
    "loss": "Loss on the weights' half",
    "search_epochs": "Epochs",
    "best_epoch": "Best epoch, from 0",
    "search_seconds": "Time of the search",
    "seconds": "Time of the epoch",
    "tasks_per_second": "Tasks a second",
    "seconds_per_task": "Time of adapting to a task",
    "seconds_per_step": "Time of a step",
    "peak_memory_mib": "Peak memory, adapting",
    "peak_memory_test_mib": "Peak memory, testing",
    "found_peak_memory_mib": "Peak memory, network found",
    "process_memory_mib": "Peak memory of the process",
    "process_memory_anonymous_mib": "Of it at the end, not of files",
    "parameters": "Parameters of the network",
    "supernet_parameters": "Parameters of the supernet",
    "found_parameters": "Parameters of the network found",
    "macs": "Multiply-accumulates for an image",
    "found_macs": "Multiply-accumulates of the network found",
    "supernet_storage_mib": "Storage of the supernet",
    "meta_cell_storage_mib": "Storage of the meta-cell",
    "found_storage_mib": "Storage of the network found",
    "derived_parameters": "Parameters",
    "derived_macs": "Multiply-accumulates for an image",
    "derived_epochs": "Epochs",
    "derived_seconds": "Time of training",
    "derived_split_num": "Micro-batches of a batch",
    "derived_peak_memory_mib": "Peak memory, training",
    "derived_peak_memory_test_mib": "Peak memory, testing",
    "derived_peak_memory_inference_mib": "Peak memory, a single image",
}
OTHER_LABELS = {
    FULL: {"peak_memory_mib": "Peak memory, searching"},
    TFML: {"seconds": "Time of the meta-epoch"},
}


class Figure(NamedTuple):
    """A number of the page, with the key that it has in the files ("key" or "within.key") and as it is shown."""

    key: str
    value: float
    text: str
    label: str = ""


def as_text(key: str, value: float) -> str:
    """A number with its unit, which its key tells: three significant digits, whole numbers in full."""
    if "accuracy" in key or key == "agreement":
        return f"{100 * value:.1f}{SPACE}%"
    unit = f"{SPACE}MiB" if "mib" in key else f"{SPACE}s" if "second" in key and "per_second" not in key else ""
    size = abs(value)
    if isinstance(value, int) or size >= 100 or value == 0:
        return f"{value:,.0f}{unit}"
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.001 else 6
    return f"{value:.{decimals}f}{unit}"


def figure(values: dict, key: str, label: str = "", within: str = "") -> Figure:
    name = f"{within}.{key}" if within else key
    return Figure(name, values[key], as_text(name, values[key]), label)


def values_of(run: RunFiles) -> dict:
    """results.json; of a run that is not finished what can be said so far; of meta-training also the last meta-test."""
    if run.kind == TFML:
        tested = [row for row in run.logs["metrics"] if row.test_accuracy is not None]
        return {**(as_values(run.results) if run.results else {}), **(as_values(tested[-1]) if tested else {})}
    if run.finished:
        values = as_values(run.results)
        return values | {f"folds_{key}": value for key, value in values.get("folds", {}).items()}
    if run.kind == OWN:
        return {}
    rows = run.logs["tasks" if run.kind == FEW_SHOT else "search"]
    if not rows:
        return {"genotype": run.genotype}
    heaviest = max(rows, key=lambda row: row.peak_memory_mib or 0)  # of the first tasks only it was measured
    peaks = {key: getattr(heaviest, key) for key in ("peak_memory_mib", "peak_memory_breakdown_mib")}
    if run.kind == FULL:
        return {**as_values(rows[-1]), **peaks, "genotype": run.genotype}
    accuracy, ci95 = mean_and_ci95([row.accuracy for row in rows])
    before = fmean(row.accuracy_before for row in rows)
    return {"tasks": len(rows), "accuracy": accuracy, "accuracy_ci95": ci95, "accuracy_before": before, **peaks}


def headline_key(run: RunFiles) -> str:
    """The key of the number that a run was for."""
    if run.kind == FULL:
        return "derived_accuracy" if run.finished else "validation_accuracy"
    if run.kind == OWN and run.finished and run.results.accuracy is None and run.results.folds:
        return "folds_accuracy"
    return "test_accuracy" if run.kind == TFML else "accuracy"


def tables(run: RunFiles, values: dict) -> dict[str, list[Figure]]:
    """All numbers but the one of the headline, in tables by caption."""
    headline, labels = headline_key(run), LABELS | OTHER_LABELS.get(run.kind, {})
    shown = [
        figure(values, key, label) for key, label in labels.items() if key != headline and values.get(key) is not None
    ]
    if run.kind != FULL:
        return {"": shown}
    derived = [entry for entry in shown if entry.key.startswith("derived_")]
    return {"Derived network": derived, "Search": [entry for entry in shown if entry not in derived]}
