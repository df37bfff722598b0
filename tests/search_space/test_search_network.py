"""A meta-cell from a file is one that its own settings need, and no settings cost memory before that is known."""

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
