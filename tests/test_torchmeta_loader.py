"""Few-shot tasks from small invented sources; no real data are needed."""

import pickle
import random
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor

import torchmeta_loader
from tests.sources import (
    SPLITS,
    cut_in_half,
    draw,
    make_tasks,
    miniimagenet_tars,
    omniglot_zips,
    prepared_files,
)
from tests.torchmeta_tasks import classes_of
from torchmeta_loader import episodes, held_out_split
from utils.data.episode import Episode
from utils.data.glyphs import DRAWINGS_PER_GLYPH, SyntheticGlyphs
from utils.data.names import INPUT_SHAPES
from utils.errors import InputError


def parts(episode: Episode) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(episode.support, episode.support_labels), (episode.query, episode.query_labels)]


def as_bytes(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# --- Episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
@pytest.mark.parametrize("split", SPLITS)
def test_an_episode_has_the_documented_shapes_types_and_range(dataset, split, data):
    for number, episode in zip((5, 2), episodes(make_tasks(dataset, split, data), (5, 2)), strict=True):
        assert episode.number == number
        for (images, labels), images_per_class in zip(parts(episode), (2, 4), strict=True):
            assert images.shape == (3 * images_per_class, *INPUT_SHAPES[dataset])
            assert images.dtype == torch.uint8
            assert images.max() > 230
            assert labels.dtype == torch.int64
            assert labels.tolist() == sorted([0, 1, 2] * images_per_class)


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_episodes_are_the_same_from_any_start_on_any_number_of_workers(dataset, data):
    expected = draw(make_tasks(dataset, "train", data), range(6))
    assert len({tuple(episode) for episode in expected}) == 6
    tasks = make_tasks(dataset, "train", data)
    assert draw(tasks, range(3, 6)) == expected[3:]
    assert draw(tasks, range(5, -1, -1)) == expected[::-1]
    assert draw(tasks, range(6), workers=1) == draw(tasks, range(6), workers=2) == expected
    assert draw(pickle.loads(pickle.dumps(tasks)), range(6)) == expected


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_neither_matter_nor_move(dataset, workers, data):
    expected = draw(make_tasks(dataset, "train", data), range(2))
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert draw(make_tasks(dataset, "train", data), range(2), workers=workers) == expected
    assert random.getstate() == before[0]
    assert np.random.get_state()[1:3][0].tolist() == before[1][1].tolist()
    assert np.random.get_state()[2] == before[1][2]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_seed_and_split_change_the_episodes(dataset, data):
    drawn = [
        draw(make_tasks(dataset, split, data, seed=seed), range(1))[0] for split, seed in (("train", 1), ("train", 2))
    ]
    drawn.append(draw(make_tasks(dataset, "val", data, seed=1), range(1))[0])
    assert len({episode[0] for episode in drawn}) == 3


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_support_and_query_never_share_an_image(dataset, data):
    # val: a train task of Omniglot may hold a character and its rotation, whose symmetric drawings may coincide.
    for episode in episodes(make_tasks(dataset, "val", data), range(20)):
        support, query = as_bytes(episode.support), as_bytes(episode.query)
        assert (len(support), len(query)) == (3 * 2, 3 * 4)
        assert not support & query


def test_every_image_is_sooner_or_later_in_support_and_in_query(data):
    tasks = make_tasks("miniimagenet", "val", data, ways=5, shots=4, queries=4)
    drawn = [parts(episode) for episode in episodes(tasks, range(20))]
    for part in range(2):
        assert len(set.union(*(as_bytes(episode[part][0]) for episode in drawn))) == 5 * 8


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_splits_share_no_image(dataset, data):
    seen = []
    for split in SPLITS:
        tasks = make_tasks(dataset, split, data, shots=4, queries=4)
        drawn = [as_bytes(images) for episode in episodes(tasks, range(20)) for images, _ in parts(episode)]
        seen.append(set.union(*drawn))
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_labels_come_in_random_class_order(data):
    """A class is not always given the same label, or labels could be learnt by heart."""
    tasks = make_tasks("miniimagenet", "val", data, ways=5)
    assert len({tasks.load(number).class_names for number in range(20)}) > 10


def test_the_size_of_a_split_counts_its_files(data, omniglot_files, miniimagenet_files):
    assert asdict(make_tasks("miniimagenet", "train", data).size) == {"split": "train", "classes": 6, "images": 6 * 8}
    assert asdict(make_tasks("synthetic", "val", data).size)["split"] == "val"
    drawings = [len(omniglot_files[f"images_{part}"]) for part in ("background", "evaluation")]
    for split, images in zip(("train", "test"), drawings, strict=True):  # rotated classes are none of their own
        size = make_tasks("omniglot", split, data, use_vinyals_split=False).size
        assert (size.classes, size.images) == (images // 20, images)


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_class_names_are_those_of_the_images(dataset, data):
    tasks = make_tasks(dataset, "test", data)
    name_of = {}
    if dataset != "synthetic":
        transform = Compose([Resize(28), ToTensor()]) if dataset == "omniglot" else ToTensor()
        classes = classes_of(dataset, "test", data)
        for label in classes.labels:
            name = label if isinstance(label, str) else "/".join(label)
            images = [transform(Image.fromarray(image)) for image in classes.data[name][:]]
            name_of |= {image.numpy().tobytes(): name for image in images}
    for episode in episodes(tasks, range(3)):
        assert len(set(episode.class_names)) == 3
        if dataset == "synthetic":
            for name in episode.class_names:
                glyph = int(name.removeprefix("glyph "))
                drawings = SyntheticGlyphs(21, "test").read([glyph] * DRAWINGS_PER_GLYPH, range(DRAWINGS_PER_GLYPH))
                name_of |= {(drawing / 255).numpy().tobytes(): name for drawing in drawings}
        for images, labels in parts(episode):
            names = [episode.class_names[label] for label in labels]
            assert [name_of[(image / 255).numpy().tobytes()] for image in images] == names


def test_held_out_split():
    assert held_out_split("omniglot", use_vinyals_split=False) == "test"
    assert held_out_split("omniglot", use_vinyals_split=True) == "val"
    assert held_out_split("miniimagenet", use_vinyals_split=False) == "val"
    assert held_out_split("synthetic", use_vinyals_split=False) == "val"


# --- Complaints -----------------------------------------------------------------------------------------------------


def test_too_many_ways_or_images_name_the_flag(data):
    with pytest.raises(InputError, match=r"--n 8 is too many: the val split of omniglot has 7 classes"):
        make_tasks("omniglot", "val", data, ways=8)
    with pytest.raises(InputError, match=r"--q and the shots \(--n_train in training, --k in testing\).* up to 20"):
        make_tasks("omniglot", "val", data, shots=15, queries=6)
    make_tasks("omniglot", "val", data, ways=7, shots=15, queries=5)
    with pytest.raises(InputError, match="the class nval0000 of miniimagenet has 8 images"):
        make_tasks("miniimagenet", "val", data, shots=8, queries=1)
    with pytest.raises(InputError, match="the class glyph 0 of synthetic has 100 images"):
        make_tasks("synthetic", "val", data, shots=50, queries=51)


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; returns what it prints."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["torchmeta_loader.py", *map(str, arguments)])
        torchmeta_loader.main()
        return capsys.readouterr().out

    return run


def test_the_command_prepares_once(command, data, omniglot_files, tmp_path):
    source = omniglot_zips(tmp_path / "source", omniglot_files)
    said = command("--prepare", "omniglot", "--source", source, "--data_path", tmp_path)
    assert said.startswith(f"{tmp_path / 'omniglot'} is ready: ")
    assert "the source lacks 1595 of Omniglot's characters" in said
    assert said.endswith(f"read from {source}/images_background.zip, {source}/images_evaluation.zip.\n")
    assert prepared_files(tmp_path / "omniglot") == prepared_files(data / "omniglot")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "omniglot").iterdir()}
    said = command("--prepare", "omniglot", "--source", tmp_path / "gone", "--data_path", tmp_path)
    assert said == f"{tmp_path / 'omniglot'} is prepared already; nothing was changed.\n"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "omniglot").iterdir()}


def test_the_command_refuses(command, miniimagenet_files, tmp_path, capsys):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    cut_in_half(source / "test.tar")
    with pytest.raises(InputError, match=rf"^{source / 'test.tar'} cannot be read whole"):
        command("--prepare", "miniimagenet", "--source", source, "--data_path", tmp_path / "data")
    with pytest.raises(SystemExit) as end:
        command("--prepare", "cifar10", "--source", "x")
    assert end.value.code == 2
    assert "cifar10" in capsys.readouterr().err
