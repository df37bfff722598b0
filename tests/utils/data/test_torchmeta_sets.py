"""Omniglot and miniImageNet through torchmeta: decoded once, and refused when they are damaged."""

import fcntl
import json
import shutil

import h5py
import pytest

from tests.sources import (
    DRAWINGS,
    SPLITS,
    cut_in_half,
    draw,
    make_tasks,
    miniimagenet_tars,
    omniglot_zips,
)
from tests.torchmeta_tasks import classes_of, through_torchmeta
from torchmeta_loader import content_digest
from utils.data.class_images import ClassImages
from utils.data.prepare import prepare
from utils.data.torchmeta_classes import TorchmetaClasses
from utils.errors import InputError


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
    tasks = make_tasks(dataset, split, data, **changes)
    assert isinstance(tasks.source.images, ClassImages) == (dataset != "synthetic")
    classes = classes_of(dataset, split, data, changes.get("use_vinyals_split", True))
    assert draw(tasks, range(12)) == through_torchmeta(tasks, range(12), classes)


def test_classes_of_several_sizes_are_drawn_as_by_torchmeta(miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    for name in list(files["train"])[1:3] + list(files["train"])[9:10]:
        del files["train"][name]
    prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    tasks = make_tasks("miniimagenet", "train", tmp_path, ways=5)
    assert len(set(tasks.source.counts)) == 3
    assert draw(tasks, range(12)) == through_torchmeta(tasks, range(12), classes_of("miniimagenet", "train", tmp_path))
    with pytest.raises(InputError, match="the class ntrain0000 of miniimagenet has 6 images"):
        make_tasks("miniimagenet", "train", tmp_path, shots=5, queries=2)


def test_the_digest_tells_data_by_their_content(data, miniimagenet_files, tmp_path):
    def digest(folder, *splits, dataset="miniimagenet"):
        return content_digest(*(make_tasks(dataset, split, folder) for split in splits))

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
    expected = draw(make_tasks(dataset, "train", tmp_path), range(3))
    monkeypatch.setattr(TorchmetaClasses, "__init__", lambda *_: pytest.fail("decoded again"))
    tasks = make_tasks(dataset, "train", tmp_path)
    assert draw(tasks, range(3)) == expected
    assert tasks.notes == ()


def test_data_that_were_prepared_anew_are_decoded_anew(omniglot_files, data, tmp_path):
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    before = draw(make_tasks("omniglot", "val", tmp_path), range(2))
    shutil.copytree(tmp_path / "omniglot" / "cache", tmp_path / "cache")
    shutil.rmtree(tmp_path / "omniglot")
    other = {g: dict(zip(files, reversed(files.values()), strict=True)) for g, files in omniglot_files.items()}
    prepare("omniglot", omniglot_zips(tmp_path / "source", other), tmp_path)
    (tmp_path / "cache").rename(tmp_path / "omniglot" / "cache")
    tasks = make_tasks("omniglot", "val", tmp_path)
    assert (
        draw(tasks, range(2)) == through_torchmeta(tasks, range(2), classes_of("omniglot", "val", tmp_path)) != before
    )


def test_place_that_cannot_be_written_is_said_and_does_not_end_the_run(data, tmp_path):
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    shutil.rmtree(tmp_path / "omniglot" / "cache", ignore_errors=True)
    (tmp_path / "omniglot" / "cache").write_text("in the way")
    tasks = make_tasks("omniglot", "val", tmp_path)
    (note,) = tasks.notes
    assert str(tmp_path / "omniglot" / "cache") in note
    assert "decoded anew" in note
    expected = draw(make_tasks("omniglot", "val", data), range(3))
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
        make_tasks("omniglot", "val", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("omniglot", "data.hdf5"), ("omniglot", "vinyals_train_labels.json"), ("miniimagenet", "train_data.hdf5")],
)
@pytest.mark.parametrize("damage", [cut_in_half, lambda path: path.write_bytes(b"[7]")])
def test_damaged_prepared_files_are_refused(dataset, name, damage, data, tmp_path):
    shutil.copytree(data / dataset, tmp_path / dataset)
    damage(tmp_path / dataset / name)
    with pytest.raises(InputError, match=f"{dataset} is cut short or corrupt .* delete that folder and run python"):
        make_tasks(dataset, "train", tmp_path)


def test_labels_that_the_data_lack_are_refused(data, tmp_path):
    shutil.copytree(data / "miniimagenet", tmp_path / "miniimagenet")
    (tmp_path / "miniimagenet" / "val_labels.json").write_text(json.dumps(["n1", "n2"]))
    with pytest.raises(InputError, match=r"the val split in .* is cut short or corrupt"):
        make_tasks("miniimagenet", "val", tmp_path)


def test_what_the_system_says_is_not_called_damage(data, tmp_path, monkeypatch):
    """Nobody is told to delete data that another program has open."""
    shutil.copytree(data / "omniglot", tmp_path / "omniglot")
    shutil.rmtree(tmp_path / "omniglot" / "cache", ignore_errors=True)
    with (tmp_path / "omniglot" / "data.hdf5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError) as refusal:
            make_tasks("omniglot", "val", tmp_path)
    folder = tmp_path / "omniglot"
    assert str(refusal.value) == f"cannot read the val split in {folder}: another process has it open for writing."

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torchmeta.datasets.omniglot.open", refuse, raising=False)
    with pytest.raises(InputError, match=r"^cannot read the val split in .*/omniglot: Permission denied\.$"):
        make_tasks("omniglot", "val", tmp_path)


def test_absent_data_say_how_to_get_them(tmp_path):
    with pytest.raises(InputError) as complaint:
        make_tasks("omniglot", "train", tmp_path)
    text = str(complaint.value)
    command = f"python torchmeta_loader.py --prepare omniglot --source FILE_OR_DIR --data_path {tmp_path}"
    assert command in text
    assert "https://github.com/brendenlake/omniglot" in text
    with pytest.raises(InputError, match=r"Lmzjm9tX\.html and run python torchmeta_loader\.py --prepare miniimagenet"):
        make_tasks("miniimagenet", "train", tmp_path)


def test_omniglot_trains_on_rotated_classes_too(data):
    sources = {split: make_tasks("omniglot", split, data).source for split in SPLITS}
    forms = {split: source.classes // len(source.labels) for split, source in sources.items()}
    assert forms == {"train": 4, "val": 1, "test": 1}
    upright, *rotated = sources["train"].images.read(
        [turn * len(sources["train"].labels) for turn in range(4)], [0] * 4
    )
    for quarters, image in enumerate(rotated, start=1):
        assert (image.int() - upright.rot90(quarters, (1, 2)).int()).abs().max() <= 2


def test_background_evaluation_split(data):
    labels = {
        split: make_tasks("omniglot", split, data, use_vinyals_split=False).source.labels for split in ("train", "test")
    }
    assert all(label[0] == "images_background" for label in labels["train"])
    assert all(label[0] == "images_evaluation" for label in labels["test"])
    with pytest.raises(InputError, match="--use_vinyals_split 1"):
        make_tasks("omniglot", "val", data, use_vinyals_split=False)
