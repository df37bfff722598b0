"""A supernet with tied cells as few, large convolutions: the same numbers up to rounding, for a GPU.

On a GPU a small convolution takes as long as a large one. So the copies of a candidate on all edges that leave a state
are one convolution of more channels; what is linear in a row is one convolution as well (depthwise and pointwise, and
at stride 1 also 1x5 and 5x1); and the scale of a candidate's BN is its weight in the node that it feeds. BN uses the
batch's own statistics and keeps none. All is PyTorch's own, in whatever precision torch.autocast asks for.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from models.search_cell import SearchCell, edge_list
from models.supernet import Supernet
from models.tied_cells import TiedCells

SEPARABLE = ("conv_3x3", "dil_conv_3x3", "sep_conv_3x3")
KNOWN = {"max_pool_3x3", "avg_pool_3x3", "skip_connect", "conv_1x5_5x1", *SEPARABLE}
Kernels = dict[str, torch.Tensor]


class DenseSupernet:
    """Callable: images (N, in_channels, H, W) and coefficients (E, k) by cell type -> logits (N, ways).

    Args:
        tied: the supernet's cells, whose parameters it uses.

    Raises:
        ValueError: the supernet has candidates that this does not know, or partial channels.
    """

    def __init__(self, supernet: Supernet, tied: TiedCells):
        settings = supernet.settings
        if not set(settings.primitives) <= KNOWN or settings.partial_channels > 1:
            raise ValueError("only the few-shot candidates, of all channels, are known as dense convolutions")
        self.supernet, self.parameters = supernet, tied.parameters
        self.primitives, self.nodes = settings.primitives, settings.nodes

    def __call__(self, images: torch.Tensor, coefficients: dict[str, torch.Tensor]) -> torch.Tensor:
        supernet = self.supernet
        with torch.autocast(images.device.type, enabled=False):
            kernels = [self._kernels(source) for source in range(self.nodes + 1)]
        convolution, norm = supernet.stem
        x = F.conv2d(images.contiguous(memory_format=torch.channels_last), convolution.weight, padding=1)
        older = newer = F.relu(_norm(x, norm.weight, norm.bias))
        for layer, cell in enumerate(supernet.cells):
            output = self._cell(cell, older, newer, kernels, coefficients[supernet.settings.cell_type(layer)])
            older, newer = newer, F.relu(output)
        with torch.autocast(images.device.type, enabled=False):
            return supernet.head(output.float().mean((2, 3)))

    def _kernels(self, source: int) -> Kernels:
        """Those of the candidates that leave a state, the nodes that it feeds side by side: (n * C, C, h, w)."""
        nodes, kernels = range(max(0, source - 1), self.nodes), {}
        for name in self.primitives:
            paths = [f"sources.{source}.to_node.{node}.{name}" for node in nodes]

            def layer(index: int | str, paths: list[str] = paths) -> list[nn.Parameter]:
                return [self.parameters[f"{path}.{index}.weight"] for path in paths]

            if name in SEPARABLE:
                kernels[name] = torch.cat(_composed(layer(0), layer(1)))
            if name == "sep_conv_3x3":
                kernels["sep_conv_3x3, second"] = _side_by_side(_composed(layer(4), layer(5)))
            if name == "conv_1x5_5x1":
                rows, columns = torch.stack(layer(0))[..., 0, :], torch.stack(layer(1))[..., 0]
                kernels["5x5"] = torch.einsum("nomy,nmcx->nocyx", columns, rows).flatten(0, 1)
                kernels["1x5"], kernels["5x1"] = torch.cat(layer(0)), _side_by_side(layer(1))
            if name == "skip_connect" and f"{paths[0]}.first.weight" in self.parameters:
                pairs = zip(layer("first"), layer("second"), strict=True)
                kernels[name] = torch.cat([half for pair in pairs for half in pair])
        return kernels

    def _cell(
        self, cell: SearchCell, older: torch.Tensor, newer: torch.Tensor, kernels: list[Kernels], weights: torch.Tensor
    ) -> torch.Tensor:
        """A cell's output (N, nodes * C, H', W') from ReLU of the two before it."""
        if cell.after_reduction:
            reader = cell.older_reduction
            first = _reduced(older, torch.cat([reader.first.weight, reader.second.weight]), 1)
        else:
            first = F.conv2d(older, cell.older_projection[0].weight)
        states = [_norm(first), _norm(F.conv2d(newer, cell.newer_projection[0].weight))]
        edges, total = edge_list(self.nodes), None
        for source in range(self.nodes + 1):
            if source >= 2:  # the first of the sums is complete: a node
                node, *rest = total.split([cell.channels, total.shape[1] - cell.channels], dim=1)
                states.append(node)
                (total,) = rest
            rows = torch.stack([weights[edges.index((source, node))] for node in range(max(0, source - 1), self.nodes)])
            part = self._source(states[source], kernels[source], rows, cell.stride if source < 2 else 1)
            total = part if total is None else total + part
        return torch.cat([*states[2:], total], dim=1)

    def _source(self, state: torch.Tensor, kernels: Kernels, rows: torch.Tensor, stride: int) -> torch.Tensor:
        """What leaves a state for the n nodes that it feeds, (N, n * C, H', W').

        Args:
            rows: (n, k), the weights of the candidates in each node.
        """
        activated, channels = F.relu(state), state.shape[1]
        terms, shared, shared_weights = [], [], []
        for name, weight in zip(self.primitives, rows.unbind(1), strict=True):
            if name == "max_pool_3x3":
                shared.append(_norm(F.max_pool2d(state, 3, stride, 1)))
            elif name == "avg_pool_3x3":
                shared.append(_norm(F.avg_pool2d(state, 3, stride, 1, count_include_pad=False)))
            elif name == "skip_connect" and stride == 1:
                shared.append(state)
            else:
                scale = weight[:, None].expand(-1, channels).flatten()
                terms.append(_norm(self._convolved(name, activated, kernels, stride), scale))
                continue
            shared_weights.append(weight)
        if shared:  # the same for each node, but for its weight: a convolution with constants
            constants = torch.kron(torch.stack(shared_weights, 1), torch.eye(channels, device=rows.device))
            terms.append(F.conv2d(torch.cat(shared, dim=1), constants[..., None, None]))
        return sum(terms[1:], terms[0])

    def _convolved(self, name: str, x: torch.Tensor, kernels: Kernels, stride: int) -> torch.Tensor:
        """What the last BN of a candidate normalises."""
        if name == "skip_connect":
            return _reduced(x, kernels[name], len(kernels[name]) // x.shape[1])
        if name == "conv_1x5_5x1" and stride == 1:
            return F.conv2d(x, kernels["5x5"], padding=2)
        if name == "conv_1x5_5x1":  # the stride of the rows lies between the two
            return F.conv2d(F.conv2d(x, kernels["1x5"], None, stride, (0, 2)), kernels["5x1"], padding=(2, 0))
        if name == "dil_conv_3x3":  # without dilation, which few of the fast kernels know
            return F.conv2d(x, _spread(kernels[name]), None, stride, 2)
        x = F.conv2d(x, kernels[name], None, stride, 1)
        return x if name == "conv_3x3" else F.conv2d(F.relu(_norm(x)), kernels["sep_conv_3x3, second"], padding=1)


def _norm(x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True)


def _composed(depthwise: Iterable[torch.Tensor], pointwise: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Depthwise kernels (C, 1, h, w), then pointwise ones (O, C, 1, 1), as one (O, C, h, w) each."""
    return [second * first[:, 0] for first, second in zip(depthwise, pointwise, strict=True)]


def _side_by_side(kernels: list[torch.Tensor]) -> torch.Tensor:
    """n kernels (O, C, h, w), each of its own channels, as one (n * O, n * C, h, w)."""
    stacked = torch.stack(kernels)
    own = torch.eye(len(kernels), device=stacked.device)[:, None, :, None, None, None]
    return (stacked[:, :, None] * own).flatten(2, 3).flatten(0, 1)


def _spread(kernel: torch.Tensor) -> torch.Tensor:
    """A kernel of 3x3 and dilation 2 as one of 5x5."""
    wide = kernel.new_zeros(*kernel.shape[:2], 5, 5)
    wide[:, :, ::2, ::2] = kernel
    return wide


def _reduced(x: torch.Tensor, kernel: torch.Tensor, copies: int) -> torch.Tensor:
    """FactorizedReduces side by side, before BN; see models.operations.FactorizedReduce.

    Args:
        kernel: (copies * C, C_in, 1, 1), of each copy the first half, then the second, which is one pixel further.
    """
    if x.shape[2] % 2 and x.shape[3] % 2:
        return F.conv2d(x[:, :, ::2, ::2], kernel)
    right, down = 1 - x.shape[3] % 2, 1 - x.shape[2] % 2
    wide = kernel.new_zeros(*kernel.shape[:2], 2, 2).unflatten(0, (copies, 2, -1))
    first, second = kernel.unflatten(0, (copies, 2, -1)).unbind(1)
    wide[:, 0, :, :, :1, :1] = first
    wide[:, 1, :, :, down : down + 1, right : right + 1] = second
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return F.conv2d(x, wide.flatten(0, 2), None, 2)
