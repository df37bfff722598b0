"""TensorBoard's events of whole runs, read back and held against the files beside them."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search_space.board.search_record import RECORDED_TASKS
from tests.conftest import rows

BOARD = ("--tensorboard", 1)
TASKS, STEPS = RECORDED_TASKS + 1, 10
PICTURES = {f"search/{name}" for name in ("architecture", "cells", "choices", "expectation", "steps")}


class Events:
    """What TensorBoard would show of one run."""

    def __init__(self, folder: Path):
        self._events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
        self.tags = {kind: set(tags) for kind, tags in self._events.Tags().items() if isinstance(tags, list)}

    def scalars(self, tag: str) -> dict[int, float]:
        return self._by_step(tag, [(event.step, event.value) for event in self._events.Scalars(tag)])

    def pictures(self, tag: str) -> dict[int, bytes]:
        return self._by_step(tag, [(event.step, event.encoded_image_string) for event in self._events.Images(tag)])

    def _by_step(self, tag: str, events: list[tuple]) -> dict:
        assert len(dict(events)) == len(events), f"{tag} has a step twice"
        return dict(events)

    def everything(self, but_for: tuple[str, ...]) -> dict:
        """All scalars and pictures, but for tags that hold one of these."""
        scalars = {tag: self.scalars(tag) for tag in self.tags["scalars"] if not any(part in tag for part in but_for)}
        return {**scalars, **{tag: self.pictures(tag) for tag in self.tags["images"]}}


def assert_rows(events: Events, table: list[dict], index: str) -> None:
    """Every number of every row is a scalar at the row's step, and no step is there that no row has."""
    flat = {}
    for row in table:
        for key, value in row.items():
            for part, number in value.items() if key.endswith("breakdown_mib") else [("", value)]:
                if isinstance(number, int | float) and key != index:
                    flat.setdefault(f"{key}/{part}".rstrip("/"), {})[row[index]] = number
    assert flat
    shown = {tag.partition("/")[2]: tag for tag in events.tags["scalars"]}
    for key, values in flat.items():
        assert events.scalars(shown[key]) == {step: pytest.approx(value, rel=1e-6) for step, value in values.items()}


# --- Few-shot search ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meta_cell(scripts, tmp_path_factory) -> Path:
    """Of one cell, with two nodes, so that there is a pair to choose."""
    path = tmp_path_factory.mktemp("two nodes") / "run"
    scripts.tfml(path, "--layers", 1, "--reduction_layers", 0, "--nodes", 2, "--meta_epochs", 0).succeeded()
    return path / "meta_cell.pt"


@pytest.fixture(scope="module")
def searched(scripts, meta_cell, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("searched") / "run"
    flags = ("--k", 1, "--eval_epochs", TASKS, "--test_task_train_steps", STEPS, *BOARD)
    scripts.onnas(meta_cell, path, *flags).succeeded()
    return path


def test_every_task_has_its_figures(searched):
    assert_rows(Events(searched / "tb"), rows(searched / "tasks.jsonl"), "task")
    assert not [path for path in (searched / "tb").iterdir() if path.is_dir()]  # one run in the list


def test_accuracy_loss_and_memory_come_first(searched):
    groups = {tag.partition("/")[0] for tags in Events(searched / "tb").tags.values() for tag in tags}
    assert sorted(groups) == ["accuracy", "loss", "memory", "search", "size", "time"]


def test_the_first_tasks_have_their_pictures(searched):
    events = Events(searched / "tb")
    assert events.tags["images"] == PICTURES
    for tag in PICTURES:
        assert set(events.pictures(tag)) == set(range(RECORDED_TASKS))


def test_a_resumed_search_shows_the_same(scripts, searched, meta_cell, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    lines = (path / "tasks.jsonl").read_text().splitlines(keepends=True)
    (path / "tasks.jsonl").write_text("".join(lines[:2]))
    flags = ("--k", 1, "--eval_epochs", TASKS, "--test_task_train_steps", STEPS, "--resume", *BOARD)
    scripts.onnas(meta_cell, path, *flags).succeeded()
    assert Events(path / "tb").everything(("time/",)) == Events(searched / "tb").everything(("time/",))


def test_a_search_that_diverges_is_shown(scripts, meta_cell, tmp_path):
    scripts.onnas(meta_cell, tmp_path / "run", "--eval_epochs", 1, "--w_lr", 100, "--alpha_lr", 100, *BOARD).succeeded()
    assert "search/architecture" in Events(tmp_path / "run/tb").tags["images"]


# --- Meta-training --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(scripts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    scripts.tfml(path, *BOARD).succeeded()
    return path


def test_every_metric_of_meta_training(trained):
    events = Events(trained / "tb")
    assert_rows(events, rows(trained / "metrics.jsonl"), "meta_epoch")
    rates = {"w_lr": 0.05, "alpha_lr": 0.005, "w_meta_lr": 1.0, "a_meta_lr": 0.6}
    for name, rate in rates.items():
        assert events.scalars(f"other/{name}") == {1: pytest.approx(rate), 3: pytest.approx(rate)}


def test_meta_tests(trained):
    events = Events(trained / "tb")
    assert events.tags["images"] <= PICTURES
    assert {"search/architecture", "search/cells", "search/steps"} <= events.tags["images"]
    for tag in (*events.tags["images"], "memory/meta_test_memory_mib/adapting"):
        values = events.pictures(tag) if tag in PICTURES else events.scalars(tag)
        assert set(values) == {1, 3}  # --eval_freq 2


def test_resumed_meta_training_shows_the_same(scripts, trained, tmp_path):
    path = tmp_path / "run"
    scripts.tfml(path, "--meta_epochs", 3, *BOARD).succeeded()  # its last meta-test is not one of the whole run
    scripts.tfml(path, "--resume", *BOARD).succeeded()
    shown, expected = (Events(folder / "tb").everything(("time/",)) for folder in (path, trained))
    for tag, values in expected.items():
        assert {step: value for step, value in shown[tag].items() if step != 2} == {
            step: value for step, value in values.items() if step != 2
        }


# --- Full task ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder, draws = tmp_path_factory.mktemp("images"), torch.Generator().manual_seed(0)
    for label, name in enumerate(("dark", "light")):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(12):
            pixels = torch.randint(0, 60, (12, 12), generator=draws) + 100 * label
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / "train" / name / f"{number}.png")
    shutil.copytree(folder / "train", folder / "test")
    return folder


FULL = "--task full --dataset imagefolder --device cpu --batch_size 3 --init_channels 2 --layers 2 --nodes 2"
EPOCHS = "--epochs 4 --warm_up_epochs 1 --derived_epochs 2"


@pytest.fixture(scope="module")
def full(scripts, images, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("full") / "run"
    scripts.run("onnas.py", *FULL.split(), *EPOCHS.split(), "--data_path", images, "--path", path).succeeded()
    return path


def test_epochs_of_search_and_training(full):
    search, derived = Events(full / "tb/search"), Events(full / "tb/derived")
    assert_rows(search, rows(full / "search.jsonl"), "epoch")
    assert_rows(derived, rows(full / "derived.jsonl"), "epoch")
    cosine = {epoch: pytest.approx(0.025 * (1 + math.cos(math.pi * epoch / 4)) / 2) for epoch in range(4)}
    assert search.scalars("other/w_lr") == cosine
    assert search.scalars("other/temperature") == {0: 1, 1: 1, 2: pytest.approx(0.55), 3: pytest.approx(0.1)}
    assert derived.scalars("other/lr") == {0: pytest.approx(0.025), 1: pytest.approx(0.0125)}


def test_pictures_of_a_full_search(full):
    """Four steps an epoch: the second that searches is the first to end with the six updates of an expectation."""
    events = Events(full / "tb/search")
    assert events.tags["images"] == PICTURES - {"search/steps"}
    for tag in events.tags["images"] - {"search/expectation"}:
        assert set(events.pictures(tag)) == {1, 2, 3}  # the first epoch trains weights only
    assert set(events.pictures("search/expectation")) == {3}
    assert [row["epoch"] for row in rows(full / "tb/search/expected.jsonl")] == [2]


def test_a_resumed_full_search_shows_the_same(scripts, full, images, tmp_path):
    """Killed twice, each time at another change of a file."""
    path = tmp_path / "run"
    command = ["onnas.py", *FULL.split(), *EPOCHS.split(), "--data_path", images, "--path", path, "--resume"]
    for deaths in (30, 45):
        scripts.run(*command, die_at=deaths)
    scripts.run(*command).succeeded()
    for run in ("search", "derived"):
        shown, expected = (Events(folder / "tb" / run).everything(("time/", "memory/")) for folder in (path, full))
        assert shown == expected
