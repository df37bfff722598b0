"""Makes an INT8 network of an ONNX network, by onnxruntime's own static quantisation."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

# Where nearly all of the work is. Elsewhere INT8 makes a file larger and a CPU slower.
OPERATIONS = ["Conv", "Gemm"]


class Images(CalibrationDataReader):
    """The images that the ranges of values are taken from, (N, C, H, W) as the network takes them, one at a time."""

    def __init__(self, images: np.ndarray):
        self._left = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {"images": image[None]}


def quantised(network: bytes, images: np.ndarray) -> bytes:
    """An ONNX file whose convolutions and head are in 8 bits: weights per output channel, activations per tensor.

    What it says of itself, its operators' version and its format are those of ``network``.

    Args:
        images: float32 (N, C, H, W).
    """
    given = onnx.load_from_string(network)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, prepared, after = (Path(folder) / name for name in ("before.onnx", "prepared.onnx", "after.onnx"))
        before.write_bytes(network)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)  # puts BN into the convolutions
        quantize_static(
            prepared,
            after,
            Images(images),
            op_types_to_quantize=OPERATIONS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            # Signed ones saturate on processors without VNNI, which costs up to 40 % of the answers. Runtimes of old
            # know one zero for all channels only.
            weight_type=QuantType.QUInt8,
            extra_options={"WeightSymmetric": True},
        )
        model = onnx.load(after)
    _restore(model.opset_import, given.opset_import)
    _restore(model.metadata_props, given.metadata_props)
    _shorten(model.graph)
    model.ir_version = given.ir_version
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _shorten(graph: onnx.GraphProto) -> None:
    """Gives tensors short names, and takes away what every runtime works out: half of such a file would be that."""
    kept = ["", *(tensor.name for tensor in (*graph.input, *graph.output))]
    short = {name: name for name in kept}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"{len(short):x}") for name in names]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    del graph.value_info[:]


def _restore(part, given: Sequence) -> None:
    del part[:]
    part.extend(given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, nobody hears what the quantiser logs by the root logger, which gives advice to its own developers."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.manager.disable
    root.addHandler(silent)  # without one, the first message installs one that stays
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
        root.removeHandler(silent)
