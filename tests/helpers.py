"""What the tests share: tiny supernets, and the reference that they are held against.

The reference is a textbook DARTS supernet written from the definition: edge by edge, every candidate with its own
ReLU and BN, every pair sum built, every edge of partial channels joined and shuffled for itself. It borrows nothing
from the code under test but the names of the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from models.supernet import Supernet, SupernetSettings
from search_space.architecture import Architecture
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from search_space.task_search import TaskSearch
from tests.textbook_operations import Reduce, operation
from utils.draws import Draws

WAYS = 3
TYPES = ("normal", "reduction")


def tiny_settings(**changes) -> SupernetSettings:
    """Two cells of two nodes and two channels, the second a reduction, but for ``changes``."""
    settings = SupernetSettings(
        in_channels=1, init_channels=2, layers=2, nodes=2, reduction_layers=(1,), primitives=FEW_SHOT
    )
    return replace(settings, **changes)


def build_supernet(settings: SupernetSettings, ways: int, seed: int) -> tuple[Supernet, Architecture]:
    """The two parts of a search network."""
    network = SearchNetwork.build(settings, ways, seed)
    return network.supernet, network.architecture


def start_search(
    supernet: Supernet, architecture: Architecture, settings: SearchSettings, seed: int, purpose: str, index: int
) -> TaskSearch:
    """The search of a task on a network of these two parts."""
    return TaskSearch(SearchNetwork(supernet, architecture), settings, Draws(seed, purpose, index))


def changed(settings, **changes):
    """Settings with changes; ``schedule`` (its name), ``split_num`` and ``smallest`` are those of their schedule."""
    names = {"schedule": "name", "split_num": "split_num", "smallest": "smallest"}
    of_schedule = {name: changes.pop(key) for key, name in names.items() if key in changes}
    return replace(settings, schedule=replace(settings.schedule, **of_schedule), **changes)


def tiny_supernet(seed: int = 0, ways: int = WAYS, **changes) -> tuple[Supernet, Architecture]:
    """In float64, with alpha and beta far from uniform so that an error in a weight shows."""
    supernet, architecture = build_supernet(tiny_settings(**changes), ways, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for parameter in supernet.stem[1].parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return supernet.double(), architecture.double()


def random_images(number: int, size: tuple[int, int] = (6, 6), channels: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """(source, node) of each edge, in alpha's order."""
    return [(source, node) for node in range(nodes) for source in range(node + 2)]


def copy_parameters(*modules: nn.Module) -> list[dict[str, torch.Tensor]]:
    """For each module its parameters by name, as new leaves of a graph."""
    return [
        {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}
        for module in modules
    ]


# --- The reference --------------------------------------------------------------------------------------------------


@dataclass
class Mixing:
    """What decides a mixture, beside alpha and beta.

    keep: (layers, edges, candidates, images) drop-path factors.
    ops, pairs: what gets gradient, by cell type: a set of candidates for each edge, a pair for each node.
    normalize: logits -> probabilities; softmax(logits / temperature) if not given.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    keep: torch.Tensor | None = None
    ops: dict | None = None
    pairs: dict | None = None
    normalize: object = None
    probabilities: object = field(init=False)

    def __post_init__(self):
        self.probabilities = self.normalize or (lambda logits: torch.softmax(logits / self.temperature, -1))


def reference_norm(x: torch.Tensor) -> torch.Tensor:
    """BN by batch statistics, without affine parameters."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def _with_weights(build: Callable[[], nn.Module], weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What a module of these weights makes of ``x``, differentiable in both."""
    with torch.device("meta"):  # of its own it has none
        module = build()
    names = [name for name, _ in module.named_parameters()]
    return functional_call(module, dict(zip(names, weights, strict=True)), (x,))


def reference_reduce(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """ReLU - two 1x1 stride-2 convolutions, the second offset by one pixel along even sizes - BN."""
    return _with_weights(lambda: Reduce(x.shape[1], 2 * len(weights[0]), _batch_norm), weights, x)


def reference_operation(name: str, x: torch.Tensor, weights: list[torch.Tensor], stride: int) -> torch.Tensor:
    if name == "none":
        return torch.zeros_like(x[:, :, ::stride, ::stride])
    return _with_weights(lambda: operation(name, x.shape[1], stride, _batch_norm), weights, x)


def reference_groups(edge_weights: str, probabilities: torch.Tensor | None, inputs: int) -> list[tuple]:
    """What a node of so many inputs sums over: weights, each with the states that it is for."""
    if edge_weights == "equal":
        return [(1.0, (source,)) for source in range(inputs)]
    groups = combinations(range(inputs), 2) if edge_weights == "pairs" else ((source,) for source in range(inputs))
    return list(zip(probabilities, groups, strict=True))


def reference_partial(mixed: torch.Tensor, state: torch.Tensor, share: int, stride: int) -> torch.Tensor:
    """PC-DARTS's edge: the mixture of the first 1/share of the channels beside the others, then the channel shuffle.

    The others are pooled where the stride is 2, a window at the rim being smaller if a size is odd. Shuffling deals
    the channels out from ``share`` piles: the first of each pile, then the second of each.
    """
    passed = state[:, state.shape[1] // share :]
    if stride == 2:
        height, width = passed.shape[-2:]
        passed = F.max_pool2d(F.pad(passed, (0, width % 2, 0, height % 2), value=-torch.inf), 2)
    output = torch.cat([mixed, passed], 1)
    pile = output.shape[1] // share
    return output[:, [number * pile + place for place in range(pile) for number in range(share)]]


def reference_cell(parameters, prefix, older, newer, alphas, betas, settings, mixing, cell_type, layer, halve):
    """One cell, from the outputs of cells c-2 and c-1.

    Args:
        parameters: the supernet's by name; those of this cell start with ``prefix``.
        betas: one for each node; None where the edges' weights are equal.
        halve: the cell before is a reduction, so the older input is twice as large.
    """

    def weights(name: str) -> list[torch.Tensor]:
        return [tensor for key, tensor in parameters.items() if key.startswith(f"{prefix}{name}.")]

    if halve:
        older = reference_reduce(older, weights("older_reduction"))
    else:
        older = reference_norm(F.conv2d(F.relu(older), *weights("older_projection")))
    states = [older, reference_norm(F.conv2d(F.relu(newer), *weights("newer_projection")))]
    edge = 0
    for node, beta in enumerate(betas):
        terms, edges = [], []  # of each input: its candidates' terms p_o * o(x), and whether each is trained
        for source, state in enumerate(states):
            stride = 2 if cell_type == "reduction" and source < 2 else 1
            probabilities = mixing.probabilities(alphas[edge])
            in_pair = mixing.pairs is None or source in mixing.pairs[cell_type][node]
            here = []
            seen = state[:, : state.shape[1] // settings.partial_channels]
            for k, name in enumerate(settings.primitives):
                if probabilities[k] < mixing.threshold:
                    continue
                output = reference_operation(name, seen, weights(f"sources.{source}.to_node.{node}.{name}"), stride)
                if mixing.keep is not None:
                    output = output * mixing.keep[layer, edge, k].view(-1, 1, 1, 1)
                trained = in_pair and (mixing.ops is None or k in mixing.ops[cell_type][edge])
                here.append((probabilities[k], output, trained))
            if settings.partial_channels > 1:  # the edge as a whole: no choice is made of its candidates
                mixed = sum((p * output for p, output, _ in here), start=reference_operation("none", seen, [], stride))
                here = [(1.0, reference_partial(mixed, state, settings.partial_channels, stride), in_pair)]
            terms.append(here)
            edges.append(reference_operation("none", state, [], stride))
            edge += 1
        total = edges[0]
        of_groups = None if beta is None else mixing.probabilities(beta)
        for weight, group in reference_groups(settings.edge_weights, of_groups, len(states)):
            for source in group:
                for probability, output, trained in terms[source]:
                    term = weight * (probability * output)
                    total = total + (term if trained else term.detach())
        states.append(total)
    return torch.cat(states[2:], 1)


def reference_supernet(
    settings: SupernetSettings,
    parameters: dict[str, torch.Tensor],
    architecture: dict[str, torch.Tensor],
    images: torch.Tensor,
    mixing: Mixing | None = None,
) -> torch.Tensor:
    """Images -> logits. Both dictionaries hold parameters by name."""
    mixing = mixing or Mixing()
    stem = reference_norm(F.conv2d(images, parameters["stem.0.weight"], padding=1))
    stem = stem * parameters["stem.1.weight"].view(1, -1, 1, 1) + parameters["stem.1.bias"].view(1, -1, 1, 1)
    older = newer = stem
    for layer in range(settings.layers):
        cell_type = "reduction" if layer in settings.reduction_layers else "normal"
        output = reference_cell(
            parameters,
            f"cells.{layer}.",
            older,
            newer,
            [architecture[f"alpha.{cell_type}.{edge}"] for edge in range(len(edges_of(settings.nodes)))],
            [architecture.get(f"beta.{cell_type}.{node}") for node in range(settings.nodes)],
            settings,
            mixing,
            cell_type,
            layer,
            halve=layer - 1 in settings.reduction_layers,
        )
        older, newer = newer, output
    return F.linear(newer.mean((2, 3)), parameters["head.weight"], parameters["head.bias"])
