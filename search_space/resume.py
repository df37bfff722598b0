"""Where a run goes on: after each epoch its state is in a checkpoint, and its row in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from search_space.flags.onnas import OnnasFlags
from search_space.settings import SearchSettings
from utils.errors import InputError
from utils.results.row_log import Row, RowLog
from utils.run.files import file_digest, read_tensors, write_tensors
from utils.run.run_directory import check_run
from utils.run.torchrun import is_restarted

# What a run of onnas.py is known by.
FILES = ("tasks.jsonl", "search.jsonl", "derived.jsonl", "adapted.pt", "predictions.csv", "results.json")


def save_checkpoint(path: Path, done: int, state: dict) -> None:
    """Writes the state after ``done`` epochs: tensors and plain values, whole or not at all."""
    write_tensors(path, {"epochs": done, "state": state})


@contextmanager
def refuse_another_run(path: Path) -> Iterator[None]:
    """While the checkpoint ``path`` is loaded: an error that another network's state leads to is one of the user's."""
    try:
        yield
    # What PyTorch raises on another network's state, and what a missing or nonsensical value leads to.
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is of another run than args.json beside it: name another folder.") from error


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
    with refuse_another_run(path):
        done = saved["epochs"]
        load(saved["state"])
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


def checked_values(flags: OnnasFlags, settings: SearchSettings | None, log: str, found: dict[str, object]) -> dict:
    """The values for args.json of a run that may write into --path.

    Args:
        settings: what is run; a memory budget has chosen its schedule. None: there is no search.
        log: the file that such a run writes first.
        found: further values that the run's identity depends on.

    Raises:
        InputError: the folder holds something else, or --export cannot be written.
    """
    of_runs = dict.fromkeys((log, *FILES))
    run = {"split_num": settings.schedule.split_num, "schedule": settings.schedule.name} if settings else {}
    values = {
        **flags.as_dict(),
        **found,
        **run,
        # What counts is the content, not the place: a run is not to go on with others.
        "meta_cell (SHA-256)": flags.kind.meta_cell and file_digest(flags.kind.meta_cell),
        "resume": flags.run.resume or is_restarted(flags.run.path),
    }
    values = check_run(flags.run.path, values, "onnas.py", tuple(of_runs), flags.may_change())
    export = flags.derived.export
    if export is not None:  # one that cannot be made is to be known before the search
        try:
            export.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder of --export {export}: {error.strerror}.") from error
    return values
