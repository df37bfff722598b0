"""Images in zips, tars and folders: what is passed over, and everything that is refused."""

import gzip
import os
import shutil
import tarfile
import tracemalloc

import pytest

from tests.sources import (
    blocks,
    cut_in_half,
    encoded,
    miniimagenet_pickles,
    miniimagenet_tars,
    omniglot_zips,
    prepared_files,
    refusal,
    write_folder,
    write_tar,
)
from utils.data.prepare import prepare


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


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_header_that_inflates_is_not_read(kind, miniimagenet_files, tmp_path):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    header = tarfile.TarInfo("train/ntrain0000/image0.jpg")
    header.type, header.size = kind, 2**28
    with gzip.open(source / "train.tar", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(2**8):
            file.write(bytes(2**20))
    tracemalloc.start()
    text = refusal("miniimagenet", source, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{source}/train.tar cannot be read whole" in text
    assert f"it has a header of {2**28} bytes." in text
    assert peak < 2**26


def test_a_link_in_a_tar_is_refused(miniimagenet_files, tmp_path):
    source = miniimagenet_tars(tmp_path / "source", miniimagenet_files)
    with tarfile.open(source / "val.tar", "a") as archive:
        member = tarfile.TarInfo("val/nval0000/image9.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "image0.jpg"
        archive.addfile(member)
    text = f"{source}/val.tar holds val/nval0000/image9.jpg, a link or a device: unpack it, and name the folder."
    assert refusal("miniimagenet", source, tmp_path) == text


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
