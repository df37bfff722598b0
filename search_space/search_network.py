"""What a search changes, in one object: a supernet with its alpha and beta."""

from pathlib import Path

import torch
from torch import nn

from models.meta_cell import MetaCell
from models.supernet import Supernet, SupernetSettings
from search_space.architecture import Architecture
from search_space.genotype import Genotype, read_genotype
from utils.draws import derive_seed, torch_generator
from utils.errors import InputError
from utils.memory import MIB


class SearchNetwork(nn.Module):
    """A supernet, and the architecture parameters that weigh its candidates and edges."""

    def __init__(self, supernet: Supernet, architecture: Architecture):
        super().__init__()
        self.supernet = supernet
        self.architecture = architecture

    @classmethod
    def build(
        cls, settings: SupernetSettings, ways: int, seed: int, device: torch.device | str = "cpu"
    ) -> "SearchNetwork":
        """A fresh one; the same for the same seed, on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initial weights"))
            supernet = Supernet(settings, ways)
        return cls(supernet, _architecture(settings, torch_generator(seed, "initial architecture"))).to(device)

    @property
    def settings(self) -> SupernetSettings:
        return self.supernet.settings

    @property
    def device(self) -> torch.device:
        return self.supernet.head.weight.device

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before a task is adapted."""
        return [*self.parameters(), *self.buffers()]

    def unfold(self, meta_cell: MetaCell) -> None:
        """Copies a meta-cell into every cell, and its stem, head, alpha and beta."""
        meta_cell.unfold(self.supernet, self.architecture)

    def state(self, separate: bool) -> MetaCell:
        """What :meth:`unfold` would bring back: with a cell for each place, or the first cells' tensors for all."""
        return MetaCell.of(self.supernet, self.architecture, separate)

    def genotype(self) -> Genotype:
        """What alpha and beta point to now."""
        return read_genotype(self.architecture, self.settings.primitives)

    def sizes(self, meta_cell: MetaCell | None) -> dict[str, float]:
        """How large it is, and the meta-cell that it was unfolded from, under the keys of results.json."""
        sizes = {
            "supernet_parameters": sum(parameter.numel() for parameter in self.supernet.parameters()),
            "supernet_storage_mib": self.state(separate=True).parameter_bytes() / MIB,
        }
        return sizes if meta_cell is None else {**sizes, "meta_cell_storage_mib": meta_cell.parameter_bytes() / MIB}


def _architecture(settings: SupernetSettings, generator: torch.Generator) -> Architecture:
    return Architecture(settings.nodes, len(settings.primitives), generator, settings.edge_weights)


def load_meta_cell(path: Path) -> MetaCell:
    """A meta-cell whose tensors are those that its settings need.

    Raises:
        InputError: no such file, or not a sound one.
    """
    if not path.exists():
        raise InputError(
            f"--meta_cell {path} is not there: python tfml.py --path {path.parent} writes one, ./tfml.sh with the "
            f"published settings; or name one that comes with this, in checkpoints/."
        )
    meta_cell = MetaCell.load(path)
    check_meta_cell(meta_cell, path)
    return meta_cell


def check_meta_cell(meta_cell: MetaCell, path: Path) -> None:
    """Checks it against a supernet without storage, so that no settings, however large, take memory.

    Raises:
        InputError: it does not hold what its settings need.
    """
    with torch.device("meta"):
        supernet = Supernet(meta_cell.settings, ways=1)
    meta_cell.check_fits(supernet, _architecture(meta_cell.settings, torch.Generator()), path)
