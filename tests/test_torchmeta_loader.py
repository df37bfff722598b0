"""Few-shot tasks from small invented sources; no real data are needed."""

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor

import torchmeta_loader
from tests.conftest import wait_for
from torchmeta_loader import (
    INPUT_SHAPES,
    content_digest,
    episode_loader,
    few_shot_tasks,
    held_out_split,
)
from utils.data import prepare as prepare_data
from utils.data.glyphs import SyntheticGlyphs
from utils.data.pickled_images import PICKLES_ARCHIVE, PickledImages
from utils.data.torchmeta_files import OMNIGLOT_GROUPS, vinyals_characters
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError
from utils.run.files import locked

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "val", "test")
CHARACTERS_PER_SPLIT = 7
DRAWINGS = 20


def blocks(identity: int, side: int, size: int, channels: int = 1) -> np.ndarray:
    """Random blocks, other ones for every identity, that survive resizing and JPEG: uint8 (size, size, channels)."""
    pattern = np.random.default_rng(identity).integers(0, 2, (side, side, channels)).astype(np.uint8) * 255
    return pattern.repeat(size // side, 0).repeat(size // side, 1)


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def shuffled(files: dict[str, bytes]) -> dict[str, bytes]:
    names = list(files)
    random.Random(5).shuffle(names)
    return {name: files[name] for name in names}


@pytest.fixture(scope="session")
def omniglot_files() -> dict[str, dict[str, bytes]]:
    """{"images_background": {name: PNG}, "images_evaluation": ...}: some characters of each of Vinyals' splits."""
    files = {"images_background": {}, "images_evaluation": {}}
    characters = [c for split in SPLITS for c in vinyals_characters(split)[:CHARACTERS_PER_SPLIT]]
    # The lists start with background characters; the background/evaluation split needs some of the others.
    characters += vinyals_characters("train")[-CHARACTERS_PER_SPLIT:]
    for number, (group, alphabet, character) in enumerate(characters):
        for drawing in range(DRAWINGS):
            image = 255 - blocks(number * DRAWINGS + drawing, 7, 105)
            name = f"{group}/{alphabet}/{character}/{number:04}_{drawing + 1:02}.png"
            files[group][name] = encoded(image, "png")
    return files


@pytest.fixture(scope="session")
def miniimagenet_files() -> dict[str, dict[str, bytes]]:
    """{split: {name: JPEG}} with 6, 5 and 5 classes of 8 images."""
    files, identity = {split: {} for split in SPLITS}, 0
    for split, classes in zip(SPLITS, (6, 5, 5), strict=True):
        for number in range(classes):
            for image in range(8):
                identity += 1
                name = f"{split}/n{split}{number:04}/image{image}.jpg"
                files[split][name] = encoded(blocks(identity, 6, 84, 3), "jpeg")
    return files


def omniglot_zips(folder: Path, files: dict) -> Path:
    folder.mkdir(parents=True)
    for group, members in files.items():
        write_zip(folder / f"{group}.zip", members)
    return folder


def miniimagenet_tars(folder: Path, files: dict, suffix: str = ".tar") -> Path:
    folder.mkdir(parents=True)
    for split, members in files.items():
        write_tar(folder / f"{split}{suffix}", members)
    return folder


def miniimagenet_pickles(folder: Path, files: dict) -> Path:
    folder.mkdir(parents=True)
    for split, members in files.items():
        classes: dict[str, list[int]] = {}
        for row, name in enumerate(members):
            classes.setdefault(name.split("/")[1], []).append(row)
        images = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in members.values()])
        content = {"image_data": images, "class_dict": classes}
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory, omniglot_files, miniimagenet_files) -> Path:
    """A prepared data folder."""
    folder = tmp_path_factory.mktemp("prepared")
    sources = tmp_path_factory.mktemp("sources")
    prepare_data.prepare("omniglot", omniglot_zips(sources / "omniglot", omniglot_files), folder)
    prepare_data.prepare("miniimagenet", miniimagenet_tars(sources / "miniimagenet", miniimagenet_files), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The prepared files; not what was decoded from them."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "cache"}


def names(folder: Path) -> list[str]:
    """What there is in a folder, but for the lock of those that prepare a data set in it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def make(dataset: str, split: str, data: Path, **changes):
    settings = {"ways": 3, "shots": 2, "queries": 4, "seed": 21, "data_path": data, **changes}
    return few_shot_tasks(dataset, split, **settings)


def draw(tasks, episodes: range, **options) -> list[list[bytes]]:
    """Per episode the bytes of its support images, support labels, query images, query labels."""
    drawn = []
    for batch in episode_loader(tasks, episodes, **options):
        tensors = [tensor for part in ("support", "query") for tensor in batch[part]]
        drawn += [[tensor[row].numpy().tobytes() for tensor in tensors] for row in range(len(tensors[0]))]
    return drawn


def images_of(batch: dict, part: str) -> set[bytes]:
    return {image.numpy().tobytes() for image in batch[part][0].flatten(0, 1)}


# --- Episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_has_the_documented_shapes_types_and_range(dataset, split, data):
    (batch,) = episode_loader(make(dataset, split, data), range(2), batch_size=2)
    for part, images_per_class in (("support", 2), ("query", 4)):
        images, labels = batch[part]
        assert images.shape == (2, 3 * images_per_class, *INPUT_SHAPES[dataset])
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert 0.9 < images.max() <= 1
        assert labels.dtype == torch.int64
        assert labels.tolist() == [sorted([0, 1, 2] * images_per_class)] * 2


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_episodes_are_the_same_in_any_batch_from_any_start_on_any_number_of_workers(dataset, data):
    expected = draw(make(dataset, "train", data), range(6))
    assert len({tuple(episode) for episode in expected}) == 6
    tasks = make(dataset, "train", data)
    assert draw(tasks, range(6), batch_size=4) == expected
    assert draw(tasks, range(3, 6), batch_size=2) == expected[3:]
    assert draw(tasks, range(5, -1, -1)) == expected[::-1]
    assert draw(tasks, range(6), batch_size=2, workers=1) == expected
    assert draw(tasks, range(6), workers=2) == expected
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
    for batch in episode_loader(make(dataset, "val", data), range(20)):
        support, query = images_of(batch, "support"), images_of(batch, "query")
        assert len(support) == 3 * 2
        assert len(query) == 3 * 4
        assert not support & query


def test_every_image_is_sooner_or_later_in_support_and_in_query(data):
    tasks = make("miniimagenet", "val", data, ways=5, shots=4, queries=4)
    batches = list(episode_loader(tasks, range(20)))
    for part in ("support", "query"):
        assert len(set.union(*(images_of(batch, part) for batch in batches))) == 5 * 8


def test_the_same_classes_come_with_other_images_in_another_episode(data):
    tasks = make("miniimagenet", "val", data, ways=1, shots=1)
    batches = list(episode_loader(tasks, range(60)))
    assert len(set.union(*(images_of(batch, "support") for batch in batches))) > 2 * 5


def test_a_worker_does_not_share_the_open_file_of_its_parent(data, monkeypatch):
    tasks = make("omniglot", "val", data)
    opened = tasks.dataset.data
    worker = SimpleNamespace(dataset=SimpleNamespace(tasks=tasks))
    monkeypatch.setattr(torchmeta_loader, "get_worker_info", lambda: worker)
    torchmeta_loader._open_own_file(0)
    assert tasks.dataset.data is not opened


@pytest.mark.parametrize("dataset", INPUT_SHAPES)
def test_splits_share_no_image(dataset, data):
    seen = []
    for split in SPLITS:
        tasks = make(dataset, split, data, shots=4, queries=4)
        batches = list(episode_loader(tasks, range(20)))
        seen.append(set.union(*(images_of(batch, part) for batch in batches for part in ("support", "query"))))
    assert sum(map(len, seen)) == len(set.union(*seen))


@pytest.mark.parametrize(("dataset", "split"), [("omniglot", "val"), ("miniimagenet", "train")])
def test_a_label_is_one_class(dataset, split, data):
    tasks = make(dataset, split, data)
    classes = tasks.dataset
    transform = Compose([Resize(28), ToTensor()]) if dataset == "omniglot" else ToTensor()
    class_of = {
        transform(Image.fromarray(image)).numpy().tobytes(): number
        for number, label in enumerate(classes.labels)
        for image in classes.data["/".join(label) if dataset == "omniglot" else label][:]
    }
    for batch in episode_loader(tasks, range(5)):
        pairs = set()
        for part in ("support", "query"):
            images, labels = batch[part]
            pairs |= {
                (label, class_of[image.numpy().tobytes()])
                for image, label in zip(images[0], labels[0].tolist(), strict=True)
            }
        assert len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}) == 3


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
    for episode in range(3):
        names = tasks.class_names(episode)
        assert len(set(names)) == 3
        if dataset == "synthetic":
            for name in names:
                glyph, number = name.split()
                assert glyph == "glyph"
                drawings = SyntheticGlyphs(21, "test")[int(number)]
                drawings.target_transform = lambda label: label
                name_of |= {drawings[drawing][0].numpy().tobytes(): name for drawing in range(len(drawings))}
        (batch,) = episode_loader(tasks, range(episode, episode + 1))
        for part in ("support", "query"):
            images, labels = batch[part]
            assert [name_of[image.numpy().tobytes()] for image in images[0]] == [names[label] for label in labels[0]]


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
    assert draw(tasks, range(12), batch_size=5) == through_torchmeta(tasks, range(12))


def test_classes_of_several_sizes_are_drawn_as_by_torchmeta(miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    for name in list(files["train"])[1:3] + list(files["train"])[9:10]:
        del files["train"][name]
    prepare_data.prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    tasks = make("miniimagenet", "train", tmp_path, ways=5)
    assert len(set(tasks.images.counts)) == 3
    assert draw(tasks, range(12)) == through_torchmeta(tasks, range(12))
    with pytest.raises(InputError, match="a class of miniimagenet has 6 images"):
        make("miniimagenet", "train", tmp_path, shots=5, queries=2)


def test_the_digest_tells_data_by_their_content(data, miniimagenet_files, tmp_path):
    def digest(folder, *splits, dataset="miniimagenet"):
        return content_digest(*(make(dataset, split, folder) for split in splits))

    changed = {split: dict(members) for split, members in miniimagenet_files.items()}
    del changed["val"]["val/nval0001/image3.jpg"]
    for image in range(8):
        changed["test"][f"test/ntest9999/image{image}.jpg"] = changed["test"].pop(f"test/ntest0004/image{image}.jpg")
    prepare_data.prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", changed), tmp_path)
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
    prepare_data.prepare("omniglot", omniglot_zips(tmp_path / "source", other), tmp_path)
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


# --- Synthetic ------------------------------------------------------------------------------------------------------


def test_glyphs_depend_on_seed_split_class_and_drawing():
    def glyph(seed, split, index, drawing):
        return SyntheticGlyphs(seed, split)[index][drawing][0].numpy().tobytes()

    assert glyph(1, "train", 999_999, 4) == glyph(1, "train", 999_999, 4)
    others = [(1, "train", 7, 4), (2, "train", 7, 4), (1, "val", 7, 4), (1, "train", 8, 4), (1, "train", 7, 5)]
    assert len({glyph(*other) for other in others}) == len(others)


def test_drawings_of_a_glyph_are_alike_more_than_drawings_of_two():
    glyphs = torch.stack([torch.stack([SyntheticGlyphs(0, "val")[c][d][0] for d in range(8)]) for c in range(40)])
    means = torch.nn.functional.avg_pool2d(glyphs.flatten(0, 1), 4).view(40, 8, -1)
    centres = means[:, :4].mean(1)
    predicted = torch.cdist(means[:, 4:].flatten(0, 1), centres).argmin(1)
    accuracy = (predicted == torch.arange(40).repeat_interleave(4)).float().mean()
    # A chance level of 1/40; a simple classifier must be well above it, and not so good that nothing is to be learnt.
    assert 0.3 < accuracy < 0.95


def test_glyphs_leave_ink_on_every_drawing():
    ink = [SyntheticGlyphs(3, "test")[c][d][0].mean() for c in range(50) for d in range(4)]
    assert min(ink) > 0.005
    assert max(ink) < 0.5


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
    with pytest.raises(InputError, match="a class of miniimagenet has 8 images"):
        make("miniimagenet", "val", data, shots=8, queries=1)
    with pytest.raises(InputError, match="a class of synthetic has 100 images"):
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


# --- Preparing ------------------------------------------------------------------------------------------------------


def test_omniglot_zips_and_folders_in_any_order_give_the_same_files(data, omniglot_files, tmp_path):
    expected = contents(data / "omniglot")
    zips = omniglot_zips(tmp_path / "zips", {group: shuffled(files) for group, files in omniglot_files.items()})
    prepare_data.prepare("omniglot", zips / "images_evaluation.zip", tmp_path / "a")
    assert contents(tmp_path / "a" / "omniglot") == expected
    for files in omniglot_files.values():
        write_folder(tmp_path / "unpacked", files)
    prepare_data.prepare("omniglot", tmp_path / "unpacked", tmp_path / "b")
    assert contents(tmp_path / "b" / "omniglot") == expected


def test_omniglot_is_stored_as_torchmeta_stores_it(data, omniglot_files):
    with h5py.File(data / "omniglot" / "data.hdf5") as file:
        for group, files in omniglot_files.items():
            for name in list(files)[:45]:
                image = np.asarray(Image.open(io.BytesIO(files[name])))
                drawing = int(name[-6:-4]) - 1
                assert np.array_equal(file[name.rpartition("/")[0]][drawing], 255 - image)
            labels = json.loads((data / "omniglot" / f"{OMNIGLOT_GROUPS[group]}_labels.json").read_text())
            assert labels == sorted(labels)
            assert {"/".join(label) for label in labels} == {name.rpartition("/")[0] for name in files}
    sizes = [len(json.loads((data / "omniglot" / f"vinyals_{split}_labels.json").read_text())) for split in SPLITS]
    assert sizes == [2 * CHARACTERS_PER_SPLIT, CHARACTERS_PER_SPLIT, CHARACTERS_PER_SPLIT]


def test_miniimagenet_tars_folders_and_pickles_give_the_same_files(data, miniimagenet_files, tmp_path):
    expected = contents(data / "miniimagenet")
    mixed = {split: shuffled(files) for split, files in miniimagenet_files.items()}
    zipped = miniimagenet_tars(tmp_path / "zipped", mixed, ".tar.gz")
    pickles = miniimagenet_pickles(tmp_path / "pickles", miniimagenet_files)
    one_archive = tmp_path / "one" / PICKLES_ARCHIVE
    one_archive.parent.mkdir()
    write_tar(one_archive, {file.name: file.read_bytes() for file in pickles.iterdir()})
    for files in mixed.values():
        write_folder(tmp_path / "folders", files)
    sources = [zipped, zipped / "val.tar.gz", pickles, next(pickles.iterdir()), one_archive, tmp_path / "folders"]
    for number, source in enumerate(sources):
        prepare_data.prepare("miniimagenet", source, tmp_path / str(number))
        assert contents(tmp_path / str(number) / "miniimagenet") == expected, source


def test_images_of_other_sizes_are_resized(miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    name = next(iter(files["train"]))
    files["train"][name] = encoded(np.full((50, 120), 200, np.uint8), "jpeg")
    prepare_data.prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    with h5py.File(tmp_path / "miniimagenet" / "train_data.hdf5") as file:
        assert (file["datasets"][name.split("/")[1]][0] == 200).all()


def test_hidden_files_and_other_files_are_ignored(data, miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    for name in ("train/.DS_Store", "train/ntrain0000/._image0.jpg", "train/ntrain0000/notes.txt", "../evil.jpg"):
        files["train"][name] = b"?"
    prepare_data.prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path / "out")
    assert contents(tmp_path / "out" / "miniimagenet") == contents(data / "miniimagenet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_the_downloads_may_lie_in_the_very_folder(data, omniglot_files, tmp_path):
    folder = omniglot_zips(tmp_path / "omniglot", omniglot_files)
    cut_in_half(folder / "images_evaluation.zip")
    with pytest.raises(InputError, match=r"images_evaluation\.zip cannot be read whole"):
        prepare_data.prepare("omniglot", folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["images_background.zip", "images_evaluation.zip"]
    write_zip(folder / "images_evaluation.zip", omniglot_files["images_evaluation"])
    prepare_data.prepare("omniglot", folder, tmp_path)
    assert contents(data / "omniglot").items() < contents(folder).items()


@pytest.fixture(params=["zips", "tars", "gzipped tars", "pickles"])
def whole_source(request, omniglot_files, miniimagenet_files, tmp_path) -> tuple[str, Path]:
    """A data set and its source, of each kind."""
    folder = tmp_path / "source"
    if request.param == "zips":
        return "omniglot", omniglot_zips(folder, omniglot_files)
    if request.param == "pickles":
        return "miniimagenet", miniimagenet_pickles(folder, miniimagenet_files)
    suffix = ".tar.gz" if request.param.startswith("gzipped") else ".tar"
    return "miniimagenet", miniimagenet_tars(folder, miniimagenet_files, suffix)


def refusal(dataset: str, source: Path, tmp_path: Path) -> str:
    """The sentence with which the source is refused; nothing must be left behind."""
    out = tmp_path / "out"
    with pytest.raises(InputError) as complaint:
        prepare_data.prepare(dataset, source, out)
    assert not out.exists() or not names(out)
    text = str(complaint.value)
    assert "\n" not in text
    assert text.endswith((".", ")."))
    return text


@pytest.mark.parametrize("position", [0, -1])
def test_a_source_cut_in_half_is_refused_by_name(whole_source, position, tmp_path):
    dataset, folder = whole_source
    victim = sorted(folder.iterdir())[position]
    cut_in_half(victim)
    assert f"{victim} cannot be read whole" in refusal(dataset, folder, tmp_path)


@pytest.mark.parametrize("members_kept", [0, 1, 16, 39])
def test_a_tar_cut_between_its_members_is_refused(members_kept, miniimagenet_files, tmp_path):
    folder = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    with tarfile.open(folder / "val.tar") as archive:
        offset = archive.getmembers()[members_kept].offset
    (folder / "val.tar").write_bytes((folder / "val.tar").read_bytes()[:offset])
    assert f"{folder / 'val.tar'} cannot be read whole" in refusal("miniimagenet", folder, tmp_path)


def test_a_missing_part_is_refused_by_name(whole_source, tmp_path):
    dataset, folder = whole_source
    victim = sorted(folder.iterdir())[-1]
    victim.unlink()
    text = refusal(dataset, folder, tmp_path)
    assert f"--source {folder} is incomplete" in text
    assert victim.name in text


def test_a_missing_source_is_refused(tmp_path):
    assert "--source" in refusal("omniglot", tmp_path / "nowhere", tmp_path)
    assert "nowhere does not exist" in refusal("miniimagenet", tmp_path / "nowhere", tmp_path)


def test_a_character_without_20_drawings_is_refused(omniglot_files, tmp_path):
    background = dict(omniglot_files["images_background"])
    name = next(iter(background))
    del background[name]
    folder = omniglot_zips(tmp_path / "source", {**omniglot_files, "images_background": background})
    character = "/".join(name.split("/")[1:3])
    assert f"images_background.zip holds 19 drawings of {character}, not 20" in refusal("omniglot", folder, tmp_path)


def test_a_class_without_images_is_refused(miniimagenet_files, tmp_path):
    for files in miniimagenet_files.values():
        write_folder(tmp_path / "source", files)
    (tmp_path / "source" / "val" / "nempty").mkdir()
    text = refusal("miniimagenet", tmp_path / "source", tmp_path)
    assert f"{tmp_path / 'source' / 'val'} holds no images of the class nempty" in text


def test_a_split_under_another_name_is_refused(miniimagenet_files, tmp_path):
    folder = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    shutil.copy(folder / "train.tar", folder / "test.tar")
    assert "test.tar holds no images of the layout test/<folder>/<image>" in refusal("miniimagenet", folder, tmp_path)


def test_a_class_in_two_splits_is_refused(miniimagenet_files, tmp_path):
    folder = miniimagenet_pickles(tmp_path / "source", miniimagenet_files)
    shutil.copy(folder / "mini-imagenet-cache-train.pkl", folder / "mini-imagenet-cache-val.pkl")
    text = refusal("miniimagenet", folder, tmp_path)
    assert "mini-imagenet-cache-val.pkl holds the class ntrain0000" in text


def test_a_damaged_image_is_refused_by_name(omniglot_files, tmp_path):
    evaluation = dict(omniglot_files["images_evaluation"])
    name = list(evaluation)[-1]
    for content, reason in ((b"no image", "cannot identify"), (encoded(blocks(1, 7, 84), "png"), "84x84, not 105x105")):
        evaluation[name] = content
        source = tmp_path / reason[:2]
        omniglot_zips(source, {**omniglot_files, "images_evaluation": evaluation})
        text = refusal("omniglot", source, tmp_path)
        assert f"holds a damaged image, {name.partition('/')[2]}" in text
        assert reason in text


class Malice:
    def __reduce__(self):
        return os.mkdir, ("malice",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Malice(), "mkdir, which is no array or plain container"),
        ({"images": 3}, "image_data and class_dict"),
        ({"image_data": np.zeros((2, 84, 84), np.uint8), "class_dict": {"n": [0, 1]}}, "image_data must be uint8"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n": [0, 2]}}, "class n names rows"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n": []}}, "no images of the class n"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(content, reason, miniimagenet_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = miniimagenet_pickles(tmp_path / "source", miniimagenet_files)
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content))
    text = refusal("miniimagenet", folder, tmp_path)
    assert "mini-imagenet-cache-val.pkl" in text
    assert reason in text
    assert not (tmp_path / "malice").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(protocol, tmp_path):
    content = {"image_data": np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), "class_dict": {"n": [1]}}
    (tmp_path / "any.pkl").write_bytes(pickle.dumps(content, protocol))
    images = PickledImages(tmp_path / "any.pkl", "val")
    assert images.counts == {"n": 1}
    assert np.array_equal(images.images, content["image_data"])


@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_nothing(existing, omniglot_files, tmp_path, monkeypatch):
    def interrupt(data):
        raise KeyboardInterrupt

    folder = omniglot_zips(tmp_path / "source", omniglot_files)
    if existing:
        (tmp_path / "out" / "omniglot").mkdir(parents=True)
    monkeypatch.setattr(prepare_data, "_decode_drawing", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_data.prepare("omniglot", folder, tmp_path / "out")
    assert names(tmp_path / "out") == (["omniglot"] if existing else [])
    assert not existing or names(tmp_path / "out" / "omniglot") == []


def test_a_set_that_was_incomplete_is_prepared_with_the_last_file_only(data, omniglot_files, tmp_path, monkeypatch):
    """A process that comes meanwhile must not take old files beside new ones for the data set."""
    prepared = prepare_data.PREPARED_FILES["omniglot"]
    for name in prepared[:-1]:
        (tmp_path / "omniglot").mkdir(exist_ok=True)
        (tmp_path / "omniglot" / name).write_text("old")
    seen, replace = [], Path.replace

    def watched(path, target):
        seen.append(prepare_data.is_prepared("omniglot", tmp_path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    prepare_data.prepare("omniglot", omniglot_zips(tmp_path / "source", omniglot_files), tmp_path)
    assert seen == [False] * len(prepared)
    assert contents(tmp_path / "omniglot") == contents(data / "omniglot")


# --- Downloading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
def test_a_failed_download_says_how_to_do_it_by_hand(dataset, tmp_path, monkeypatch):
    def half_a_download(url, folder, name, md5):
        (Path(folder) / name).write_bytes(b"half")
        raise OSError("connection refused")

    monkeypatch.setattr(prepare_data, "download_url", half_a_download)
    with pytest.raises(InputError) as complaint:
        make(dataset, "train", tmp_path, download=True)
    text = str(complaint.value)
    assert text.startswith(f"--download of {dataset} failed (connection refused): get it by hand from https://")
    assert f"--prepare {dataset} --source FILE_OR_DIR --data_path {tmp_path}" in text
    assert names(tmp_path) == []


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_download_is_prepared_once(dataset, at_once, data, omniglot_files, miniimagenet_files, tmp_path, monkeypatch):
    """One after the other or at once: a lock is as good between threads as between processes."""
    asked = []

    def fake_download(url, folder, name, md5):
        asked.append(name)
        time.sleep(0.1)  # time enough for the others to come
        if dataset == "omniglot":
            write_zip(Path(folder) / name, omniglot_files[Path(name).stem])
        else:
            pickles = miniimagenet_pickles(Path(folder) / "pickles", miniimagenet_files)
            write_tar(Path(folder) / name, {file.name: file.read_bytes() for file in pickles.iterdir()})

    monkeypatch.setattr(prepare_data, "download_url", fake_download)
    with ThreadPoolExecutor(at_once) as pool:
        for made in [pool.submit(make, dataset, "train", tmp_path, download=True) for _ in range(3)]:
            made.result()
    assert len(asked) == len(set(asked)) == (2 if dataset == "omniglot" else 1)
    assert contents(tmp_path / dataset) == contents(data / dataset)
    assert names(tmp_path) == [dataset]


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
    assert contents(tmp_path / "omniglot") == contents(data / "omniglot")
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
    assert names(tmp_path / "data") == []


def test_the_command_needs_its_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torchmeta_loader.py", "--prepare", "cifar10", "--source", "x"])
    with pytest.raises(SystemExit) as exit_:
        torchmeta_loader.main()
    assert exit_.value.code == 2
    assert "cifar10" in capsys.readouterr().err
