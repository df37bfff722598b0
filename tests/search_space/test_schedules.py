"""A task adapted step by step ends where ordinary back-propagation ends, with the same gradients on the way."""

import pytest
import torch
from torch.nn import functional as F

from search_space.architecture import EVERYTHING
from search_space.batches import Batch
from search_space.normalizers import Normalizer
from search_space.settings import FASTEST, LEANEST, ORDINARY
from tests.helpers import Mixing, changed, reference_supernet
from tests.search_space.test_task_search import PLAIN, Watched

CASES = {
    "every candidate": {"prune_threshold": 0.0},
    "two candidates and one pair": {"sampleno": 2, "beta_sampling": True},
    "weights only at the end": {"architecture_epochs": 1},
    "all of it": {
        "sampleno": 1,
        "beta_sampling": True,
        "split_num": 3,
        "smallest": 3,
        "drop_path_prob": 0.2,
        "normalizer": Normalizer("gumbel_softmax"),
        "transductive": False,
    },
}
STEP_BY_STEP = (FASTEST, LEANEST)


def assert_close(actual, expected, name: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_every_schedule_ends_at_the_same(case):
    """Weights, alpha, beta, running statistics and loss, after the same draws."""
    runs = {}
    for schedule in (ORDINARY, *STEP_BY_STEP):
        settings = changed(PLAIN, schedule=schedule, **CASES[case])
        runs[schedule] = Watched(settings, layers=3, reduction_layers=(1,)).adapt()
    expected = runs[ORDINARY]
    assert expected.passes
    for schedule in STEP_BY_STEP:
        run = runs[schedule]
        assert run.passes == []  # the supernet as a whole was not called: it went another way
        assert run.choices == expected.choices
        for module in ("supernet", "architecture"):
            actual, wanted = (getattr(each, module).state_dict() for each in (run, expected))
            assert actual.keys() == wanted.keys()
            for name, tensor in wanted.items():
                assert_close(actual[name], tensor, f"{schedule}, {name}")
        assert run.loss == pytest.approx(expected.loss, rel=1e-8)
    moved = [not torch.equal(expected.after()[1][name], tensor) for name, tensor in expected.before[1].items()]
    assert sum(moved) > 4


@pytest.mark.parametrize("schedule", STEP_BY_STEP)
def test_step_by_step_a_tensor_that_gets_no_gradient_is_not_stepped(schedule):
    """... and what gets one is what gets it by ordinary back-propagation."""
    moved = {}
    for each in (ORDINARY, schedule):
        settings = changed(PLAIN, epochs=1, architecture_epochs=1, batch_size=20, sampleno=1, beta_sampling=True)
        watched = Watched(changed(settings, schedule=each), reduction_layers=()).adapt()
        after = watched.after()
        moved[each] = [
            {name for name, tensor in before.items() if not torch.equal(after[part][name], tensor)}
            for part, before in enumerate(watched.before)
        ]
    assert moved[schedule] == moved[ORDINARY]
    assert all(0 < len(names) < len(before) for names, before in zip(moved[schedule], watched.before, strict=True))


def test_gradients_are_accumulated_over_the_chunks_and_shared_out_by_their_sizes():
    """Of the public gradients themselves, without an optimizer: a batch's is the mean over its images' chunks."""
    gradients = []
    for schedule in (ORDINARY, *STEP_BY_STEP):
        watched = Watched(changed(PLAIN, schedule=schedule, split_num=2))
        batch = torch.tensor([0, 1, 2, 4, 8])  # chunks of three and two images
        watched.search.architecture_gradient(Batch(watched.images, watched.labels, batch), EVERYTHING)
        assert all(parameter.grad is None for parameter in watched.supernet.parameters())
        of_architecture = [parameter.grad.clone() for parameter in watched.architecture.parameters()]
        loss = watched.search.weight_gradient(Batch(watched.images, watched.labels, batch), EVERYTHING)
        assert loss.shape == (2,)  # and the share of right answers
        assert not loss.requires_grad
        for parameter, gradient in zip(watched.architecture.parameters(), of_architecture, strict=True):
            assert torch.equal(parameter.grad, gradient)  # the weights' own adds nothing
        of_weights = [parameter.grad for parameter in watched.supernet.parameters()]
        gradients.append([loss[0], *of_architecture, *of_weights])
    settings, (weights, architecture) = Mixing(threshold=PLAIN.prune_threshold), watched.before
    expected = sum(
        F.cross_entropy(
            reference_supernet(watched.net, weights, architecture, watched.images[part], settings),
            watched.labels[part],
        )
        * (len(part) / 5)
        for part in (batch[:3], batch[3:])
    )
    leaves = [*architecture.values(), *weights.values()]
    wanted = [expected.detach(), *torch.autograd.grad(expected, leaves, allow_unused=True)]
    for actual in gradients:
        for number, (found, tensor) in enumerate(zip(actual, wanted, strict=True)):
            if found is None or tensor is None:
                assert found is None
                assert tensor is None or not tensor.any()
                continue
            assert_close(found, tensor.to(found.dtype), f"gradient {number}")
