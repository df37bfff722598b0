"""TensorBoard's events of one run, written through at once, so that a run that is stopped has all that it did."""

import io
import time
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import text as text_summary

from utils.errors import InputError

COLOURS = 64  # of a picture's palette; a third of the bytes


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

    def add(
        self,
        step: int,
        scalars: dict[str, float] | None = None,
        pictures: dict[str, Image.Image] | None = None,
        texts: dict[str, str] | None = None,
    ) -> None:
        """Adds what belongs to one step, by tags; a tag's part before the first "/" is its group. Not yet written."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in (scalars or {}).items()]
        values += [Summary.Value(tag=tag, image=_encode(picture)) for tag, picture in (pictures or {}).items()]
        values += [value for tag, text in (texts or {}).items() for value in text_summary(tag, text).value]
        self._pending.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def add_row(self, index: str, row: dict) -> None:
        """Writes the numbers of a row of a table; they are scalars at step ``row[index]``, and ``index`` their group.

        Those of an object within the row come under its own name; what is no number is left out.
        """
        self.add(row[index], {f"{index}/{tag}": value for tag, value in _numbers(row) if tag != index})
        self.write()

    def write(self) -> None:
        """Writes what was added.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                records = RecordWriter(file)
                for event in self._pending:
                    records.write(event.SerializeToString())
        except OSError as error:
            if self._path.is_file() and self._path.stat().st_size == 0:
                self._path.unlink()
            raise InputError(f"cannot write {self._path}: {error.strerror or error}.") from error
        self._pending.clear()


def _numbers(row: dict):
    """(tag, value) of the numbers in a row."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{tag}", number) for tag, number in _numbers(value))
        elif isinstance(value, (int, float)):
            yield name, value


def _encode(picture: Image.Image) -> Summary.Image:
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG")
    return Summary.Image(
        height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
