"""TensorBoard's events of one run, written through at once, so that a run that is stopped has all that it did.

torch's SummaryWriter writes from a thread of its own: on a full disk that ends in a traceback and the run goes on.
"""

import io
import time
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from utils.errors import WriteError
from utils.pictures.style import DPI
from utils.results.checking import as_values

# The group, which is a tag's part before the "/", of a key that has the word; TensorBoard shows them from A to Z.
GROUPS = {"accuracy": "accuracy", "agreement": "accuracy", "loss": "loss", "memory": "memory", "second": "time"}
GROUPS |= {"entropy": "search", **dict.fromkeys(("found_parameters", "macs", "storage"), "size")}
OTHERS = "other"


class EventLog:
    """A file of events in a folder, made with the first that is written.

    Args:
        first: events of an earlier life of the run are void from this step on.
    """

    def __init__(self, folder: Path, first: int = 0):
        self.folder = folder
        # Named by nanoseconds, since TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time_ns()}"
        self._pending = [
            Event(wall_time=time.time(), step=first, file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=first, session_log=SessionLog(status=SessionLog.START)),
        ]

    def add_row(self, row: object, settings: dict[str, float] | None = None) -> None:
        """Writes the numbers of a row of a log, and settings beside them, as scalars at the row's step.

        Raises:
            WriteError: the file cannot be written.
        """
        values, step = as_values(row), getattr(row, row.index)
        del values[row.index]
        self.add_scalars(step, {**values, **(settings or {})})

    def add_scalars(self, step: int, values: dict) -> None:
        """Writes the numbers among values, those of an object within under its own key; see :meth:`add_row`."""
        self._write(step, [Summary.Value(tag=_tag(key), simple_value=value) for key, value in _numbers(values)])

    def add_figures(self, step: int, figures: dict[str, Figure]) -> None:
        """Writes pictures, by tag, at a step; see :meth:`add_row`."""
        self._write(step, [Summary.Value(tag=tag, image=_as_image(figure)) for tag, figure in figures.items()])

    def _write(self, step: int, values: list[Summary.Value]) -> None:
        self._pending.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                records = RecordWriter(file)
                for event in self._pending:
                    records.write(event.SerializeToString())
        except OSError as error:
            if self._path.is_file() and self._path.stat().st_size == 0:
                self._path.unlink()
            raise WriteError(f"cannot write {self._path}: {error.strerror or error}.") from error
        self._pending.clear()


def _numbers(values: dict) -> Iterator[tuple[str, float]]:
    """(key, value) of the numbers; those of an object within come under its own key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{part}", number) for part, number in _numbers(value))
        elif isinstance(value, int | float):
            yield key, value


def _tag(key: str) -> str:
    return f"{next((group for word, group in GROUPS.items() if word in key), OTHERS)}/{key}"


def _as_image(figure: Figure) -> Summary.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    return Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=file.getvalue())
