"""onnas.py --task full: the network that is derived from a genotype, its export, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.genotype import Genotype
from tests.conftest import contents
from tests.full_task_runs import CLASSES, SIDE, TIMES, assert_same_run, results_of
from tests.test_onnas_full_task import (
    DERIVED_KEYS,
    FILES,
    accuracy_of,
    derived_network,
    images_to_test,
    searched_supernet,
)

DARTS = "OURS = Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), \
reduce=[('max_pool_3x3', 1), ('dil_conv_5x5', 0)], reduce_concat=range(2, 3))"


def test_genotype_is_trained_without_a_search(full_task, tmp_path):
    path, genotype = tmp_path / "run", tmp_path / "darts.txt"
    genotype.write_text(DARTS)
    flags = "--derived_layers 3 --derived_channels 4 --auxiliary 1 --cutout 4 --seed 9223372036854775807"
    full_task(path, "--genotype", genotype, *flags.split()).succeeded()
    results = results_of(path)
    assert set(results) == DERIVED_KEYS
    assert contents(path).keys() == (FILES | {"derived_checkpoint.pt"}) - {"search.jsonl"}
    assert results["genotype"]["normal"] == [["sep_conv_3x3", 0], ["skip_connect", 1]]
    network = derived_network(results, layers=3, channels=4, reductions=(1, 2))
    assert results["derived_parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_number_of_nodes_is_the_genotypes(full_task, tmp_path):
    """Without a flag for it, the network is recorded as it is."""
    path, genotype = tmp_path / "run", tmp_path / "genotype.json"
    cell = (("skip_connect", 0), ("max_pool_3x3", 1)) * 4
    genotype.write_text(json.dumps(Genotype(cell, (2, 3, 4, 5), cell, (2, 3, 4, 5)).as_dict()))
    given = ("--genotype", genotype, "--derived_epochs", 0)
    assert "has --nodes 4, not 1: leave the flag out" in full_task(path, *given).complaint()
    for resume in ((), ("--resume",)):
        full_task(path, *given, *resume, but_for=("--nodes",)).succeeded()
        assert (results_of(path)["network"]["nodes"], results_of(path)["settings"]["nodes"]) == (4, 4)


def test_inherited_weights_are_those_of_the_search(full_task, drawn, tmp_path):
    path = tmp_path / "run"
    full_task(path, "--inherit_weights", 1, "--derived_epochs", 0, "--epochs", 4, "--w_lr", 0.05).succeeded()
    network = derived_network(results_of(path))
    network.inherit(searched_supernet(path))
    assert results_of(path)["derived_accuracy"] == accuracy_of(network, drawn)


# --- Export ---------------------------------------------------------------------------------------------------------

READER = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
mean, std = (np.array(told[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
logits = session.run(["logits"], {"images": (np.load("images.npy") - mean) / std})[0]
assert not {"torch", "utils", "models"} & set(sys.modules)
print(json.dumps({**told, "found": logits.argmax(1).tolist()}))
"""


def read_onnx(file: Path, images: torch.Tensor, folder: Path) -> dict:
    """What a process that knows neither this repository nor PyTorch reads in a file and finds in images of [0, 1]."""
    np.save(folder / "images.npy", images.numpy())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", READER, str(file)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_exported_network_finds_what_results_say(full_task, whole, copied, drawn, tmp_path):
    """The export may be asked for when all the rest is done, and changes nothing of it."""
    full_task(copied, "--resume", "--export", tmp_path / "files" / "net.onnx").succeeded()
    assert_same_run(copied, whole, but_for=(*TIMES, "exports"))
    results = results_of(copied)
    assert sorted(file.name for file in (tmp_path / "files").iterdir()) == ["net.int8.onnx", "net.onnx", "net.pt2"]
    images, labels = images_to_test(drawn)
    told = read_onnx(tmp_path / "files" / "net.onnx", images, tmp_path)
    assert told["classes"] == sorted(CLASSES)
    assert told["input_size"] == [1, SIDE, SIDE]
    assert told["genotype"] == results["genotype"]
    right = sum(found == label for found, label in zip(told["found"], labels.tolist(), strict=True))
    assert right / len(labels) == results["derived_accuracy"] == told["accuracy"]


def test_network_of_the_last_few_shot_task_is_exported(scripts, trained, tmp_path):
    path = tmp_path / "run"
    flags = ("--export", path / "net", "--export_network", "found", "--report", 1)
    scripts.onnas(trained / "meta_cell.pt", path, *flags).succeeded()
    assert contents(path).keys() == {
        *("args.json", "tasks.jsonl", "examples.jsonl", "results.json", "report.html"),
        *("net.onnx", "net.int8.onnx", "net.pt2"),
    }
    told = read_onnx(path / "net.onnx", torch.rand(5, 1, 28, 28), tmp_path)
    assert (told["task"], told["mean"], told["std"], told["input_size"]) == (1, [0.0], [1.0], [1, 28, 28])
    assert len(set(told["classes"])) == 3
    assert all(name.startswith("glyph ") for name in told["classes"])
    assert set(told["found"]) <= {0, 1, 2}


# --- What is refused ------------------------------------------------------------------------------------------------

MISTAKES = {  # that the parser cannot know, one of each kind; the others are in tests/search_space/flags
    "--dataset cifar10": "--data_path",
    "--search pcdarts --init_channels 4 --inherit_weights 1": "--inherit_weights",
    "--derived_channels 3": "--derived_channels",
    "--inherit_weights 1 --derived_layers 3": "--derived_layers",
    "--genotype /dev/null": "/dev/null",
    "--cutout 13": "--cutout must be at most 12",
    "--export net.tflite": "--export",
    "--meta_cell nowhere.pt": "nowhere.pt",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name_before_anything_is_written(full_task, tmp_path, mistake):
    complaint = full_task(tmp_path / "run", *mistake.split()).complaint()
    assert complaint.startswith("onnas.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


def test_images_that_will_not_do_are_refused_by_name_and_nothing_is_lost(full_task, drawn, copied, tmp_path):
    """Neither a run is started on them, nor one that is there goes on."""
    images = shutil.copytree(drawn, tmp_path / "images")
    file = images / "test" / "z" / "0.png"
    file.write_bytes(file.read_bytes()[:-40])
    assert str(file) in full_task(tmp_path / "new", "--data_path", images).complaint()
    assert not (tmp_path / "new").exists()
    before = contents(copied)
    assert str(file) in full_task(copied, "--data_path", images, "--resume").complaint()
    assert contents(copied) == before
