"""Exporting a network, and seeing how its files classify."""

from pathlib import Path

from torch import Tensor, nn

from models.textbook_norm import with_textbook_norm
from utils.data.pixels import unit_range
from utils.results.exports import ExportedFile

EXPORTING = "Exporting the network, which takes minutes if it is large"


def export_and_measure(
    network: nn.Module, path: Path, images: Tensor, labels: Tensor | None, **about: object
) -> list[ExportedFile]:
    """Writes the files of a network; returns how each classifies ``images``, (N, C, H, W) as the network takes them.

    Args:
        labels: (N,); None: not known.
        about: see :func:`utils.export.export_network`.
    """
    # ONNX takes a second and 100 MiB, which only a run that exports is to pay.
    from utils.export import export_network
    from utils.exported import measure_files

    network = with_textbook_norm(network)
    return measure_files(export_network(network, path, **about), network, images, labels)


def export_task_network(
    network: nn.Module, path: Path, images: Tensor, labels: Tensor | None, *, calibration: Tensor, **about: object
) -> list[ExportedFile]:
    """As :func:`export_and_measure`, for uint8 images; the files take them in [0, 1], not normalised."""
    channels = images.shape[1]
    about |= {"calibration": unit_range(calibration), "mean": [0.0] * channels, "std": [1.0] * channels}
    return export_and_measure(network, path, unit_range(images), labels, **about)
