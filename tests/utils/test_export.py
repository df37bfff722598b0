"""Exported networks, run by processes that do not know this repository.

ONNAS_OLD_PYTHON names a Python that has the oldest onnxruntime for which exports are meant, with numpy.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.derived_network import DerivedNetwork, DerivedSettings
from models.pruned_network import PrunedNetwork
from models.textbook_norm import with_textbook_norm
from search_space.normalizers import AnnealedNormalizer
from tests.helpers import tiny_supernet
from utils.errors import InputError
from utils.export import export_network
from utils.export_path import check_export_path

ROOT = Path(__file__).parent.parent.parent
SHAPE = (3, 15, 12)
CLASSES = ["cat", "dog", "Käse", "ünit", "e"]
MEAN, STD = [0.5, 0.25, 0.125], [0.2, 0.3, 0.4]
EXTRA = {"accuracy": 0.75, "genotype": {"normal": [["sep_conv_3x3", 0]]}}
METADATA = {"classes": CLASSES, "input_size": list(SHAPE), "mean": MEAN, "std": STD, "bits": None, "preparation": 1}
METADATA |= EXTRA
FILES = ["network.int8.onnx", "network.onnx", "network.pt2"]
OLDEST_ONNXRUNTIME = "1.10.0"

ONNX_READER = """
import json, sys
import numpy as np, onnxruntime
name = sys.argv[1] if len(sys.argv) > 1 else "network.onnx"
session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
json.dump({key: json.loads(value) for key, value in metadata.items()}, open("metadata", "w"))
batches = np.load("batches.npz")
np.savez("logits.npz", **{key: session.run(["logits"], {"images": batches[key]})[0] for key in batches})
assert not {"torch", "utils", "models"} & set(sys.modules)
"""
PROGRAM_READER = """
import json, sys
import torch
extra = {"metadata.json": ""}
network = torch.export.load("network.pt2", extra_files=extra).module()
json.dump(json.loads(extra["metadata.json"]), open("metadata", "w"))
import numpy as np
batches = np.load("batches.npz")
np.savez("logits.npz", **{key: network(torch.from_numpy(batches[key])).numpy() for key in batches})
assert not {"utils", "models"} & set(sys.modules)
"""


class Everything(nn.Module):
    """One of each operation that the networks of this project are made of."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.pools = nn.ModuleList(
            nn.Sequential(pool, nn.BatchNorm2d(8, affine=False))
            for pool in (nn.MaxPool2d(3, 2, padding=1), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False))
        )
        self.dilated = nn.Sequential(
            nn.Conv2d(8, 8, 3, 2, padding=2, dilation=2, groups=8, bias=False),
            nn.Conv2d(8, 8, 1, groups=2, bias=False),
            nn.BatchNorm2d(8),
        )
        self.row = nn.Sequential(nn.Conv2d(8, 8, (1, 5), stride=2, padding=(0, 2), bias=False), nn.BatchNorm2d(8))
        self.halves = nn.ModuleList(nn.Conv2d(8, 4, 1, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(images))
        # The height is odd and the width is even.
        halves = [self.halves[0](x[:, :, ::2, ::2]), self.halves[1](x[:, :, ::2, 1::2])]
        branches = [*(pool(x) for pool in self.pools), self.dilated(x), self.row(x), self.norm(torch.cat(halves, 1))]
        return self.head(sum(branches).mean((2, 3)))


def used(network: nn.Module, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """In eval mode, its BN having seen images and its weights not those that it was built with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
        for _ in range(3):
            network.train()(torch.randn(8, *shape))
    return network.eval()


def linear_network() -> nn.Module:
    """The smallest that there is, where the network does not matter."""
    return used(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))


def random_images(number: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.rand(number, *shape, generator=torch.Generator().manual_seed(3))


def export(network: nn.Module, path: Path, shape: tuple[int, int, int] = SHAPE) -> list[Path]:
    return export_network(
        network, path, calibration=random_images(16, shape), classes=CLASSES, mean=MEAN, std=STD, extra=EXTRA
    )


def export_linear(path: Path, network: nn.Module | None = None) -> list[Path]:
    network, images = network or linear_network(), random_images(4, (1, 2, 2))
    return export_network(network, path, calibration=images, classes=["a", "b"], mean=[0.0], std=[1.0])


def python(
    code: str, folder: Path, *arguments: str, executable: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess:
    """Runs code in a process of its own that does not find this repository."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [executable, "-c", code, *arguments],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def assert_reader_agrees(reader: str, network: nn.Module, folder: Path, shape=SHAPE) -> None:
    """What another process reads from the files gives the network's logits, for batches of several sizes."""
    batches = {f"of {number}": random_images(number, shape) for number in (1, 2, 7)}
    np.savez(folder / "batches.npz", **{key: images.numpy() for key, images in batches.items()})
    finished = python(reader, folder)
    assert finished.returncode == 0, finished.stderr
    logits = np.load(folder / "logits.npz")
    for key, images in batches.items():
        with torch.no_grad():
            expected = network(images)
        torch.testing.assert_close(torch.from_numpy(logits[key]), expected, rtol=1e-4, atol=1e-4)
    assert json.loads((folder / "metadata").read_text()) == METADATA


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the files, and what the process that wrote them said."""
    folder = tmp_path_factory.mktemp("exported")
    code = "from tests.utils.test_export import *; export(used(Everything()), Path('network.pt2'))"
    return folder, python(code, folder, PYTHONPATH=str(ROOT))


def test_files_are_three_and_nothing_is_said(exported):
    folder, finished = exported
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("network")) == FILES


@pytest.mark.parametrize("reader", [ONNX_READER, PROGRAM_READER], ids=["onnxruntime", "torch.export"])
def test_files_run_without_this_repository(exported, reader):
    folder, _ = exported
    assert_reader_agrees(reader, used(Everything()), folder)


def test_files_say_nothing_of_the_machine(exported):
    folder, _ = exported
    for path in folder.glob("network.*"):
        assert str(ROOT).encode() not in path.read_bytes(), path.name


def logits_of(folder: Path, name: str, images: torch.Tensor, **interpreter: str) -> torch.Tensor:
    """What onnxruntime gives in another process."""
    np.savez(folder / "batches.npz", images=images.numpy())
    finished = python(ONNX_READER, folder, name, **interpreter)
    assert finished.returncode == 0, finished.stderr
    assert json.loads((folder / "metadata").read_text()) == METADATA
    return torch.from_numpy(np.load(folder / "logits.npz")["images"])


def test_int8_file_is_near_the_network(exported):
    """Eight bits for a range tell 256 values apart, so a hundredth of the range is near for a dozen layers."""
    folder, _ = exported
    images = random_images(16)  # those that it took its ranges from
    with torch.no_grad():
        expected = used(Everything())(images)
    given = logits_of(folder, "network.int8.onnx", images)
    assert (given - expected).abs().max() < 0.05 * (expected.max() - expected.min())
    assert not torch.equal(given, expected)


def test_int8_file_keeps_its_weights_in_8_bits(exported):
    folder, _ = exported
    model = onnx.load(folder / "network.int8.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    for layer in layers:
        weight = made_by[layer.input[1]]
        assert weight.op_type == "DequantizeLinear"
        values, scales = (constants[name] for name in weight.input[:2])
        assert values.data_type == onnx.TensorProto.UINT8
        zeros = onnx.numpy_helper.to_array(constants[weight.input[2]])
        assert (zeros == zeros.flat[0]).all()  # onnxruntime of old takes no other
        if layer.op_type == "Conv":
            assert list(scales.dims) == [values.dims[0]]  # one for each output channel


@pytest.mark.parametrize("name", FILES[:2])
def test_onnx_files_are_of_an_old_version(exported, name):
    """Of that which onnxruntime 1.10 reads: later ones refuse what they do not know, by these numbers."""
    folder, _ = exported
    model = onnx.load(folder / name)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 15)]
    assert model.ir_version == 8


@pytest.mark.parametrize("name", FILES[:2])
def test_onnx_files_run_in_the_oldest_runtime(exported, name):
    old = os.environ.get("ONNAS_OLD_PYTHON")
    if old is None:
        pytest.skip(f"needs onnxruntime {OLDEST_ONNXRUNTIME}: ONNAS_OLD_PYTHON must name a Python that has it")
    folder, _ = exported
    version = python("import onnxruntime; print(onnxruntime.__version__)", folder, executable=old)
    assert version.stdout.strip() == OLDEST_ONNXRUNTIME, version.stderr
    images = random_images(7)
    torch.testing.assert_close(
        logits_of(folder, name, images, executable=old), logits_of(folder, name, images), rtol=1e-4, atol=1e-4
    )


def test_onnx_file_has_batches_of_any_size_and_batch_normalisation(exported):
    folder, _ = exported
    model = onnx.load(folder / "network.onnx")
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    sizes = [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim]
    assert isinstance(sizes[0], str)
    assert sizes[1:] == list(SHAPE)
    operations = {node.op_type for node in model.graph.node}
    assert {"Conv", "MaxPool", "AveragePool", "BatchNormalization"} <= operations


def test_derived_network(tmp_path):
    settings = DerivedSettings(
        in_channels=3,
        channels=4,
        layers=2,
        reduction_layers=(0,),
        normal=(("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("skip_connect", 0), ("dil_conv_5x5", 2)),
        reduce=(("skip_connect", 0), ("max_pool_3x3", 1), ("conv_1x5_5x1", 1), ("conv_3x3", 2)),
    )
    network = used(DerivedNetwork(settings, len(CLASSES)))
    export(with_textbook_norm(network), tmp_path / "network")
    assert_reader_agrees(ONNX_READER, network, tmp_path)


def test_frozen_supernet(tmp_path):
    supernet, architecture = tiny_supernet(nodes=1, in_channels=3, ways=len(CLASSES))
    supernet.float()
    with torch.no_grad():
        mixtures = architecture.float().mixtures(AnnealedNormalizer("softmax", 0.5, 0.0), 0.05)
        supernet(torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0)), mixtures)
    supernet.eval()
    export(with_textbook_norm(PrunedNetwork(supernet, mixtures)), tmp_path / "network.onnx")
    assert_reader_agrees(ONNX_READER, lambda images: supernet(images, mixtures), tmp_path)


@pytest.mark.parametrize("name", ["net", "net.onnx", "net.pt2", "net.int8.onnx", "v1.2/net"])
def test_path_names_all_files(tmp_path, name):
    folder = (tmp_path / name).parent
    files = [folder / "net.onnx", folder / "net.int8.onnx", folder / "net.pt2"]
    assert list(check_export_path(tmp_path / name).values()) == files


@pytest.mark.parametrize("name", ["net.pt", "net.v2", "net.onnx.zip", "", ".", "..", "/"])
def test_path_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"^--export must [^.]*.*\.$"):
        check_export_path(Path(name))
    with pytest.raises(InputError, match="--export"):
        export_linear(Path(name))


def test_path_of_a_folder_is_refused(tmp_path):
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(InputError, match=r"--export .*net\.pt2 is a folder"):
        check_export_path(tmp_path / "net.onnx")


def test_a_device_is_no_file_to_export_to():
    with pytest.raises(InputError, match=r"--export must name a file, and /dev/null is a device or a pipe\."):
        check_export_path(Path("/dev/null"))


def test_network_is_left_as_it_was(tmp_path):
    network = linear_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert export_linear(tmp_path / "net", network) == list(check_export_path(tmp_path / "net").values())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class OtherWhenExported(nn.Module):
    """Stands for an exporter that errs."""

    def __init__(self, factor: float):
        super().__init__()
        self.network = linear_network()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) * (self.factor if torch.compiler.is_exporting() else 1)


def test_logits_that_differ_are_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"net\.onnx was not written: .* off by 0\.0\d+, where the largest is \d"):
        export_linear(tmp_path / "net", OtherWhenExported(1.01))
    assert list(tmp_path.iterdir()) == []
    export_linear(tmp_path / "net", OtherWhenExported(1.00001))


def test_program_whose_logits_differ_is_an_error(tmp_path, monkeypatch):
    save = torch.export.save
    other = torch.export.export(
        OtherWhenExported(-1), (torch.zeros(2, 1, 2, 2),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    monkeypatch.setattr(torch.export, "save", lambda _, *arguments, **options: save(other, *arguments, **options))
    with pytest.raises(RuntimeError, match=r"net\.pt2 was not written"):
        export_linear(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_network_that_has_diverged_is_refused(tmp_path):
    network = linear_network()
    with torch.no_grad():
        network[1].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"^--export: .* not finite"):
        export_linear(tmp_path / "net", network)
    assert list(tmp_path.iterdir()) == []


def test_classes_must_be_as_many_as_the_logits(tmp_path):
    with pytest.raises(ValueError, match="3 classes"):
        export_network(
            linear_network(),
            tmp_path / "net",
            calibration=random_images(4, (1, 2, 2)),
            classes=["a", "b", "c"],
            mean=[0.0],
            std=[1.0],
        )


def test_folder_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"^cannot write .*absent/net\.onnx: No such file or directory\.$"):
        export_linear(tmp_path / "absent" / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full_at", [".onnx", ".int8.onnx", ".pt2"])
def test_full_disk_leaves_all_files_as_they_were(tmp_path, monkeypatch, full_at):
    files = check_export_path(tmp_path / "net")
    for file in files.values():
        file.write_text("old")
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if path.name == files[full_at].name + ".tmp":
            write_bytes(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(InputError, match=rf"^cannot write .*net\{full_at}: No space left on device\.$"):
        export_linear(tmp_path / "net")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(files.values(), b"old")
