"""Building a supernet with its architecture parameters, from settings and a seed."""

from pathlib import Path

import torch

from models.meta_cell import MetaCell
from models.supernet import Supernet, SupernetSettings
from search_space.architecture import Architecture
from utils.draws import derive_seed, torch_generator


def build_supernet(
    settings: SupernetSettings, ways: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Supernet, Architecture]:
    """A fresh supernet and its alpha and beta; the same for the same seed, on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial weights"))
        supernet = Supernet(settings, ways)
    architecture = _architecture(settings, torch_generator(seed, "initial architecture"))
    return supernet.to(device), architecture.to(device)


def _architecture(settings: SupernetSettings, generator: torch.Generator) -> Architecture:
    return Architecture(settings.nodes, len(settings.primitives), generator, settings.edge_weights)


def load_meta_cell(path: Path) -> MetaCell:
    """A meta-cell whose tensors are those that its settings need.

    Raises:
        InputError: no such file, or not a sound one.
    """
    meta_cell = MetaCell.load(path)
    check_meta_cell(meta_cell, path)
    return meta_cell


def check_meta_cell(meta_cell: MetaCell, path: Path) -> None:
    """Checks it against a supernet without storage, so that no settings, however large, take memory.

    Raises:
        InputError: it does not hold what its settings need.
    """
    settings = meta_cell.settings
    with torch.device("meta"):
        supernet = Supernet(settings, ways=1)
    architecture = _architecture(settings, torch.Generator())
    meta_cell.check_fits(supernet, architecture, path)
