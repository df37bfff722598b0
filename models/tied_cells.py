"""Cells that share their parameters: the meta-cell, in all its places at once."""

from collections import Counter

from torch import nn

from models.supernet import Supernet


class TiedCells:
    """Ties the cells of a supernet: each uses the parameters of the first cell that owns them.

    Attributes:
        parameters: those of the cells by their name in a cell, each once.
        places: how many cells own each.
    """

    def __init__(self, supernet: Supernet):
        self.parameters: dict[str, nn.Parameter] = {}
        self.places = Counter(name for cell in supernet.cells for name, _ in cell.named_parameters())
        for cell in supernet.cells:
            for path, module in cell.named_modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    first = self.parameters.setdefault(f"{path}.{name}", parameter)
                    setattr(module, name, first)

    def average_gradients(self) -> None:
        """From the sum over the places, which back-propagation leaves, to their mean: the second fold of every step."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.div_(self.places[name])
