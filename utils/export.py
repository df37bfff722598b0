"""Writing a trained network as files that run without this repository: ONNX, and a program of torch.export."""

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

from utils.draws import torch_generator
from utils.errors import InputError
from utils.run.files import replacing

SUFFIXES = (".onnx", ".pt2")
METADATA = "metadata.json"  # its name within a .pt2 file
CHECKED_BATCHES = (1, 5)
TOLERANCE = 1e-4  # of the largest logit
# What PyTorch 2.11 says of its own workings.
CHATTER = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "The given buffer is not writable")


def check_export_path(path: Path) -> tuple[Path, Path]:
    """The .onnx and the .pt2 file that ``path`` stands for, with one of these suffixes or without.

    Their folder need not be there yet: it may be that of the run itself.

    Raises:
        InputError: another suffix, or no name for a file.
    """
    if path.name in ("", ".."):
        raise InputError(f"--export must name a file, got {str(path)!r}.")
    if path.suffix not in ("", *SUFFIXES):
        raise InputError(f"--export must end with .onnx, with .pt2 or with neither (both are written), got {path}.")
    onnx_path, program_path = (path.with_suffix(suffix) for suffix in SUFFIXES)
    for file in (onnx_path, program_path):
        if file.is_dir():
            raise InputError(f"--export must name a file, and {file} is a folder.")
    return onnx_path, program_path


def export_network(
    network: nn.Module,
    shape: tuple[int, int, int],
    path: Path,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    extra: dict | None = None,
) -> list[Path]:
    """Writes a network as an ONNX file and as a program for ``torch.export.load``, both for batches of any size.

    Both take ``images``, float32 (N, C, H, W), and give ``logits`` (N, ways); both tell what these are: ``classes``,
    ``input_size``, ``mean``, ``std`` and what ``extra`` holds, as JSON. In the ONNX file each is a property of its
    metadata, in the program together they are the extra file "metadata.json".

    Args:
        network: copied to the CPU; its BN is PyTorch's own, and normalises by the statistics that it holds.
        shape: (C, H, W).
        path: see :func:`check_export_path`.
        classes: a name for each logit.
        mean, std: per channel; an image in [0, 1] is to be normalised as (image - mean) / std.
        extra: what else is worth knowing, e.g. the genotype.

    Raises:
        InputError: the network has diverged, or the files cannot be written. What was there still is.
        RuntimeError: a file's logits are not the network's. Nothing was written.
    """
    onnx_path, program_path = check_export_path(path)
    metadata = {
        "classes": list(classes),
        "input_size": list(shape),
        "mean": list(mean),
        "std": list(std),
        **(extra or {}),
    }
    # Without gradients in the file, who loads it needs no torch.no_grad().
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    with _without_chatter():
        program = _traced(network, shape)
        onnx_file, program_file = _as_onnx(program, metadata), _as_program(program, metadata)
        runs = {onnx_path: _onnx_runner(onnx_file), program_path: _program_runner(program_file)}
        _check(network, shape, len(classes), runs)
    with replacing(onnx_path) as temporary:
        temporary.write_bytes(onnx_file)
        with replacing(program_path) as other:
            other.write_bytes(program_file)
    return [onnx_path, program_path]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Within, what the exporters say of their own workings does not reach the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        for message in CHATTER:
            warnings.filterwarnings("ignore", message)
        yield


def _traced(network: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *shape)  # of one image or none a trace would take the number for a constant
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source code, and where they lie on this machine
    return program


def _as_onnx(program: torch.export.ExportedProgram, metadata: dict) -> bytes:
    model = torch.onnx.export(
        program,
        (),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
    ).model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # the source of each operation: as large as the weights, and of no use on a device
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _as_program(program: torch.export.ExportedProgram, metadata: dict) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _onnx_runner(file: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # left to itself it binds threads to cores, and complains where it may not
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _program_runner(file: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.export.load(io.BytesIO(file)).module()


def _check(
    network: nn.Module,
    shape: tuple[int, int, int],
    ways: int,
    runs: dict[Path, Callable[[torch.Tensor], torch.Tensor]],
) -> None:
    """Holds what the files give for random images against what the network gives."""
    for number in CHECKED_BATCHES:
        images = torch.randn(number, *shape, generator=torch_generator(0, "check of an export", number))
        expected = network(images)
        if expected.shape != (number, ways):
            raise ValueError(f"{ways} classes for logits of shape {tuple(expected.shape)}")
        if not expected.isfinite().all():
            raise InputError(
                "--export: the network gives logits that are not finite; a lower --w_lr may keep it from it."
            )
        scale = expected.abs().max()
        for path, run in runs.items():
            difference = (run(images) - expected).abs().max()
            if not difference <= TOLERANCE * scale:
                raise RuntimeError(
                    f"{path.name} was not written: for a batch of {number} its logits are off by {difference:.3g}, "
                    f"where the largest is {scale:.3g}."
                )
