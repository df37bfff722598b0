"""The files that torchmeta reads, from small invented downloads of every form."""

import io
import json
import shutil

import h5py
import numpy as np
from PIL import Image

from tests.sources import (
    CHARACTERS_PER_SPLIT,
    SPLITS,
    blocks,
    encoded,
    miniimagenet_pickles,
    miniimagenet_tars,
    omniglot_zips,
    prepared_files,
    refusal,
    shuffled,
    write_folder,
    write_tar,
)
from utils.data.pickled_images import PICKLES_ARCHIVE
from utils.data.prepare import prepare
from utils.data.torchmeta_files import OMNIGLOT_GROUPS


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


def test_a_character_without_20_drawings_is_refused(omniglot_files, tmp_path):
    background = dict(omniglot_files["images_background"])
    name = next(iter(background))
    del background[name]
    folder = omniglot_zips(tmp_path / "source", {**omniglot_files, "images_background": background})
    character = "/".join(name.split("/")[1:3])
    assert f"images_background.zip holds 19 drawings of {character}, not 20" in refusal("omniglot", folder, tmp_path)


def test_a_class_in_two_splits_is_refused(miniimagenet_files, tmp_path):
    folder = miniimagenet_pickles(tmp_path / "source", miniimagenet_files)
    shutil.copy(folder / "mini-imagenet-cache-train.pkl", folder / "mini-imagenet-cache-val.pkl")
    text = refusal("miniimagenet", folder, tmp_path)
    assert "mini-imagenet-cache-val.pkl holds the class ntrain0000" in text
