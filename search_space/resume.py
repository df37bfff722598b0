"""Where a run goes on: after each epoch its state is in a checkpoint, and its row in a log."""

from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError
from utils.results.row_log import Row, RowLog
from utils.run.files import read_tensors, write_tensors


def save_checkpoint(path: Path, done: int, state: dict) -> None:
    """Writes the state after ``done`` epochs: tensors and plain values, whole or not at all."""
    write_tensors(path, {"epochs": done, "state": state})


def load_checkpoint(path: Path, load: Callable[[dict], object], most: int | None = None) -> int:
    """Loads a checkpoint, if there is one; returns how many epochs are done.

    Args:
        load: is given the state.
        most: epochs that there can be; None: any number.

    Raises:
        InputError: the checkpoint is damaged or of something else.
    """
    if not path.exists():
        return 0
    saved = read_tensors(path)
    try:
        done = saved["epochs"]
        load(saved["state"])
    # What PyTorch raises on another network's state, and what a missing or nonsensical value leads to.
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is of another run than args.json beside it: name another folder.") from error
    if not isinstance(done, int) or done < 0 or (most is not None and done > most):
        raise InputError(f"{path} does not say how far the run got: name another folder.")
    return done


def epoch_log(path: Path, kind: type[Row], done: int) -> RowLog[Row]:
    """The log of a run whose checkpoint has ``done`` epochs.

    Raises:
        InputError: it is damaged, or lacks one of them.
    """
    log = RowLog(path, kind, before=done)
    if len(log.rows) < done:
        raise InputError(f"{path} lacks epoch {len(log.rows)}, which its checkpoint has: name another folder.")
    return log
