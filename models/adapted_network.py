"""adapted.pt: the network that a search left, with all that is needed to classify later."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from models.pruned_network import PrunedNetwork
from models.search_cell import Mixture, edge_list
from models.supernet import Supernet, SupernetSettings
from utils.data.image_reader import Preparation
from utils.errors import InputError
from utils.run.files import read_tensors, write_tensors

FORMAT = "adapted network 1"
Plain = str | int | float | None


@dataclass(frozen=True)
class AdaptedNetwork:
    """A network that classifies images, the relaxed or the found one.

    network: its BN normalises by the statistics that it holds; images (N, C, H, W), uint8 or in [0, 1], -> logits
        (N, ways).
    class_names: of the logits.
    preparation: how an image file becomes an image, see :func:`utils.data.image_reader.prepare`.
    made_from: plain values for whoever finds the file: the meta-cell, the method, the images.
    """

    network: PrunedNetwork
    class_names: tuple[str, ...]
    preparation: Preparation
    made_from: dict[str, Plain]

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """(N, ways), image by image, on the CPU.

        Raises:
            InputError: the network's numbers are so large that there are none.
        """
        network = self.network.eval()
        device = network.supernet.head.weight.device
        rows = [network(image[None].to(device)).double().softmax(1).cpu() for image in images]
        if not all(row.isfinite().all() for row in rows):
            raise InputError("the adapted network has diverged, it gives no probabilities: adapt anew.")
        return torch.cat(rows) if rows else torch.empty(0, len(self.class_names), dtype=torch.float64)

    def save(self, path: Path) -> None:
        """Writes tensors and plain values only, whole or not at all."""
        settings = self.network.supernet.settings
        values = {
            "format": FORMAT,
            "settings": settings.as_dict(),
            "active": {cell_type: mixture.active for cell_type, mixture in self.network.mixtures.items()},
            "state": {name: tensor.cpu().clone() for name, tensor in self.network.state_dict().items()},
            "class_names": list(self.class_names),
            "preparation": asdict(self.preparation),
            "made_from": self.made_from,
        }
        write_tensors(path, values)

    @classmethod
    def load(cls, path: Path) -> "AdaptedNetwork":
        """Raises:
        InputError: no such file, one that is cut short, or none that :meth:`save` wrote.
        """
        values = read_tensors(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{path} does not hold an adapted network: onnas.py --support writes one, adapted.pt.")
        try:
            settings = SupernetSettings.from_dict(values["settings"])
            names, state = values["class_names"], values["state"]
            preparation, made_from = Preparation(**values["preparation"]), dict(values["made_from"])
            sound = _are_names(names) and _fits(preparation, settings) and _are_of_as_many_cells(state, settings)
            if not sound:
                raise ValueError("its parts do not belong together")
            network = _frame(settings, len(names), values["active"])
            _fill(network, state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, InputError) as error:
            raise InputError(f"{path} holds a damaged network, adapt anew: {str(error).rstrip('.')}.") from error
        return cls(network, tuple(names), preparation, made_from)


def _are_names(names: object) -> bool:
    return isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names)


def _fits(preparation: Preparation, settings: SupernetSettings) -> bool:
    numbers = [preparation.channels, preparation.side, 8 if preparation.bits is None else preparation.bits]
    are_whole = all(type(number) is int and 1 <= number <= 4096 for number in numbers)
    return are_whole and preparation.channels == settings.in_channels


def _are_of_as_many_cells(state: object, settings: SupernetSettings) -> bool:
    """Whether there are tensors of each cell: what is built below is then no larger than the file."""
    names = [name.split(".") for name in state]
    return len({parts[2] for parts in names if parts[:2] == ["supernet", "cells"]}) == settings.layers


def _frame(settings: SupernetSettings, ways: int, active: dict[str, list[list[bool]]]) -> PrunedNetwork:
    """The network without storage.

    Raises:
        ValueError: there is nothing that arrives at a node.
    """
    shape = len(edge_list(settings.nodes)), len(settings.primitives)
    mixtures = {}
    for cell_type, edges in active.items():
        if [len(edge) for edge in edges] != [shape[1]] * shape[0]:
            raise ValueError("it has other edges than its settings")
        arriving = {node for (_, node), edge in zip(edge_list(settings.nodes), edges, strict=True) if any(edge)}
        if len(arriving) < settings.nodes:
            raise ValueError("it has a node without an input")
        mixtures[cell_type] = Mixture(torch.empty(shape, device="meta"), edges, edges)
    with torch.device("meta"):
        return PrunedNetwork(Supernet(settings, ways), mixtures)


def _fill(network: PrunedNetwork, state: dict[str, torch.Tensor]) -> None:
    """Gives the network its tensors.

    Raises:
        ValueError: they are not those that it needs.
    """
    expected = network.state_dict()
    if state.keys() != expected.keys():
        raise ValueError("it holds other tensors than its settings need")
    for name, tensor in state.items():
        whole = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not (whole and tensor.shape == expected[name].shape and tensor.dtype == expected[name].dtype):
            raise ValueError(f"{name} is not of the size that its settings need")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not of finite numbers")
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()
