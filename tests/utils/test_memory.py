"""The memory meter against cases counted by hand. A float32 takes 4 bytes."""

import gc
from unittest import mock

import torch
from torch import nn

from utils.memory import MIB, LiveTensorBytes, PeakMemory

KILO = 1024  # floats of the tensors below
BYTES = 4 * KILO


def test_peak_is_the_largest_sum_of_what_was_alive():
    with LiveTensorBytes() as meter:
        a = torch.zeros(KILO)
        b = torch.ones(2 * KILO)
        assert meter.live == 3 * BYTES
        del a
        assert meter.live == 2 * BYTES
        c = torch.zeros(KILO)
        assert (meter.live, meter.peak) == (3 * BYTES, 3 * BYTES)
        del b, c
    assert (meter.live, meter.peak) == (0, 3 * BYTES)


def test_temporaries_count_towards_the_peak():
    with LiveTensorBytes() as meter:
        a = torch.zeros(KILO)
        result = (a + 1) * 2  # a, a + 1 and the product at once; then a + 1 goes
        assert (meter.live, meter.peak) == (2 * BYTES, 3 * BYTES)
        del a, result


def test_views_are_counted_once():
    with LiveTensorBytes() as meter:
        a = torch.zeros(KILO)
        views = [a.view(32, 32), a[3:], a.view(32, 32).t(), a.detach(), a[::2].unsqueeze(0)]
        assert meter.live == BYTES
        del a
        assert meter.live == BYTES  # a view keeps the whole storage
        del views[0], views
        assert meter.live == 0


def test_view_counts_the_whole_storage_behind_it():
    outside = torch.zeros(KILO)
    with LiveTensorBytes() as meter:
        total = outside[:4].sum()
        assert meter.live == BYTES + total.untyped_storage().nbytes()


def test_arguments_are_not_counted_unless_named_as_resident():
    outside, resident = torch.zeros(KILO), torch.zeros(KILO)
    with LiveTensorBytes(iter([resident])) as meter:
        total = torch.cat([outside, resident])
        assert (meter.live, meter.peak) == (3 * BYTES, 3 * BYTES)
        del total


def test_in_place_operations_take_nothing():
    with LiveTensorBytes() as meter:
        a, b = torch.zeros(KILO), torch.ones(KILO)
        a.add_(b).mul_(2).addcmul_(a, b)
        a[5:].zero_()
        torch.add(a, b, out=a)
        assert meter.peak == 2 * BYTES


def test_many_short_lives_leave_nothing_behind():
    with LiveTensorBytes() as meter:
        for _ in range(200):
            torch.zeros(KILO).add(1)
        assert (meter.live, meter.peak) == (0, 2 * BYTES)


def test_resident_tensors_are_counted_from_the_start_and_once():
    a, b = torch.zeros(KILO), torch.zeros(KILO)
    meter = LiveTensorBytes([a, a, a.view(32, 32), b])
    assert (meter.live, meter.peak) == (2 * BYTES, 2 * BYTES)
    with meter:
        c = a + b
        assert meter.peak == 3 * BYTES
    del a, c
    assert meter.live == BYTES


def test_tensors_of_several_outputs_and_in_lists():
    with LiveTensorBytes() as meter:
        a = torch.arange(float(KILO))
        values, indices = a.sort()  # int64 indices take twice as much
        assert meter.live == BYTES + BYTES + 2 * BYTES
        joined = torch.cat([a, values])
        assert meter.live == 4 * BYTES + 2 * BYTES
        del indices, joined


def test_what_autograd_saves_is_alive_until_the_backward_pass():
    x = torch.rand(KILO)
    w = torch.rand(KILO, requires_grad=True)
    with LiveTensorBytes([x, w]) as meter:
        loss = (x * w).exp().sum()  # exp keeps its output; the product goes
        scalar = loss.untyped_storage().nbytes()
        assert meter.live == 3 * BYTES + scalar
        loss.backward()
        del loss
        gc.collect()
        # Left: x, w and w's gradient.
        assert meter.live == 3 * BYTES
    assert w.grad is not None


def test_backward_pass_of_two_layers():
    # 64 images of 32 features -> 32 -> ReLU -> 32, without bias; every activation takes 8 KiB, every weight 4 KiB.
    activation, weight = 4 * 64 * 32, 4 * 32 * 32
    x = torch.rand(64, 32)
    net = nn.Sequential(nn.Linear(32, 32, bias=False), nn.ReLU(), nn.Linear(32, 32, bias=False))
    with LiveTensorBytes([x, *net.parameters()]) as meter:
        y = net(x)
        # ReLU's input is gone, its output is kept for its own and the second layer's gradient.
        assert meter.live == 3 * activation + 2 * weight
        assert meter.peak == 4 * activation + 2 * weight or meter.peak == 3 * activation + 2 * weight
        seed = torch.ones_like(y)
        y.backward(seed)
        # x, y, its gradient; the saved tensors are gone; two weights and two gradients.
        assert meter.live == 3 * activation + 4 * weight
        # At its widest: x, ReLU's output, y, its gradient, the gradients behind the second layer and behind ReLU.
        assert meter.peak == 6 * activation + 3 * weight


def test_numbers_are_the_same_under_the_meter():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    x = torch.rand(5, 3, 8, 8)
    gradients = []
    for metered in (False, True):
        net.zero_grad()
        with LiveTensorBytes() if metered else mock.MagicMock():
            net(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_fused_optimizer_states_are_seen():
    w = torch.rand(KILO, requires_grad=True)
    optimizer = torch.optim.Adam([w], fused=True)
    w.grad = torch.ones(KILO)
    with LiveTensorBytes([w, w.grad]) as meter:
        optimizer.step()
        step = optimizer.state[w]["step"].untyped_storage().nbytes()
        assert meter.live == 4 * BYTES + step  # two moments


def test_peak_memory_gives_mebibytes_of_the_block_alone():
    resident = torch.zeros(MIB // 4)
    with PeakMemory(torch.device("cpu"), [resident]) as memory:
        torch.zeros(MIB // 2)
    torch.zeros(4 * MIB)
    assert memory.mib == 3.0
