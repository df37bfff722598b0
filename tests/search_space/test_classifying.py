"""How a task's queries are classified, against the reference supernet and PyTorch's own statistics."""

from functools import partial
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import merged_candidates
from search_space.batches import query_batches
from search_space.settings import FASTEST, LEANEST, ORDINARY
from tests.helpers import WAYS, Mixing, changed, random_images, reference_supernet
from tests.search_space.test_schedules import assert_close
from tests.search_space.test_task_search import PLAIN, SUPPORT, Watched


def queries(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random_images(number, seed=9), torch.arange(number) % WAYS


@pytest.mark.parametrize("adapted", [False, True])
def test_transductive_classification_normalises_a_query_batch_by_itself(adapted):
    watched = Watched(changed(PLAIN, prune_threshold=0.05))
    if adapted:
        watched.adapt()
    images, labels = queries(9)
    result = watched.search.classify(images, labels, watched.images)
    mixing = Mixing(temperature=0.1 if adapted else 1.0, threshold=0.05)
    weights, architecture = watched.after()
    right, loss = 0, 0.0
    for part in query_batches(labels, 6):
        logits = reference_supernet(watched.net, weights, architecture, images[part], mixing)
        right += (logits.argmax(1) == labels[part]).sum().item()
        loss += F.cross_entropy(logits, labels[part], reduction="sum").item()
    assert result.accuracy == right / 9
    assert result.loss == pytest.approx(loss / 9, rel=1e-9)


def inductive(split_num: int = 3) -> Watched:
    settings = changed(PLAIN, transductive=False, split_num=split_num, prune_threshold=0.0)
    return Watched(settings).adapt()


@pytest.mark.parametrize("split_num", [1, 3])
def test_inductive_statistics_are_the_cumulative_average_over_one_pass_of_the_support_set(split_num, monkeypatch):
    monkeypatch.setattr(merged_candidates, "SMALL", 0)  # merged, a candidate's modules are not called
    watched = inductive(split_num)
    inputs, outputs, given = {}, {}, {}
    norms = {name: m for name, m in watched.supernet.named_modules() if isinstance(m, nn.BatchNorm2d)}

    def note_input(norm, args, name):
        given[name] = args[0].clone()  # BN overwrites it

    def note_output(norm, args, output, name):
        (inputs if norm.training else outputs).setdefault(name, []).append((given.pop(name), output.clone()))

    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(note_input, name=name))
        norm.register_forward_hook(partial(note_output, name=name))
    images, labels = queries(3)
    for _ in range(2):  # a second time from the start, not on top of the first
        inputs.clear()
        outputs.clear()
        number = len(watched.passes)
        watched.search.classify(images, labels, watched.images)
    support_passes = [part for part in watched.passes[number:] if part]
    assert [len(part) for part in support_passes] == ([6, 6, 3] if split_num == 1 else [2, 2, 2, 2, 2, 2, 3])
    assert sorted(chain(*support_passes)) == list(range(SUPPORT))
    for name, norm in norms.items():
        xs = [x for x, _ in inputs[name]]
        assert len(xs) == len(support_passes)
        mean = sum(x.mean((0, 2, 3)) for x in xs) / len(xs)
        variance = sum(x.var((0, 2, 3), correction=1) for x in xs) / len(xs)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-9, atol=1e-9)
        for x, output in outputs[name]:
            assert len(x) <= max(map(len, support_passes))
            column = (1, -1, 1, 1)
            expected = (x - mean.view(column)) / torch.sqrt(variance.view(column) + 1e-5)
            if norm.affine:
                expected = expected * norm.weight.view(column) + norm.bias.view(column)
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transductive", [True, False])
def test_testing_is_the_same_whatever_the_schedule_of_adapting(transductive):
    results = []
    for schedule in (ORDINARY, FASTEST, LEANEST):
        watched = Watched(changed(PLAIN, transductive=transductive, split_num=2, schedule=schedule)).adapt()
        result = watched.search.classify(*queries(9), watched.images)
        results.append((result.accuracy, result.loss, torch.cat(watched.logits)[-9:]))
    for accuracy, loss, logits in results[1:]:
        assert accuracy == results[0][0]
        assert loss == pytest.approx(results[0][1], rel=1e-8)
        assert_close(logits, results[0][2], "logits")


def test_inductive_logits_do_not_depend_on_the_other_queries():
    watched = inductive()
    images, labels = queries(6)
    one_by_one = []
    watched.search.classify(images, labels, watched.images)
    every = torch.cat(watched.logits)[-6:]
    for i in range(6):
        watched.search.classify(images[i : i + 1], labels[i : i + 1], watched.images)
        one_by_one.append(watched.logits[-1])
    assert_close(every, torch.cat(one_by_one), "logits")


def test_testing_changes_no_parameter():
    for transductive in (True, False):
        watched = Watched(changed(PLAIN, transductive=transductive))
        watched.search.classify(*queries(6), watched.images)
        for before, after in zip(watched.before, watched.after(), strict=True):
            assert all(torch.equal(before[name], after[name]) for name in before)


def test_adaptation_after_an_inductive_test_is_that_without_it():
    tested, untested = (Watched(changed(PLAIN, transductive=False)) for _ in range(2))
    tested.search.classify(*queries(6), tested.images)
    tested.adapt()
    untested.adapt()
    for a, b in zip(tested.after(), untested.after(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
