"""A record of a search against what it is made of: by hand, and against the steps themselves."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from models.supernet import EQUAL
from search_space.board.search_record import (
    ALPHA,
    BETA,
    KINDS,
    Choices,
    SearchRecord,
    against_final,
    correlation,
    mean_absolute_error,
)
from search_space.normalizers import Normalizer
from search_space.selection import HISTORY
from search_space.settings import FASTEST, Schedule, SearchSettings
from tests.helpers import (
    TYPES,
    WAYS,
    random_images,
    start_search,
    tiny_supernet,
)
from utils.memory import PeakMemory

# 10 epochs of two batches; the last two without architecture steps.
SETTINGS = SearchSettings(
    epochs=10,
    architecture_epochs=8,
    batch_size=4,
    w_lr=0.02,
    alpha_lr=0.05,
    sampleno=2,
    beta_sampling=True,
    schedule=Schedule(FASTEST),
)
STEPS, ARCHITECTURE_STEPS = 20, 16
SHORT = replace(SETTINGS, epochs=4, architecture_epochs=4)
IMAGES, LABELS = random_images(8), torch.arange(8) % WAYS


class Recorded:
    """A search with its record, and what was seen of it from outside."""

    def __init__(self, settings: SearchSettings = SETTINGS, **net):
        self.supernet, self.architecture = tiny_supernet(**net)
        self.search = start_search(self.supernet, self.architecture, settings, 0, "test task", 0)
        self.record, self.choices, self.values = SearchRecord(), [], []
        self.record.watch(self.search)
        choose = self.search.selector.choose

        def see(*args):
            self.values.append({name: p.detach().clone() for name, p in self.architecture.named_parameters()})
            self.choices.append(choose(*args))
            return self.choices[-1]

        self.search.selector.choose = see
        self.search.adapt(IMAGES, LABELS)
        # Before each step, and after the last.
        self.values.append({name: p.detach().clone() for name, p in self.architecture.named_parameters()})
        self.states = [self.record.start, *(step.state for step in self.record.steps)]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


def test_states_are_alpha_and_beta_between_steps(recorded):
    assert len(recorded.states) == len(recorded.values) == STEPS + 1
    for state, values in zip(recorded.states, recorded.values, strict=True):
        for kind in KINDS:
            for cell_type in TYPES:
                rows = state.values[kind][cell_type]
                assert rows
                for number, row in enumerate(rows):
                    assert row == values[f"{kind}.{cell_type}.{number}"].tolist()


def test_probabilities_by_hand(recorded):
    for number, step in enumerate(recorded.record.steps):
        # Two steps an epoch: T falls from 1.0 to 0.1 in 8 epochs and stays.
        temperature = 1.0 - min(number // 2, 7) * 0.9 / 7
        assert step.temperature == pytest.approx(temperature)
        for kind in KINDS:
            rows = step.state.probabilities(kind, "reduction")
            for row, logits in zip(rows, step.state.values[kind]["reduction"], strict=True):
                exponentials = [math.exp(logit / temperature) for logit in logits]
                assert row == pytest.approx([value / sum(exponentials) for value in exponentials], rel=1e-5)


def test_expectations_by_hand(recorded):
    """The last value and what is left of the steps, each the mean of the last six updates, a sixth of their sum."""
    seen = 0
    for done, state in enumerate(recorded.states):
        left = ARCHITECTURE_STEPS - done
        if done < HISTORY or left <= 0:
            assert state.expected is None
            continue
        now, before = recorded.values[done], recorded.values[done - HISTORY]
        for kind in KINDS:
            for cell_type in TYPES:
                for number, row in enumerate(state.expected[kind][cell_type]):
                    name = f"{kind}.{cell_type}.{number}"
                    expected = now[name] + left * (now[name] - before[name]) / HISTORY
                    assert row == pytest.approx(expected.tolist(), abs=1e-12)
                    seen += 1
    assert seen > 0


def test_expectations_are_those_that_the_selection_goes_by(recorded):
    """Where it does not explore, each edge's choice is the two candidates with the largest expected values."""
    matches = total = 0
    for state, choice in zip(recorded.states, recorded.choices, strict=False):
        if state.expected is None:
            continue
        for cell_type in TYPES:
            for row, ops in zip(state.expected[ALPHA][cell_type], choice.ops[cell_type], strict=True):
                total += 1
                matches += ops == set(sorted(range(len(row)), key=lambda k: row[k], reverse=True)[:2])
    assert 0.6 < matches / total < 0.95  # 0.8; pruned candidates make it fewer


def test_results_rates_and_choices(recorded):
    steps = recorded.record.steps
    assert [step.choice for step in steps] == recorded.choices
    assert [step.result.validation_accuracy is not None for step in steps] == [True] * 16 + [False] * 4
    assert {(step.w_lr, step.alpha_lr) for step in steps} == {(0.02, 0.05)}
    assert steps[-1].result.loss < steps[0].result.loss


def test_a_search_without_a_choice_expects_nothing():
    recorded = Recorded(replace(SHORT, sampleno=None, beta_sampling=False), edge_weights=EQUAL)
    assert [state.expected for state in recorded.states] == [None] * 9
    assert recorded.states[0].probabilities(BETA, "normal") == []


def test_uniform_choice_expects_nothing():
    recorded = Recorded(replace(SHORT, alpha_expect=False))
    assert all(state.expected is None for state in recorded.states)


@pytest.mark.parametrize("normalizer", ["softmax", "gumbel_softmax"])
def test_recording_changes_nothing_neither_numbers_nor_memory(normalizer):
    runs = []
    for recording in (False, True):
        supernet, architecture = tiny_supernet()
        settings = replace(SHORT, normalizer=Normalizer(normalizer))
        search = start_search(supernet, architecture, settings, 0, "test task", 0)
        if recording:
            SearchRecord().watch(search)
        with PeakMemory(torch.device("cpu"), search.network.resident(), [IMAGES, LABELS]) as memory:
            loss = search.adapt(IMAGES, LABELS)
        state = [*supernet.state_dict().values(), *architecture.state_dict().values()]
        runs.append((loss, memory.mib, memory.breakdown_mib, state))
    (*plain, before), (*watched, after) = runs
    assert plain == watched
    assert all(map(torch.equal, before, after))


def test_counted_choices(recorded):
    choices = Choices()
    for step in recorded.record.steps:
        choices.note(recorded.search, step)
    assert choices.steps == STEPS
    for cell_type in TYPES:
        ops, pairs = Counter(), Counter()
        for choice in recorded.choices:
            for edge, chosen in enumerate(choice.ops[cell_type]):
                for op in chosen:
                    ops[edge, op] += 1
            for node, pair in enumerate(choice.pairs[cell_type]):
                pairs[node, pair] += 1
        assert choices.ops[cell_type] == ops
        assert choices.pairs[cell_type] == pairs
    choices.clear()
    assert (choices.steps, choices.ops["normal"], choices.pairs["normal"]) == (0, {}, {})


def test_errors_and_correlations_by_hand():
    def values(numbers):
        return {ALPHA: {"normal": [numbers[:2]], "reduction": [numbers[2:]]}, BETA: {"normal": [], "reduction": []}}

    points = against_final(values([1.0, 2.0, 3.0, 4.0]), values([2.0, 4.0, 6.0, 9.0]), ALPHA)
    assert points == [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 9.0)]
    assert mean_absolute_error(points) == (1 + 2 + 3 + 5) / 4
    across, up = [-1.5, -0.5, 0.5, 1.5], [-3.25, -1.25, 0.75, 3.75]
    product = sum(x * y for x, y in zip(across, up, strict=True))
    expected = product / math.sqrt(sum(x * x for x in across) * sum(y * y for y in up))
    assert correlation(points) == pytest.approx(expected)
    assert against_final(values([1.0] * 4), values([1.0] * 4), BETA) == []
    for none in ([], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)]):
        assert correlation(none) is None


def test_steps_move_alpha(recorded):
    moved = [before.values != after.values for before, after in pairwise(recorded.states)]
    assert moved == [True] * ARCHITECTURE_STEPS + [False] * (STEPS - ARCHITECTURE_STEPS)
