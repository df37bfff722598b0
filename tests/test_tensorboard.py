"""TensorBoard's events of whole runs, read back and held against the files beside them and against the searches."""

import io
import math
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search_space.board.board import RECORDED_TASKS, SHOWN_STEPS
from search_space.primitives import FEW_SHOT
from tests.conftest import rows
from tests.helpers import edges_of
from utils.pictures.cell_picture import as_figure, cell_graph
from utils.pictures.small_plots import heat_map

TASKS, STEPS = RECORDED_TASKS + 1, 10
CELL_TYPES = ("normal", "reduction")
STEP_TAGS = {"loss", "accuracy", "validation_accuracy", "temperature", "w_lr", "alpha_lr"}
EXPECTED_TAGS = {"mean_absolute_error", "correlation"}


class Events:
    """What TensorBoard would show of one run."""

    def __init__(self, folder: Path):
        self._events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
        self.tags = {kind: set(tags) for kind, tags in self._events.Tags().items() if isinstance(tags, list)}

    def scalars(self, tag: str) -> dict[int, float]:
        events = self._events.Scalars(tag)
        values = {event.step: event.value for event in events}
        assert len(values) == len(events), f"{tag} has a step twice"
        return values

    def pictures(self, tag: str) -> dict[int, bytes]:
        """The pixels, by step."""
        events = self._events.Images(tag)
        values = {
            event.step: Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB").tobytes() for event in events
        }
        assert len(values) == len(events), f"{tag} has a step twice"
        return values

    def text(self, tag: str) -> str:
        (event,) = self._events.Tensors(f"{tag}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    def everything(self, but_for: tuple[str, ...]) -> dict:
        """All scalars and pictures, but for tags that end so."""
        scalars = {tag: self.scalars(tag) for tag in self.tags["scalars"] if not tag.endswith(but_for)}
        return {**scalars, **{tag: self.pictures(tag) for tag in self.tags["images"]}}


def assert_rows(events: Events, group: str, table: list[dict], index: str) -> None:
    """Every number of every row is a scalar at the row's step, and no step is there that no row has."""
    flat = {}
    for row in table:
        for key, value in row.items():
            for part, number in value.items() if key.endswith("breakdown_mib") else [("", value)]:
                if isinstance(number, int | float) and key != index:
                    flat.setdefault(f"{group}/{key}/{part}".rstrip("/"), {})[row[index]] = number
    assert flat
    for tag, values in flat.items():
        assert events.scalars(tag) == {step: pytest.approx(value, rel=1e-6) for step, value in values.items()}


def assert_looks_like(pixels: bytes, image: Image.Image) -> None:
    """The same but for the palette's rounding; another digit would differ by most of the range."""
    assert len(pixels) == len(image.tobytes())
    assert max(abs(a - b) for a, b in zip(pixels, image.tobytes(), strict=True)) < 40


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
    flags = ("--k", 1, "--eval_epochs", TASKS, "--test_task_train_steps", STEPS)
    scripts.onnas(meta_cell, path, *flags).succeeded()
    return path


def test_every_task_has_its_figures(searched):
    events, tasks = Events(searched / "tb"), rows(searched / "tasks.jsonl")
    assert_rows(events, "task", tasks, "task")
    speed = events.scalars("task/tasks_per_second")
    assert speed == {row["task"]: pytest.approx(1 / row["seconds"], rel=1e-6) for row in tasks}


def test_the_first_tasks_have_their_steps(searched):
    assert {path.name for path in (searched / "tb").iterdir() if path.is_dir()} == {"task_0", "task_1", "task_2"}
    for task in range(RECORDED_TASKS):
        events = Events(searched / "tb" / f"task_{task}")
        expected = {f"expected_{kind}/{tag}" for kind in ("alpha", "beta") for tag in EXPECTED_TAGS}
        assert events.tags["scalars"] == {f"step/{tag}" for tag in STEP_TAGS} | expected
        for tag in STEP_TAGS:
            assert set(events.scalars(f"step/{tag}")) == set(range(1, STEPS + 1))  # one batch is an epoch
        temperatures = {step: pytest.approx(1 - 0.9 * (step - 1) / (STEPS - 1)) for step in range(1, STEPS + 1)}
        assert events.scalars("step/temperature") == temperatures
        assert events.scalars("step/w_lr") == dict.fromkeys(range(1, STEPS + 1), pytest.approx(0.05))
        # From the sixth update on, as long as there is a step to come.
        assert set(events.scalars("expected_alpha/correlation")) == set(range(6, STEPS))


def test_pictures_of_a_task(searched):
    events, shown = Events(searched / "tb" / "task_0"), SHOWN_STEPS
    groups = {"alpha": shown, "beta": shown, "chosen_candidates": shown - 1, "chosen_pairs": shown - 1}
    tags = {f"{group}/{cell_type}": number for group, number in groups.items() for cell_type in CELL_TYPES}
    for tag, number in tags.items():
        steps = sorted(events.pictures(tag))
        assert len(steps) == number
        assert steps[-1] == STEPS
        assert steps[0] == (0 if tag.startswith(("alpha", "beta")) else 1)
    others = {"expected_alpha/against_final", "expected_beta/against_final", "cells/found"}
    assert events.tags["images"] == {*tags, *others}


def test_the_start_is_the_meta_cell(searched, meta_cell):
    """Softmax of its alpha and beta at temperature 1, by hand."""
    architecture = torch.load(meta_cell, weights_only=True)["architecture"]

    def percent(name: str) -> list[float]:
        exponentials = [math.exp(value) for value in architecture[name].tolist()]
        return [100 * value / sum(exponentials) for value in exponentials]

    states, edges = ["c-2", "c-1", "0", "1"], edges_of(2)
    names = [f"{states[source]} to {node}" for source, node in edges]
    for cell_type in CELL_TYPES:
        alpha = heat_map([percent(f"alpha.{cell_type}.{edge}") for edge in range(5)], names, list(FEW_SHOT), 100)
        rows_of_beta = [[100.0, None, None], percent(f"beta.{cell_type}.1")]
        pairs = [f"{states[a]}, {states[b]}" for a, b in combinations(range(3), 2)]
        for task in range(RECORDED_TASKS):
            events = Events(searched / "tb" / f"task_{task}")
            assert_looks_like(events.pictures(f"alpha/{cell_type}")[0], alpha)
            beta = heat_map(rows_of_beta, ["node 0", "node 1"], pairs, 100)
            assert_looks_like(events.pictures(f"beta/{cell_type}")[0], beta)


def test_the_end_is_the_genotype(searched):
    for row in rows(searched / "tasks.jsonl")[:RECORDED_TASKS]:
        events, genotype = Events(searched / "tb" / f"task_{row['task']}"), row["genotype"]
        normal = [tuple(entry) for entry in genotype["normal"]]
        assert events.text("genotype").startswith(f"Genotype(normal={normal}, normal_concat=range(2, 4), reduce=")
        figure = as_figure({"normal": cell_graph(normal), "reduction": cell_graph(genotype["reduce"])})
        (picture,) = events._events.Images("cells/found")
        assert picture.step == STEPS
        assert (picture.width, picture.height) == figure.canvas.get_width_height()


def test_a_resumed_search_shows_the_same(scripts, searched, meta_cell, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    lines = (path / "tasks.jsonl").read_text().splitlines(keepends=True)
    (path / "tasks.jsonl").write_text("".join(lines[:2]))
    flags = ("--k", 1, "--eval_epochs", TASKS, "--test_task_train_steps", STEPS, "--resume")
    scripts.onnas(meta_cell, path, *flags).succeeded()
    times = ("seconds", "seconds_per_step", "tasks_per_second")
    for run in ("", "task_0", "task_1", "task_2"):
        assert Events(path / "tb" / run).everything(times) == Events(searched / "tb" / run).everything(times)


def test_a_search_that_diverges_is_shown(scripts, meta_cell, tmp_path):
    scripts.onnas(meta_cell, tmp_path / "run", "--eval_epochs", 1, "--w_lr", 1e30, "--alpha_lr", 1e30).succeeded()
    assert "alpha/normal" in Events(tmp_path / "run/tb/task_0").tags["images"]


# --- Meta-training --------------------------------------------------------------------------------------------------


def test_every_metric_of_meta_training(trained):
    events, metrics = Events(trained / "tb"), rows(trained / "metrics.jsonl")
    assert_rows(events, "meta_epoch", metrics, "meta_epoch")
    rates = {"w_lr": 0.05, "alpha_lr": 0.005, "w_meta_lr": 1.0, "a_meta_lr": 0.6}
    for name, rate in rates.items():
        assert events.scalars(f"meta_epoch/{name}") == {1: pytest.approx(rate), 3: pytest.approx(rate)}


def test_meta_tests(trained):
    events = Events(trained / "tb")
    architecture = {f"{kind}/{cell_type}" for kind in ("alpha", "beta") for cell_type in CELL_TYPES}
    assert events.tags["images"] == {*architecture, "cells/test_task"}
    for tag in events.tags["images"]:
        assert set(events.pictures(tag)) == {1, 3}  # --eval_freq 2
    parts = [events.scalars(tag) for tag in events.tags["scalars"] if "test_task/peak_memory_breakdown_mib" in tag]
    peaks = events.scalars("test_task/peak_memory_mib")
    for step in (1, 3):
        assert sum(part[step] for part in parts) == pytest.approx(peaks[step], rel=1e-5)
    assert {path.name for path in (trained / "tb").iterdir() if path.is_dir()} == {"meta_test_1", "meta_test_3"}
    inner = Events(trained / "tb/meta_test_3")
    assert {f"step/{tag}" for tag in STEP_TAGS} <= inner.tags["scalars"]
    # Its steps begin with what was meta-learned.
    for tag in architecture:
        assert inner.pictures(tag)[0] == events.pictures(tag)[3]


def test_resumed_meta_training_shows_the_same(scripts, trained, tmp_path):
    path = tmp_path / "run"
    scripts.tfml(path, "--meta_epochs", 3).succeeded()  # its last meta-test is not one of the whole run
    assert (path / "tb/meta_test_2").is_dir()
    checkpoint = torch.load(path / "checkpoint.pt", weights_only=True)
    scripts.tfml(path, "--resume").succeeded()
    assert checkpoint["epochs"] == 3
    times = ("seconds", "seconds_per_step", "tasks_per_second")
    for run in ("meta_test_1", "meta_test_3"):
        assert Events(path / "tb" / run).everything(times) == Events(trained / "tb" / run).everything(times)
    shown, expected = (Events(folder / "tb").everything(times) for folder in (path, trained))
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
    assert_rows(search, "epoch", rows(full / "search.jsonl"), "epoch")
    assert_rows(derived, "epoch", rows(full / "derived.jsonl"), "epoch")
    cosine = {epoch: pytest.approx(0.025 * (1 + math.cos(math.pi * epoch / 4)) / 2) for epoch in range(4)}
    assert search.scalars("epoch/w_lr") == cosine
    assert search.scalars("epoch/temperature") == {0: 1, 1: 1, 2: pytest.approx(0.55), 3: pytest.approx(0.1)}
    assert derived.scalars("epoch/lr") == {0: pytest.approx(0.025), 1: pytest.approx(0.0125)}


def test_pictures_of_a_full_search(full):
    events = Events(full / "tb/search")
    groups = ("alpha", "beta", "chosen_candidates", "chosen_pairs")
    tags = {f"{group}/{cell_type}" for group in groups for cell_type in CELL_TYPES}
    assert events.tags["images"] == {*tags, "cells/found"}
    for tag in events.tags["images"]:
        assert set(events.pictures(tag)) == {1, 2, 3}  # the first epoch trains weights only


def test_expectations_of_a_full_search(full):
    """Four steps an epoch: the second that searches is the first to end with the six updates of an expectation."""
    assert [row["epoch"] for row in rows(full / "tb/search/expected.jsonl")] == [2]
    events, final = Events(full / "tb/search/expected_3"), torch.load(full / "checkpoint.pt", weights_only=True)
    architecture = {name.removeprefix("architecture."): t for name, t in final["state"]["network"].items()}
    (row,) = rows(full / "tb/search/expected.jsonl")
    errors = [
        abs(expected - value)
        for cell_type in CELL_TYPES
        for number, numbers in enumerate(row["expected"]["alpha"][cell_type])
        for expected, value in zip(numbers, architecture[f"alpha.{cell_type}.{number}"].tolist(), strict=True)
    ]
    assert events.scalars("expected_alpha/mean_absolute_error") == {2: pytest.approx(sum(errors) / len(errors))}
    assert set(events.pictures("expected_beta/against_final")) == {2}


def test_a_resumed_full_search_shows_the_same(scripts, full, images, tmp_path):
    """Killed twice, each time at another change of a file."""
    path = tmp_path / "run"
    command = ["onnas.py", *FULL.split(), *EPOCHS.split(), "--data_path", images, "--path", path, "--resume"]
    for deaths in (30, 45):
        scripts.run(*command, die_at=deaths)
    scripts.run(*command).succeeded()
    times = ("seconds", "seconds_per_step", "peak_memory_mib")
    for run in ("search", "search/expected_3", "derived"):
        shown, expected = (Events(folder / "tb" / run).everything(times) for folder in (path, full))
        shown, expected = ({t: v for t, v in tags.items() if "breakdown" not in t} for tags in (shown, expected))
        assert shown == expected
