"""Candidates merged over the edges that leave a state: what each gives by itself, and the same running statistics."""

import copy

import pytest
import torch

from models.batch_norm import share_tracking
from models.merged_candidates import SMALL, can_merge, merged
from models.operations import CANDIDATES
from models.search_cell import Mixture, Source
from models.textbook_norm import with_textbook_norm

every_kind = pytest.mark.parametrize("name", [name for name in CANDIDATES if "conv" in name])
every_stride = pytest.mark.parametrize("stride", [1, 2])
by_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def operations(name: str, stride: int, count: int = 3, training: bool = True) -> list[torch.nn.Module]:
    """Of 6 channels, each with weights and running statistics of its own."""
    torch.manual_seed(0)
    made = [CANDIDATES[name](6, stride).double().train(training) for _ in range(count)]
    for operation in made:
        for module in operation.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return [operation.to(memory_format=torch.channels_last) for operation in made]


def state(channels: int = 6, size: tuple[int, int] = (7, 8)) -> torch.Tensor:
    x = torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.relu().contiguous(memory_format=torch.channels_last)


@every_kind
@every_stride
@by_mode
@torch.no_grad()
def test_same_as_each_by_itself(name, stride, training):
    together, alone = (operations(name, stride, training=training) for _ in range(2))
    x = state()
    outputs = merged(together, x)
    assert torch.equal(x, state())  # which others read too
    for output, one in zip(outputs, alone, strict=True):
        torch.testing.assert_close(output, one(x), rtol=1e-12, atol=1e-12)
    for after, one in zip(together, alone, strict=True):
        for key, value in one.state_dict().items():
            torch.testing.assert_close(after.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@every_kind
@torch.no_grad()
def test_some_of_a_states_channels(name):
    """As PC-DARTS' candidates get them."""
    ops = operations(name, 1)
    part = state(channels=12)[:, :6]
    for output, one in zip(merged(ops, part), copy.deepcopy(ops), strict=True):
        torch.testing.assert_close(output, one(part), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_statistics_stay_while_tracking_is_paused():
    ops = operations("sep_conv_3x3", 1)
    before = copy.deepcopy([one.state_dict() for one in ops])
    with share_tracking(torch.nn.ModuleList(ops)).paused():
        merged(ops, state())
    for one, kept in zip(ops, before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in one.state_dict().items())


def test_only_small_states_without_a_gradient_and_several_of_a_kind():
    ops = operations("conv_3x3", 1)
    x = state()
    assert not can_merge(ops, x)
    with torch.no_grad():
        assert can_merge(ops, x)
        assert not can_merge(ops[:1], x)
        assert not can_merge(ops, torch.cat([x] * (SMALL // x.numel() + 1)))
        assert not can_merge([with_textbook_norm(one) for one in ops], x)
        assert not can_merge([CANDIDATES["skip_connect"](6, 2) for _ in range(2)], x)


@every_stride
def test_a_state_pushed_through_its_candidates_with_some_pruned(stride, monkeypatch):
    primitives = ("max_pool_3x3", "skip_connect", "conv_3x3", "sep_conv_3x3", "conv_1x5_5x1", "dil_conv_3x3")
    torch.manual_seed(2)
    source = Source({0: 0, 2: 1, 5: 2}, primitives, 6, stride).double().to(memory_format=torch.channels_last)
    active = [[True] * 6 for _ in range(6)]
    active[2][3] = active[0][4] = active[2][4] = False
    mixture = Mixture(torch.rand(6, 6, dtype=torch.float64), active, active)
    together = []
    monkeypatch.setattr("models.search_cell.merged", lambda ops, x: together.append(len(ops)) or merged(ops, x))
    sums = {}
    for limit in (0, SMALL):
        monkeypatch.setattr("models.merged_candidates.SMALL", limit)
        nodes = [None] * 3
        with torch.no_grad():
            source(state(), mixture, mixture.weights(None), nodes)
        sums[limit] = nodes
        # conv_3x3 on three edges, sep_conv_3x3 on two, conv_1x5_5x1 on one, dil_conv_3x3 on three.
        assert together == ([] if limit == 0 else [3, 2, 3])
    for merged_sum, plain in zip(sums[SMALL], sums[0], strict=True):
        torch.testing.assert_close(merged_sum, plain, rtol=1e-12, atol=1e-12)
