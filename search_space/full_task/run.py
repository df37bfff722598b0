"""The two loops of a full task, epoch by epoch: its search, then the training of what was found.

Each returns what it made and its figures under the keys of results.json.
"""

from collections.abc import Sequence
from itertools import islice
from statistics import median

import torch

from models.derived_network import DerivedNetwork
from models.macs import count_macs
from search_space.board.opening import open_events, open_full_task_board
from search_space.flags.onnas import OnnasFlags
from search_space.full_task.derived_training import DerivedTraining
from search_space.full_task.epochs import Epochs
from search_space.full_task.plan import FullTaskPlan, planned_training
from search_space.full_task.search import FullTaskSearch
from search_space.resume import load_checkpoint, save_checkpoint
from search_space.search_network import SearchNetwork
from utils.data.episode import Episode
from utils.data.full_task_data import FullTask
from utils.data.image_batches import image_batches
from utils.errors import InputError
from utils.memory import PeakMemory
from utils.results.confusion import judge
from utils.results.examples import CLASSES, SHOTS, example_of
from utils.results.log_rows import DerivedEpochRow, ExampleRow, SearchEpochRow
from utils.results.row_log import RowLog


def run_search(
    flags: OnnasFlags, device: torch.device, data: FullTask, halves: tuple[list[int], list[int]], plan: FullTaskPlan
) -> tuple[FullTaskSearch, dict]:
    """Searches and tests; the network is then that of the best epoch."""
    path, batch_size, workers = flags.run.path, flags.search.batch_size, flags.tasks.workers
    network = SearchNetwork.build(plan.network, len(data.classes), flags.run.seed, device)
    if plan.meta_cell is not None:
        network.unfold(plan.meta_cell)
    search = FullTaskSearch(network, plan.settings, flags.run.seed)
    epochs = Epochs(search, path / "checkpoint.pt", path / "search.jsonl", SearchEpochRow, flags.full_task.epochs)

    def half(name: str, indices: list[int], epoch: int):
        order = (flags.run.seed, name, epoch)
        return image_batches(data.train, indices, batch_size, epoch_order=order, augment=True, workers=workers)

    def batches(epoch: int) -> tuple:
        return half("weights", halves[0], epoch), half("architecture", halves[1], epoch), steps

    steps = min(len(half("weights", indices, 0)) for indices in halves)
    board = open_full_task_board(flags.run.tensorboard, path / "tb" / "search", search, epochs.first, steps)
    best = path / "searched.pt"

    def on_epoch(row: SearchEpochRow) -> None:
        board.add_epoch(row)
        if search.best is not None and search.best.epoch == row.epoch:
            save_checkpoint(best, row.epoch + 1, network.state_dict())

    epochs.run(flags.run.name or flags.search.search, steps, batches, on_epoch)
    for optimizer in search.optimizers:
        optimizer.state.clear()  # its memory is for testing
    if load_checkpoint(best, network.load_state_dict) != search.best.epoch + 1:
        raise InputError(f"{best} is of another run than args.json beside it: name another folder.")
    test = image_batches(data.test, range(len(data.test)), plan.size.test_batch(plan.settings), workers=workers)
    with PeakMemory(device, network.resident()) as testing:
        search.accuracy(islice(test, 1))
    searching = epochs.rows[search.warm_up_epochs :]
    return search, {
        "search": flags.search.search,
        "accuracy": search.accuracy(test),
        "search_epochs": flags.full_task.epochs,
        "best_epoch": search.best.epoch,
        "validation_accuracy": search.best.accuracy,
        "search_seconds": sum(row.seconds for row in epochs.rows),
        "seconds_per_step": median(row.seconds_per_step for row in searching),
        **epochs.peak(),
        "peak_memory_test_mib": testing.mib,
        **network.sizes(plan.meta_cell),
    }


def train_derived(flags: OnnasFlags, data: FullTask, derived: DerivedNetwork) -> dict:
    """Trains a derived network on the whole training set, and tests it."""
    path, batch_size, workers = flags.run.path, flags.search.batch_size, flags.tasks.workers
    trainer = DerivedTraining(derived, planned_training(flags, derived.settings, data), flags.run.seed)
    schedule, images = trainer.settings.schedule, range(len(data.train))
    log, checkpoint = path / "derived.jsonl", path / "derived_checkpoint.pt"
    epochs = Epochs(trainer, checkpoint, log, DerivedEpochRow, flags.derived.derived_epochs)
    events = open_events(flags.run.tensorboard, path / "tb" / "derived", epochs.first)
    cutout = flags.derived.cutout

    def batches(epoch: int) -> tuple:
        drawn = {"epoch_order": (flags.run.seed, "derived", epoch), "augment": True, "cutout": cutout}
        return (image_batches(data.train, images, batch_size, **drawn, workers=workers),)

    def on_epoch(row: DerivedEpochRow) -> None:
        events.add_row(row, {"lr": trainer.settings.lr_at(row.epoch)})

    epochs.run(f"{flags.run.name or flags.search.search}, derived", len(batches(0)[0]), batches, on_epoch)
    trainer.optimizer.state.clear()  # its memory is for testing
    test = image_batches(data.test, range(len(data.test)), schedule.largest(batch_size), workers=workers)
    peaks = {}
    for use, batch in (("test", next(iter(test))), ("inference", next(iter(image_batches(data.test, [0], 1))))):
        with PeakMemory(trainer.device, trainer.resident(), batch) as memory:
            trainer.accuracy([batch])
        peaks[f"derived_peak_memory_{use}_mib"] = memory.mib
    labels, given = trainer.classify(test)
    judged = judge(labels, given, len(data.classes))
    RowLog(path / "examples.jsonl", ExampleRow, before=0).append(ExampleRow(**_shown(data, given)))
    return {
        **{f"derived_{key}": judged[key] for key in ("accuracy", "accuracy_interval", "confusion")},
        "derived_parameters": derived.parameter_count,
        "derived_macs": count_macs(derived, data.shape),
        "derived_epochs": flags.derived.derived_epochs,
        "derived_seconds": sum(row.seconds for row in epochs.rows),
        "derived_split_num": schedule.split_num,
        "derived_step_by_step": schedule.step_by_step,
        **epochs.peak("derived_"),
        **peaks,
    }


def _shown(data: FullTask, given: list[int]) -> dict:
    """The first training and test images of the first classes, and the class that each of the latter was given."""
    parts = [(images, _first_of_each(images.labels)) for images in (data.train, data.test)]
    tensors = [
        tensor
        for images, indices in parts
        for tensor in (
            torch.stack([torch.from_numpy(images.pixels[index].copy()) for index in indices]),
            torch.tensor([images.labels[index] for index in indices]),
        )
    ]
    return example_of(Episode(0, *tensors, data.classes), [given[index] for index in parts[1][1]])


def _first_of_each(labels: Sequence[int]) -> list[int]:
    """The first few images of each class that is shown; the first image of all, if there is none."""
    found = [[index for index, label in enumerate(labels) if label == shown][:SHOTS] for shown in range(CLASSES)]
    return [index for indices in found for index in indices] or [0]
