"""Writing a trained network as files that run without this repository: ONNX, its INT8 form, a torch.export program."""

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from utils.classify import PREPARATION
from utils.draws import torch_generator
from utils.errors import InputError
from utils.export_path import INT8, ONNX, PROGRAM, check_export_path
from utils.exported import runner
from utils.int8 import quantised
from utils.run.files import replacing

METADATA = "metadata.json"  # its name within a .pt2 file
CHECKED_BATCHES = (1, 5)
TOLERANCE = 1e-4  # of the largest logit
# Versions of ONNX. Boards have runtimes of long ago: onnxruntime 1.10 is the oldest that reads these.
TRACED_OPSET, OPSET, IR_VERSION = 18, 15, 8
# What PyTorch 2.11 says of its own workings.
CHATTER = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "The given buffer is not writable")


def export_network(
    network: nn.Module,
    path: Path,
    *,
    calibration: torch.Tensor,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    bits: int | None = None,
    extra: dict | None = None,
) -> list[Path]:
    """Writes a network as ONNX, as INT8 ONNX, and as a program for ``torch.export.load``, for batches of any size.

    Each takes ``images``, float32 (N, C, H, W), gives ``logits`` (N, ways), and tells what these are: ``classes``,
    ``input_size`` (C, H, W), ``mean``, ``std``, ``bits``, ``preparation`` and what ``extra`` holds, as JSON. In an ONNX
    file each is a property of its metadata, in the program together they are the extra file "metadata.json".

    Args:
        network: copied to the CPU; its BN is PyTorch's own, and normalises by the statistics that it holds.
        path: see :func:`utils.export_path.check_export_path`.
        calibration: images as the network takes them, (N, C, H, W); INT8 takes the ranges of values from them.
        classes: a name for each logit.
        mean, std: per channel; an image in [0, 1] is to be normalised as (image - mean) / std.
        bits: of integer pixels that image files keep with more than 8, see :func:`utils.classify.prepare`.
        extra: what else is worth knowing, e.g. the genotype.

    Raises:
        InputError: the network has diverged, or the files cannot be written. What was there still is.
        RuntimeError: a file's logits are not the network's. Nothing was written.
    """
    paths, shape = check_export_path(path), tuple(calibration.shape[1:])
    metadata = {
        "classes": list(classes),
        "input_size": list(shape),
        "mean": list(mean),
        "std": list(std),
        "bits": bits,
        "preparation": PREPARATION,
        **(extra or {}),
    }
    # Without gradients in the file, who loads it needs no torch.no_grad().
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    with _without_chatter():
        program = _traced(network, shape)
        files = {ONNX: _as_onnx(program, metadata), PROGRAM: _as_program(program, metadata)}
        _check(network, shape, len(classes), {paths[suffix]: files[suffix] for suffix in files})
        files[INT8] = quantised(files[ONNX], calibration.cpu().numpy())
    with contextlib.ExitStack() as written:  # none takes its name before all are there
        for suffix, content in files.items():
            written.enter_context(replacing(paths[suffix])).write_bytes(content)
    return list(paths.values())


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
        opset_version=TRACED_OPSET,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
    ).model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # the source of each operation: as large as the weights, and of no use on a device
    del model.graph.value_info[:]  # shapes, which every runtime works out
    _lower(model)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _lower(model: onnx.ModelProto) -> None:
    """Says the same in an older version of ONNX; whether it is the same is seen where the files are checked.

    Of the operations that the networks are made of, two have changed: a mean's axes were an attribute, and parts that
    are split are equal without saying so. onnx.version_converter loses the axes.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        newer = [attribute for attribute in node.attribute if attribute.name in ("num_outputs", "noop_with_empty_axes")]
        for attribute in newer:
            node.attribute.remove(attribute)
        if node.op_type == "ReduceMean":
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()])
            node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
    used = {name for node in model.graph.node for name in node.input}
    for name in constants.keys() - used:
        model.graph.initializer.remove(constants[name])
    model.opset_import[0].version, model.ir_version = OPSET, IR_VERSION


def _as_program(program: torch.export.ExportedProgram, metadata: dict) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _check(network: nn.Module, shape: tuple[int, ...], ways: int, files: dict[Path, bytes]) -> None:
    """Holds what the files give for random images against what the network gives."""
    runs = {path: runner(path.suffix, content) for path, content in files.items()}
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
