"""Preparing a data set once: what is read, what is left behind, what is downloaded."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest

from tests.sources import (
    cut_in_half,
    miniimagenet_pickles,
    miniimagenet_tars,
    names,
    omniglot_zips,
    prepared_files,
    refusal,
    write_folder,
    write_tar,
    write_zip,
)
from utils.data import prepare as prepare_module
from utils.data.prepare import download, prepare
from utils.data.prepared import PREPARED_FILES, is_prepared
from utils.errors import InputError
from utils.run.files import locked


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
    assert refusal("miniimagenet", source / "photos.tar", tmp_path / "other").startswith(
        f"--source {source / 'photos.tar'} is no file of miniimagenet: those are named train.tar, "
    )


def test_the_downloads_may_lie_in_the_very_folder(data, omniglot_files, tmp_path):
    folder = omniglot_zips(tmp_path / "omniglot", omniglot_files)
    cut_in_half(folder / "images_evaluation.zip")
    with pytest.raises(InputError, match=r"images_evaluation\.zip cannot be read whole"):
        prepare("omniglot", folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["images_background.zip", "images_evaluation.zip"]
    write_zip(folder / "images_evaluation.zip", omniglot_files["images_evaluation"])
    prepare("omniglot", folder, tmp_path)
    assert prepared_files(data / "omniglot").items() < prepared_files(folder).items()


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


def test_one_waits_for_another_that_prepares(data, tmp_path):
    """And finds the data set prepared then, so that it does not even look at its source."""
    with ThreadPoolExecutor(1) as pool:  # a lock is as good between threads as between processes
        with locked(tmp_path / ".omniglot.lock"):
            waiting = pool.submit(prepare, "omniglot", tmp_path / "gone", tmp_path)
            shutil.copytree(data / "omniglot", tmp_path / "omniglot")
        assert waiting.result() is None


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
