"""The epochs of a pre-training: progress, checkpoints, log, and where a stopped one goes on."""

import time
from pathlib import Path

from search_space.board.opening import open_events
from search_space.pretraining.tied_training import TiedTraining
from search_space.resume import refuse_another_run
from utils.results.log_rows import PretrainingRow
from utils.results.row_log import RowLog
from utils.run.files import read_tensors, write_tensors
from utils.run.progress import progress_bar
from utils.run.ranks import Ranks

CHECKPOINT, LOG = "pretraining.pt", "pretraining.jsonl"
SECONDS_BETWEEN_CHECKPOINTS = 60


def pretrain(training: TiedTraining, ranks: Ranks, path: Path, name: str, tensorboard: int = 1) -> None:
    """Takes the steps that are left of a run in the folder ``path``; the first process writes.

    Raises:
        InputError: a checkpoint is damaged, a file cannot be written, or the training diverges.
    """
    load_pretraining(training, ranks, path / CHECKPOINT)
    first, epochs = training.step, training.step // training.steps_per_epoch
    if ranks.is_first:
        log = RowLog(path / LOG, PretrainingRow, before=epochs)
        events = open_events(tensorboard, path / "tb" / "pretraining", epochs)
    started = saved = time.perf_counter()
    progress = progress_bar(range(first, training.steps), name, "step", first, training.steps, ranks.is_first)
    for step in progress:
        loss, accuracy = training.advance(ranks)
        progress.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
        ends_epoch = training.step % training.steps_per_epoch == 0
        if ends_epoch:
            held_out, seconds = training.held_out_accuracy(ranks), time.perf_counter() - started
            train_loss, train_accuracy = training.epoch_means()
            row = PretrainingRow(
                epoch=step // training.steps_per_epoch,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                held_out_accuracy=held_out,
                seconds=seconds,
                images_per_second=(training.step - first) * training.settings.batch_size / seconds,
            )
            first, started = training.step, time.perf_counter()
        if ranks.is_first and ends_epoch:
            log.append(row)
            events.add_row(row)
            progress.write(f"Epoch {row.epoch + 1}: accuracy {held_out:.4f} on held-out images")
        if ranks.is_first and (ends_epoch or time.perf_counter() - saved > SECONDS_BETWEEN_CHECKPOINTS):
            write_tensors(path / CHECKPOINT, training.state())
            saved = time.perf_counter()


def load_pretraining(training: TiedTraining, ranks: Ranks, checkpoint: Path) -> None:
    """Loads a checkpoint into every process, if the first one has it.

    Raises:
        InputError: it is damaged, or another training's.
    """
    saved = ranks.from_first(lambda: read_tensors(checkpoint) if checkpoint.exists() else None)
    if saved is not None:
        with refuse_another_run(checkpoint):
            training.load(saved)
