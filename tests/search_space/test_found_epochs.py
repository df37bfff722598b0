"""A task's last epochs, on the found network, and how it classifies."""

import pytest
import torch

from search_space.primitives import FEW_SHOT
from search_space.settings import FASTEST, LEANEST, ORDINARY
from tests.helpers import WAYS, changed, edges_of, random_images
from tests.search_space.test_task_search import PLAIN, Watched


def test_the_last_epochs_train_the_found_network_alone():
    watched = Watched(changed(PLAIN, epochs=3, architecture_epochs=2, found_epochs=1)).adapt()
    found = watched.search.found_mixtures()  # alpha and beta rest in the last epoch
    relaxed, decided = watched.mixtures[:12], watched.mixtures[12:]  # 3 batches: two passes each, then one each
    assert len(decided) == 3
    for mixtures in decided:
        for cell_type, (coefficients, trained) in mixtures.items():
            assert torch.equal(coefficients, found[cell_type].coefficients)
            assert trained == found[cell_type].active
    assert all(coefficients.count_nonzero() > 8 for mixtures in relaxed for coefficients, _ in mixtures.values())


@pytest.mark.parametrize("schedule", [ORDINARY, FASTEST, LEANEST])
def test_they_leave_the_weights_of_other_candidates_as_they_are(schedule):
    settings = changed(PLAIN, architecture_epochs=1, found_epochs=1, schedule=schedule)
    without = Watched(changed(settings, epochs=1, found_epochs=0)).adapt()
    watched = Watched(settings).adapt()
    found = watched.search.found_mixtures()
    edges = [f"sources.{source}.to_node.{node}" for source, node in edges_of(2)]
    own = tuple(
        f"cells.{layer}.{edges[edge]}.{FEW_SHOT[k]}."
        for layer, cell_type in enumerate(("normal", "reduction"))
        for edge, row in enumerate(found[cell_type].active)
        for k, is_run in enumerate(row)
        if is_run
    )
    (before, _), (after, _) = without.after(), watched.after()
    for name in before:
        rests = ".to_node." in name and not name.startswith(own)
        assert torch.equal(before[name], after[name]) == rests, name


def test_the_found_network_classifies_with_the_statistics_of_the_support_set():
    watched = Watched(changed(PLAIN, architecture_epochs=1, found_epochs=1)).adapt()
    search, found = watched.search, watched.search.found_mixtures()
    queries, labels = random_images(9, seed=3), torch.arange(9) % WAYS
    got = search.classify(queries, labels, watched.images, found)
    search.average_batch_statistics(watched.images, found)
    with torch.no_grad():
        logits = watched.supernet.eval()(queries, found)
    assert got.predictions == logits.argmax(1).tolist()
