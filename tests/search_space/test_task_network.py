"""Which network classifies: the one that is better on the support set; of equals the found one, if it is decided."""

import pytest
import torch

from search_space.primitives import FEW_SHOT
from search_space.settings import AUTO, FOUND, RELAXED, SearchSettings
from search_space.task_network import task_network
from tests.helpers import WAYS, random_images, start_search, tiny_supernet

SETTINGS = SearchSettings(epochs=1, architecture_epochs=1, batch_size=6, w_lr=0.01, alpha_lr=0.0, transductive=False)
LABELS = torch.arange(9) % WAYS


def a_search(of_chosen: float, settings=SETTINGS, **net):
    """An adapted search; alpha and beta are ``of_chosen`` where its genotype points to, else zero."""
    supernet, architecture = tiny_supernet(**net)
    with torch.no_grad():
        for row in architecture.parameters():
            row.zero_()[FEW_SHOT.index("conv_3x3") if len(row) == len(FEW_SHOT) else 0] = of_chosen
    images = random_images(9).float()
    search = start_search(supernet.float(), architecture.float(), settings, 0, "test task", 0)
    search.adapt(images, LABELS)
    return search, images


@pytest.mark.parametrize("which", [FOUND, RELAXED])
def test_what_was_asked_for_classifies_as_the_search_does(which):
    search, images = a_search(0.1)
    chosen = task_network(search, images, LABELS, which)
    mixtures = search.found_mixtures() if which == FOUND else None
    expected = search.classify(images, LABELS, images, mixtures).predictions
    assert (chosen.which, chosen.why) == (which, None)
    chosen.network.eval()
    assert [chosen.network(image[None]).argmax().item() for image in images] == expected


@pytest.mark.parametrize("of_chosen", [0.05, 100.0])
def test_the_better_one_on_the_support_set_is_taken_and_of_equals_the_found_one_if_decided(of_chosen):
    search, images = a_search(of_chosen)
    found, relaxed = (
        search.classify(images, LABELS, images, mixtures).accuracy for mixtures in (search.found_mixtures(), None)
    )
    decided = of_chosen > 1
    if decided:
        assert found == relaxed  # all other candidates are pruned
    best = FOUND if found > relaxed or (found == relaxed and decided) else RELAXED
    chosen = task_network(search, images, LABELS, AUTO)
    assert chosen.which == best
    assert (
        f"The {best} network classifies: of 9 support images the found one has {round(9 * found)} right" in chosen.why
    )
    assert ("is decided" in chosen.why) == decided


def test_of_equals_an_undecided_search_leaves_the_relaxed_one():
    """No class is told apart: with a head of zeros both networks name the first."""
    search, images = a_search(0.05)
    with torch.no_grad():
        search.supernet.head.weight.zero_()
        search.supernet.head.bias.zero_()
    chosen = task_network(search, images, LABELS, AUTO)
    assert chosen.which == RELAXED
    assert "has 3 right, the relaxed one 3, and the search is not decided" in chosen.why


def test_partial_channels_leave_the_relaxed_one():
    search, images = a_search(100.0, init_channels=4, partial_channels=2, edge_weights="edges")
    assert task_network(search, images, LABELS, AUTO).which == RELAXED
