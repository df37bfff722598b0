"""Partial channels and the weights of edges (PC-DARTS, DARTS) against the textbook supernet of tests/helpers.py."""

from dataclasses import replace

import pytest
import torch

from models.meta_cell import MetaCell
from models.partial_cell import PartialCell
from models.search_cell import SearchCell
from models.supernet import Supernet
from search_space.primitives import FEW_SHOT, FULL_TASK
from search_space.search_network import load_meta_cell
from tests.helpers import (
    Mixing,
    build_supernet,
    copy_parameters,
    random_images,
    reference_supernet,
    tiny_settings,
    tiny_supernet,
)
from tests.models.test_supernet import IMAGES, assert_equals_reference, mixtures_of
from utils.errors import InputError

LISTS = {"few-shot": FEW_SHOT, "full-task": FULL_TASK}
# Nodes, layers, reductions, image size: with 3 layers the cell behind the reduction too.
NETS = {
    "one node, odd": (1, 3, (1,), (7, 7)),
    "two nodes, even and odd": (2, 3, (0,), (6, 5)),
    "three nodes": (3, 2, (1,), (6, 6)),
    "two nodes, odd after odd": (2, 2, (0, 1), (5, 3)),
}


@pytest.mark.parametrize("primitives", LISTS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("edge_weights", "share"), [("edges", 1), ("edges", 2), ("edges", 4), ("equal", 1), ("pairs", 2)]
)
def test_outputs_and_gradients_are_those_of_the_textbook_supernet(edge_weights, share, net, primitives):
    nodes, layers, reductions, size = NETS[net]
    supernet, architecture = tiny_supernet(
        primitives=LISTS[primitives],
        nodes=nodes,
        layers=layers,
        reduction_layers=reductions,
        init_channels=2 if share == 1 else 8,
        edge_weights=edge_weights,
        partial_channels=share,
    )
    assert {type(cell) for cell in supernet.cells} == {SearchCell if share == 1 else PartialCell}
    assert_equals_reference(supernet, architecture, random_images(IMAGES, size), Mixing())


def test_what_passes_by_is_not_pruned():
    supernet, architecture = tiny_supernet(init_channels=4, edge_weights="edges", partial_channels=2)
    mixing = Mixing(temperature=0.5, threshold=0.1)
    assert_equals_reference(supernet, architecture, random_images(IMAGES), mixing)


@pytest.mark.parametrize("size", [(6, 6), (7, 5)], ids=["even", "odd"])
def test_what_passes_by_is_left_where_no_candidate_is(size):
    supernet, architecture = tiny_supernet(init_channels=4, edge_weights="edges", partial_channels=2)
    mixing, images = Mixing(threshold=1.5), random_images(IMAGES, size)
    logits = supernet(images, mixtures_of(architecture, mixing))
    assert logits.std(0).min() > 0  # not the head's bias alone
    expected = reference_supernet(supernet.settings, *copy_parameters(supernet, architecture), images, mixing)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_drop_path_drops_candidates_and_not_what_passes_by():
    supernet, architecture = tiny_supernet(init_channels=4, edge_weights="edges", partial_channels=2)
    keep = supernet.draw_drop_path(IMAGES, 0.4, torch.Generator().manual_seed(3)).double()
    assert_equals_reference(supernet, architecture, random_images(IMAGES), Mixing(keep=keep))


def test_all_channels_and_edge_weights_of_one_are_darts():
    """A normal cell: nothing passes by, and PyTorch refuses to pool nothing."""
    darts, partial = (
        kind(FULL_TASK, 4, 3, **share).double() for kind, share in ((SearchCell, {}), (PartialCell, {"share": 1}))
    )
    partial.load_state_dict(darts.state_dict())
    _, architecture = tiny_supernet(primitives=FULL_TASK, nodes=3, edge_weights="equal")
    older, newer = torch.rand(2, 3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for cell in (darts, partial):
        architecture.zero_grad()
        states = [state.clone().requires_grad_() for state in (older, newer)]
        nodes = cell(*states, mixtures_of(architecture, Mixing())["normal"])
        (torch.cat(nodes).sin() * torch.arange(5)).sum().backward()
        leaves = [*states, *cell.parameters(), *architecture.alpha["normal"]]
        results.append([*nodes, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(results[0]) > 50
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_candidates_are_built_for_the_channels_that_they_see():
    settings = tiny_settings(init_channels=8, partial_channels=4)
    for name, parameter in Supernet(settings, 3).cells.named_parameters():
        if ".to_node." in name:
            # The stride-2 skip is of two halves.
            assert parameter.shape[0] == (1 if "skip_connect" in name else 2), name
            assert parameter.shape[1] in (1, 2), name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"init_channels": 6, "partial_channels": 2}, "--init_channels must be a multiple of 4"),
        ({"partial_channels": 0}, "--partial_channels"),
        ({"partial_channels": 2.0}, "--partial_channels"),
        ({"edge_weights": "odd"}, "pairs, edges, equal"),
    ],
)
def test_settings_that_make_no_net_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        tiny_settings(**changes)


# --- The meta-cell --------------------------------------------------------------------------------------------------

PARTIAL = {"layers": 4, "reduction_layers": (1, 2), "init_channels": 4, "edge_weights": "edges", "partial_channels": 2}


@pytest.mark.parametrize("changes", [{"partial_channels": 1}, {"edge_weights": "pairs"}, {"edge_weights": "equal"}])
def test_meta_cell_of_other_edges_or_channels_is_refused_by_name(tmp_path, changes):
    meta_cell = MetaCell.of(*build_supernet(tiny_settings(**PARTIAL), 3, 0), False)
    replace(meta_cell, settings=tiny_settings(**{**PARTIAL, **changes})).save(tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        load_meta_cell(tmp_path / "other.pt")


def test_pairs_meta_cell_unfolds_into_a_supernet_without_beta():
    supernet, architecture = tiny_supernet(nodes=3)
    meta_cell = MetaCell.of(supernet, architecture, separate=False)
    darts, without_beta = tiny_supernet(seed=1, nodes=3, edge_weights="equal")
    meta_cell.unfold(darts, without_beta)
    (expected,) = copy_parameters(architecture)
    names = {name for name, _ in without_beta.named_parameters()}
    assert names == {name for name in expected if name.startswith("alpha.")}
    for name, parameter in without_beta.named_parameters():
        assert torch.equal(parameter, expected[name])
    for name, parameter in darts.cells[0].named_parameters():
        assert torch.equal(parameter, meta_cell.cells[0][name]), name
