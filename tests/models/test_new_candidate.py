"""A new candidate is one entry of CANDIDATES: every form of the networks knows it."""

import torch
from torch import nn

from models import operations, supernet
from models.batch_norm import BatchNorm
from models.merged_candidates import can_merge, merged
from models.operations import CANDIDATES, Normalised
from models.pruned_network import PrunedNetwork
from tests.helpers import random_images
from tests.models import test_batched_supernet as batched
from tests.models import test_derived_network as derived
from tests.models import test_pruned_network as pruned
from tests.models import test_step_by_step as step_by_step

NEW = "two_groups_7x7"
PRIMITIVES = ("max_pool_3x3", NEW, "skip_connect")


def two_groups(channels: int, stride: int) -> nn.Module:
    return Normalised(
        nn.Conv2d(channels, channels, 7, stride, padding=3, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=3, dilation=3, bias=False),
        BatchNorm(channels),
    )


def test_every_form_of_the_networks_knows_a_new_candidate(monkeypatch):
    monkeypatch.setitem(CANDIDATES, NEW, two_groups)
    monkeypatch.setattr(supernet, "OPERATIONS", operations.OPERATIONS | {NEW})
    monkeypatch.setitem(derived.LISTS, "new", PRIMITIVES)
    problem = step_by_step.Problem(primitives=PRIMITIVES)
    step_by_step.assert_same(problem.step_by_step(), problem.ordinary())
    batched.assert_same(batched.Tasks(2, primitives=PRIMITIVES))
    trained, mixtures = pruned.used_supernet(primitives=PRIMITIVES)
    pruned.assert_same_logits(PrunedNetwork(trained, mixtures), trained, mixtures)
    derived.test_inherited_network_is_the_supernet_with_all_weight_on_the_genotype(2, "published layout", "new")
    with torch.no_grad():
        x = random_images(3, channels=4).contiguous(memory_format=torch.channels_last)
        copies = [two_groups(4, 1).double().to(memory_format=torch.channels_last) for _ in range(3)]
        assert can_merge(copies, x)
        for output, alone in zip(merged(copies, x), copies, strict=True):
            torch.testing.assert_close(output, alone(x), rtol=1e-12, atol=1e-12)
