"""Several copies of a supernet side by side in the channels, each with weights of its own, run and trained as one.

T tasks of N images each are N images of T times the channels: a convolution becomes a grouped one, a pool stays what it
is, and BN's statistics, which are of a channel, are of a task by themselves. So T small tasks cost the calls of one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.search_cell import NEWER, OLDER, Mixture, Source, edge_list
from models.supernet import STEM, Supernet

EPSILON = 1e-5  # of BN
Candidates = list[list[list[bool]]]


@dataclass(frozen=True)
class BatchedMixture:
    """How the cells of one type of T tasks mix their candidates, E edges of k candidates each.

    coefficients: (E, k, T), zero for a candidate that its task does not run.
    active: T times E lists of k booleans, as in :class:`Mixture`.
    """

    coefficients: torch.Tensor
    active: Candidates

    @classmethod
    def of(cls, mixtures: list[Mixture]) -> "BatchedMixture":
        """Of one mixture for each task, of which every active candidate is trained."""
        active = [mixture.active for mixture in mixtures]
        coefficients = torch.stack([mixture.coefficients for mixture in mixtures], dim=-1)
        mixture = cls(coefficients, active)
        if mixture.runs_everything():
            return mixture
        mask = torch.tensor(active, device=coefficients.device).permute(1, 2, 0)
        return cls(torch.where(mask, coefficients, 0.0), active)

    def runs_everything(self) -> bool:
        """Whether no task has pruned a candidate."""
        return all(value for task in self.active for edge in task for value in edge)

    def is_run(self, edge: int, candidate: int) -> bool:
        """Whether a task runs it: then all do."""
        return any(task[edge][candidate] for task in self.active)

    def weights(self, keep: torch.Tensor | None) -> list[list[torch.Tensor]]:
        """E lists of k tensors (N, T), or (1, T) without drop-path factors ``keep`` (E, k, N, T)."""
        weights = self.coefficients[:, :, None]
        return [row.unbind() for row in (weights if keep is None else weights * keep).unbind()]


class Term(NamedTuple):
    """What one candidate adds to a node: ``weight * (output - mean) * scale``.

    output: (N, T*C, H, W). mean, scale: (T*C,), BN's; None: it is not normalised. weight: (N or 1, T).
    """

    output: torch.Tensor
    mean: torch.Tensor | None
    scale: torch.Tensor | None
    weight: torch.Tensor


def grouped(x: torch.Tensor, weight: torch.Tensor, stride=1, padding=0) -> torch.Tensor:
    """Each task's convolution: x (N, T*C, H, W), weight (T, C_out, C_in, h, w) -> (N, T*C_out, H', W')."""
    return F.conv2d(x, weight.flatten(0, 1), None, stride, padding, groups=x.shape[1] // weight.shape[2])


def dilated(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A depthwise convolution of dilation 2: an ordinary one of every second pixel, which is several times faster.

    With stride 1 the four images of every second row and column go through it side by side.
    """
    padding = weight.shape[-1] // 2
    if stride == 2:
        return grouped(x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), weight, padding=padding)
    n, c, height, width = x.shape
    x = F.pad(x, (0, width % 2, 0, height % 2))
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    x = x.permute(0, 2, 3, 1).reshape(n, rows, 2, columns, 2, c)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(4 * n, rows, columns, c).permute(0, 3, 1, 2)
    x = grouped(x, weight, padding=padding).permute(0, 2, 3, 1).reshape(n, 2, 2, rows, columns, c)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(n, 2 * rows, 2 * columns, c).permute(0, 3, 1, 2)
    return x[:, :, :height, :width]


def halved(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """What FactorizedReduce normalises: its two halves side by side within each task."""
    tasks = len(first)
    row, column = (1 - size % 2 for size in x.shape[-2:])
    halves = [
        grouped(pixels.contiguous(memory_format=torch.channels_last), weight).permute(0, 2, 3, 1)
        for pixels, weight in ((x[:, :, ::2, ::2], first), (x[:, :, row::2, column::2], second))
    ]
    joined = torch.cat([half.unflatten(-1, (tasks, -1)) for half in halves], dim=-1)
    return joined.flatten(-2).permute(0, 3, 1, 2)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """BN by the batch's statistics, without affine parameters."""
    return F.batch_norm(x, None, None, training=True, eps=EPSILON)


def separable(x: torch.Tensor, depthwise: torch.Tensor, pointwise: torch.Tensor, stride: int) -> torch.Tensor:
    return grouped(grouped(x, depthwise, stride, depthwise.shape[-1] // 2), pointwise)


def body(name: str, weights: list[torch.Tensor], x: torch.Tensor, stride: int) -> torch.Tensor:
    """What the last BN of a candidate with parameters normalises; see models/operations.py."""
    if name == "skip_connect":
        return halved(x, *weights)
    if name == "conv_1x5_5x1":
        return grouped(grouped(x, weights[0], stride, (0, 2)), weights[1], padding=(2, 0))
    if name.startswith("dil_conv"):
        return grouped(dilated(x, weights[0], stride), weights[1])
    if name.startswith("conv"):
        return separable(x, *weights, stride)
    return separable(F.relu(normalised(separable(x, *weights[:2], stride))), *weights[2:], 1)


def pooled(name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
    if name == "max_pool_3x3":
        return F.max_pool2d(x, 3, stride, padding=1)
    return F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


@torch.no_grad()
def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each channel's mean and BN's scale, both (T*C,). The variance is of what is centred: that is exact."""
    pixels = x.numel() // x.shape[1]
    mean = x.sum((0, 2, 3)).div_(pixels)
    variance = (x - mean[:, None, None]).square_().sum((0, 2, 3)).div_(pixels)
    return mean, variance.add_(EPSILON).rsqrt_()


def _pixel_sums(gradient: torch.Tensor, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums over pixels of the gradient times each output, (N, T*C)."""
    if torch.compiler.is_compiling():  # product and sum become one
        return [(gradient * output).sum((2, 3)) for output in outputs]
    product = torch.empty_like(gradient)  # one for all terms: fresh memory costs more than multiplying
    return [torch.mul(gradient, output, out=product).sum((2, 3)) for output in outputs]


def _added(total: torch.Tensor, output: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``total + output * factor``, in the memory of ``total``, which is used up."""
    if torch.compiler.is_compiling():  # it takes a wrong gradient of a Function that writes in place
        return torch.addcmul(total, output, factor)
    return total.addcmul_(output, factor)


class _Mix(torch.autograd.Function):
    """The sum of K terms, BN included: its two passes over the pixels are those of adding the term up.

    K outputs o_k with statistics (mean_k, scale_k) and weights w_k, by image n and channel c, make
    ``sum_k w_k scale_k (o_k - mean_k)``. Of the node's gradient g each term takes, per image and channel, its sum over
    pixels and that of g * o_k, and from these follow the gradients of the weight and of BN.
    """

    @staticmethod
    def forward(ctx, weights, means, scales, of_batch, *outputs):
        """Args:
        weights: (K, N or 1, T). means, scales: (K, T*C). of_batch: K booleans, whether they are the batch's.
        """
        channels = means.shape[1] // weights.shape[2]
        factors = weights.repeat_interleave(channels, dim=2) * scales[:, None]
        constant = -(factors * means[:, None]).sum(0)[..., None, None]
        node = None
        for output, factor in zip(outputs, factors[..., None, None].unbind(), strict=True):
            node = torch.addcmul(constant, output, factor) if node is None else _added(node, output, factor)
        ctx.save_for_backward(weights, means, scales, *outputs)
        ctx.of_batch = of_batch
        return node

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        weights, means, scales, *outputs = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        tasks, pixels = weights.shape[2], gradient.numel() // gradient.shape[1]
        means, scales = means[:, None], scales[:, None]
        sums = gradient.sum((2, 3))
        along = torch.stack(_pixel_sums(gradient, outputs))
        along = (along - means * sums) * scales  # of the gradient times what BN makes of the output
        of_weights = None
        if ctx.needs_input_grad[0]:
            of_weights = along.unflatten(2, (tasks, -1)).sum(3).sum_to_size(weights.shape)
        wide = weights.repeat_interleave(gradient.shape[1] // tasks, dim=2)
        factors = wide * scales
        # BN takes the gradient's mean and its component along the output away.
        slope = (wide * along).sum(1, keepdim=True) * (-scales.square() / pixels)
        shift = (wide * sums).sum(1, keepdim=True) * (-scales / pixels) - slope * means
        of_outputs = []
        for number, output in enumerate(outputs):
            if not ctx.needs_input_grad[4 + number]:
                of_outputs.append(None)
                continue
            factor = factors[number, ..., None, None]
            if not ctx.of_batch[number]:
                of_outputs.append(gradient * factor)
                continue
            result = torch.addcmul(shift[number, ..., None, None], gradient, factor)
            of_outputs.append(_added(result, output, slope[number, ..., None, None]))
        return of_weights, None, None, None, *of_outputs


def mix(terms: list[Term]) -> torch.Tensor:
    """A node (N, T*C, H, W)."""
    zero = torch.zeros_like(terms[0].output[0, :, 0, 0])
    means = torch.stack([zero if term.mean is None else term.mean for term in terms])
    scales = torch.stack([zero + 1 if term.scale is None else term.scale for term in terms])
    of_batch = [term.mean is not None for term in terms]
    return _Mix.apply(torch.stack([term.weight for term in terms]), means, scales, of_batch, *(t.output for t in terms))


class BatchedSupernet:
    """T copies of a supernet side by side: images (T, N, in_channels, H, W) -> logits (T, N, ways).

    BN is by the batch's statistics, and no running ones are kept.

    Args:
        supernet: what is copied; its structure is used from then on, and not its parameters.

    Attributes:
        weights: {name of a parameter of the supernet: (T, *shape)}.

    Raises:
        ValueError: the candidates see a part of the channels.
    """

    def __init__(self, supernet: Supernet, tasks: int):
        if supernet.settings.partial_channels > 1:
            raise ValueError("tasks side by side do not know partial channels")
        self.supernet = supernet
        self.tasks = tasks
        self.weights = {
            name: torch.stack([parameter.detach()] * tasks).contiguous().requires_grad_()
            for name, parameter in supernet.named_parameters()
        }
        self._places = [self._place(name) for name in self.weights]

    @torch.no_grad()
    def copy_to_supernet(self, task: int) -> None:
        """Writes a task's weights into the supernet that this was made of."""
        for name, parameter in self.supernet.named_parameters():
            parameter.copy_(self.weights[name][task])

    def reached_weights(self, mixtures: dict[str, BatchedMixture]) -> list[list[bool]]:
        """For each of ``weights`` T booleans: whether the task's part gets a gradient."""
        reached = [self._reached(task, mixtures) for task in range(self.tasks)]
        return [[place in places for places in reached] for place in self._places]

    def reached_types(self, task: int, mixtures: dict[str, BatchedMixture]) -> set[str]:
        """The cell types whose alpha and beta get a gradient of a task."""
        candidates = [place for place in self._reached(task, mixtures) if len(place) == 3]
        return {self.supernet.settings.cell_type(layer) for layer, _edge, _candidate in candidates}

    def _reached(self, task: int, mixtures: dict[str, BatchedMixture]) -> set[tuple]:
        """The places that a task's gradient gets to: not beyond an input that only pruned candidates read."""
        settings, places = self.supernet.settings, {("head",)}
        outputs = {settings.layers - 1}
        for layer in range(settings.layers - 1, STEM, -1):
            if layer not in outputs:
                continue
            active = mixtures[settings.cell_type(layer)].active[task]
            for edge, (source, _) in enumerate(edge_list(settings.nodes)):
                run = [op for op, name in enumerate(settings.primitives) if active[edge][op] and name != "none"]
                places |= {(layer, edge, op) for op in run}
                if run and source in (OLDER, NEWER):
                    places.add((layer, source))
                    outputs.add(self.supernet.output_read_by(layer, source))
        return places | {("stem",)} if STEM in outputs else places

    def _place(self, name: str) -> tuple:
        """Where a parameter is: (layer, edge, candidate), (layer, OLDER or NEWER), ("stem",) or ("head",)."""
        part, *rest = name.split(".")
        if part != "cells":
            return (part,)
        layer, kind, *rest = rest
        if kind != "sources":
            return int(layer), OLDER if kind.startswith("older") else NEWER
        source, _, node, primitive, *_ = rest
        settings = self.supernet.settings
        edge = edge_list(settings.nodes).index((int(source), int(node)))
        return int(layer), edge, settings.primitives.index(primitive)

    def __call__(
        self, images: torch.Tensor, mixtures: dict[str, BatchedMixture], keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Args:
        mixtures: one for each cell type.
        keep: (layers, E, k, N, T) drop-path factors, see :meth:`Supernet.draw_drop_path`; None: nothing is dropped.
        """
        net = self.supernet
        inputs = [[None, None] for _ in net.cells]
        states = self._stem_states(images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last))
        for layer in range(len(net.cells)):
            activated = [F.relu(state) for state in states]
            for reader, side in net.readers(layer - 1):
                inputs[reader][side] = self._read(reader, side, activated)
            mixture = mixtures[net.settings.cell_type(layer)]
            states = self._cell(layer, *inputs[layer], mixture, mixture.weights(None if keep is None else keep[layer]))
            inputs[layer] = None
        features = torch.cat([state.mean((2, 3)).unflatten(1, (self.tasks, -1)) for state in states], dim=2)
        return torch.baddbmm(
            self.weights["head.bias"][:, None], features.transpose(0, 1), self.weights["head.weight"].transpose(1, 2)
        )

    def _stem_states(self, images: torch.Tensor) -> list[torch.Tensor]:
        """nodes x (N, T*C, H, W)."""
        channels = self.supernet.settings.init_channels
        convolution, scale, shift = (
            self.weights[f"stem.{name}"].split(channels, dim=1) for name in ("0.weight", "1.weight", "1.bias")
        )
        return [
            torch.addcmul(
                shift[index].reshape(-1, 1, 1),
                normalised(grouped(images, convolution[index], padding=1)),
                scale[index].reshape(-1, 1, 1),
            )
            for index in range(len(convolution))
        ]

    def _read(self, layer: int, side: int, activated: list[torch.Tensor]) -> torch.Tensor:
        """A cell's input from the ReLU of the states of the output that it reads."""
        channels = self.supernet.settings.init_channels
        if side == OLDER and self.supernet.cells[layer].after_reduction:
            names, convolve = ("older_reduction.first.weight", "older_reduction.second.weight"), halved
        else:
            names = (f"{'older' if side == OLDER else 'newer'}_projection.0.weight",)
            convolve = grouped
        columns = zip(*(self.weights[f"cells.{layer}.{name}"].split(channels, dim=2) for name in names), strict=True)
        total = None
        for state, weights in zip(activated, columns, strict=True):
            part = convolve(state, *weights)
            total = part if total is None else total.add_(part)
        return normalised(total)

    def _cell(self, layer: int, older, newer, mixture: BatchedMixture, weights) -> list[torch.Tensor]:
        """The states of a cell's nodes."""
        states = [older, newer]
        cell = self.supernet.cells[layer]
        terms: list[list[Term]] = [[] for _ in range(cell.nodes)]
        for index, source in enumerate(cell.sources):
            if index >= 2:
                states.append(self._node(terms[index - 2], older, cell.stride))
            self._push(f"cells.{layer}.sources.{index}", source, states[index], mixture, weights, terms)
        return [*states[2:], self._node(terms[-1], older, cell.stride)]

    def _push(self, prefix: str, source: Source, state, mixture: BatchedMixture, weights, terms) -> None:
        """Pushes a state through its candidates; each is a term of the node that it feeds."""
        activated = F.relu(state)
        for candidate, name in enumerate(source.primitives):
            edges = {edge: node for edge, node in source.edges.items() if mixture.is_run(edge, candidate)}
            if name == "none" or not edges:
                continue
            shared = self._shared(name, source, state)
            for edge, node in edges.items():
                output = shared
                if shared is None:
                    own = self._weights_of(f"{prefix}.to_node.{node}.{name}.")
                    output = _with_statistics(body(name, own, activated, source.stride))
                terms[node].append(Term(*output, weights[edge][candidate]))

    @staticmethod
    def _shared(name: str, source: Source, state: torch.Tensor) -> tuple | None:
        """What is the same on every edge that leaves a state, with its statistics; None: the candidate is not."""
        if name not in source.shared:
            return None
        return (state, None, None) if name == "skip_connect" else _with_statistics(pooled(name, state, source.stride))

    def _weights_of(self, prefix: str) -> list[torch.Tensor]:
        return [weight for name, weight in self.weights.items() if name.startswith(prefix)]

    def _node(self, terms: list[Term], older: torch.Tensor, stride: int) -> torch.Tensor:
        if terms:
            return mix(terms)
        n, c, height, width = older.shape  # as in SearchCell: without any candidate it is zero
        zeros = older.new_zeros(n, c, -(-height // stride), -(-width // stride))
        return zeros.contiguous(memory_format=torch.channels_last)


def _with_statistics(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    output = output.contiguous(memory_format=torch.channels_last)
    return output, *statistics(output)
