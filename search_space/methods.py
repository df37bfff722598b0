"""The ways to search (--search): On-NAS and what it is compared with. What is not a method's own idea they share."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search_space.normalizers import Normalizer
from search_space.settings import SearchSettings
from utils.errors import InputError

if TYPE_CHECKING:  # it takes torch, and the methods are named before torch is imported
    from models.supernet import SupernetSettings

# What takes the place of annealing and soft pruning: T is 1 from a task's start to its end.
PLAIN_SOFTMAX = Normalizer("softmax", anneal_mode="none", t_max=1.0, t_min=1.0)
NO_PRUNING = 0.0


@dataclass(frozen=True)
class Method:
    """One way to search.

    edge_weights: how a node weighs its inputs, one of models.supernet.EDGE_WEIGHTS.
    selects: only the chosen candidates and edge pairs get gradient.
    expects: they are chosen by their expected final value; otherwise uniformly.
    relaxes: temperature annealing and soft pruning, as in MetaNAS; otherwise a plain softmax of every candidate.
    separate_cells: the n cells have weights of their own in the checkpoint too.
    partial_channels: the candidates see a part of the channels.
    """

    edge_weights: str = "pairs"
    selects: bool = False
    expects: bool = False
    relaxes: bool = True
    separate_cells: bool = False
    partial_channels: bool = False


METHODS = {
    # Kim & Lee, SenSys 2023: selection by expectation, of candidates and of one edge pair a node.
    "onnas": Method(selects=True, expects=True),
    # The same with uniform sampling in the place of expectation, the paper's ablation.
    "random": Method(selects=True),
    # This supernet with a gradient for every candidate and pair, the "none" of the paper's memory figure.
    "full": Method(),
    # Elsken et al., CVPR 2020: soft pruning, and n cells meta-trained for themselves (tfml.py --cells separate).
    "metanas": Method(separate_cells=True),
    # Liu et al., ICLR 2019: a node is the sum of all its edges, each a softmax mixture; first or second order.
    "darts": Method(edge_weights="equal", relaxes=False),
    # Xu et al., ICLR 2020: partial channel connections and edge normalisation.
    "pcdarts": Method(edge_weights="edges", relaxes=False, partial_channels=True),
}


def network_of(name: str, network: "SupernetSettings") -> "SupernetSettings":
    """The supernet in which a method searches, given that of a meta-cell or of the flags.

    Raises:
        InputError: the method's supernet has other weights than such a one.
    """
    method = METHODS[name]
    if method.partial_channels and network.partial_channels == 1:
        raise InputError(
            f"--search {name} needs candidates that see a part of the channels: a meta-cell of tfml.py "
            "--partial_channels K, or, without a meta-cell, that flag here."
        )
    if network.partial_channels > 1 and not method.partial_channels:
        raise InputError(
            f"--search {name} needs candidates that see all channels: a meta-cell of tfml.py without "
            "--partial_channels, and no such flag here."
        )
    return replace(network, edge_weights=method.edge_weights)


def method_flags(name: str) -> dict[str, str | float]:
    """The flags that a method settles itself, by name, with the values that it takes."""
    if METHODS[name].relaxes:
        return {}
    return {
        "normalizer": PLAIN_SOFTMAX.name,
        "normalizer_temp_anneal_mode": PLAIN_SOFTMAX.anneal_mode,
        "normalizer_t_max": PLAIN_SOFTMAX.t_max,
        "normalizer_t_min": PLAIN_SOFTMAX.t_min,
        "alpha_prune_threshold": NO_PRUNING,
    }


def settings_of(name: str, settings: SearchSettings, sampleno: int, expects: bool, one_pair: bool) -> SearchSettings:
    """The settings of a method's search, given what all methods share.

    Args:
        sampleno, expects, one_pair: for the methods that select: candidates of an edge that get gradient; chosen by
            expectation, where the method does that; one edge pair a node gets gradient.
    """
    method = METHODS[name]
    if method.selects:
        settings = replace(settings, sampleno=sampleno, alpha_expect=expects and method.expects, beta_sampling=one_pair)
    if not method.relaxes:
        settings = replace(settings, normalizer=PLAIN_SOFTMAX, prune_threshold=NO_PRUNING)
    return settings
