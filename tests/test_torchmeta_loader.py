"""Few-shot tasks from small invented sources; no real data are needed."""

import json
import pickle
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor

import torchmeta_loader
from tests.conftest import wait_for
from tests.sources import (
    DRAWINGS,
    SPLITS,
    cut_in_half,
    miniimagenet_tars,
    omniglot_zips,
    prepared_files,
)
from torchmeta_loader import INPUT_SHAPES, content_digest, episodes, few_shot_tasks, held_out_split
from utils.data.episode import Episode
from utils.data.glyphs import SyntheticGlyphs
from utils.data.prepare import prepare
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError
from utils.run.files import locked

ROOT = Path(__file__).parent.parent


def make(dataset: str, split: str, data: Path, **changes):
    settings = {"ways": 3, "shots": 2, "queries": 4, "seed": 21, "data_path": data, **changes}
    return few_shot_tasks(dataset, split, **settings)


def draw(tasks, numbers: range, workers: int = 0) -> list[list[bytes]]:
    """Per episode the bytes of its support images, support labels, query images, query labels."""
    return [
        [
            tensor.numpy().tobytes()
            for tensor in (episode.support, episode.support_labels, episode.query, episode.query_labels)
        ]
        for episode in episodes(tasks, numbers, workers)
    ]


def parts(episode: Episode) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(episode.support, episode.support_labels), (episode.query, episode.query_labels)]


def as_bytes(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# --- Episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
@pytest.mark.parametrize("split", SPLITS)
def test_an_episode_has_the_documented_shapes_types_and_range(dataset, split, data):
    for number, episode in zip((5, 2), episodes(make(dataset, split, data), (5, 2)), strict=True):
        assert episode.number == number
        for (images, labels), images_per_class in zip(parts(episode), (2, 4), strict=True):
            assert images.shape == (3 * images_per_class, *INPUT_SHAPES[dataset])
            assert images.dtype == torch.float32
            assert images.min() >= 0
            assert 0.9 < images.max() <= 1
            assert labels.dtype == torch.int64
            assert labels.tolist() == sorted([0, 1, 2] * images_per_class)


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_episodes_are_the_same_from_any_start_on_any_number_of_workers(dataset, data):
    expected = draw(make(dataset, "train", data), range(6))
    assert len({tuple(episode) for episode in expected}) == 6
    tasks = make(dataset, "train", data)
    assert draw(tasks, range(3, 6)) == expected[3:]
    assert draw(tasks, range(5, -1, -1)) == expected[::-1]
    assert draw(tasks, range(6), workers=1) == draw(tasks, range(6), workers=2) == expected
    assert draw(pickle.loads(pickle.dumps(tasks)), range(6)) == expected


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_neither_matter_nor_move(dataset, workers, data):
    expected = draw(make(dataset, "train", data), range(2))
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert draw(make(dataset, "train", data), range(2), workers=workers) == expected
    assert random.getstate() == before[0]
    assert np.random.get_state()[1:3][0].tolist() == before[1][1].tolist()
    assert np.random.get_state()[2] == before[1][2]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_seed_and_split_change_the_episodes(dataset, data):
    drawn = [draw(make(dataset, split, data, seed=seed), range(1))[0] for split, seed in (("train", 1), ("train", 2))]
    drawn.append(draw(make(dataset, "val", data, seed=1), range(1))[0])
    assert len({episode[0] for episode in drawn}) == 3


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_support_and_query_never_share_an_image(dataset, data):
    # val: a train task of Omniglot may hold a character and its rotation, whose symmetric drawings may coincide.
    for episode in episodes(make(dataset, "val", data), range(20)):
        support, query = as_bytes(episode.support), as_bytes(episode.query)
        assert (len(support), len(query)) == (3 * 2, 3 * 4)
        assert not support & query


def test_every_image_is_sooner_or_later_in_support_and_in_query(data):
    tasks = make("miniimagenet", "val", data, ways=5, shots=4, queries=4)
    drawn = [parts(episode) for episode in episodes(tasks, range(20))]
    for part in range(2):
        assert len(set.union(*(as_bytes(episode[part][0]) for episode in drawn))) == 5 * 8


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_splits_share_no_image(dataset, data):
    seen = []
    for split in SPLITS:
        tasks = make(dataset, split, data, shots=4, queries=4)
        drawn = [as_bytes(images) for episode in episodes(tasks, range(20)) for images, _ in parts(episode)]
        seen.append(set.union(*drawn))
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_labels_come_in_random_class_order(data):
    """A class is not always given the same label, or labels could be learnt by heart."""
    tasks = make("miniimagenet", "val", data, ways=5)
    assert len({tasks[episode]["support"].index for episode in range(20)}) > 10


def test_omniglot_trains_on_rotated_classes_too(data):
    classes = {split: make("omniglot", split, data).dataset for split in SPLITS}
    assert len(classes["train"]) == 4 * classes["train"].num_classes
    assert len(classes["val"]) == classes["val"].num_classes
    assert len(classes["test"]) == classes["test"].num_classes
    upright, *rotated = [classes["train"][turn * classes["train"].num_classes][0][0] for turn in range(4)]
    for quarters, image in enumerate(rotated, start=1):
        assert torch.allclose(image, upright.rot90(quarters, (1, 2)), atol=2 / 255)


def test_the_size_of_a_split_counts_its_files(data, omniglot_files, miniimagenet_files):
    assert asdict(make("miniimagenet", "train", data).size) == {"split": "train", "classes": 6, "images": 6 * 8}
    assert asdict(make("synthetic", "val", data).size)["split"] == "val"
    drawings = [len(omniglot_files[f"images_{part}"]) for part in ("background", "evaluation")]
    for split, images in zip(("train", "test"), drawings, strict=True):  # rotated classes are none of their own
        size = make("omniglot", split, data, use_vinyals_split=False).size
        assert (size.classes, size.images) == (images // 20, images)


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_class_names_are_those_of_the_images(dataset, data):
    tasks = make(dataset, "test", data)
    name_of = {}
    if dataset != "synthetic":
        transform = Compose([Resize(28), ToTensor()]) if dataset == "omniglot" else ToTensor()
        for label in tasks.dataset.labels:
            name = label if isinstance(label, str) else "/".join(label)
            images = [transform(Image.fromarray(image)) for image in tasks.dataset.data[name][:]]
            name_of |= {image.numpy().tobytes(): name for image in images}
    for episode in episodes(tasks, range(3)):
        assert len(set(episode.class_names)) == 3
        if dataset == "synthetic":
            for name in episode.class_names:
                drawings = SyntheticGlyphs(21, "test")[int(name.removeprefix("glyph "))]
                drawings.target_transform = lambda label: label
                name_of |= {drawings[drawing][0].numpy().tobytes(): name for drawing in range(len(drawings))}
        for images, labels in parts(episode):
            names = [episode.class_names[label] for label in labels]
            assert [name_of[image.numpy().tobytes()] for image in images] == names


def test_background_evaluation_split(data):
    counts = {split: make("omniglot", split, data, use_vinyals_split=False).dataset for split in ("train", "test")}
    assert all(label[0] == "images_background" for label in counts["train"].labels)
    assert all(label[0] == "images_evaluation" for label in counts["test"].labels)
    with pytest.raises(InputError, match="--use_vinyals_split 1"):
        make("omniglot", "val", data, use_vinyals_split=False)


def test_held_out_split():
    assert held_out_split("omniglot", use_vinyals_split=False) == "test"
    assert held_out_split("omniglot", use_vinyals_split=True) == "val"
    assert held_out_split("miniimagenet", use_vinyals_split=False) == "val"
    assert held_out_split("synthetic", use_vinyals_split=False) == "val"


# --- Decoded once ---------------------------------------------------------------------------------------------------


def through_torchmeta(tasks, episodes: range) -> list[list[bytes]]:
    """What :func:`draw` gives, by torchmeta's own loader, which decodes image by image."""
    loader = torchmeta.utils.data.BatchMetaDataLoader(tasks, shuffle=False, sampler=episodes)
    return [[tensor.numpy().tobytes() for part in ("support", "query") for tensor in batch[part]] for batch in loader]


@pytest.mark.parametrize(
    ("dataset", "split", "changes"),
    [
        ("omniglot", "train", {"ways": 20, "shots": 15, "queries": 1}),  # rotated classes among them
        ("omniglot", "train", {"use_vinyals_split": False}),
        ("omniglot", "test", {"shots": 5, "queries": 15}),
        ("omniglot", "val", {"seed": 3}),
        ("miniimagenet", "train", {"ways": 5, "shots": 7, "queries": 1}),
        ("miniimagenet", "test", {}),
        ("synthetic", "train", {}),
    ],
)
def test_episodes_are_those_of_torchmeta_bit_for_bit(dataset, split, changes, data):
    tasks = make(dataset, split, data, **changes)
    assert (tasks.images is not None) == (dataset != "synthetic")
    assert draw(tasks, range(12)) == through_torchmeta(tasks, range(12))


def test_classes_of_several_sizes_are_drawn_as_by_torchmeta(miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    for name in list(files["train"])[1:3] + list(files["train"])[9:10]:
        del files["train"][name]
    prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    tasks = make("miniimagenet", "train", tmp_path, ways=5)
    assert len(set(tasks.images.counts)) == 3
    assert draw(tasks, range(12)) == through_torchmeta(tasks, range(12))
    with pytest.raises(InputError, match="the class ntrain0000 of miniimagenet has 6 images"):
        make("miniimagenet", "train", tmp_path, shots=5, queries=2)


def test_the_digest_tells_data_by_their_content(data, miniimagenet_files, tmp_path):
    def digest(folder, *splits, dataset="miniimagenet"):
        return content_digest(*(make(dataset, split, folder) for split in splits))

    changed = {split: dict(members) for split, members in miniimagenet_files.items()}
    del changed["val"]["val/nval0001/image3.jpg"]
    for image in range(8):
        changed["test"][f"test/ntest9999/image{image}.jpg"] = changed["test"].pop(f"test/ntest0004/image{image}.jpg")
    prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", changed), tmp_path)
    alike = {split: digest(tmp_path, split) == digest(data, split) for split in SPLITS}
    assert alike == {"train": True, "val": False, "test": False}
    assert digest(tmp_path, "train", "val") != digest(data, "train", "val")
    assert len({digest(data, split, dataset=name) for name in ("omniglot", "miniimagenet") for split in SPLITS}) == 6
    assert digest(tmp_path, "train", "val", dataset="synthetic") is None


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
def test_episodes_come_from_the_file_and_not_from_the_data_set(dataset, data, tmp_path, monkeypatch):
    shutil.copytree(data / dataset, tmp_path / dataset)
    expected = draw(make(dataset, "train", tmp_path), range(3))
    tasks = make(dataset, "train", tmp_path)
    monkeypatch.setattr(type(tasks.dataset), "__getitem__", lambda *_: pytest.fail("decoded again"))
    assert draw(tasks, range(3)) == expected
    assert tasks.notes == ()


def test_data_that_were_prepared_anew_are_decoded_anew(omniglot_files, data, tmp_path):
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    before = draw(make("omniglot", "val", tmp_path), range(2))
    shutil.copytree(tmp_path / "omniglot" / "cache", tmp_path / "cache")
    shutil.rmtree(tmp_path / "omniglot")
    other = {g: dict(zip(files, reversed(files.values()), strict=True)) for g, files in omniglot_files.items()}
    prepare("omniglot", omniglot_zips(tmp_path / "source", other), tmp_path)
    (tmp_path / "cache").rename(tmp_path / "omniglot" / "cache")
    tasks = make("omniglot", "val", tmp_path)
    assert draw(tasks, range(2)) == through_torchmeta(tasks, range(2)) != before


def test_place_that_cannot_be_written_is_said_and_does_not_end_the_run(data, tmp_path):
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    shutil.rmtree(tmp_path / "omniglot" / "cache", ignore_errors=True)
    (tmp_path / "omniglot" / "cache").write_text("in the way")
    tasks = make("omniglot", "val", tmp_path)
    (note,) = tasks.notes
    assert str(tmp_path / "omniglot" / "cache") in note
    assert "decoded anew" in note
    expected = draw(make("omniglot", "val", data), range(3))
    assert draw(tasks, range(3), workers=1) == draw(tasks, range(3)) == expected


def test_images_that_cannot_be_read_are_refused_when_they_are_decoded(data, tmp_path):
    """What the earlier checks read, names and sizes, is whole."""
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    shutil.rmtree(tmp_path / "omniglot" / "cache", ignore_errors=True)
    label = "/".join(json.loads((tmp_path / "omniglot/vinyals_val_labels.json").read_text())[-1])
    with h5py.File(tmp_path / "omniglot/data.hdf5", "r+") as file:
        del file[label]
        file.create_dataset(label, (DRAWINGS, 105, 105), dtype="complex64")
    with pytest.raises(InputError, match=r"the val split in .* is cut short or corrupt"):
        make("omniglot", "val", tmp_path)


# --- Complaints -----------------------------------------------------------------------------------------------------


def test_absent_data_say_how_to_get_them(tmp_path):
    with pytest.raises(InputError) as complaint:
        make("omniglot", "train", tmp_path)
    text = str(complaint.value)
    command = f"python torchmeta_loader.py --prepare omniglot --source FILE_OR_DIR --data_path {tmp_path}"
    assert command in text
    assert "https://github.com/brendenlake/omniglot" in text
    with pytest.raises(InputError, match=r"Lmzjm9tX\.html and run python torchmeta_loader\.py --prepare miniimagenet"):
        make("miniimagenet", "train", tmp_path)


def test_too_many_ways_or_images_name_the_flag(data):
    with pytest.raises(InputError, match=r"--n 8 is too many: the val split of omniglot has 7 classes"):
        make("omniglot", "val", data, ways=8)
    with pytest.raises(InputError, match=r"--q and the shots \(--n_train in training, --k in testing\).* up to 20"):
        make("omniglot", "val", data, shots=15, queries=6)
    make("omniglot", "val", data, ways=7, shots=15, queries=5)
    with pytest.raises(InputError, match="the class nval0000 of miniimagenet has 8 images"):
        make("miniimagenet", "val", data, shots=8, queries=1)
    with pytest.raises(InputError, match="the class glyph 0 of synthetic has 100 images"):
        make("synthetic", "val", data, shots=50, queries=51)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("omniglot", "data.hdf5"), ("omniglot", "vinyals_train_labels.json"), ("miniimagenet", "train_data.hdf5")],
)
@pytest.mark.parametrize("damage", [cut_in_half, lambda path: path.write_bytes(b"[7]")])
def test_damaged_prepared_files_are_refused(dataset, name, damage, data, tmp_path):
    shutil.copytree(data / dataset, tmp_path / dataset)
    damage(tmp_path / dataset / name)
    with pytest.raises(InputError, match=f"{dataset} is cut short or corrupt .* delete that folder and run python"):
        make(dataset, "train", tmp_path)


def test_labels_that_the_data_lack_are_refused(data, tmp_path):
    shutil.copytree(data / "miniimagenet", tmp_path / "miniimagenet")
    (tmp_path / "miniimagenet" / "val_labels.json").write_text(json.dumps(["n1", "n2"]))
    with pytest.raises(InputError, match=r"the val split in .* is cut short or corrupt"):
        make("miniimagenet", "val", tmp_path)


def test_what_the_system_says_is_not_called_damage(data, tmp_path):
    """Nobody is told to delete data that another program has open."""
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    with h5py.File(tmp_path / "omniglot" / "data.hdf5", "a"):
        code = (
            f"import torchmeta_loader; torchmeta_loader.few_shot_tasks('omniglot', 'val', ways=3, shots=1, queries=1, "
            f"seed=0, data_path={str(tmp_path)!r})"
        )
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    text = f"cannot read the val split in {tmp_path / 'omniglot'}: another process has it open for writing."
    assert refused.stderr.splitlines()[-1] == f"utils.errors.InputError: {text}"


# --- The command ----------------------------------------------------------------------------------------------------


def start(*arguments: str | Path) -> subprocess.Popen:
    line = [sys.executable, ROOT / "torchmeta_loader.py", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    process = start(*arguments)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_the_command_prepares_once(data, omniglot_files, tmp_path):
    source = omniglot_zips(tmp_path / "source", omniglot_files)
    first = command("--prepare", "omniglot", "--source", source, "--data_path", tmp_path)
    assert first.returncode == 0, first.stderr
    assert "omniglot is ready" in first.stdout
    assert "the source lacks 1595 of Omniglot's characters" in first.stdout
    assert prepared_files(tmp_path / "omniglot") == prepared_files(data / "omniglot")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "omniglot").iterdir()}
    again = command("--prepare", "omniglot", "--source", tmp_path / "gone", "--data_path", tmp_path)
    assert again.returncode == 0
    assert "prepared already" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "omniglot").iterdir()}


def test_a_command_waits_for_another_that_prepares(data, omniglot_files, tmp_path):
    """And finds the data set prepared then, so that it does not even look at its source."""
    lock = tmp_path / ".omniglot.lock"
    with locked(lock):
        waiting = start("--prepare", "omniglot", "--source", tmp_path / "gone", "--data_path", tmp_path)
        opened = Path(f"/proc/{waiting.pid}/fd")
        wait_for(lambda: waiting.poll() is not None or lock in [file.resolve() for file in opened.iterdir()])
        shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    stdout, stderr = waiting.communicate()
    assert waiting.returncode == 0, stderr
    assert "prepared already" in stdout


def test_the_command_refuses_in_one_sentence(miniimagenet_files, tmp_path):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    cut_in_half(source / "test.tar")
    refused = command("--prepare", "miniimagenet", "--source", source, "--data_path", tmp_path / "data")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(f"torchmeta_loader.py: error: {source / 'test.tar'} cannot be read whole")


def test_the_command_needs_its_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torchmeta_loader.py", "--prepare", "cifar10", "--source", "x"])
    with pytest.raises(SystemExit) as exit_:
        torchmeta_loader.main()
    assert exit_.value.code == 2
    assert "cifar10" in capsys.readouterr().err
