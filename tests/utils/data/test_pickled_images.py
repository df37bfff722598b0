"""The pickles of miniImageNet, which hold arrays and nothing else."""

import os
import pickle

import numpy as np
import pytest

from tests.sources import (
    miniimagenet_pickles,
    refusal,
)
from utils.data.pickled_images import PickledImages


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
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n": [0.5]}}, "class n names rows"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n": [10**30]}}, "class n names rows"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"a/b": [0]}}, "'a/b' is no name of a class"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"": [0]}}, "'' is no name of a class"),
        ({"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"\ud800": [0]}}, r"\ud800 is not UTF-8"),
        ({"image_data": np.zeros((2, 8, 0, 3), np.uint8), "class_dict": {"n": [0, 1]}}, "images of at least 8x8"),
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
