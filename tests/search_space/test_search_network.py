"""A meta-cell from a file is one that its own settings need, and no settings cost memory before that is known."""

import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.meta_cell import MetaCell
from search_space.search_network import SearchNetwork, check_meta_cell, load_meta_cell
from tests.helpers import tiny_settings
from utils.errors import InputError
from utils.memory import LiveTensorBytes


def tiny_meta_cell(separate: bool = False, ways: int = 5) -> MetaCell:
    return SearchNetwork.build(tiny_settings(), ways, 0).state(separate)


@pytest.mark.parametrize("separate", [False, True], ids=["meta", "separate"])
def test_sound_meta_cell_loads_whatever_its_ways(tmp_path, separate):
    saved = tiny_meta_cell(separate)
    saved.save(tmp_path / "meta_cell.pt")
    loaded = load_meta_cell(tmp_path / "meta_cell.pt")
    assert (loaded.settings, loaded.ways, len(loaded.cells)) == (saved.settings, 5, len(saved.cells))
    for name, tensor in saved.cells[0].items():
        assert torch.equal(loaded.cells[0][name], tensor)


@pytest.mark.parametrize("changes", [{"nodes": 3}, {"init_channels": 4}, {"layers": 3}, {"reduction_layers": (0,)}])
def test_meta_cell_of_other_settings_is_refused_by_name(tmp_path, changes):
    meta_cell = tiny_meta_cell(separate=True)
    replace(meta_cell, settings=tiny_settings(**changes)).save(tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        load_meta_cell(tmp_path / "other.pt")


class BytesOnTheCPU(LiveTensorBytes):
    def _see(self, tensor):
        if tensor.device.type == "cpu":
            super()._see(tensor)


def test_settings_of_a_large_net_take_no_memory():
    large = replace(tiny_meta_cell(), settings=tiny_settings(init_channels=256, nodes=4))
    with BytesOnTheCPU() as meter, pytest.raises(InputError, match=r"large\.pt"):
        check_meta_cell(large, Path("large.pt"))
    assert meter.peak < 2**14  # alpha and beta; the net has 50 MB of weights


def test_check_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    check_meta_cell(tiny_meta_cell(), Path("some.pt"))
    assert torch.equal(torch.get_rng_state(), state)


# --- Files that are not meta-cells ----------------------------------------------------------------------------------


@pytest.fixture
def assert_refused(tmp_path):
    """Asserts that a file with some content, or of a value, is refused and named."""

    def refuse(content: object) -> None:
        path = tmp_path / "other.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(InputError, match=r"other\.pt"):
            load_meta_cell(path)

    return refuse


class Code:
    def __init__(self, file: Path):
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


def test_code_in_a_meta_cell_does_not_run(assert_refused, tmp_path):
    evidence = tmp_path / "evidence"
    assert_refused(pickle.dumps(Code(evidence)))
    assert_refused({**tiny_meta_cell().as_dict(), "stem": Code(evidence)})
    assert not evidence.exists()


def test_file_of_something_else(assert_refused):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    for content in (archive.getvalue(), b"hello\n", [1, 2], {"state_dict": torch.zeros(3)}, torch.zeros(3)):
        assert_refused(content)


SETTINGS = {
    "layers": [10**9, 10**30, 0, "2", 2.0, None, True],
    "nodes": [10**6, -1],
    "init_channels": [10**9, -4],
    "in_channels": [10**9, 0, "1"],
    "reduction_layers": [[7], ["1"], 1, None, [1] * 10**6],
    "primitives": [[], ["conv_9x9"], [3], "conv_3x3", None, ["conv_3x3"] * 10**6],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_nonsense_settings(assert_refused, name):
    values = tiny_meta_cell().as_dict()
    for nonsense in SETTINGS[name]:
        assert_refused({**values, "settings": {**values["settings"], name: nonsense}})


def test_nonsense_of_the_whole(assert_refused):
    values = tiny_meta_cell().as_dict()
    settings = values["settings"]
    fewer = {name: value for name, value in settings.items() if name != "nodes"}
    for nonsense in (None, [1, 2], {}, fewer, {**settings, "hue": 3}, {1: 2}):
        assert_refused({**values, "settings": nonsense})
    for changes in ({"ways": "three"}, {"ways": -1}, {"format": 2}, {"cells": []}, {"cells": values["cells"] * 3}):
        assert_refused({**values, **changes})
    assert_refused({name: value for name, value in values.items() if name != "head"})


def test_tensors_that_a_network_cannot_take(assert_refused):
    """Of another kind, or so large that outputs would not be finite; others are in tests/models/test_meta_cell.py."""
    values = tiny_meta_cell().as_dict()
    tensor = values["stem"]["0.weight"]
    others = (tensor.to(torch.complex64), tensor.to_sparse(), tensor.to("meta"), torch.full_like(tensor, 3e38))
    for other in others:
        assert_refused({**values, "stem": {**values["stem"], "0.weight": other}})
    assert_refused({**values, "head": {name: torch.full_like(tensor, 3e38) for name, tensor in values["head"].items()}})
