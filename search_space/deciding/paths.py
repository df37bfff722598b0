"""One path through the cells of a type: a pair of inputs for each node and a candidate for each edge, drawn at random.

A draw is the largest of logits with Gumbel noise. Its weights are ones, so that the operations learn to work alone;
their gradient is that of the Gumbel softmax (straight-through, Jang et al. 2017; for a search, Dong & Yang 2019).
"""

import torch
from torch.nn import functional as F

from models.search_cell import Mixture
from search_space.architecture import Architecture, gumbel_noise, input_pairs


def draw_paths(
    architecture: Architecture, cell_types: list[str], temperature: float, generator: torch.Generator
) -> dict[str, Mixture]:
    """A path for each cell type, differentiable in alpha and beta."""
    return {cell_type: _draw_path(architecture, cell_type, temperature, generator) for cell_type in cell_types}


def _draw_path(architecture: Architecture, cell_type: str, temperature: float, generator: torch.Generator) -> Mixture:
    candidates = torch.stack([_draw(alpha, temperature, generator) for alpha in architecture.alpha[cell_type]])
    pairs = [_draw(beta, temperature, generator) for beta in architecture.beta[cell_type]]
    edges = torch.cat(pairs) @ architecture.holds
    chosen = [input_pairs(node)[int(pair.argmax())] for node, pair in enumerate(pairs)]
    run = [
        (row.bool() & (source in chosen[node])).tolist()
        for row, (source, node) in zip(candidates.detach().round(), architecture.edges, strict=True)
    ]
    return Mixture(edges[:, None] * candidates, run, run)


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """One of the logits, as a vector of zeros and a one whose gradient is that of the Gumbel softmax."""
    soft = torch.softmax((logits + gumbel_noise(logits.shape, generator).to(logits)) / temperature, 0)
    hard = F.one_hot(soft.argmax(), len(soft)).to(soft)
    return hard - soft.detach() + soft
