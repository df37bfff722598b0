"""Adapting to a support set of the user's own, to all of it and without each part in turn."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch

from search_space.batches import batches
from search_space.evaluation import TEST_TASK, Start
from search_space.exporting import export_task_network
from search_space.task_network import TaskNetwork, task_network
from utils.data.own_task import OwnTask
from utils.memory import PeakMemory
from utils.results.confusion import judge
from utils.results.exports import ExportedFile
from utils.results.schema import Judged
from utils.run.progress import progress_bar

Fold = tuple[list[int], list[int]]  # indices of images: to adapt to, to test on


@dataclass(frozen=True)
class Adapted:
    """What adapting left, and its figures under the keys of results.json."""

    chosen: TaskNetwork
    figures: dict


def adapt(
    start: Start, which: str, number: int, task: OwnTask, measure: bool, index: Sequence[int] | None = None
) -> Adapted:
    """Adapts to a task's images, shown by a progress bar.

    Args:
        which: the network that is to classify, one of NETWORKS.
        number: settles the draws; 0 for the whole task, 1, 2, ... for its folds.
        measure: whether to measure the peak of memory, which takes time.
        index: of the images; None: all.

    Raises:
        InputError: the loss diverged.
    """
    device, chosen = start.network.device, slice(None) if index is None else index
    images, labels = task.images[chosen].to(device), task.labels[chosen].to(device)
    search = start.unfold(TEST_TASK, number)
    memory = PeakMemory(device, start.network.resident(), [images, labels]) if measure else None
    steps = start.settings.epochs * len(batches(torch.arange(len(labels)), start.settings.batch_size))
    started = time.perf_counter()
    with (
        progress_bar(None, f"fold {number}" if number else "adapting", "step", 0, steps) as progress,
        memory or nullcontext(),
    ):
        search.on_step = lambda *_: progress.update()
        search.adapt(images, labels)
    figures = {
        "seconds_per_task": time.perf_counter() - started,
        "seconds_per_step": median(search.step_seconds),
        "peak_memory_mib": memory and memory.mib,
        "peak_memory_breakdown_mib": memory and memory.breakdown_mib,
        "genotype": start.network.genotype().as_dict(),
    }
    search.refuse_divergence("the search")
    return Adapted(task_network(search, images, labels, which), figures)


@torch.no_grad()
def judge_folds(
    start: Start, which: str, task: OwnTask, folds: Sequence[Fold], exported: bool
) -> tuple[Judged, list[ExportedFile]]:
    """Adapts without each part in turn, and classifies that part.

    Args:
        which: the network that classifies, one of NETWORKS.
        exported: whether to export each network, too.

    Returns:
        How right the classes of all parts are; and, for the files of all exports, the mean of their figures.
    """
    labels, predictions, exports = [], [], []
    for number, (rest, left_out) in enumerate(folds, start=1):
        with torch.enable_grad():
            network = adapt(start, which, number, task, False, rest).chosen.network.eval()
        images = task.images[left_out]
        labels += task.labels[left_out].tolist()
        predictions += [network(image[None].to(start.network.device)).argmax().item() for image in images]
        if exported:
            with tempfile.TemporaryDirectory() as folder:
                file, names = Path(folder) / "fold", task.class_names
                about = {"calibration": task.images[rest], "classes": names}
                exports.append(export_task_network(network, file, images, task.labels[left_out], **about))
    return judge(labels, predictions, len(task.class_names)), _means(exports, [len(part) for _, part in folds])


def _means(exports: list[list[ExportedFile]], images: list[int]) -> list[ExportedFile]:
    """For each of the files that every fold has: accuracy and agreement over the images of all folds."""
    return [
        {key: fmean((file[key] for file in files), images) for key in ("accuracy", "agreement")}
        for files in zip(*exports, strict=True)
    ]
