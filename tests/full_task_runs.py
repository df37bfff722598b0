"""Runs of onnas.py --task full on drawn images, and how two of them are compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import PLAIN, Finished, Scripts, contents, rows

CLASSES = ("a cat", "größe", "z")
TRAIN, TEST, SIDE = 12, 4, 12  # images of a class, pixels
NETWORK = "--init_channels 2 --layers 2 --nodes 1"
EPOCHS = "--epochs 2 --warm_up_epochs 1 --derived_epochs 2"

PROCESS_MEMORY = ("process_memory_mib", "process_memory_anonymous_mib")
TIMES = ("seconds", "seconds_per_step", "search_seconds", "derived_seconds", *PROCESS_MEMORY)
LOGS = {"search.jsonl", "derived.jsonl"}
CHECKPOINTS = {"checkpoint.pt", "searched.pt", "derived_checkpoint.pt"}


def draw_image(draws: np.random.Generator, label: int, side: int = SIDE) -> Image.Image:
    """Grey noise, brighter from class to class."""
    return Image.fromarray((draws.integers(0, 60, (side, side)) + 60 * label).astype(np.uint8))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder of grey images. Not to be written to."""
    folder, draws = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for part, number in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for image in range(number):
                draw_image(draws, label).save(folder / part / name / f"{image}.png")
    return folder


class FullTask:
    """Starts onnas.py --task full on the drawn images; later flags beat earlier ones."""

    def __init__(self, scripts: Scripts, images: Path):
        self.scripts, self._images = scripts, images

    def flags(self, path: Path, *flags: object) -> list:
        task = f"--task full --dataset imagefolder --device cpu --batch_size 9 {NETWORK} {EPOCHS} {PLAIN}"
        return [*task.split(), "--data_path", self._images, "--path", path, *flags]

    def __call__(self, path: Path, *flags: object, but_for: tuple[str, ...] = (), die_at: int = 0) -> Finished:
        """Runs it, without the flags ``but_for`` of those above."""
        flags = self.flags(path, *flags)
        for flag in but_for:
            del flags[flags.index(flag) : flags.index(flag) + 2]
        return self.scripts.run("onnas.py", *flags, die_at=die_at)

    def from_meta_cell(self, meta_cell: Path, path: Path, *flags: object) -> Finished:
        return self(path, "--meta_cell", meta_cell, *flags, but_for=("--init_channels", "--layers", "--nodes"))


@pytest.fixture(scope="session")
def full_task(scripts, drawn) -> FullTask:
    return FullTask(scripts, drawn)


@pytest.fixture(scope="session")
def whole(full_task, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run, with its report. Not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    full_task(path, "--report", 1).succeeded()
    return path


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of that run's folder."""
    return shutil.copytree(whole, tmp_path / "run")


def results_of(path: Path) -> dict:
    return json.loads((path / "results.json").read_text())


def without(path: Path, keys: tuple[str, ...]) -> dict:
    """results.json without some keys and the flags, the logs without these keys, and the genotype."""
    results = {key: value for key, value in results_of(path).items() if key not in (*keys, "settings")}
    logs = [rows(path / name, without=keys) for name in sorted(LOGS) if (path / name).exists()]
    return {**results, "logs": logs, "genotype.json": (path / "genotype.json").read_text()}


def same_tensors(first: object, second: object) -> bool:
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_tensors(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_tensors, first, second))
    return first == second


def assert_same_run(path: Path, expected: Path, but_for: tuple[str, ...] = TIMES) -> None:
    """The same but for times, bit for bit."""
    assert without(path, but_for) == without(expected, but_for)
    for name in CHECKPOINTS & contents(expected).keys():
        first, second = (torch.load(folder / name, weights_only=True) for folder in (path, expected))
        assert same_tensors(first, second), name
