"""The discrete network of a genotype: two edges a node, one operation an edge (DARTS, with the shapes of On-NAS)."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.batch_norm import BatchNorm, norms_of, share_tracking
from models.operations import CANDIDATES, FactorizedReduce, Projection, Skip, has_parameters
from models.search_cell import NEWER, OLDER, SearchCell, convolve_states
from models.supernet import STEM, Supernet, check_cells, check_size, pooled
from models.textbook_norm import exchange_norms
from utils.errors import InputError

Edges = tuple[tuple[str, int], ...]
LOGITS, AUXILIARY = "logits", "auxiliary"  # the two heads, as readers of a cell's output


@dataclass(frozen=True)
class DerivedSettings:
    """What is needed to build a derived network.

    channels: C, of each node.
    normal, reduce: a cell's edges as (operation, input), two a node; input 0 and 1 are the cell's inputs, ``i + 2`` is
        node ``i``. The two of a node differ in their input, so node 0 reads both inputs, and all that is built is used.
    auxiliary: in training a second head helps, after the cell at two thirds of the depth.
    """

    in_channels: int
    channels: int
    layers: int
    reduction_layers: tuple[int, ...]
    normal: Edges
    reduce: Edges
    auxiliary: bool = False

    def __post_init__(self):
        check_size("in_channels", self.in_channels, 1, 64)
        check_cells("--derived_channels", self.channels, "--derived_layers", self.layers, self.reduction_layers)

    @property
    def nodes(self) -> int:
        return len(self.normal) // 2

    def edges(self, layer: int) -> Edges:
        return self.reduce if layer in self.reduction_layers else self.normal


class DerivedCell(nn.Module):
    """One cell: its two inputs (N, C, H, W) -> the states of its nodes, (N, C, H', W') each, never concatenated.

    ``inputs`` read the outputs of the two cells before.

    Args:
        edges: (operation, input), two a node.
        channels: C, of each node.
        reduction: stride 2 on the edges from the two inputs.
        after_reduction: the cell before this one is a reduction, so the older input is twice as large.
    """

    def __init__(self, edges: Edges, channels: int, reduction: bool, after_reduction: bool):
        super().__init__()
        self.edges = edges
        width = len(edges) // 2 * channels
        older = FactorizedReduce if after_reduction else Projection
        self.inputs = nn.ModuleList([older(width, channels), Projection(width, channels)])
        strides = [2 if reduction and source < 2 else 1 for _, source in edges]
        self.operations = nn.ModuleList(
            CANDIDATES[name](channels, stride) for (name, _), stride in zip(edges, strides, strict=True)
        )
        self.takes_relu = [has_parameters(operation) for operation in self.operations]

    def forward(self, older: torch.Tensor, newer: torch.Tensor, keep: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Args:
        older, newer: states 0 and 1, what ``inputs`` made of the outputs of cells c-2 and c-1.
        keep: (2 * nodes, N) drop-path factors, 0 or 1 / (1 - p); None: nothing is dropped.
        """
        states = [older, newer] + [None] * (len(self.edges) // 2)
        # By the state that an edge leaves: so one ReLU serves all its edges, and is freed before the next state's.
        for source, state in enumerate(states):
            leaving = [edge for edge, (_, start) in enumerate(self.edges) if start == source]
            activated = F.relu(state) if any(self.takes_relu[edge] for edge in leaving) else None
            for edge in leaving:
                output = self.operations[edge](activated if self.takes_relu[edge] else state)
                if keep is not None:
                    output = output * keep[edge, :, None, None, None]
                node = edge // 2 + 2
                states[node] = output if states[node] is None else states[node] + output
        return states[2:]

    def inherit(self, cell: SearchCell) -> None:
        """Takes the weights and statistics of a search cell in the same place."""
        for own, searched in zip(self.inputs, cell.inputs, strict=True):
            _inherit(own, searched)
        for edge, (name, source) in enumerate(self.edges):
            leaving = cell.sources[source]
            candidates = leaving.shared if name in leaving.shared else leaving.to_node[str(edge // 2)]
            _inherit(self.operations[edge], candidates[name])


def _inherit(module: nn.Module, searched: nn.Module) -> None:
    """Copies a module of the supernet. Where its BN has no affine parameters, those here become one and zero."""
    for norm in norms_of(module):
        norm.reset_parameters()
    module.load_state_dict(module.state_dict() | searched.state_dict())


class AuxiliaryHead(nn.Sequential):
    """DARTS's, on 2x2 averages: (N, S, 2, 2) -> logits (N, ways)."""

    def __init__(self, width: int, ways: int):
        super().__init__(
            nn.Conv2d(width, 128, 1, bias=False),
            BatchNorm(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            BatchNorm(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, ways),
        )


class DerivedNetwork(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, ways); the stem, the cells' shapes and the head are the supernet's.

    Every BN has affine parameters.
    """

    def __init__(self, settings: DerivedSettings, ways: int):
        super().__init__()
        self.settings = settings
        width = settings.nodes * settings.channels
        self.stem = nn.Sequential(
            nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False), BatchNorm(width, affine=True)
        )
        self.cells = nn.ModuleList(
            DerivedCell(
                settings.edges(layer),
                settings.channels,
                reduction=layer in settings.reduction_layers,
                after_reduction=layer - 1 in settings.reduction_layers,
            )
            for layer in range(settings.layers)
        )
        self.head = nn.Linear(width, ways)
        self.auxiliary_head = AuxiliaryHead(width, ways) if settings.auxiliary else None
        # The candidates of a search come without.
        exchange_norms(self, lambda norm: BatchNorm(norm.num_features, affine=True))
        self.tracking = share_tracking(self)
        self.to(memory_format=torch.channels_last)

    output_read_by = Supernet.output_read_by
    readers = Supernet.readers

    @property
    def parameter_count(self) -> int:
        """Of what runs at test time, which the auxiliary head does not."""
        parts = (self.stem, self.cells, self.head)
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    def forward(
        self, images: torch.Tensor, keep: torch.Tensor | None = None, step_by_step: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Args:
            keep: (layers, 2 * nodes, N) drop-path factors, see :meth:`draw_drop_path`; None: nothing is dropped.
            step_by_step: for the gradient a cell is run again, so that one cell's activations exist at a time.

        Returns:
            Logits; in training with an auxiliary head a pair, with its logits.
        """
        read = {}
        for layer in range(STEM, len(self.cells)):
            arriving = [images] if layer == STEM else [read.pop((layer, side)) for side in (OLDER, NEWER)]
            factors = None if keep is None or layer == STEM else keep[layer]
            if step_by_step:
                read |= checkpoint(
                    self._stage,
                    layer,
                    factors,
                    *arriving,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=lambda: (nullcontext(), self.tracking.paused()),
                )
            else:
                read |= self._stage(layer, factors, *arriving)
        logits = self.head(read[LOGITS])
        return (logits, self.auxiliary_head(read[AUXILIARY])) if AUXILIARY in read else logits

    def _stage(self, layer: int, keep: torch.Tensor | None, *arriving: torch.Tensor) -> dict:
        """Runs a cell, or the STEM, and all that reads its output: {reader: what it made of it}.

        So an output is never kept for the cell after the next. A reader is (cell, OLDER or NEWER), LOGITS or AUXILIARY.
        """
        if layer == STEM:
            states = self.stem(*arriving).split(self.settings.channels, dim=1)
        else:
            states = self.cells[layer](*arriving, keep)
        read = {}
        if self.training and self.settings.auxiliary and layer == 2 * len(self.cells) // 3:
            read[AUXILIARY] = torch.cat([F.adaptive_avg_pool2d(F.relu(state), 2) for state in states], dim=1)
        if layer == len(self.cells) - 1:
            return read | {LOGITS: pooled(states)}
        readers = {(cell, side): self.cells[cell].inputs[side] for cell, side in self.readers(layer)}
        convolved = convolve_states(list(readers.values()), states)
        del states  # so that without a gradient only what is still to be read is alive
        return read | {name: reader.norm(convolved.pop(0)) for name, reader in readers.items()}

    def draw_drop_path(self, images: int, probability: float, generator: torch.Generator) -> torch.Tensor:
        """Factors for :meth:`forward`, (layers, 2 * nodes, images): 0 with ``probability``, else 1 / (1 - probability).

        Each image and edge is drawn for itself; the stride-1 skip is never dropped.
        """
        shape = (len(self.cells), 2 * self.settings.nodes, images)
        keep = (torch.rand(shape, generator=generator) >= probability) / (1 - probability)
        for layer, cell in enumerate(self.cells):
            keep[layer, [isinstance(operation, Skip) for operation in cell.operations]] = 1.0
        return keep.to(self.head.weight.device)

    def inherit(self, supernet: Supernet) -> None:
        """Takes stem, head, inputs and each kept operation of the supernet, their BN's statistics as well.

        It then gives what the supernet gives with all its weight on the genotype.

        Raises:
            InputError: the supernet is of another size, or its candidates see a part of the channels.
        """
        own, searched = self.settings, supernet.settings
        if searched.partial_channels > 1:
            raise InputError("--inherit_weights 1 needs candidates that see all channels, not --partial_channels.")
        sizes = [
            (size.layers, size.nodes, sorted(size.reduction_layers), channels)
            for size, channels in ((own, own.channels), (searched, searched.init_channels))
        ]
        if sizes[0] != sizes[1]:
            raise InputError(
                "--inherit_weights 1 needs the searched network's size: leave out --derived_channels and "
                f"--derived_layers, or give {searched.init_channels} and {searched.layers}."
            )
        _inherit(self.stem, supernet.stem)
        _inherit(self.head, supernet.head)
        for cell, searched_cell in zip(self.cells, supernet.cells, strict=True):
            cell.inherit(searched_cell)
