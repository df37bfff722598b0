"""The figures of exported files, held against what was put into the files."""

import torch
from torch import nn

from tests.utils.test_export import random_images
from utils.export import export_network
from utils.exported import measure_files
from utils.results.exports import exports_text


def test_figures_are_of_the_images_one_by_one(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).eval()
    calibration = random_images(8, (1, 4, 4))
    files = export_network(
        network, tmp_path / "net", calibration=calibration, classes=["a", "b", "c"], mean=[0.0], std=[1.0]
    )
    images = random_images(10, (1, 4, 4))
    with torch.no_grad():
        right = network(images).argmax(1)
    labels = right.clone()
    labels[:4] = (right[:4] + 1) % 3
    figures = measure_files(files, network, images, labels)
    assert [file["file"] for file in figures] == ["net.onnx", "net.int8.onnx", "net.pt2"]
    for figure, path in zip(figures, files, strict=True):
        assert figure["bytes"] == path.stat().st_size
    for exact in (figures[0], figures[2]):
        assert (exact["agreement"], exact["accuracy"]) == (1.0, 0.6)
    assert all(figure["milliseconds_per_image"] > 0 for figure in figures[:2])
    assert "milliseconds_per_image" not in figures[2]
    assert "accuracy" not in measure_files(files[:1], network, images)[0]
    assert all(len(line) <= 80 for line in exports_text(figures).splitlines())


def test_share_that_differs_is_that_of_another_network(tmp_path):
    """A file is held against the network that is given, here one that says the opposite for a part of the images."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0] * 4, [0.25] * 4]))  # class 1 if the mean is above a half
        network[1].bias.copy_(torch.tensor([0.5, 0.0]))
    images = torch.tensor([0.1, 0.3, 0.55, 0.65, 0.9]).reshape(5, 1, 1, 1).expand(5, 1, 2, 2).contiguous()
    files = export_network(network, tmp_path / "net", calibration=images, classes=["a", "b"], mean=[0.0], std=[1.0])
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.6, 0.0]))  # above 0.6
    exact, _, program = measure_files(files, network, images)
    assert exact["agreement"] == program["agreement"] == 0.8
