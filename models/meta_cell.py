"""The meta-cell: n cells folded into one, unfolded into n again (On-NAS, two-fold meta-learning)."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

from models.supernet import Supernet, SupernetSettings
from utils.errors import InputError
from utils.results.checking import from_values
from utils.run.files import read_tensors, write_tensors

Tensors = dict[str, torch.Tensor]
FORMAT = 1
CELL_LR = 1.0
LARGEST = 1_000_000  # of a number, either way; those that are learnt are far smaller


def weighted_change(start: torch.Tensor, ends: list[torch.Tensor], weighting: str) -> torch.Tensor:
    """sum_t c_t Delta_t with Delta_t = end_t - start, element by element.

    Args:
        weighting: "softmax": c_t = exp(Delta_t) / sum_s exp(Delta_s); "mean": c_t = 1 / len(ends).
    """
    changes = torch.stack([end - start for end in ends])
    if weighting == "mean":
        return changes.mean(0)
    return (torch.softmax(changes, 0) * changes).sum(0)


def fold(start: Tensors, ends: list[Tensors], weighting: str, lr: float) -> Tensors:
    """Moves every tensor of ``start`` by ``lr`` times the weighted change of those ``ends`` that own it."""
    return {
        name: tensor + lr * weighted_change(tensor, [end[name] for end in ends if name in end], weighting)
        for name, tensor in start.items()
    }


def copy_tensors(module: nn.Module) -> Tensors:
    """A copy of a module's parameters, on the CPU and without BN's buffers."""
    return {name: parameter.detach().cpu().clone() for name, parameter in module.named_parameters()}


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _is_sound(value: object, shape: tuple[int, ...]) -> bool:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.dtype != torch.float32:
        return False
    return tuple(value.shape) == shape and value.device.type == "cpu" and _is_usable(value)


def _is_usable(tensor: torch.Tensor) -> bool:
    return bool((tensor.abs() <= LARGEST).all())  # not a number is not, either


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Tensors) -> None:
    """Copies into the module's parameters those tensors that it owns."""
    for name, parameter in module.named_parameters():
        parameter.copy_(tensors[name])


@dataclass(frozen=True)
class TrainedOn:
    """What a meta-cell was trained on, in plain values.

    shape: (C, H, W) of its images.
    split_seed: of the split of a folder's classes into those to train on and others; None: the data set has its own.
    adaptation: how the tasks of its meta-tests are adapted, by the flags of onnas.py. Own images are adapted so, too.
    """

    dataset: str
    shape: list[int]
    ways: int
    shots: int
    meta_epochs: int
    split_seed: int | None
    adaptation: dict[str, float | str]


@dataclass(frozen=True)
class MetaCell:
    """What TFML trains: one meta-cell (or n separate cells, MetaNAS's way), stem, head, alpha and beta.

    The meta-cell owns the union of what the places need: both forms of the older input's projection, and the
    stride-2 skip's parameters beside what the stride-1 forms need.

    Attributes:
        cells: one dictionary of tensors, the meta-cell; or n, one a cell.
        architecture: alpha and beta by name.
        trained_on: what it was trained on; None: it does not say.
    """

    settings: SupernetSettings
    ways: int
    cells: list[Tensors]
    stem: Tensors
    head: Tensors
    architecture: Tensors
    trained_on: TrainedOn | None = None

    @classmethod
    def of(cls, supernet: Supernet, architecture: nn.Module, separate: bool) -> "MetaCell":
        """The state of a supernet at the start. A meta-cell takes each tensor from the first cell that owns it."""
        cells = [copy_tensors(cell) for cell in supernet.cells]
        if not separate:
            cells = [{name: tensor for cell in reversed(cells) for name, tensor in cell.items()}]
        return cls(
            supernet.settings,
            supernet.head.out_features,
            cells,
            copy_tensors(supernet.stem),
            copy_tensors(supernet.head),
            copy_tensors(architecture),
        )

    def unfold(self, supernet: Supernet, architecture: nn.Module) -> None:
        """Copies the state into a supernet: every cell gets what its place needs of the meta-cell.

        A head of another number of ways starts at zero.
        """
        for layer, cell in enumerate(supernet.cells):
            load_tensors(cell, self.cells[layer % len(self.cells)])
        load_tensors(supernet.stem, self.stem)
        if supernet.head.out_features == self.ways:
            load_tensors(supernet.head, self.head)
        else:
            for parameter in supernet.head.parameters():
                nn.init.zeros_(parameter)
        load_tensors(architecture, self.architecture)

    def separate(self, supernet: Supernet) -> "MetaCell":
        """The same state with a dictionary for each of the n cells, of what its place needs."""
        names = [[name for name, _ in cell.named_parameters()] for cell in supernet.cells]
        sources = self.cells if len(self.cells) > 1 else self.cells * len(names)
        return replace(
            self, cells=[{name: cell[name] for name in own} for own, cell in zip(names, sources, strict=True)]
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is stored: cells, stem, head, alpha and beta."""
        for group in (*self.cells, self.stem, self.head, self.architecture):
            yield from group.values()

    def parameter_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def is_usable(self) -> bool:
        """Whether a search can begin from its numbers."""
        return all(map(_is_usable, self.tensors()))

    def as_dict(self) -> dict:
        """Tensors and plain values only."""
        values = {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}
        trained_on = values.pop("trained_on")
        told = {} if trained_on is None else {"trained_on": asdict(trained_on)}
        return {**values, "settings": self.settings.as_dict(), **told}

    @classmethod
    def from_dict(cls, values: object, path: Path) -> "MetaCell":
        """The opposite of :meth:`as_dict`; ``path`` is where the values were read.

        Raises:
            InputError: they are not a meta-cell's.
        """
        names = [field.name for field in fields(cls) if field.name != "trained_on"]
        if not isinstance(values, dict) or values.get("format") != FORMAT or not all(name in values for name in names):
            raise InputError(f"{path} does not hold a meta-cell of this project: write one with tfml.py.")
        try:
            settings = SupernetSettings.from_dict(values["settings"])
        except (TypeError, AttributeError, InputError) as error:
            raise InputError(f"{path} does not hold the settings of a supernet: {error}") from error
        try:
            trained_on = from_values(TrainedOn, values["trained_on"]) if "trained_on" in values else None
        except ValueError as error:
            raise InputError(f"{path} does not say rightly what it was trained on: {error}.") from error
        parts = {name: values[name] for name in names if name != "settings"}
        return cls(settings, **parts, trained_on=trained_on)

    def check_fits(self, supernet: Supernet, architecture: nn.Module, path: Path) -> None:
        """Checks the tensors, read from ``path``, against a supernet of the same settings (of any number of ways).

        Raises:
            InputError: they are not those that it needs, or are not finite numbers, or too large.
        """
        width = supernet.head.in_features
        cells = [_shapes(cell) for cell in supernet.cells]
        if not (isinstance(self.cells, list) and len(self.cells) in (1, len(cells)) and isinstance(self.ways, int)):
            raise InputError(f"{path} does not hold the cells that its settings need.")
        if len(self.cells) == 1:
            cells = [{name: shape for cell in cells for name, shape in cell.items()}]
        head = {"weight": (self.ways, width), "bias": (self.ways,)}
        expected = [*cells, _shapes(supernet.stem), head, _shapes(architecture)]
        for part, shapes in zip([*self.cells, self.stem, self.head, self.architecture], expected, strict=True):
            if not (isinstance(part, dict) and part.keys() == shapes.keys()):
                raise InputError(f"{path} holds other tensors than its settings need.")
            for name, shape in shapes.items():
                if not _is_sound(part[name], shape):
                    numbers = f"{shape} numbers of at most {LARGEST:,}"
                    raise InputError(f"{path} holds for {name} something else than {numbers}.")

    def save(self, path: Path) -> None:
        """Writes tensors and plain values only, whole or not at all."""
        write_tensors(path, self.as_dict())

    @classmethod
    def load(cls, path: Path) -> "MetaCell":
        """Raises:
        InputError: no such file, a truncated one, or not a meta-cell.
        """
        return cls.from_dict(read_tensors(path), path)


def first_fold(
    start: MetaCell, adapted: list[MetaCell], weighting: str, w_meta_lr: float, a_meta_lr: float
) -> MetaCell:
    """The n cells after a meta-update over tasks: Reptile's, with coefficients. All arguments have n cells."""

    def folded(part: str) -> Tensors:
        lr = a_meta_lr if part == "architecture" else w_meta_lr
        return fold(getattr(start, part), [getattr(task, part) for task in adapted], weighting, lr)

    cells = [
        fold(cell, [task.cells[layer] for task in adapted], weighting, w_meta_lr)
        for layer, cell in enumerate(start.cells)
    ]
    return replace(start, cells=cells, **{part: folded(part) for part in ("stem", "head", "architecture")})


def second_fold(meta_cell: MetaCell, folded: MetaCell, weighting: str) -> MetaCell:
    """Over cells: the meta-cell moves by the weighted change of the cells that own each tensor."""
    return replace(folded, cells=[fold(meta_cell.cells[0], folded.cells, weighting, CELL_LR)])
