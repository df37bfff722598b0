"""Preparing Omniglot and miniImageNet from small invented downloads of every form, and what is refused."""

import io
import json
import os
import pickle
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.sources import (
    CHARACTERS_PER_SPLIT,
    SPLITS,
    blocks,
    cut_in_half,
    encoded,
    miniimagenet_pickles,
    miniimagenet_tars,
    omniglot_zips,
    prepared_files,
    shuffled,
    write_folder,
    write_tar,
    write_zip,
)
from utils.data import prepare as prepare_module
from utils.data.pickled_images import PICKLES_ARCHIVE, PickledImages
from utils.data.prepare import PREPARED_FILES, download, is_prepared, prepare
from utils.data.torchmeta_files import OMNIGLOT_GROUPS
from utils.errors import InputError


def names(folder: Path) -> list[str]:
    """What there is in a folder, but for the lock of those that prepare a data set in it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def refusal(dataset: str, source: Path, tmp_path: Path) -> str:
    """The sentence with which the source is refused; nothing must be left behind."""
    out = tmp_path / "out"
    with pytest.raises(InputError) as complaint:
        prepare(dataset, source, out)
    assert not out.exists() or not names(out)
    text = str(complaint.value)
    assert "\n" not in text
    assert text.endswith((".", ")."))
    return text


def test_omniglot_zips_and_folders_in_any_order_give_the_same_files(data, omniglot_files, tmp_path):
    expected = prepared_files(data / "omniglot")
    zips = omniglot_zips(tmp_path / "zips", {group: shuffled(files) for group, files in omniglot_files.items()})
    prepare("omniglot", zips / "images_evaluation.zip", tmp_path / "a")
    assert prepared_files(tmp_path / "a" / "omniglot") == expected
    for files in omniglot_files.values():
        write_folder(tmp_path / "unpacked", files)
    prepare("omniglot", tmp_path / "unpacked", tmp_path / "b")
    assert prepared_files(tmp_path / "b" / "omniglot") == expected


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
    expected = prepared_files(data / "miniimagenet")
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
        prepare("miniimagenet", source, tmp_path / str(number))
        assert prepared_files(tmp_path / str(number) / "miniimagenet") == expected, source


def test_images_of_other_sizes_are_resized(miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    name = next(iter(files["train"]))
    files["train"][name] = encoded(np.full((50, 120), 200, np.uint8), "jpeg")
    prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    with h5py.File(tmp_path / "miniimagenet" / "train_data.hdf5") as file:
        assert (file["datasets"][name.split("/")[1]][0] == 200).all()


@pytest.mark.parametrize("kind", ["tars", "folders"])
def test_hidden_and_accompanying_files_are_ignored(kind, data, miniimagenet_files, tmp_path):
    files = {split: dict(members) for split, members in miniimagenet_files.items()}
    hidden = ("train/.DS_Store", "train/ntrain0000/._image0.jpg", "train/.ipynb_checkpoints/image0.jpg")
    for name in (*hidden, "train/ntrain0000/Thumbs.db", "train/README.txt", "__MACOSX/train/n/x.jpg", "../evil.jpg"):
        if kind == "tars" or name.startswith("train"):
            files["train"][name] = b"?"
    if kind == "tars":
        miniimagenet_tars(tmp_path / "source", files)
    else:
        for members in files.values():
            write_folder(tmp_path / "source", members)
    prepare("miniimagenet", tmp_path / "source", tmp_path / "out")
    assert prepared_files(tmp_path / "out" / "miniimagenet") == prepared_files(data / "miniimagenet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("kind", ["tars", "folders"])
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("train/ntrain0000/notes.txt", "notes.txt is of no format that is read: convert it to PNG or JPEG, or take "),
        ("train/ntrain0000/IMG_1.HEIC", "IMG_1.HEIC is of no format that is read: convert it to PNG or JPEG, or take "),
        ("train/image0.jpg", "train/image0.jpg belongs to no class: images lie in train/<folder>/<image>."),
        ("train/ntrain0000/more/0.jpg", "more/0.jpg belongs to no class: images lie in train/<folder>/<image>."),
        ("train/ntrain0000/image9.jpg", "image9.jpg is no whole image of PNG, JPEG, BMP, "),
    ],
)
def test_nothing_is_left_out_in_silence(kind, name, complaint, miniimagenet_files, tmp_path):
    files = {**miniimagenet_files, "train": {**miniimagenet_files["train"], name: b"?"}}
    if kind == "tars":
        miniimagenet_tars(tmp_path / "source", files)
    else:
        for members in files.values():
            write_folder(tmp_path / "source", members)
    assert complaint in refusal("miniimagenet", tmp_path / "source", tmp_path)


def test_a_linked_class_folder_is_followed(data, miniimagenet_files, tmp_path):
    for members in miniimagenet_files.values():
        write_folder(tmp_path / "source", members)
    (tmp_path / "source/train/ntrain0001").rename(tmp_path / "elsewhere")
    (tmp_path / "source/train/ntrain0001").symlink_to(tmp_path / "elsewhere")
    prepare("miniimagenet", tmp_path / "source", tmp_path / "out")
    assert prepared_files(tmp_path / "out" / "miniimagenet") == prepared_files(data / "miniimagenet")


def test_photographs_are_read_as_everywhere(miniimagenet_files, tmp_path):
    files = {**miniimagenet_files, "train": dict(miniimagenet_files["train"])}
    first, second = list(files["train"])[:2]
    exif = Image.Exif()
    exif[0x112] = 6  # turned a quarter
    pixels, buffer = blocks(5, 6, 84, 3), io.BytesIO()
    Image.fromarray(np.rot90(pixels).copy()).save(buffer, "png", exif=exif)
    files["train"][first] = buffer.getvalue()
    files["train"][second] = encoded(np.full((84, 84), 30000, np.uint16), "png")
    prepare("miniimagenet", miniimagenet_tars(tmp_path / "source", files), tmp_path)
    with h5py.File(tmp_path / "miniimagenet" / "train_data.hdf5") as file:
        images = file["datasets"][first.split("/")[1]]
        assert np.array_equal(images[0], pixels)
        assert (images[1] == 30000 // 256).all()


def test_what_is_named_is_what_is_read(data, miniimagenet_files, tmp_path):
    """And the answer says what that was."""
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    old = miniimagenet_tars(tmp_path / "old", {**miniimagenet_files, "val": miniimagenet_files["test"]}, ".tar.gz")
    for path in old.iterdir():
        path.rename(source / path.name)
    found = prepare("miniimagenet", source / "train.tar", tmp_path / "out")
    assert prepared_files(tmp_path / "out" / "miniimagenet") == prepared_files(data / "miniimagenet")
    assert found == f"6 train, 5 val, 5 test classes, read from {source}/train.tar, {source}/val.tar, {source}/test.tar"
    write_folder(source, miniimagenet_files["train"])
    text = refusal("miniimagenet", source / "train", tmp_path / "other")
    assert text.startswith(f"--source {source / 'train'} is incomplete: {source} lacks val (get the files of ")
    assert "val.tar.gz" in refusal("miniimagenet", source / "val.tar.gz", tmp_path / "other")
    (source / "photos.tar").write_bytes(b"?")
    assert refusal("miniimagenet", source / "photos.tar", tmp_path).startswith(
        f"--source {source / 'photos.tar'} is no file of miniimagenet: those are named train.tar, "
    )


def test_files_are_looked_at_before_they_are_read(miniimagenet_files, tmp_path):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    with tarfile.open(source / "train.tar", "w") as archive:
        member = tarfile.TarInfo("train/ntrain0000/image0.jpg")
        member.size = 2**32
        archive.addfile(member)
    with (source / "train.tar").open("r+b") as file:
        file.truncate(2**32 + 10240)  # a hole in the disk
    text = refusal("miniimagenet", source, tmp_path)
    assert (
        text == f"{source}/train.tar: train/ntrain0000/image0.jpg has {2**32} bytes: an image file has {2**26} at most."
    )
    (source / "train.tar").unlink()
    os.mkfifo(source / "train.tar")
    assert refusal("miniimagenet", source, tmp_path) == f"{source}/train.tar is no regular file and no folder."
    pickles = miniimagenet_pickles(tmp_path / "pickles", miniimagenet_files)
    with (pickles / "mini-imagenet-cache-val.pkl").open("r+b") as file:
        file.truncate(2**31)
    assert f"mini-imagenet-cache-val.pkl has {2**31} bytes: a part " in refusal("miniimagenet", pickles, tmp_path)


def test_a_link_in_a_tar_is_refused(miniimagenet_files, tmp_path):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    with tarfile.open(source / "val.tar", "a") as archive:
        member = tarfile.TarInfo("val/nval0000/image9.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "image0.jpg"
        archive.addfile(member)
    text = f"{source}/val.tar holds val/nval0000/image9.jpg, a link or a device: unpack it, and name the folder."
    assert refusal("miniimagenet", source, tmp_path) == text


def test_the_downloads_may_lie_in_the_very_folder(data, omniglot_files, tmp_path):
    folder = omniglot_zips(tmp_path / "omniglot", omniglot_files)
    cut_in_half(folder / "images_evaluation.zip")
    with pytest.raises(InputError, match=r"images_evaluation\.zip cannot be read whole"):
        prepare("omniglot", folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["images_background.zip", "images_evaluation.zip"]
    write_zip(folder / "images_evaluation.zip", omniglot_files["images_evaluation"])
    prepare("omniglot", folder, tmp_path)
    assert prepared_files(data / "omniglot").items() < prepared_files(folder).items()


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
    assert text.startswith(f"--source {folder} is incomplete: {folder} lacks ")
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
    text = refusal("miniimagenet", folder, tmp_path)
    assert text.startswith(f"{folder}/test.tar: train/ntrain0000/image0.jpg belongs to no class: images lie in test/")
    write_tar(folder / "test.tar", {})
    assert "test.tar holds no images of the layout test/<folder>/<image>" in refusal("miniimagenet", folder, tmp_path)


def test_a_class_in_two_splits_is_refused(miniimagenet_files, tmp_path):
    folder = miniimagenet_pickles(tmp_path / "source", miniimagenet_files)
    shutil.copy(folder / "mini-imagenet-cache-train.pkl", folder / "mini-imagenet-cache-val.pkl")
    text = refusal("miniimagenet", folder, tmp_path)
    assert "mini-imagenet-cache-val.pkl holds the class ntrain0000" in text


def test_a_damaged_image_is_refused_by_name(omniglot_files, tmp_path):
    evaluation = dict(omniglot_files["images_evaluation"])
    name = list(evaluation)[-1]
    for content, reason in (
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is no whole image of PNG, "),
        (encoded(blocks(1, 7, 84), "png"), "has 84x84 pixels, not 105x105"),
    ):
        evaluation[name] = content
        source = omniglot_zips(tmp_path / reason[:4], {**omniglot_files, "images_evaluation": evaluation})
        text = refusal("omniglot", source, tmp_path)
        assert text.startswith(f"{source / 'images_evaluation.zip'}: {name} {reason}")


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
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    folder = omniglot_zips(tmp_path / "source", omniglot_files)
    if existing:
        (tmp_path / "out" / "omniglot").mkdir(parents=True)
        (tmp_path / "out" / "omniglot" / "notes.txt").write_text("mine")
    monkeypatch.setattr(h5py.Group, "create_dataset", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("omniglot", folder, tmp_path / "out")
    assert names(tmp_path / "out") == (["omniglot"] if existing else [])
    assert not existing or names(tmp_path / "out" / "omniglot") == ["notes.txt"]


def test_what_a_killed_run_left_is_removed(data, omniglot_files, tmp_path):
    source = omniglot_zips(tmp_path / "source", omniglot_files)
    for _ in range(2):  # the second time, the data set is prepared already
        for left in ("omniglot/preparing", "omniglot.download"):
            (tmp_path / "out" / left).mkdir(parents=True)
            (tmp_path / "out" / left / "data.hdf5").write_bytes(b"half")
        prepare("omniglot", source, tmp_path / "out")
        assert names(tmp_path / "out") == ["omniglot"]
        assert prepared_files(tmp_path / "out" / "omniglot") == prepared_files(data / "omniglot")


def test_a_set_that_was_incomplete_is_prepared_with_the_last_file_only(data, omniglot_files, tmp_path, monkeypatch):
    """A process that comes meanwhile must not take old files beside new ones for the data set."""
    prepared = PREPARED_FILES["omniglot"]
    for name in prepared[:-1]:
        (tmp_path / "omniglot").mkdir(exist_ok=True)
        (tmp_path / "omniglot" / name).write_text("old")
    seen, replace = [], Path.replace

    def watched(path, target):
        seen.append(is_prepared("omniglot", tmp_path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    prepare("omniglot", omniglot_zips(tmp_path / "source", omniglot_files), tmp_path)
    assert seen == [False] * len(prepared)
    assert prepared_files(tmp_path / "omniglot") == prepared_files(data / "omniglot")


# --- Downloading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
def test_a_failed_download_says_how_to_do_it_by_hand(dataset, tmp_path, monkeypatch):
    def half_a_download(url, folder, name, md5):
        (Path(folder) / name).write_bytes(b"half")
        raise OSError("connection refused")

    monkeypatch.setattr(prepare_module, "download_url", half_a_download)
    with pytest.raises(InputError) as complaint:
        download(dataset, tmp_path)
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

    monkeypatch.setattr(prepare_module, "download_url", fake_download)
    with ThreadPoolExecutor(at_once) as pool:
        for made in [pool.submit(download, dataset, tmp_path) for _ in range(3)]:
            made.result()
    assert len(asked) == len(set(asked)) == (2 if dataset == "omniglot" else 1)
    assert prepared_files(tmp_path / dataset) == prepared_files(data / dataset)
    assert names(tmp_path) == [dataset]
