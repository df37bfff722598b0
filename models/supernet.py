"""The supernet: a stem, n search cells and a linear head (DARTS, with the shapes of On-NAS)."""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from models.batch_norm import BatchNorm, share_tracking
from models.operations import OPERATIONS
from models.partial_cell import PartialCell
from models.search_cell import NEWER, OLDER, Mixture, SearchCell, convolve_states, edge_list
from utils.data.pixels import unit_range
from utils.errors import InputError

STEM = -1  # its place before cell 0
NORMAL, REDUCTION = CELL_TYPES = ("normal", "reduction")
# How a node weighs its inputs: by pairs of edges (On-NAS), each edge for itself (PC-DARTS), all by one (DARTS).
PAIRS, EDGES, EQUAL = EDGE_WEIGHTS = ("pairs", "edges", "equal")


def check_size(name: str, value: object, low: int, high: int) -> None:
    """Raises:
    InputError: ``value`` is not a whole number within the bounds.
    """
    if not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {value!r:.40}.")


def check_cells(channels_flag: str, channels: int, layers_flag: str, layers: int, reductions: tuple[int, ...]) -> None:
    """Checks what every network of cells has: C channels, its number of cells, and which of them are of stride 2.

    Raises:
        InputError: one of them is not what it should be; it is named by its flag.
    """
    check_size(channels_flag, channels, 2, 4096)
    check_size(layers_flag, layers, 1, 64)
    if channels % 2:
        raise InputError(f"{channels_flag} must be even (a reduction makes them of two halves), got {channels}.")
    if len(set(reductions)) != len(reductions):
        raise InputError("--reduction_layers must be different cells.")
    outside = [layer for layer in reductions if not 0 <= layer < layers]
    if outside:
        raise InputError(
            f"--reduction_layers must be from 0 to {layers - 1} with {layers_flag} {layers}, got {outside[0]}."
        )


@dataclass(frozen=True)
class SupernetSettings:
    """What is needed to build a supernet, and to know whether a meta-cell fits one.

    edge_weights: one of EDGE_WEIGHTS.
    partial_channels: K, the candidates see 1/K of a state's channels (PC-DARTS); 1: all.
    """

    in_channels: int
    init_channels: int
    layers: int
    nodes: int
    reduction_layers: tuple[int, ...]
    primitives: tuple[str, ...]
    edge_weights: str = PAIRS
    partial_channels: int = 1

    def __post_init__(self):
        check_size("in_channels", self.in_channels, 1, 64)
        check_size("--nodes", self.nodes, 1, 8)
        check_size("--partial_channels", self.partial_channels, 1, 64)
        check_cells("--init_channels", self.init_channels, "--layers", self.layers, self.reduction_layers)
        if (
            not self.primitives
            or not set(self.primitives) <= OPERATIONS
            or len(set(self.primitives)) != len(self.primitives)
        ):
            raise InputError(f"the candidates must be different ones of {', '.join(sorted(OPERATIONS))}.")
        if self.init_channels % (2 * self.partial_channels):
            raise InputError(
                f"--init_channels must be a multiple of {2 * self.partial_channels} with --partial_channels "
                f"{self.partial_channels}, got {self.init_channels}."
            )
        if self.edge_weights not in EDGE_WEIGHTS:
            raise InputError(f"edge_weights must be one of {', '.join(EDGE_WEIGHTS)}, got {self.edge_weights!r:.40}.")

    def as_dict(self) -> dict:
        """Plain values only, for JSON and for ``torch.load(weights_only=True)``."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "SupernetSettings":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def cell_type(self, layer: int) -> str:
        return REDUCTION if layer in self.reduction_layers else NORMAL

    @property
    def cell_types(self) -> list[str]:
        """Of the cells that the network has."""
        return sorted({self.cell_type(layer) for layer in range(self.layers)})


class Supernet(nn.Module):
    """Images (N, in_channels, H, W), uint8 or in [0, 1], -> logits (N, ways).

    Every cell sees the same number of channels, S = nodes * C, so that one meta-cell fits every place.
    """

    def __init__(self, settings: SupernetSettings, ways: int):
        super().__init__()
        self.settings = settings
        width = settings.nodes * settings.init_channels
        self.stem = nn.Sequential(
            nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False), BatchNorm(width, affine=True)
        )
        self.cells = nn.ModuleList(self._cell(layer) for layer in range(settings.layers))
        self.head = nn.Linear(width, ways)
        self.tracking = share_tracking(self)
        # Pools and convolutions are several times faster on a CPU with the channels last.
        self.to(memory_format=torch.channels_last)

    def _cell(self, layer: int) -> SearchCell:
        settings = self.settings
        places = {
            "reduction": layer in settings.reduction_layers,
            "after_reduction": layer - 1 in settings.reduction_layers,
        }
        if settings.partial_channels == 1:
            return SearchCell(settings.primitives, settings.init_channels, settings.nodes, **places)
        return PartialCell(
            settings.primitives, settings.init_channels, settings.nodes, **places, share=settings.partial_channels
        )

    def forward(
        self, images: torch.Tensor, mixtures: dict[str, Mixture], keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Args:
        mixtures: one for each cell type.
        keep: (layers, E, k, N) drop-path factors, see :meth:`SearchCell.forward`; None: nothing is dropped.
        """
        return self.head(self.features(images, mixtures, keep))

    def features(
        self, images: torch.Tensor, mixtures: dict[str, Mixture], keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the head reads, (N, S); see :meth:`forward`."""
        inputs = [[None, None] for _ in self.cells]
        states = self.stem_states(images)
        for layer, cell in enumerate(self.cells):
            readers = self.readers(layer - 1)
            convolved = convolve_states([self.cells[reader].inputs[side] for reader, side in readers], states)
            del states  # so that without a gradient only what is still to be read is alive
            for reader, side in reversed(readers):
                inputs[reader][side] = self.cells[reader].inputs[side].norm(convolved.pop())
            mixture = mixtures[self.settings.cell_type(layer)]
            states = cell(*inputs[layer], mixture, None if keep is None else keep[layer])
            inputs[layer] = None
        return pooled(states)

    def stem_states(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The stem's output, as the states of a cell's: nodes x (N, C, H, W)."""
        output = self.stem(unit_range(images.contiguous(memory_format=torch.channels_last)))
        return output.split(self.settings.init_channels, dim=1)

    def output_read_by(self, layer: int, side: int) -> int:
        """The cell whose output is cell ``layer``'s OLDER or NEWER input; the first cells read the STEM's."""
        return max(STEM, layer - (1 if side == NEWER else 2))

    def readers(self, layer: int) -> list[tuple[int, int]]:
        """The inputs that read the output of cell ``layer`` (or of the STEM), as (cell, OLDER or NEWER)."""
        inputs = [(cell, side) for cell in range(len(self.cells)) for side in (OLDER, NEWER)]
        return [(cell, side) for cell, side in inputs if self.output_read_by(cell, side) == layer]

    def draw_drop_path(self, images: int, probability: float, generator: torch.Generator) -> torch.Tensor:
        """Factors for :meth:`forward`, (layers, E, k, images): 0 with ``probability``, else 1 / (1 - probability).

        Each image and candidate is drawn for itself; the stride-1 skip is never dropped.
        """
        settings = self.settings
        edges = edge_list(settings.nodes)
        shape = (settings.layers, len(edges), len(settings.primitives), images)
        keep = (torch.rand(shape, generator=generator) >= probability) / (1 - probability)
        if "skip_connect" in settings.primitives:
            skip = settings.primitives.index("skip_connect")
            for layer, cell in enumerate(self.cells):
                unit_stride = [cell.sources[source].stride == 1 for source, _ in edges]
                keep[layer, unit_stride, skip] = 1.0
        return keep.to(self.head.weight.device)


def pooled(states: list[torch.Tensor]) -> torch.Tensor:
    """The head's features: the mean over pixels of an output's states (N, C, H, W), side by side as (N, S)."""
    return torch.cat([state.mean((2, 3)) for state in states], dim=1)
