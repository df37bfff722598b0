"""One task's search against a plain loop over the reference supernet, with torch's own Adam."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from search_space.head_start import centroid_head
from search_space.normalizers import Normalizer
from search_space.primitives import FEW_SHOT
from search_space.settings import CENTROID, FASTEST, LEANEST, ORDINARY, ZERO, SearchSettings
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


# --- Adapting -------------------------------------------------------------------------------------------------------

SELECTIONS = {"every candidate": {}, "two candidates and one pair": {"sampleno": 2, "beta_sampling": True}}


def reference_adaptation(watched: Watched, settings: SearchSettings, sizes: list[int]):
    """The plain loop: on the batches, chunks and choices that were noted, everything else worked out here."""
    weights, architecture = (dict(part) for part in watched.before)
    weight_optimizer = torch.optim.Adam(weights.values(), settings.w_lr, betas=(0.0, 0.999))
    architecture_optimizer = torch.optim.Adam(
        architecture.values(), settings.alpha_lr, betas=(0.0, 0.999), weight_decay=ALPHA_BETA_DECAY
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
def test_adaptation_equals_a_plain_loop(selection, split_num):
    settings = changed(PLAIN, epochs=3, architecture_epochs=3, split_num=split_num, **SELECTIONS[selection])
    watched = Watched(settings, layers=3, reduction_layers=(1,)).adapt()
    weights, architecture, loss = reference_adaptation(watched, settings, [6, 6, 3])
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


@pytest.mark.parametrize("schedule", [ORDINARY, FASTEST, LEANEST])
def test_same_name_same_result_whatever_the_global_generator_does(schedule):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        settings = changed(PLAIN, sampleno=2, beta_sampling=True, drop_path_prob=0.2, schedule=schedule)
        runs.append(Watched(settings).adapt())
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(seed).get_state())
    assert runs[0].loss == runs[1].loss
    for first, second in zip(runs[0].after(), runs[1].after(), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
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
