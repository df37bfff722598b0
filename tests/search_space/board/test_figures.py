"""Pictures of a search: their numbers, against what they are made of."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from models.supernet import EQUAL, SupernetSettings
from search_space.board.figures import architecture_figure, choices_figure, expectation_figure
from search_space.board.search_record import ALPHA, BETA, Choices, State
from search_space.normalizers import Normalizer
from search_space.primitives import FEW_SHOT

NETWORK = SupernetSettings(1, 4, 2, 2, (1,), FEW_SHOT)
ALPHA_ROWS = [[float(7 * edge + op) for op in range(7)] for edge in range(5)]
BETA_ROWS = [[0.0], [1.0, 2.0, math.nan]]


def state(alpha=ALPHA_ROWS, beta=BETA_ROWS) -> State:
    types = ("normal", "reduction")
    values = {ALPHA: dict.fromkeys(types, alpha), BETA: dict.fromkeys(types, beta)}
    return State(Normalizer("softmax").annealed(0, 1), values, None)


def tables(figure) -> dict[str, np.ndarray]:
    """The numbers of each heat map."""
    return {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}


def test_probabilities_in_percent_state_by_state():
    figure = architecture_figure(NETWORK, {" before": state(), " after": state()})
    shown = tables(figure)
    kinds = [f"{kind}, {cell}" for kind in ("alpha", "beta") for cell in ("normal", "reduction")]
    assert set(shown) == {f"{kind} {when}" for kind in kinds for when in ("before", "after")}
    expected = 100 * torch.tensor(ALPHA_ROWS).softmax(1)
    assert np.allclose(shown["alpha, normal after"], expected, rtol=1e-4)
    # Node 0 has one pair, the first of node 1's; what diverged is a "?".
    beta = shown["beta, normal after"]
    assert (beta[0][0], beta.mask.tolist()) == (100, [[False, True, True], [True, True, True]])
    texts = [text.get_text() for axes in figure.axes if axes.get_title() == "beta, normal after" for text in axes.texts]
    assert texts == ["100", "?", "?", "?"]


def test_edges_of_equal_weight_have_no_beta():
    network = SupernetSettings(1, 4, 2, 2, (1,), FEW_SHOT, edge_weights=EQUAL)
    assert set(tables(architecture_figure(network, {"": state(beta=[])}))) == {"alpha, normal", "alpha, reduction"}


def test_cells_that_the_network_does_not_have_are_left_out():
    network = SupernetSettings(1, 4, 2, 2, (0, 1), FEW_SHOT)
    assert set(tables(architecture_figure(network, {"": state()}))) == {"alpha, reduction", "beta, reduction"}


def test_counts_of_what_was_chosen():
    choices = Choices()
    assert choices_figure(NETWORK, choices) is None
    choices.steps, choices.ops["normal"] = 4, Counter({(0, 1): 3, (4, 6): 1})
    choices.pairs["normal"] = Counter({(0, (0, 1)): 4, (1, (1, 2)): 4})
    shown = tables(choices_figure(NETWORK, choices))
    assert (shown["candidates, normal"][0][1], shown["candidates, normal"].sum()) == (3, 4)
    assert shown["pairs, normal"].filled(-1).tolist() == [[4, -1, -1], [0, 0, 4]]


def test_expected_against_final_values():
    def values(*numbers: float) -> dict:
        row = {"normal": [list(numbers)], "reduction": []}
        return {ALPHA: row, BETA: {"normal": [], "reduction": []}}

    final = values(1.0, 2.0, 4.0)
    assert expectation_figure({}, final, "step") is None
    expected = {6: values(0.0, 0.0, 0.0), 7: values(1.0, 2.0, 3.0), 8: final}
    errors, correlations, alpha = expectation_figure(expected, final, "step").axes
    assert errors.lines[0].get_xydata().tolist() == [[6, pytest.approx(7 / 3)], [7, pytest.approx(1 / 3)], [8, 0]]
    assert correlations.lines[0].get_xdata().tolist() == [7, 8]  # a constant has none
    assert alpha.get_title() == "alpha, expected after step 7"
    assert alpha.collections[0].get_offsets().tolist() == [[1, 1], [2, 2], [3, 4]]
