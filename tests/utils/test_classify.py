"""The command that classifies on a device, run as a file by itself, and held against the project's reader of images."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from utils.classify import PREPARATION, Prediction, Refusal, csv_text, list_files, read_image, table_text, write_whole
from utils.data.class_folders import list_files as listed_by_the_project
from utils.data.image_reader import Preparation
from utils.data.image_reader import read_image as read_by_the_project
from utils.errors import InputError

CLASSES = ["dark", "bright", "Käse"]
MEAN, STD = 0.25, 0.5
SIDE = 12
SCRIPT = Path(__file__).parents[2] / "utils" / "classify.py"


def write_network(path: Path, channels: int = 1, **changes) -> Path:
    """A network whose logits are known: w * the mean of the normalised image, w = -4, 4, 0."""
    weights = np.repeat(np.array([[-4.0, 4.0, 0.0]], np.float32), channels, 0) / channels
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    metadata = {
        "classes": CLASSES,
        "input_size": [channels, SIDE, SIDE],
        "mean": [MEAN] * channels,
        "std": [STD] * channels,
        "bits": None,
        "preparation": PREPARATION,
        **changes,
    }
    told = {key: json.dumps(value) for key, value in metadata.items() if value is not ...}
    helper.set_model_props(model, told)
    onnx.save(model, path)
    return path


def write_grey(path: Path, value: int, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Three images at three depths, a text beside them, and what is passed over."""
    folder = tmp_path / "photographs"
    write_grey(folder / "black.png", 0)
    write_grey(folder / "a" / "white.png", 255)
    write_grey(folder / "a" / "b" / "grey.png", 64)
    (folder / "a" / "notes.txt").write_text("no image")
    write_grey(folder / ".hidden" / "x.png", 0)
    write_grey(folder / "a" / ".x.png", 0)
    (folder / "Thumbs.db").write_text("")
    return folder


def classify(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    """Runs a copy of the file alone, in a folder where nothing of the project is found."""
    script = shutil.copy(SCRIPT, folder / "classify.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def expected_probabilities(value: int) -> np.ndarray:
    mean = (value / 255 - MEAN) / STD
    powers = np.exp(np.array([-4, 4, 0]) * mean)
    return powers / powers.sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_classified_by_the_file_alone(tmp_path, photographs, channels):
    network = write_network(tmp_path / "network.onnx", channels)
    finished = classify(network, photographs, "--csv", tmp_path / "said.csv", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    header, *rows = csv.reader((tmp_path / "said.csv").open(encoding="utf-8", newline=""))
    assert header == ["file", "class", *CLASSES]
    assert [row[:2] for row in rows] == [
        ["a/b/grey.png", CLASSES[1]],
        ["a/notes.txt", "unread"],
        ["a/white.png", CLASSES[1]],
        ["black.png", CLASSES[0]],
    ]
    for row, value in ((rows[0], 64), (rows[2], 255), (rows[3], 0)):
        np.testing.assert_allclose(np.array(row[2:], float), expected_probabilities(value), atol=1e-6)
    assert rows[1][2:] == ["", "", ""]
    assert "a/notes.txt was not read: it is of no format that is read" in finished.stderr
    lines = finished.stdout.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["a/b/grey.png", "black.png", "a/white.png"]  # least sure first
    assert all(len(line) <= 80 for line in lines[:4])
    assert lines[4].startswith("3 of 4 files classified, in ")


def test_one_photograph_and_no_csv(tmp_path, photographs):
    finished = classify(write_network(tmp_path / "n.onnx"), photographs / "black.png", folder=tmp_path)
    assert finished.returncode == 0
    assert "dark" in finished.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"n.onnx", "photographs", "classify.py"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.onnx", "photographs"], "absent.onnx is no file"),
        (["photographs", "photographs"], "photographs is no file"),
        (["text.onnx", "photographs"], "text.onnx is no network that onnxruntime .* loads"),
        (["other.onnx", "photographs"], "other.onnx does not say how to prepare images"),
        (["later.onnx", "photographs"], "later.onnx prepares images as version 99"),
        (["two_channels.onnx", "photographs"], "two_channels.onnx does not say"),
        (["network.onnx", "absent"], "absent is neither a folder nor a file"),
        (["network.onnx", "empty"], "empty holds no photographs"),
        (["network.onnx", "photographs/a/notes.txt"], "notes.txt holds no photographs"),
        (["network.onnx", "photographs", "--csv", "absent/said.csv"], "--csv absent/said.csv must name a file"),
        (["network.onnx", "photographs", "--csv", "empty"], "--csv empty must name a file"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, photographs, arguments, said):
    write_network(tmp_path / "network.onnx")
    write_network(tmp_path / "other.onnx", preparation=...)
    write_network(tmp_path / "later.onnx", preparation=99)
    write_network(tmp_path / "two_channels.onnx", channels=2)
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "empty").mkdir()
    finished = classify(*arguments, folder=tmp_path)
    assert finished.returncode == 2
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("classify: error: ")
    assert re.search(said, line), line


def test_name_that_is_not_utf8_is_refused_before_the_work(tmp_path, photographs):
    Path(os.fsdecode(os.fsencode(photographs) + b"/caf\xe9.png")).write_bytes(b"")
    finished = classify(write_network(tmp_path / "n.onnx"), photographs, "--csv", tmp_path / "s.csv", folder=tmp_path)
    assert finished.returncode == 2
    assert r"caf\xe9.png' is not UTF-8" in finished.stderr
    assert not (tmp_path / "s.csv").exists()


def test_interrupt_leaves_the_csv_as_it_was(tmp_path, photographs):
    """A pipe nobody writes to would be waited for; so it interrupts itself from a module that it imports."""
    (tmp_path / "s.csv").write_text("old")
    code = (
        "import os, runpy, signal, sys\n"
        "from PIL import Image\n"
        "Image.open = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.argv = ['classify', 'n.onnx', {str(photographs)!r}, '--csv', 's.csv']\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    write_network(tmp_path / "n.onnx")
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 128 + signal.SIGINT
    assert finished.stderr == "\nclassify: interrupted; no CSV was written.\n"
    assert (tmp_path / "s.csv").read_text() == "old"


def test_interrupt_while_it_imports_is_one_line(tmp_path):
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    )
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - a shell may ignore it
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "n.onnx", "."]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=default)
    assert (finished.returncode, finished.stderr) == (130, "\nclassify: interrupted.\n")


@pytest.mark.parametrize("mib", [30, 50])
def test_imports_that_do_not_fit_are_one_line(mib):
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (mib * 2**20, mib * 2**20))  # noqa: E731
    command = [sys.executable, str(SCRIPT), "n.onnx", "."]
    finished = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    said = "classify: error: out of memory: onnxruntime, numpy and Pillow do not fit.\n"
    assert (finished.returncode, finished.stderr) == (2, said)


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("numpy.core.multiarray failed to import", "numpy.core.multiarray failed to import"),
        ("x.so: failed to map segment", "out of memory: onnxruntime, numpy and Pillow do not fit."),
    ],
)
def test_imports_that_fail_say_why(tmp_path, why, said):
    (tmp_path / "onnxruntime.py").write_text(f"raise ImportError('advice') from ImportError({why!r})")
    command = [sys.executable, str(SCRIPT), "n.onnx", "."]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (2, f"classify: error: {said}\n")


def test_what_is_not_installed_is_named(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True)
    said = "classify: error: onnxruntime is not installed: pip install onnxruntime numpy Pillow.\n"
    assert (finished.returncode, finished.stderr) == (2, said)


@pytest.mark.parametrize("where", ["pipe", "full"])
def test_output_that_cannot_be_written_costs_no_csv(where, tmp_path, photographs):
    reading, writing = os.pipe()
    os.close(reading)
    output = writing if where == "pipe" else os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, SCRIPT, write_network(tmp_path / "n.onnx"), photographs, "--csv", tmp_path / "s.csv"]
    finished = subprocess.run([*map(str, command)], stdout=output, stderr=subprocess.PIPE, text=True)
    reason = {"pipe": "Broken pipe", "full": "No space left on device"}[where]
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == f"classify: error: the output: {reason}."
    assert (tmp_path / "s.csv").exists()


def test_file_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "s.csv").write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match=r"cannot write .*s\.csv: No space left on device\."):
        write_whole(tmp_path / "s.csv", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"s.csv": "old"}


def test_table_fits_80_columns_and_csv_quotes():
    predictions = [Prediction("folder/" * 30 + "file.png", [0.25, 0.75]), Prediction("b,c.png", [0.6, 0.4])]
    lines = table_text(["long name " * 9, 'a "b", c'], predictions).splitlines()
    assert max(map(len, lines)) == 80
    assert lines[1].endswith("b,c.png")
    assert lines[2].endswith("file.png")
    assert len(table_text(["a", "b"], predictions, rows=1).splitlines()) == 2
    (_, row, _) = csv.reader(io.StringIO(csv_text(["a", "b"], predictions[::-1])))
    assert row == ["b,c.png", "a", "0.600000", "0.400000"]


# --- Held against the project's reader --------------------------------------------------------------------------------

draws = np.random.default_rng(0)


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    return draws.integers(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def palette_with_transparency() -> Image.Image:
    image = Image.fromarray(noise(20, 30, 3)).quantize(8)
    image.info["transparency"] = 3
    return image


COLOUR = Image.fromarray(noise(40, 60, 3))
IMAGES = {
    "grey.png": (Image.fromarray(noise(20, 30)), {}),
    "colour.png": (COLOUR, {}),
    "photograph.jpg": (Image.fromarray(noise(300, 400, 3)), {}),
    **{f"turned {number}.jpg": (COLOUR, {"exif": turned(number)}) for number in range(1, 9)},
    "turned.png": (COLOUR, {"exif": turned(6)}),
    "turned.tif": (COLOUR, {"tiffinfo": {0x112: 6}}),
    "transparent.png": (Image.fromarray(noise(20, 30, 4)), {}),
    "grey and transparent.png": (Image.fromarray(noise(20, 30, 4)).convert("LA"), {}),
    "palette.png": (COLOUR.quantize(16), {}),
    "palette and transparent.png": (palette_with_transparency(), {}),
    "animation.gif": (COLOUR.quantize(8), {"save_all": True, "append_images": [COLOUR.rotate(90).quantize(8)]}),
    "one bit.png": (Image.fromarray(noise(20, 30)).convert("1"), {}),
    "16 bits.png": (Image.fromarray(noise(20, 30, bits=16)), {}),
    "16 bits.tif": (Image.fromarray(noise(20, 30, bits=16)), {}),
    "16 bits.pgm": (Image.fromarray(noise(20, 30, bits=16)), {}),
    "12 bits.png": (Image.fromarray(noise(20, 30, bits=12)), {}),
    "10 bits.png": (Image.fromarray(noise(20, 30, bits=10)), {}),
    "cmyk.jpg": (COLOUR.convert("CMYK"), {}),
    "cmyk.tif": (COLOUR.convert("CMYK"), {}),
    "lab.tif": (Image.fromarray(noise(20, 30, 3), "LAB"), {}),
    "picture.webp": (COLOUR, {"lossless": True}),
    "picture.bmp": (COLOUR, {}),
    "floating point.tif": (Image.fromarray(draws.random((20, 30), np.float32)), {}),
    "white is zero.tif": (Image.fromarray(noise(20, 30, bits=16)), {"tiffinfo": {262: 0}}),
    "8 bits, white is zero.tif": (Image.fromarray(noise(20, 30)), {"tiffinfo": {262: 0}}),
    "32 bits.tif": (Image.fromarray(np.full((20, 30), 100_000, np.int32)), {}),
    "small.png": (Image.fromarray(noise(7, 30)), {}),
    "one pixel.png": (Image.fromarray(noise(1, 1)), {}),
    "no image.png": (None, {}),
    "cut short.jpg": (COLOUR, {}),
}


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for name, (image, options) in IMAGES.items():
        if image is None:
            (folder / name).write_text("text")
        else:
            image.save(folder / name, **options)
    whole = (folder / "cut short.jpg").read_bytes()
    (folder / "cut short.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize("bits", [None, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_images_are_prepared_as_in_training(odd_images, name, channels, bits):
    """To the last bit, or refused by both."""
    for side in (10, 20, 84):
        try:
            expected = read_by_the_project(odd_images / name, Preparation(channels, side, bits))
        except InputError:
            with pytest.raises(Refusal):
                read_image(odd_images / name, (channels, side, side), bits)
        else:
            np.testing.assert_array_equal(read_image(odd_images / name, (channels, side, side), bits), expected)


def test_files_are_listed_as_by_the_project(tmp_path, photographs):
    (photographs / "loop").symlink_to(photographs)
    (photographs / "README.md").write_text("")
    write_grey(photographs / "readme.png", 0)
    assert list_files(photographs) == listed_by_the_project(photographs)


def test_nothing_of_the_project_is_imported():
    code = "import sys, utils.classify; print(*sorted(name for name in sys.modules if name.split('.')[0] == 'utils'))\n"
    code += "assert not {'torch', 'tqdm', 'onnx'} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parents[1], capture_output=True, text=True)
    assert (finished.stdout, finished.stderr) == ("utils utils.classify\n", "")
