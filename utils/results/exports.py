"""What is reported of exported files."""

from collections.abc import Sequence
from typing import TypedDict


class _OptionalFigures(TypedDict, total=False):
    """accuracy: a fraction, where labels are known.

    milliseconds_per_image: of onnxruntime on one thread, that thread's own time, the median.
    """

    accuracy: float
    milliseconds_per_image: float


class ExportedFile(_OptionalFigures):
    """agreement: the share of images that it classifies as the network that it was made from does, image by image."""

    file: str
    bytes: int
    agreement: float


def exports_text(exports: Sequence[ExportedFile]) -> str:
    """A table of exported files, a line each."""
    width = max(len("file"), *(len(export["file"]) for export in exports))
    lines = [f"{'file':{width}}      KiB  agrees  accuracy  ms an image"]
    for export in exports:
        accuracy, milliseconds = export.get("accuracy"), export.get("milliseconds_per_image")
        figures = (
            f"{export['bytes'] / 1024:7.0f}",
            f"{100 * export['agreement']:5.1f} %",
            f"{'' if accuracy is None else format(100 * accuracy, '6.1f') + ' %':>8}",
            f"{'' if milliseconds is None else format(milliseconds, '.2f'):>11}",
        )
        lines.append("  ".join([f"{export['file']:{width}}", *figures]).rstrip())
    return "\n".join(lines)
