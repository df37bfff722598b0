"""How an exported file classifies, beside the network that it was made from."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from torch import nn

from utils.export_path import PROGRAM
from utils.results.exports import ExportedFile


def runner(suffix: str, content: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    """Runs a file's content on a CPU: images, float32 (N, C, H, W), -> logits (N, ways)."""
    if suffix == PROGRAM:
        return torch.export.load(io.BytesIO(content)).module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # left to itself it binds threads to cores, and complains where it may not
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@torch.no_grad()
def measure_files(
    files: Sequence[Path], network: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None
) -> list[ExportedFile]:
    """What each file is worth: its size, the images that it classifies as the network does, accuracy and time.

    Args:
        network: what the files were made from.
        images: as it takes them, (N, C, H, W); they go image by image.
        labels: (N,); None: not known, so that there is no accuracy.
    """
    images, labels = images.cpu(), None if labels is None else labels.cpu()
    network = network.cpu().eval()
    expected = torch.stack([network(image[None]).argmax() for image in images])
    return [_measured(file, images, expected, labels) for file in files]


def _measured(file: Path, images: torch.Tensor, expected: torch.Tensor, labels: torch.Tensor | None) -> ExportedFile:
    content = file.read_bytes()
    run, given, seconds = runner(file.suffix, content), [], []
    for image in images:
        started = time.thread_time()
        given.append(run(image[None]).argmax())
        seconds.append(time.thread_time() - started)
    classes = torch.stack(given)
    figures: ExportedFile = {
        "file": file.name,
        "bytes": len(content),
        "agreement": (classes == expected).double().mean().item(),
    }
    if labels is not None:
        figures["accuracy"] = (classes == labels).double().mean().item()
    if file.suffix != PROGRAM:
        figures["milliseconds_per_image"] = 1000 * median(seconds)
    return figures
