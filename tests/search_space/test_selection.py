"""Expectation-based selection against the method, worked out by hand."""

from collections import Counter
from itertools import chain

import pytest
import torch

from search_space.architecture import Architecture
from search_space.normalizers import AnnealedNormalizer
from search_space.selection import Selector

SOFTMAX = AnnealedNormalizer("softmax", 1.0, 0.0)
K = 7
NO_MOVE = [0.0] * K


class Run:
    """A cell of one node (two edges) or more, whose alpha and beta are moved by hand.

    Every edge of both types is given the same alpha, every node the betas of its own number of pairs.
    """

    def __init__(self, sampleno: int | None = 2, nodes: int = 1, alpha_expect=True, beta_sampling=False, start=NO_MOVE):
        self.architecture = Architecture(nodes, K, torch.Generator().manual_seed(0))
        with torch.no_grad():
            for alpha in chain(*self.architecture.alpha.values()):
                alpha.copy_(torch.tensor(start))
            for betas in self.architecture.beta.values():
                for beta in betas:
                    beta.zero_()
        generator = torch.Generator().manual_seed(1)
        self.selector = Selector(self.architecture, sampleno, alpha_expect, beta_sampling, generator)

    def move(self, alpha: list[float] = NO_MOVE, beta: list[float] | None = None, times: int = 1) -> "Run":
        """Architecture steps: adds ``alpha`` to every edge, ``beta`` to the last node of either type."""
        for _ in range(times):
            with torch.no_grad():
                for parameter in chain(*self.architecture.alpha.values()):
                    parameter.add_(torch.tensor(alpha))
                for betas in self.architecture.beta.values():
                    if beta is not None:
                        betas[-1].add_(torch.tensor(beta))
            self.selector.record()
        return self

    def ops(self, draws: int, steps_left: int = 1, threshold: float = 0.0) -> Counter:
        """How often each set of candidates was chosen, over edges, types and draws."""
        counts = Counter()
        for _ in range(draws):
            choice = self.selector.choose(SOFTMAX, threshold, steps_left)
            counts.update(frozenset(chosen) for edges in choice.ops.values() for chosen in edges)
        return counts

    def pairs(self, draws: int, steps_left: int = 1) -> Counter:
        """How often each pair of the last node was chosen."""
        counts = Counter()
        for _ in range(draws):
            choice = self.selector.choose(SOFTMAX, 0.0, steps_left)
            counts.update(tuple(nodes[-1]) for nodes in choice.pairs.values())
        return counts


def shares(counts: Counter) -> dict:
    """In how large a share of the choices each candidate was."""
    total = sum(counts.values())
    return {k: sum(n for chosen, n in counts.items() if k in chosen) / total for k in range(K)}


def assert_uniform(counts: Counter, options: list[int], number: int) -> None:
    assert all(len(chosen) == number for chosen in counts)
    for k, share in shares(counts).items():
        assert share == pytest.approx(number / len(options) if k in options else 0, abs=0.04), k


def most_common(counts: Counter):
    return counts.most_common(1)[0][0]


# --- The rule -------------------------------------------------------------------------------------------------------


def test_candidates_of_the_largest_expected_value_are_chosen():
    # alpha now: its six updates. Expected with R = 10: now + 10 * update.
    run = Run().move([0.0, 0.01, 0.03, -0.01, 0.02, 0.0, 0.0], times=6)
    assert most_common(run.ops(100, steps_left=10)) == {2, 4}


def test_steps_left_decide_between_what_is_ahead_and_what_rises():
    start = [0.50, 0.40, 0.0, 0.0, 0.0, 0.0, 0.0]
    rise = [-0.05, 0.0, 0.04, 0.05, 0.0, 0.0, 0.0]
    run = Run(start=start).move(rise, times=6)
    # After six updates alpha is [0.20, 0.40, 0.24, 0.30, 0, 0, 0].
    # Expected with R = 1: 0.15 0.40 0.28 0.35; with R = 10: -0.30 0.40 0.64 0.80.
    assert most_common(run.ops(100, steps_left=1)) == {1, 3}
    assert most_common(run.ops(100, steps_left=10)) == {2, 3}
    # R = 0: alpha itself, 0.20 0.40 0.24 0.30.
    assert most_common(run.ops(100, steps_left=0)) == {1, 3}


def test_expectation_goes_with_the_updates_not_against_them():
    run = Run().move([0.1, -0.1, 0.0, 0.0, 0.0, 0.0, 0.05], times=6)
    assert most_common(run.ops(100, steps_left=5)) == {0, 6}


def test_only_the_last_six_updates_count():
    run = Run().move([9.0, 0, 0, 0, 0, 0, 0], times=1).move([-2.0, 0.1, 0.2, 0, 0, 0, 0], times=6)
    # alpha is [-3, 0.6, 1.2, 0...]; the mean of all seven updates of candidate 0 would be -3/7, of the last six -2.
    assert most_common(run.ops(100, steps_left=5)) == {1, 2}
    run = Run().move([-60.0, 0, 0, 0, 0, 0, 0]).move([11.0, 1.0, 2.0, 0, 0, 0, 0], times=6)
    # alpha is [6, 6, 12, 0...]; R = 5: 61, 11, 22. With the seventh update: 6 + 5 * 6/7 = 10.3, 10.3, 20.6.
    assert most_common(run.ops(100, steps_left=5)) == {0, 2}


def test_the_mean_of_the_updates_counts_not_the_last_one():
    run = Run().move([0.6, 0.1, 0.05, 0, 0, 0, 0], times=5).move([-0.5, 0.1, 0.05, 0, 0, 0, 0])
    assert most_common(run.ops(100, steps_left=5)) == {0, 1}


@pytest.mark.parametrize("updates", [0, 1, 5])
def test_fewer_than_six_updates_draw_uniformly(updates):
    run = Run().move([5.0, 4.0, 0, 0, 0, 0, 0], times=updates)
    assert_uniform(run.ops(500), list(range(K)), 2)


def test_without_expectation_the_draw_is_uniform():
    run = Run(alpha_expect=False).move([5.0, 4.0, 0, 0, 0, 0, 0], times=8)
    assert_uniform(run.ops(500), list(range(K)), 2)


def test_history_starts_anew_with_each_task():
    run = Run().move([5.0, 4.0, 0, 0, 0, 0, 0], times=6)
    anew = Selector(run.architecture, 2, True, False, torch.Generator().manual_seed(0))
    chosen = Counter(frozenset(anew.choose(SOFTMAX, 0.0, 1).ops["normal"][0]) for _ in range(50))
    assert len(chosen) > 5


# --- Exploration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampleno", [1, 2, 3])
def test_exploration_comes_with_probability_a_fifth_and_leaves_the_best_out(sampleno):
    run = Run(sampleno).move([0.1, 0.6, 0.2, 0.5, 0.3, 0.4, 0.0], times=6)
    counts = run.ops(1000)  # of two edges of two types
    best_first = [1, 3, 5, 4, 2, 0, 6]
    exploited = frozenset(best_first[:sampleno])
    explored = Counter({chosen: n for chosen, n in counts.items() if 1 not in chosen})
    assert counts[exploited] + explored.total() == 4000
    assert explored.total() / 4000 == pytest.approx(0.2, abs=0.025)
    for k, share in shares(explored).items():  # uniform over the six others
        assert share == pytest.approx(0 if k == 1 else sampleno / 6, abs=0.07), k


def test_edges_explore_independently():
    run = Run(sampleno=1).move([0.1, 0.6, 0.2, 0.5, 0.3, 0.4, 0.0], times=6)
    explored = []
    for _ in range(1000):
        edges = run.selector.choose(SOFTMAX, 0.0, 1).ops
        explored.append([1 not in chosen for kind in ("normal", "reduction") for chosen in edges[kind]])
    together = torch.tensor(explored, dtype=torch.float64).prod(1).mean().item()
    assert together < 0.02  # 0.2 ** 4 if independent, 0.2 if one draw served all
    correlation = torch.corrcoef(torch.tensor(explored, dtype=torch.float64).T)
    assert (correlation - torch.eye(4)).abs().max() < 0.12


# --- Pruning --------------------------------------------------------------------------------------------------------


def test_pruned_candidates_are_never_chosen_however_fast_they_rise():
    start = [-60.0, 0, 0, 0, 0, 0, -60.0]
    run = Run(start=start).move([9.0, 0, 0, 0, 0, 0.1, 9.0], times=6)
    # Candidates 0 and 6 are at -6: exp(-6) is under a hundredth. With R = 10 they are expected at 84.
    counts = run.ops(500, steps_left=10, threshold=0.01)
    assert shares(counts)[0] == shares(counts)[6] == 0
    # The best is 5, by expected value among those that are left.
    assert shares(counts)[5] == pytest.approx(0.8, abs=0.05)


def test_pruned_candidates_are_not_drawn_uniformly_either():
    run = Run(start=[-60.0, 0, 0, 0, 0, 0, -60.0])
    assert_uniform(run.ops(500, threshold=0.01), [1, 2, 3, 4, 5], 2)


@pytest.mark.parametrize("updates", [0, 6])
@pytest.mark.parametrize(("left", "sampleno"), [(1, 2), (2, 2), (2, 3), (3, 7)])
def test_fewer_candidates_than_asked_are_all_taken(left, sampleno, updates):
    start = [0.0] * left + [-60.0] * (K - left)
    run = Run(sampleno, start=start).move([0.1 * k for k in range(K)], times=updates)
    assert run.ops(50, threshold=0.01) == {frozenset(range(left)): 200}


def test_exploration_takes_all_others_where_there_are_no_more():
    run = Run(sampleno=6).move([0.1, 0.6, 0.2, 0.5, 0.3, 0.4, 0.0], times=6)
    assert set(run.ops(300)) == {frozenset({0, 1, 2, 3, 4, 5}), frozenset({0, 2, 3, 4, 5, 6})}


# --- Pairs ----------------------------------------------------------------------------------------------------------


def test_one_pair_of_each_node_by_expected_value():
    run = Run(sampleno=None, nodes=2, beta_sampling=True).move(beta=[0.1, 0.3, -0.2], times=6)
    counts = run.pairs(1000)
    assert counts.total() == 2000
    assert counts[0, 2] / 2000 == pytest.approx(0.8, abs=0.03)
    assert counts[0, 1] / 2000 == pytest.approx(0.1, abs=0.025)
    assert counts[1, 2] / 2000 == pytest.approx(0.1, abs=0.025)


def test_steps_left_decide_between_pairs():
    run = Run(sampleno=None, nodes=2, beta_sampling=True).move(beta=[3.0, 0.0, 0.0])
    run.move(beta=[-0.1, 0.0, 0.2], times=6)
    # beta is [2.4, 0, 1.2]; R = 1: 2.3 0 1.4; R = 10: 1.4 0 3.2.
    assert most_common(run.pairs(100, steps_left=1)) == (0, 1)
    assert most_common(run.pairs(100, steps_left=10)) == (1, 2)


def test_pairs_are_drawn_uniformly_until_there_is_a_history_and_without_expectation():
    for run in (
        Run(None, nodes=2, beta_sampling=True).move(beta=[9.0, 0, 0], times=5),
        Run(None, nodes=2, beta_sampling=True, alpha_expect=False).move(beta=[9.0, 0, 0], times=8),
    ):
        counts = run.pairs(750)
        for pair in ((0, 1), (0, 2), (1, 2)):
            assert counts[pair] / 1500 == pytest.approx(1 / 3, abs=0.05)


def test_the_only_pair_of_the_first_node_is_always_chosen():
    run = Run(None, nodes=1, beta_sampling=True).move(beta=[1.0], times=6)
    assert run.pairs(50) == {(0, 1): 100}


def test_what_is_not_to_be_selected_is_none():
    assert Run(sampleno=None, beta_sampling=True).selector.choose(SOFTMAX, 0.0, 1).ops is None
    assert Run(sampleno=2, beta_sampling=False).selector.choose(SOFTMAX, 0.0, 1).pairs is None


def test_same_generator_same_choices():
    first, second = (Run(nodes=3, beta_sampling=True) for _ in range(2))
    for _ in range(5):
        assert first.selector.choose(SOFTMAX, 0.0, 1) == second.selector.choose(SOFTMAX, 0.0, 1)
