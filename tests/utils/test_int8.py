"""The INT8 network against the float one."""

import torch
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
