"""Training a derived network against DARTS's loop written out on PyTorch's own optimizer and schedule."""

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.derived_network import DerivedNetwork, DerivedSettings
from search_space.full_task.derived_training import DerivedTraining, TrainingSettings
from search_space.settings import FASTEST, ORDINARY
from tests.helpers import changed
from utils.errors import InputError
from utils.results.log_rows import DerivedEpochRow

WAYS = 3
EDGES = (("conv_3x3", 0), ("skip_connect", 1))
NETWORK = DerivedSettings(1, 2, 2, (1,), EDGES, EDGES)
SETTINGS = TrainingSettings(epochs=4)
EPOCHS = range(4)


def fresh_network(auxiliary: bool = False) -> DerivedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DerivedNetwork(replace(NETWORK, auxiliary=auxiliary), WAYS).double()


def batches(seed: int = 0, sizes: tuple[int, ...] = (6, 6, 5)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(size, 1, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(WAYS, (size,), generator=generator),
        )
        for size in sizes
    ]


def tensors_of(network: DerivedNetwork) -> list[torch.Tensor]:
    return list(network.state_dict().values())


@pytest.mark.parametrize(("auxiliary", "split", "clip"), [(False, 1, 0.9), (False, 2, 0.9), (True, 2, 5.0)])
def test_training_is_the_published_rule(auxiliary, split, clip):
    settings = changed(SETTINGS, drop_path_prob=0.0, split_num=split, lr=0.1, grad_clip=clip)
    network, reference = fresh_network(auxiliary), fresh_network(auxiliary)
    training = DerivedTraining(network, settings, seed=0)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    norms = []
    for epoch in EPOCHS:
        result = training.train_epoch(epoch, batches(epoch))
        loss, accuracy = result.loss, result.accuracy
        total, right = 0.0, 0
        reference.train()
        for images, labels in batches(epoch):
            optimizer.zero_grad()
            for part in torch.arange(len(labels)).tensor_split(split):
                outputs = reference(images[part])
                logits = outputs[0] if auxiliary else outputs
                part_loss = F.cross_entropy(logits, labels[part], reduction="sum")
                if auxiliary:
                    part_loss = part_loss + 0.4 * F.cross_entropy(outputs[1], labels[part], reduction="sum")
                (part_loss / len(labels)).backward()
                total += part_loss.item()
                right += int((logits.argmax(1) == labels[part]).sum())
            norms.append(float(nn.utils.clip_grad_norm_(reference.parameters(), clip)))
            optimizer.step()
        schedule.step()
        assert loss == pytest.approx(total / 17, rel=1e-6)
        assert accuracy == right / 17
    assert min(norms) < clip < max(norms)
    torch.testing.assert_close(tensors_of(network), tensors_of(reference), rtol=1e-9, atol=1e-9)


def test_published_values():
    assert (SETTINGS.lr, SETTINGS.momentum, SETTINGS.weight_decay, SETTINGS.grad_clip) == (0.025, 0.9, 3e-4, 5.0)
    assert (SETTINGS.drop_path_prob, SETTINGS.auxiliary_weight) == (0.2, 0.4)
    assert [SETTINGS.lr_at(epoch) for epoch in (0, 2, 4)] == pytest.approx([0.025, 0.0125, 0.0], abs=1e-15)
    assert [SETTINGS.drop_path_at(epoch) for epoch in EPOCHS] == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_drop_path_is_drawn_for_each_micro_batch_with_the_probability_of_the_epoch(monkeypatch):
    asked = []
    draw = DerivedNetwork.draw_drop_path

    def recorded(self, images, probability, generator):
        asked.append((images, probability))
        return draw(self, images, probability, generator)

    monkeypatch.setattr(DerivedNetwork, "draw_drop_path", recorded)
    training = DerivedTraining(fresh_network(), changed(SETTINGS, split_num=2), seed=0)
    training.train_epoch(0, batches())
    assert asked == []
    training.train_epoch(2, batches())
    assert asked == [(size, pytest.approx(0.1)) for size in (3, 3, 3, 3, 3, 2)]


def test_step_by_step_trains_the_same():
    networks = []
    for schedule in (ORDINARY, FASTEST):
        settings = changed(SETTINGS, schedule=schedule, drop_path_prob=0.4)
        training = DerivedTraining(fresh_network(auxiliary=True), settings, seed=5)
        for epoch in EPOCHS:
            training.train_epoch(epoch, batches(epoch))
        networks.append(tensors_of(training.network))
    torch.testing.assert_close(*networks, rtol=1e-9, atol=1e-9)


def row_of(training: DerivedTraining, epoch: int, batches: list) -> DerivedEpochRow:
    return replace(training.train_epoch(epoch, batches[epoch]), seconds=0.0)


def test_training_resumed_at_an_epochs_start_ends_the_same_to_the_last_bit():
    settings = changed(SETTINGS, drop_path_prob=0.4)
    whole = DerivedTraining(fresh_network(auxiliary=True).float(), settings, seed=5)
    singles = [[(images.float(), labels) for images, labels in batches(epoch)] for epoch in EPOCHS]
    results = []
    for epoch in EPOCHS:
        if epoch == 2:
            file = io.BytesIO()
            torch.save(whole.state_dict(), file)
        results.append(row_of(whole, epoch, singles))
        whole.accuracy(singles[0])
    file.seek(0)
    torch.rand(3)
    resumed = DerivedTraining(DerivedNetwork(replace(NETWORK, auxiliary=True), WAYS), settings, seed=5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [row_of(resumed, epoch, singles) for epoch in (2, 3)] == results[2:]
    for tensor, expected in zip(tensors_of(resumed.network), tensors_of(whole.network), strict=True):
        assert torch.equal(tensor, expected)
    other = DerivedTraining(fresh_network(auxiliary=True).float(), settings, seed=6)
    assert [row_of(other, epoch, singles) for epoch in EPOCHS] != results


def test_accuracy_is_that_of_each_image_alone_and_changes_nothing():
    training = DerivedTraining(fresh_network(), SETTINGS, seed=0)
    training.train_epoch(0, batches())
    before = copy.deepcopy(training.network.state_dict())
    images, labels = (torch.cat(parts) for parts in zip(*batches(1), strict=True))
    training.network.eval()
    right = sum(
        int(training.network(image[None]).argmax()) == int(label) for image, label in zip(images, labels, strict=True)
    )
    training.network.train()
    assert 0 < right < 17
    assert training.accuracy(batches(1)) == right / 17
    after = training.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_that_diverges_is_refused_with_the_flag(value):
    training = DerivedTraining(fresh_network(), SETTINGS, seed=0)
    broken = batches()
    broken[1][0][0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"epoch 1: --derived_lr must be smaller than 0.025"):
        training.train_epoch(1, broken)
