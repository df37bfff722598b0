"""The INT8 network against the float one."""

import onnx
import torch
from onnx.numpy_helper import to_array
from torch import nn

from tests.utils.test_export import random_images
from utils.export import export_network
from utils.exported import runner


def exported(tmp_path, network: nn.Module, images: torch.Tensor) -> bytes:
    given = {"classes": ["a", "b", "c"], "mean": [0.0], "std": [1.0]}
    return export_network(network, tmp_path / "net", calibration=images, **given)[1].read_bytes()


def bright_network() -> nn.Module:
    """Its sums of products of bright pixels and large weights are too large for 16 bits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        network[0].weight.copy_(1 - 0.2 * torch.rand(network[0].weight.shape))
    return network


@torch.no_grad()
def test_bright_images_are_not_cut_off(tmp_path):
    network, images = bright_network(), 1 - 0.2 * random_images(20, (1, 4, 4))
    run = runner(".onnx", exported(tmp_path, network, images))
    expected = network(images)
    given = torch.cat([run(image[None]) for image in images])
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()


def test_all_channels_have_one_zero(tmp_path):
    """onnxruntime of old takes no other."""
    network, images = bright_network(), random_images(8, (1, 4, 4))
    model = onnx.load_from_string(exported(tmp_path, network, images))
    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    of_weights = [zero for zero in zeros if zero.ndim == 1 and zero.dtype == "uint8"]
    assert of_weights
    assert all(len(set(zero.tolist())) == 1 for zero in of_weights)
