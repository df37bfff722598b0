"""The search of a full task: what its epochs do, by hand and against a plain loop, and that it resumes exactly."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from search_space.full_task import search as full_task
from search_space.full_task.search import FullTaskSearch
from search_space.genotype import read_genotype
from search_space.primitives import FULL_TASK
from search_space.search_network import SearchNetwork
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule, SearchSettings
from search_space.task_search import StepResult
from tests.helpers import (
    WAYS,
    Mixing,
    changed,
    copy_parameters,
    random_images,
    reference_supernet,
    tiny_supernet,
)
from utils.errors import InputError
from utils.memory import METERED_STEPS
from utils.run.files import read_tensors, write_tensors

SETTINGS = SearchSettings(4, 3, 6, w_lr=0.02, alpha_lr=0.03, schedule=Schedule(split_num=2))
STEPS = 4


def image_batches(seed: int, sizes=(4, 4, 4, 5)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = random_images(sum(sizes), seed=seed).split(sizes)
    return [(part, torch.randint(WAYS, (len(part),), generator=generator)) for part in images]


def start(settings: SearchSettings = SETTINGS, seed: int = 3, **net) -> FullTaskSearch:
    supernet, architecture = tiny_supernet(**{"primitives": FULL_TASK, **net})
    return FullTaskSearch(SearchNetwork(supernet, architecture), settings, seed)


def train(search: FullTaskSearch, epochs: range) -> list:
    return [
        search.train_epoch(epoch, image_batches(epoch), image_batches(100 + epoch), STEPS, on_step=lambda: None)
        for epoch in epochs
    ]


def state(search: FullTaskSearch) -> dict[str, torch.Tensor]:
    return search.network.state_dict()


# --- What an epoch does ---------------------------------------------------------------------------------------------


def reference_run(search: FullTaskSearch, settings: SearchSettings) -> list[dict[str, torch.Tensor]]:
    """All epochs by torch's Adam on the reference supernet: every candidate and pair gets gradient."""
    net = search.search.supernet.settings
    weights, architecture = copy_parameters(search.search.supernet, search.search.architecture)
    w_adam = torch.optim.Adam(weights.values(), betas=(0.0, 0.999))
    a_adam = torch.optim.Adam(architecture.values(), settings.alpha_lr, betas=(0.0, 0.999), weight_decay=1e-3)

    def add_gradient(leaves, images, labels, temperature):
        mixing = Mixing(temperature=temperature, threshold=settings.prune_threshold)
        for part, part_labels in zip(images.tensor_split(2), labels.tensor_split(2), strict=True):
            logits = reference_supernet(net, weights, architecture, part, mixing)
            loss = F.cross_entropy(logits, part_labels) * len(part) / len(images)
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True):
                if gradient is not None:
                    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient

    for epoch in range(settings.epochs):
        warm_up = settings.epochs - settings.architecture_epochs
        share = max(0, epoch - warm_up) / (settings.architecture_epochs - 1)
        temperature = 1.0 - share * 0.9
        for group in w_adam.param_groups:
            group["lr"] = settings.w_lr * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
        for training, validation in zip(image_batches(epoch), image_batches(100 + epoch), strict=True):
            if epoch >= warm_up:
                add_gradient(list(architecture.values()), *validation, temperature)
                a_adam.step()
                a_adam.zero_grad()
            add_gradient(list(weights.values()), *training, temperature)
            w_adam.step()
            w_adam.zero_grad()
    return [weights, architecture]


@pytest.mark.parametrize("schedule", [ORDINARY, FASTEST])
def test_epochs_equal_a_plain_loop(schedule):
    settings = changed(SETTINGS, schedule=schedule)
    search = start(settings)
    expected = reference_run(search, settings)
    train(search, range(4))
    for module, tensors in zip((search.search.supernet, search.search.architecture), expected, strict=True):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter, tensors[name], rtol=1e-6, atol=1e-8)


def test_warming_up_reads_no_validation_batch_and_leaves_alpha_and_beta_alone():
    search = start()
    before = {name: tensor.clone() for name, tensor in search.search.architecture.state_dict().items()}

    def never():
        raise AssertionError
        yield

    result = search.train_epoch(0, image_batches(0), never(), STEPS, on_step=lambda: None)
    assert result.validation_accuracy is None
    assert search.best is None
    for name, tensor in search.search.architecture.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_steps_left_temperature_and_learning_rate_by_hand(monkeypatch):
    search = start()
    seen = []

    def note(optimizers, training, validation, steps_left):
        lr = optimizers.weights.param_groups[0]["lr"]
        search.search.step_seconds.append(0.0)
        seen.append((validation is not None, steps_left, search.search.normalizer.temperature, lr))
        return StepResult(1.0, 0.5, None if validation is None else 0.5)

    monkeypatch.setattr(search.search, "step", note)
    train(search, range(4))
    assert [row[0] for row in seen] == [False] * 4 + [True] * 12
    assert [row[1] for row in seen] == [12] * 4 + list(range(12, 0, -1))
    assert [row[2] for row in seen[::4]] == pytest.approx([1.0, 1.0, 0.55, 0.1])
    assert [row[3] for row in seen[::4]] == pytest.approx(
        [0.02, 0.01 * (1 + math.sqrt(0.5)), 0.01, 0.01 * (1 - math.sqrt(0.5))]
    )


def test_means_of_an_epoch_and_the_genotype_of_the_best(monkeypatch):
    search = start()
    accuracies = iter([0.2, 0.4, 0.6, 0.8] + [0.9] * 4 + [0.8] * 4)
    found = []

    def step(optimizers, training, validation, steps_left):
        with torch.no_grad():
            for parameter in search.search.architecture.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(steps_left))
        search.search.step_seconds.append(0.0)
        validated = None if validation is None else next(accuracies)
        return StepResult(float(steps_left), 0.25, validated)

    monkeypatch.setattr(search.search, "step", step)
    steps = []
    for epoch in range(4):
        halves = image_batches(0), image_batches(1)
        result = search.train_epoch(epoch, *halves, STEPS, on_step=lambda: steps.append(None))
        found.append(read_genotype(search.search.architecture, FULL_TASK))
    assert len(steps) == 16
    assert result.loss == pytest.approx(2.5)  # the last epoch's steps left: 4, 3, 2, 1
    assert (result.accuracy, result.validation_accuracy) == pytest.approx((0.25, 0.8))
    assert search.best.epoch == 2
    assert search.best.accuracy == pytest.approx(0.9)
    assert search.best.genotype == found[2] != found[3]


def test_divergence_is_one_sentence():
    search = start(replace(SETTINGS, w_lr=1e200))
    with pytest.raises(InputError, match=r"diverged, its loss is not finite: --w_lr must be smaller than 1e\+200"):
        train(search, range(4))


def test_selection_is_drawn_by_epoch_and_follows_the_updates_before():
    search = start(replace(SETTINGS, sampleno=2, beta_sampling=True, prune_threshold=0.0))
    choices = []
    choose = search.search.selector.choose

    def note(*arguments):
        choices.append(choose(*arguments))
        return choices[-1]

    search.search.selector.choose = note
    train(search, range(4))
    assert len(choices) == 16
    assert all(len(ops) == 2 for choice in choices for kind in choice.ops.values() for ops in kind)
    assert len(search.search.selector.history.expected("alpha.normal.0", 0)) == len(FULL_TASK)


def test_accuracy_is_of_running_statistics_at_the_best_epochs_temperature():
    search = start()
    train(search, range(4))
    search.best = replace(search.best, epoch=2)
    after = search.search.normalizer
    images, labels = random_images(7, seed=5), torch.arange(7) % WAYS
    supernet = search.search.supernet.eval()
    normalizer = SETTINGS.normalizer.annealed(1, 3)
    assert normalizer.temperature == pytest.approx(0.55)
    with torch.no_grad():
        mixtures = search.search.architecture.mixtures(normalizer, SETTINGS.prune_threshold)
        one_by_one = torch.cat([supernet(image[None], mixtures) for image in images])
    expected = (one_by_one.argmax(1) == labels).float().mean().item()
    parts = zip(images.split(3), labels.split(3), strict=True)
    assert search.accuracy(parts) == pytest.approx(expected)
    assert search.search.normalizer is after


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
def test_state_goes_to_the_network_s_device(tmp_path):
    """A checkpoint is read on the CPU; a GPU's kernels want all of it beside the weights."""
    search = start(replace(SETTINGS, sampleno=2, beta_sampling=True))
    train(search, range(2))
    write_tensors(tmp_path / "state.pt", search.state_dict())
    state = read_tensors(tmp_path / "state.pt")
    there = start(replace(SETTINGS, sampleno=2, beta_sampling=True))
    for module in (there.search.supernet, there.search.architecture):
        module.to("meta")
    there.optimizers = there.search.new_optimizers()
    there.load_state_dict(state)
    tensors = list(there._state_tensors())
    assert len(tensors) > 100
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_first_steps_are_metered(monkeypatch):
    metered = []

    class Meter:
        mib, breakdown_mib = 7.0, {}

        def __init__(self, device, parameters, other):
            pass

        def __enter__(self):
            metered.append(0)
            return self

        def __exit__(self, *exception):
            self.open = False
            metered.append(None)

    monkeypatch.setattr(full_task, "PeakMemory", Meter)
    search = start()
    marks = []
    search.train_epoch(0, image_batches(0), [], STEPS, on_step=lambda: marks.append(len(metered)))
    assert marks == [1] * METERED_STEPS + [2] * (STEPS - METERED_STEPS)


# --- Resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("selects", "epoch"), [(False, 2), (True, 1), (True, 3)])
def test_resumed_at_any_epoch_it_ends_bit_for_bit_the_same(tmp_path, selects, epoch):
    settings = changed(SETTINGS, schedule=LEANEST, normalizer=replace(SETTINGS.normalizer, name="gumbel_softmax"))
    if selects:
        settings = replace(settings, sampleno=2, beta_sampling=True)
    whole = start(settings)
    train(whole, range(4))
    first = start(settings)
    train(first, range(epoch))
    write_tensors(tmp_path / "state.pt", first.state_dict())
    torch.manual_seed(77)
    resumed = start(settings, layers=2)
    with torch.no_grad():
        for parameter in resumed.search.supernet.parameters():
            parameter.zero_()
    resumed.load_state_dict(read_tensors(tmp_path / "state.pt"))
    train(resumed, range(epoch, 4))
    assert resumed.best == whole.best
    for name, tensor in state(whole).items():
        assert torch.equal(state(resumed)[name], tensor), name
