"""One task's search against a plain loop over the reference supernet, with torch's own Adam."""

from dataclasses import replace
from functools import partial
from itertools import chain, pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import merged_candidates
from search_space.architecture import EVERYTHING
from search_space.batches import Batch, batches, micro_batches, query_batches
from search_space.head_start import centroid_head
from search_space.normalizers import Normalizer
from search_space.primitives import FEW_SHOT
from search_space.settings import CENTROID, FASTEST, LEANEST, ORDINARY, ZERO, Schedule, SearchSettings
from tests.helpers import (
    WAYS,
    Mixing,
    changed,
    copy_parameters,
    edges_of,
    random_images,
    reference_supernet,
    start_search,
    tiny_supernet,
)

# Ordinary back-propagation: step by step, the supernet's hooks do not see the passes of adapting.
PLAIN = SearchSettings(epochs=2, architecture_epochs=2, batch_size=6, w_lr=0.01, alpha_lr=0.02)
SUPPORT = 15  # batches of 6, 6 and 3
ALPHA_BETA_DECAY = 1e-3


def support_set(number: int = SUPPORT) -> tuple[torch.Tensor, torch.Tensor]:
    return random_images(number), torch.arange(number) % WAYS


class Watched:
    """A task's search with a record of what the supernet was given, pass by pass."""

    def __init__(self, settings: SearchSettings, seed: int = 0, index: int = 0, number: int = SUPPORT, **net):
        self.supernet, self.architecture = tiny_supernet(**net)
        self.net = self.supernet.settings
        self.before = copy_parameters(self.supernet, self.architecture)
        self.search = start_search(self.supernet, self.architecture, settings, seed, "test task", index)
        self.images, self.labels = support_set(number)
        self.passes, self.mixtures, self.keeps, self.logits = [], [], [], []
        self.choices, self.temperatures, self.steps_left, self.alphas = [], [], [], []
        self.supernet.register_forward_hook(self._note_pass)
        self._choose = self.search.selector.choose
        self.search.selector.choose = self._note_choice

    def adapt(self) -> "Watched":
        self.loss = self.search.adapt(self.images, self.labels)
        return self

    def after(self) -> list[dict[str, torch.Tensor]]:
        return copy_parameters(self.supernet, self.architecture)

    def steps(self, sizes: list[int]) -> list[tuple[list, list]]:
        """(chunks of the architecture step, of the weight step) of each step, given the sizes of an epoch's batches."""
        left, steps = list(self.passes), []
        while left:
            pair = []
            for _ in range(2):
                taken = []
                while sum(map(len, taken)) < sizes[len(steps) % len(sizes)]:
                    taken.append(left.pop(0))
                pair.append(taken)
            steps.append(tuple(pair))
        return steps

    def _note_pass(self, _, args, logits) -> None:
        images, mixtures, *keep = args
        matches = (images[:, None].flatten(2) == self.images[None].flatten(2)).all(-1)
        self.passes.append(matches.long().argmax(1).tolist() if matches.any() else [])
        self.mixtures.append({t: (m.coefficients.detach().clone(), m.trained) for t, m in mixtures.items()})
        self.keeps.append(keep[0] if keep else None)
        self.logits.append(logits.detach().clone())

    def _note_choice(self, normalizer, threshold, steps_left, noise=None):
        choice = self._choose(normalizer, threshold, steps_left, noise)
        self.choices.append(choice)
        self.temperatures.append(normalizer.temperature)
        self.steps_left.append(steps_left)
        self.alphas.append(torch.stack([alpha.detach() for alpha in self.architecture.alpha["normal"]]))
        return choice


# --- Batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "size", "expected"),
    [
        (75, 20, [20, 20, 20, 15]),
        (25, 15, [15, 10]),
        (20, 20, [20]),
        (41, 20, [20, 21]),
        (21, 20, [21]),
        (5, 15, [5]),
        (7, 2, [2, 2, 3]),
        (2, 20, [2]),
    ],
)
def test_batches_take_a_remainder_of_one_into_their_neighbour(number, size, expected):
    order = torch.randperm(number)
    parts = batches(order, size)
    assert [len(part) for part in parts] == expected
    assert torch.equal(torch.cat(parts), order)


@pytest.mark.parametrize(
    ("number", "split_num", "expected"),
    [
        (15, 5, [3, 3, 3, 3, 3]),
        (20, 5, [4, 4, 4, 4, 4]),
        (15, 1, [15]),
        (7, 3, [3, 2, 2]),
        (5, 5, [3, 2]),
        (4, 5, [2, 2]),
        (3, 5, [3]),
        (2, 5, [2]),
    ],
)
def test_split_num_is_lowered_so_that_no_chunk_holds_a_single_image(number, split_num, expected):
    batch = torch.arange(number)
    parts = micro_batches(batch, Schedule(ORDINARY, split_num))
    assert [len(part) for part in parts] == expected
    assert Schedule(ORDINARY, split_num).count(number) == len(expected)
    assert torch.equal(torch.cat(list(parts)), batch)


@pytest.mark.parametrize(
    ("number", "split_num", "smallest", "expected"),
    [(15, 5, 3, [3, 3, 3, 3, 3]), (14, 5, 3, [4, 4, 3, 3]), (10, 2, 3, [5, 5]), (5, 5, 3, [5]), (3, 3, 4, [3])],
)
def test_split_num_is_lowered_so_that_chunks_are_not_too_small(number, split_num, smallest, expected):
    batch = torch.arange(number)
    parts = micro_batches(batch, Schedule(ORDINARY, split_num, smallest))
    assert [len(part) for part in parts] == expected
    assert Schedule(ORDINARY, split_num, smallest).count(number) == len(expected)
    assert torch.equal(torch.cat(list(parts)), batch)


@pytest.mark.parametrize(("ways", "queries", "size"), [(5, 1, 15), (5, 15, 15), (20, 1, 15), (3, 4, 7), (2, 5, 2)])
def test_query_batches_hold_every_class_equally_often(ways, queries, size):
    labels = (torch.arange(ways * queries) % ways)[torch.randperm(ways * queries)]
    parts = query_batches(labels, size)
    assert sorted(torch.cat(parts).tolist()) == list(range(ways * queries))
    for part in parts:
        counts = torch.bincount(labels[part], minlength=ways)
        assert (counts == counts[0]).all()
        assert len(part) <= max(size, ways)


# --- Adapting -------------------------------------------------------------------------------------------------------

SELECTIONS = {
    "every candidate": {},
    "two candidates": {"sampleno": 2},
    "one pair": {"beta_sampling": True},
    "two candidates and one pair": {"sampleno": 2, "beta_sampling": True},
}


def reference_adaptation(watched: Watched, settings: SearchSettings, sizes: list[int], fused: bool):
    """The plain loop: on the batches, chunks and choices that were noted, everything else worked out here."""
    weights, architecture = (dict(part) for part in watched.before)
    weight_optimizer = torch.optim.Adam(weights.values(), settings.w_lr, betas=(0.0, 0.999), fused=fused)
    architecture_optimizer = torch.optim.Adam(
        architecture.values(), settings.alpha_lr, betas=(0.0, 0.999), weight_decay=ALPHA_BETA_DECAY, fused=fused
    )
    steps = watched.steps(sizes)
    epoch_loss = 0.0
    for number, step in enumerate(steps):
        epoch = number // len(sizes)
        temperature = 1.0 - epoch * 0.9 / (settings.epochs - 1) if settings.epochs > 1 else 1.0
        choice = watched.choices[number]
        mixing = Mixing(temperature, settings.prune_threshold, ops=choice.ops, pairs=choice.pairs)
        turns = ((architecture_optimizer, architecture), (weight_optimizer, weights))
        for (optimizer, leaves), parts in zip(turns, step, strict=True):
            batch = sum(map(len, parts))
            loss = sum(
                F.cross_entropy(
                    reference_supernet(watched.net, weights, architecture, watched.images[part], mixing),
                    watched.labels[part],
                )
                * (len(part) / batch)
                for part in parts
            )
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for leaf, gradient in zip(leaves.values(), gradients, strict=True):
                leaf.grad = gradient
            optimizer.step()
        if number % len(sizes) == 0:
            epoch_loss = 0.0
        epoch_loss += loss.item() * batch / len(watched.labels)
    return weights, architecture, epoch_loss


@pytest.mark.parametrize("split_num", [1, 4])
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("fused", [False, True], ids=["plain Adam", "fused Adam"])
def test_adaptation_equals_a_plain_loop(selection, split_num, fused):
    settings = changed(PLAIN, epochs=4, architecture_epochs=4, split_num=split_num, **SELECTIONS[selection])
    watched = Watched(settings, layers=3, reduction_layers=(1,)).adapt()
    weights, architecture, loss = reference_adaptation(watched, settings, [6, 6, 3], fused)
    assert watched.loss == pytest.approx(loss, rel=1e-5)
    for actual, expected in zip(watched.after(), (weights, architecture), strict=True):
        for name, tensor in expected.items():
            torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_each_epoch_shuffles_the_support_set_twice():
    watched = Watched(PLAIN).adapt()
    steps = watched.steps([6, 6, 3])
    assert len(steps) == 6
    orders = [[i for step in steps[e : e + 3] for part in step[kind] for i in part] for e in (0, 3) for kind in (0, 1)]
    assert all(sorted(order) == list(range(SUPPORT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_chunks_of_a_batch():
    watched = Watched(changed(PLAIN, split_num=4, epochs=1, architecture_epochs=1)).adapt()
    sizes = [[[len(part) for part in parts] for parts in step] for step in watched.steps([6, 6, 3])]
    assert sizes == [[[2, 2, 2]] * 2, [[2, 2, 2]] * 2, [[3]] * 2]


def test_chunks_of_the_smallest_size_and_more():
    watched = Watched(changed(PLAIN, split_num=4, smallest=3, epochs=1, architecture_epochs=1)).adapt()
    sizes = [[[len(part) for part in parts] for parts in step] for step in watched.steps([6, 6, 3])]
    assert sizes == [[[3, 3]] * 2, [[3, 3]] * 2, [[3]] * 2]


def test_remainder_of_one_image_is_never_a_batch_of_its_own():
    watched = Watched(PLAIN, number=13).adapt()
    assert [len(part) for part in watched.passes] == [6, 6, 7, 7] * 2


def test_steps_left_count_the_batches_and_temperature_the_epochs():
    settings = changed(PLAIN, epochs=4, architecture_epochs=4, sampleno=2)
    watched = Watched(settings).adapt()
    assert watched.steps_left == list(range(12, 0, -1))
    assert watched.temperatures == pytest.approx([1.0] * 3 + [0.7] * 3 + [0.4] * 3 + [0.1] * 3)
    assert watched.search.normalizer.temperature == pytest.approx(0.1)  # that of testing


def test_choices_follow_the_updates_of_the_task_once_there_are_six():
    settings = changed(PLAIN, epochs=24, architecture_epochs=24, batch_size=20, sampleno=1, prune_threshold=0.0)
    watched = Watched(settings).adapt()
    alphas = torch.stack(watched.alphas)  # before each of the 24 steps
    best = []
    for step in range(6, 24):
        updates = alphas[step - 5 : step + 1] - alphas[step - 6 : step]
        expected = alphas[step] + (24 - step) * updates.mean(0)
        for edge, (chosen,) in enumerate(watched.choices[step].ops["normal"]):
            best.append(chosen == expected[edge].argmax().item())
    assert sum(best) / len(best) == pytest.approx(0.8, abs=0.13)


def test_weights_only_leaves_alpha_and_beta_alone_at_t_max():
    watched = Watched(changed(PLAIN, architecture_epochs=0)).adapt()
    assert [len(part) for part in watched.passes] == [6, 6, 3] * 2
    assert set(watched.temperatures) == {1.0}
    for name, tensor in watched.before[1].items():
        assert torch.equal(watched.after()[1][name], tensor)


def test_choice_is_made_once_per_step_and_serves_both_gradients():
    watched = Watched(changed(PLAIN, split_num=2, sampleno=2, beta_sampling=True)).adapt()
    assert len(watched.choices) == 6
    trained = [tuple(str(mixture[kind][1]) for kind in sorted(mixture)) for mixture in watched.mixtures]
    passes = iter(trained)
    of_steps = [{next(passes) for parts in step for _ in parts} for step in watched.steps([6, 6, 3])]
    assert all(len(one) == 1 for one in of_steps)
    assert len(set.union(*of_steps)) > 3
    for mixture in watched.mixtures:
        assert all(sum(edge) <= 2 for _, edges in mixture.values() for edge in edges)


def test_a_tensor_that_got_no_gradient_is_not_stepped():
    settings = changed(PLAIN, epochs=1, architecture_epochs=1, batch_size=20, sampleno=1, beta_sampling=True)
    watched = Watched(settings, reduction_layers=()).adapt()
    (choice,) = watched.choices
    after, (weights, architecture) = watched.after(), watched.before
    stepped = {True: 0, False: 0}
    for name, tensor in weights.items():
        moved = not torch.equal(after[0][name], tensor)
        expected = True
        if ".to_node." in name:
            _, _, _, source, _, node, operation, *_ = name.split(".")
            source, node = int(source), int(node)
            edge = edges_of(2).index((source, node))
            chosen = FEW_SHOT.index(operation) in choice.ops["normal"][edge]
            expected = chosen and source in choice.pairs["normal"][node]
        assert moved == expected, name
        stepped[moved] += 1
    assert stepped[False] > 20
    # Not even weight decay may move an edge outside the chosen pair, nor, as there is no reduction cell, its type.
    pairs = choice.pairs["normal"]
    chosen = {f"alpha.normal.{edge}" for edge, (source, node) in enumerate(edges_of(2)) if source in pairs[node]}
    assert len(chosen) == 4
    moved = {name for name, tensor in architecture.items() if not torch.equal(after[1][name], tensor)}
    assert moved == chosen | {"beta.normal.0", "beta.normal.1"}


def test_same_name_same_result_whatever_the_global_generator_does():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        watched = Watched(changed(PLAIN, sampleno=2, beta_sampling=True, drop_path_prob=0.2)).adapt()
        results.append((watched.loss, *(t for part in watched.after() for t in part.values())))
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(seed).get_state())
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(*(result[1:] for result in results), strict=True))


def test_other_seeds_and_tasks_draw_other_batches():
    passes = [Watched(PLAIN, seed=seed, index=index).adapt().passes for seed, index in ((0, 0), (1, 0), (0, 1))]
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_kind_of_search_does_not_change_the_batches():
    expected = Watched(PLAIN).adapt().passes
    kinds = [
        *({"sampleno": 2}, {"sampleno": 1, "beta_sampling": True}, {"sampleno": 2, "alpha_expect": False}),
        *({"drop_path_prob": 0.3}, {"normalizer": Normalizer("gumbel_softmax")}, {"transductive": False}),
    ]
    for kind in kinds:
        assert Watched(changed(PLAIN, **kind)).adapt().passes == expected, kind


def test_head_starts_at_the_class_means_of_the_support_sets_features():
    """Without a learning rate it is still there after adapting; otherwise the head is the meta-cell's."""
    still = replace(PLAIN, epochs=1, architecture_epochs=0, batch_size=SUPPORT, w_lr=0.0)
    watched = Watched(still).adapt()
    own = [parameter.clone() for parameter in watched.supernet.head.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(own, Watched(still).supernet.head.parameters(), strict=True))
    assert not any(
        parameter.any() for parameter in Watched(replace(still, head_init=ZERO)).adapt().supernet.head.parameters()
    )
    watched = Watched(replace(still, head_init=CENTROID)).adapt()
    mixtures = watched.search.mixtures()
    watched.search.average_batch_statistics(watched.images, mixtures)  # as images are classified one by one
    with torch.no_grad():
        features = watched.supernet.eval().features(watched.images, mixtures)
    for actual, expected in zip(
        watched.supernet.head.parameters(), centroid_head(features, watched.labels, WAYS), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_gumbel_noise_is_drawn_once_per_step():
    settings = changed(PLAIN, normalizer=Normalizer("gumbel_softmax"), alpha_lr=0.0, split_num=3)
    watched = Watched(settings).adapt()
    coefficients = iter(mixture["normal"][0] for mixture in watched.mixtures)
    of_steps = [[next(coefficients) for parts in step for _ in parts] for step in watched.steps([6, 6, 3])]
    for step in of_steps:
        for other in step[1:]:
            torch.testing.assert_close(other, step[0], rtol=0, atol=1e-12)
    firsts = [step[0] for step in of_steps]
    assert all((a - b).abs().max() > 0.01 for a, b in pairwise(firsts))


def test_no_noise_when_testing():
    watched = Watched(changed(PLAIN, normalizer=Normalizer("gumbel_softmax"), prune_threshold=0.0))
    watched.search.classify(watched.images, watched.labels, watched.images)
    expected = torch.softmax(watched.before[1]["alpha.normal.0"], -1)  # edge (0, 0) has the whole weight of its pair
    torch.testing.assert_close(watched.mixtures[0]["normal"][0][0], expected.detach())


def test_drop_path_is_of_adapting_only():
    watched = Watched(changed(PLAIN, drop_path_prob=0.5, split_num=2)).adapt()
    assert [keep.shape for keep in watched.keeps] == [(2, 5, 7, len(part)) for part in watched.passes]
    number = len(watched.keeps)
    watched.search.classify(watched.images, watched.labels, watched.images)
    assert watched.keeps[number:]
    assert all(keep is None for keep in watched.keeps[number:])
    assert all(keep is None for keep in Watched(PLAIN).adapt().keeps)


def test_each_task_starts_with_fresh_optimizers():
    """Adam's first step is lr times the gradient's sign: with a second adaptation so again."""
    settings = changed(PLAIN, epochs=1, architecture_epochs=0, batch_size=20, prune_threshold=0.0)
    watched = Watched(settings)
    for _ in range(2):
        before = watched.after()[0]
        watched.search.adapt(watched.images, watched.labels)
        bias = (watched.after()[0]["head.bias"] - before["head.bias"]).abs()
        torch.testing.assert_close(bias, torch.full_like(bias, settings.w_lr), rtol=1e-3, atol=0)


# --- Step by step ---------------------------------------------------------------------------------------------------

CASES = {
    "every candidate": {"prune_threshold": 0.0},
    "two candidates and one pair": {"sampleno": 2, "beta_sampling": True},
    "split": {"split_num": 3},
    "drop-path": {"drop_path_prob": 0.4},
    "gumbel": {"normalizer": Normalizer("gumbel_softmax")},
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
def test_the_order_of_steps_of_a_schedule_is_the_same_for_the_same_name(schedule):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        settings = changed(PLAIN, sampleno=2, beta_sampling=True, drop_path_prob=0.2, schedule=schedule)
        runs.append(Watched(settings).adapt())
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(seed).get_state())
    assert runs[0].loss == runs[1].loss
    for first, second in zip(runs[0].after(), runs[1].after(), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


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


# --- Testing --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("split_num", [1, 4])
def test_average_of_batch_statistics_is_that_of_torch(split_num, monkeypatch):
    """nn.BatchNorm2d's own cumulative average, over the same micro-batches."""
    monkeypatch.setattr(merged_candidates, "SMALL", 0)
    watched = Watched(changed(PLAIN, transductive=False, split_num=split_num)).adapt()
    norms = [norm for norm in watched.supernet.modules() if isinstance(norm, nn.BatchNorm2d)]
    references = [nn.BatchNorm2d(norm.num_features, momentum=None, affine=False).double() for norm in norms]

    def feed(reference, norm, args) -> None:
        reference(args[0].clone())

    for norm, reference in zip(norms, references, strict=True):
        norm.register_forward_pre_hook(partial(feed, reference))
    with torch.no_grad():
        watched.search.average_batch_statistics(watched.images, watched.search.mixtures())
    run = 0
    for norm, reference in zip(norms, references, strict=True):
        assert norm.num_batches_tracked == reference.num_batches_tracked
        run += bool(norm.num_batches_tracked)
        torch.testing.assert_close(norm.running_mean, reference.running_mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norm.running_var, reference.running_var, rtol=1e-10, atol=1e-12)
    assert run > 10


@pytest.mark.parametrize("transductive", [True, False])
def test_testing_is_the_same_whatever_the_schedule_of_adapting(transductive):
    results = []
    for schedule in (ORDINARY, *STEP_BY_STEP):
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
