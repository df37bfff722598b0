"""What each way to search is: its supernet, its settings, and what of it gets gradient."""

from collections import Counter
from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch
from torch.nn import functional as F

from models.step_by_step import MicroBatch, step_by_step_backward
from search_space.architecture import Architecture
from search_space.flags.shared import AdaptationFlags
from search_space.methods import METHODS, method_flags, network_of, settings_of
from search_space.normalizers import AnnealedNormalizer, Normalizer
from search_space.selection import Selector
from search_space.settings import FASTEST, LEANEST, ORDINARY, SearchSettings
from tests.helpers import (
    TYPES,
    WAYS,
    changed,
    random_images,
    start_search,
    tiny_settings,
    tiny_supernet,
)
from utils.errors import InputError

SHARED = SearchSettings(
    epochs=4,
    architecture_epochs=3,
    batch_size=6,
    w_lr=0.01,
    alpha_lr=0.02,
    normalizer=Normalizer("gumbel_softmax", "linear", 2.0, 0.5),
    prune_threshold=0.03,
)
PARTIAL = {"init_channels": 4, "partial_channels": 2}

# --- Settings -------------------------------------------------------------------------------------------------------

PLAIN = {"normalizer": Normalizer("softmax", "none", 1.0, 1.0), "prune_threshold": 0.0}
CHANGES = {
    "onnas": {"sampleno": 3, "alpha_expect": True, "beta_sampling": True},
    "random": {"sampleno": 3, "alpha_expect": False, "beta_sampling": True},
    "full": {},
    "metanas": {},
    "darts": PLAIN,
    "pcdarts": PLAIN,
}


def test_every_method_has_its_settings_here():
    assert CHANGES.keys() == METHODS.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_settings_are_the_shared_ones_but_for_the_methods_own(name):
    assert settings_of(name, SHARED, sampleno=3, expects=True, one_pair=True) == replace(SHARED, **CHANGES[name])


@pytest.mark.parametrize("name", METHODS)
def test_flags_that_a_method_settles_say_what_it_takes(name):
    flags = method_flags(name)
    assert bool(flags) == (name in ("darts", "pcdarts"))
    if flags:
        assert AdaptationFlags(**flags).annealing() == PLAIN["normalizer"]
        assert flags["alpha_prune_threshold"] == PLAIN["prune_threshold"]


@pytest.mark.parametrize("name", ["onnas", "random"])
def test_selection_is_as_asked(name):
    settings = settings_of(name, SHARED, sampleno=1, expects=False, one_pair=False)
    assert (settings.sampleno, settings.alpha_expect, settings.beta_sampling) == (1, False, False)


@pytest.mark.parametrize("name", ["full", "metanas", "darts", "pcdarts"])
def test_methods_without_selection_give_gradient_to_everything(name):
    architecture = Architecture(2, 7, torch.Generator(), network_of(name, network_for(name)).edge_weights)
    choice = selector_of(name, architecture).choose(AnnealedNormalizer("softmax", 1.0, 0.0), 0.0, 1)
    assert (choice.ops, choice.pairs) == (None, None)


@pytest.mark.parametrize("name", ["darts", "pcdarts"])
@pytest.mark.parametrize("epoch", [0, 1, 9])
def test_darts_takes_a_plain_softmax_all_along(name, epoch):
    normalizer = settings_of(name, SHARED, 2, True, True).normalizer.annealed(epoch, 10)
    logits = torch.tensor([0.3, -2.0, 1.0])
    exponentials = [2.718281828459045**logit for logit in logits.tolist()]
    assert normalizer(logits).tolist() == pytest.approx([e / sum(exponentials) for e in exponentials], rel=1e-5)


def test_second_order_stays():
    assert settings_of("darts", changed(SHARED, unrolled=True), 2, True, True).unrolled


# --- Supernets ------------------------------------------------------------------------------------------------------


def network_for(name: str):
    """A supernet that the method takes."""
    return tiny_settings(**PARTIAL) if name == "pcdarts" else tiny_settings()


@pytest.mark.parametrize("found", ["pairs", "edges", "equal"])
@pytest.mark.parametrize("name", METHODS)
def test_network_is_the_given_one_with_the_methods_edge_weights(name, found):
    network = network_for(name)
    weights = {"darts": "equal", "pcdarts": "edges"}.get(name, "pairs")
    assert network_of(name, replace(network, edge_weights=found)) == replace(network, edge_weights=weights)


@pytest.mark.parametrize("name", METHODS)
def test_network_of_the_other_channels_is_refused(name):
    other = tiny_settings() if name == "pcdarts" else tiny_settings(**PARTIAL)
    with pytest.raises(InputError, match=rf"--search {name} .*--partial_channels"):
        network_of(name, other)


@pytest.mark.parametrize(("schedule", "keep_inputs"), [(FASTEST, True), (LEANEST, False)])
@pytest.mark.parametrize("of_weights", [True, False], ids=["weights", "architecture only"])
@pytest.mark.parametrize("edge_weights", ["equal", "edges"])
def test_step_by_step_equals_ordinary_back_propagation(edge_weights, of_weights, schedule, keep_inputs):
    supernet, architecture = tiny_supernet(layers=4, nodes=3, reduction_layers=(1, 2), edge_weights=edge_weights)
    images, labels = random_images(4, (6, 5)), torch.tensor([0, 1, 2, 1])
    leaves = dict(supernet.named_parameters()) | dict(architecture.named_parameters())

    def mixtures():
        return architecture.mixtures(AnnealedNormalizer("softmax", 1.0, 0.0), 0.0)

    def criterion(logits):
        return F.cross_entropy(logits, labels)

    loss = criterion(supernet(images, mixtures()))
    loss.backward(inputs=None if of_weights else list(architecture.parameters()))
    expected = {name: leaf.grad for name, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    micro_batch = MicroBatch(images, mixtures(), criterion)
    again = step_by_step_backward(supernet, micro_batch, of_weights=of_weights, keep_inputs=keep_inputs)
    torch.testing.assert_close(again, loss.detach(), rtol=1e-12, atol=1e-12)
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (expected[name] is None), name
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, expected[name], rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    ("name", "unrolled"), [*((name, False) for name in METHODS), ("darts", True), ("pcdarts", True)]
)
def test_every_method_adapts(name, unrolled):
    network = network_of(name, network_for(name))
    supernet, architecture = tiny_supernet(**{field: getattr(network, field) for field in (*PARTIAL, "edge_weights")})
    shared = changed(SHARED, unrolled=unrolled, normalizer=Normalizer(), schedule=ORDINARY)
    search = start_search(supernet, architecture, settings_of(name, shared, 2, True, True), 0, "test task", 0)
    before = {n: p.detach().clone() for m in (supernet, architecture) for n, p in m.named_parameters()}
    loss = search.adapt(random_images(12), torch.arange(12) % WAYS)
    assert 0 < loss < 10
    after = {n: p for m in (supernet, architecture) for n, p in m.named_parameters()}
    moved = {n for n, value in before.items() if not torch.equal(after[n], value)}
    assert any(n.startswith("alpha.") for n in moved)
    assert any(n.startswith("beta.") for n in moved) == (name != "darts")
    assert all(parameter.isfinite().all() for parameter in after.values())
    if not METHODS[name].selects:
        assert moved >= {n for n in before if n.startswith(("alpha.", "beta."))}


# --- What gets gradient ---------------------------------------------------------------------------------------------

K, NODES = 7, 3
DRAWS = 300
# Of chi-square, by degrees of freedom: what one sample in a thousand is above.
ONE_IN_A_THOUSAND = {2: 13.82, 5: 20.52, 20: 45.31}


def selector_of(name: str, architecture: Architecture) -> Selector:
    settings = settings_of(name, SHARED, sampleno=2, expects=True, one_pair=True)
    generator = torch.Generator().manual_seed(0)
    return Selector(architecture, settings.sampleno, settings.alpha_expect, settings.beta_sampling, generator)


def choices_of(name: str, updates: int) -> tuple[dict, dict]:
    """How often each set of two candidates was chosen on each edge, and each pair of each node with several.

    First alpha and beta rise ``updates`` times, each candidate's and pair's at a rate of its own.
    """
    architecture = Architecture(NODES, K, torch.Generator().manual_seed(0))
    selector = selector_of(name, architecture)
    for _ in range(updates):
        with torch.no_grad():
            for parameter in architecture.parameters():
                parameter.add_(torch.arange(len(parameter)) * 0.01)
        selector.record()
    ops = {(kind, edge): Counter() for kind in TYPES for edge in range(9)}
    pairs = {(kind, node): Counter() for kind in TYPES for node in range(1, NODES)}
    for _ in range(DRAWS):
        choice = selector.choose(AnnealedNormalizer("softmax", 1.0, 0.0), 0.0, steps_left=5)
        for (kind, edge), counts in ops.items():
            counts[tuple(sorted(choice.ops[kind][edge]))] += 1
        for (kind, node), counts in pairs.items():
            counts[choice.pairs[kind][node]] += 1
    return ops, pairs


def chi_square(counts: Counter, options: list[tuple]) -> float:
    """Of the hypothesis that all options are as likely."""
    assert set(counts) <= set(options)
    expected = counts.total() / len(options)
    return sum((counts[option] - expected) ** 2 for option in options) / expected


SETS_OF_TWO = list(combinations(range(K), 2))


@pytest.mark.parametrize(("name", "updates"), [("random", 0), ("random", 6), ("random", 9), ("onnas", 5)])
def test_random_selection_is_uniform_whatever_was_learnt_and_so_is_expectation_before_six_updates(name, updates):
    ops, pairs = choices_of(name, updates)
    everywhere = sum(ops.values(), start=Counter())
    assert everywhere.total() == 2 * 9 * DRAWS
    assert chi_square(everywhere, SETS_OF_TWO) < ONE_IN_A_THOUSAND[20]
    for node in (1, 2):
        options = list(combinations(range(node + 2), 2))
        of_node = sum((pairs[kind, node] for kind in TYPES), start=Counter())
        assert chi_square(of_node, options) < ONE_IN_A_THOUSAND[len(options) - 1]
    # Nor does one edge, or one type, differ from the others.
    tables = chain(
        ((c, SETS_OF_TWO) for c in ops.values()),
        ((c, list(combinations(range(n + 2), 2))) for (_, n), c in pairs.items()),
    )
    above = [chi_square(counts, options) > ONE_IN_A_THOUSAND[len(options) - 1] for counts, options in tables]
    assert sum(above) <= 1


def test_selection_by_expectation_is_not():
    ops, pairs = choices_of("onnas", 6)
    for counts in ops.values():
        assert chi_square(counts, SETS_OF_TWO) > 10 * ONE_IN_A_THOUSAND[20]
        assert counts.most_common(1)[0][0] == (5, 6)  # those that rise the fastest
    for (_, node), counts in pairs.items():
        options = list(combinations(range(node + 2), 2))
        assert chi_square(counts, options) > 3 * ONE_IN_A_THOUSAND[len(options) - 1]
        assert counts.most_common(1)[0][0] == options[-1]
