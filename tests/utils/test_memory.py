"""The memory meter against cases counted by hand. A float32 takes 4 bytes."""

import _thread
import gc
import random
import time
from collections import Counter
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from utils.memory import KINDS, MIB, LiveTensorBytes, PeakMemory

KILO = 1024  # floats of the tensors below
BYTES = 4 * KILO


def kinds(parameters=0, gradients=0, optimizer=0, activations=0, other=0):
    """A breakdown, from multiples of BYTES."""
    counts = (parameters, gradients, optimizer, activations, other)
    return {kind: BYTES * count for kind, count in zip(KINDS, counts, strict=True)}


def one_kilo():
    return torch.zeros(KILO)


def some_kilos(count):
    return torch.zeros(count * KILO)


def line_of(function):
    """The first line of a function's body."""
    return f"tests/utils/test_memory.py:{function.__code__.co_firstlineno + 1}"


def fail(*_):
    raise ZeroDivisionError


class Squares(torch.optim.Optimizer):
    """Keeps the first gradient, moves by 0.1 times its square: two temporaries at once."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            first = self.state[parameter].setdefault("first", parameter.grad.clone())
            parameter.sub_(first * first * 0.1)


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


def test_arguments_are_not_counted_unless_given():
    outside, given = torch.zeros(KILO), torch.zeros(KILO)
    with LiveTensorBytes(other=iter([given])) as meter:
        total = torch.cat([outside, given])
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
        assert not meter._alive
        assert len(meter._dead) == 2  # what made up the peak


def test_given_tensors_are_counted_from_the_start_and_once():
    a, b = torch.zeros(KILO), torch.zeros(KILO)
    meter = LiveTensorBytes(iter([a, a]), iter([a.view(32, 32), b]))
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
    with LiveTensorBytes(parameters=[w], other=[x]) as meter:
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
    with LiveTensorBytes(net.parameters(), [x]) as meter:
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
    with LiveTensorBytes(parameters=[w], other=[w.grad]) as meter:
        optimizer.step()
        step = optimizer.state[w]["step"].untyped_storage().nbytes()
        assert meter.live == 4 * BYTES + step  # two moments


def test_kinds_of_a_training_step():
    w, x, seed = torch.rand(KILO, requires_grad=True), one_kilo(), one_kilo()
    optimizer = torch.optim.SGD([w], momentum=0.9)
    with LiveTensorBytes(parameters=[w], other=[x, seed]) as meter:
        y = w * x
        y.backward(seed)
        optimizer.step()
    assert meter.breakdown() == kinds(parameters=1, gradients=1, optimizer=1, activations=1, other=2)
    assert list(meter.breakdown()) == list(KINDS)


def test_breakdown_is_of_the_peak_not_of_the_end():
    with LiveTensorBytes(parameters=[one_kilo()], other=[some_kilos(2)]) as meter:
        assert meter.breakdown() == kinds(parameters=1, other=2)  # both were temporary
        first = some_kilos(5)
        del first
        assert (meter.live, meter.peak) == (0, 5 * BYTES)
        second = some_kilos(4)
    assert meter.breakdown() == kinds(activations=5)
    del second
    assert meter.breakdown() == kinds(activations=5)


def test_kind_that_shows_after_the_peak_and_after_the_death_of_others():
    w, x, seed = torch.rand(KILO, requires_grad=True), one_kilo(), one_kilo()
    optimizer = torch.optim.SGD([w], momentum=0.9)
    with LiveTensorBytes(parameters=[w], other=[x, seed]) as meter:
        passing = some_kilos(4)
        (w * x).backward(seed)
        del passing
        # The gradient is not yet known as one; the optimizer's state is born after the peak.
        assert meter.breakdown() == kinds(parameters=1, activations=6, other=2)
        optimizer.step()
        optimizer.zero_grad()
    assert meter.breakdown() == kinds(parameters=1, gradients=1, activations=5, other=2)


def test_peak_within_the_optimizers_step():
    w = torch.rand(KILO, requires_grad=True)
    optimizer = Squares([w])
    with LiveTensorBytes(parameters=[w]) as meter:
        w.grad = one_kilo()
        optimizer.step()
        assert meter.breakdown() == kinds(parameters=1, gradients=1, optimizer=1, other=2)
        optimizer.zero_grad()
        after = some_kilos(2)
        assert meter.live == 4 * BYTES
        more = some_kilos(2)
    assert meter.breakdown() == kinds(parameters=1, optimizer=1, activations=4)
    del after, more


@pytest.mark.parametrize("stepped", [True, False])
def test_gradients_accumulated_over_micro_batches(stepped):
    w, x, seed = torch.rand(KILO, requires_grad=True), one_kilo(), one_kilo()
    with LiveTensorBytes(parameters=[w], other=[x, seed]) as meter:
        for _ in range(3):
            (w * x).backward(seed)
        if stepped:
            torch.optim.SGD([w]).step()
    # The product and a micro-batch's own gradient, which is added in place to the one that stays.
    assert meter.breakdown() == kinds(parameters=1, gradients=1, activations=2, other=2)


def test_gradients_that_nothing_steps_are_those_of_the_parameters_given():
    given, not_given, dead = (torch.rand(KILO, requires_grad=True) for _ in range(3))
    with LiveTensorBytes(parameters=[given, dead], other=[not_given]) as meter:
        for parameter in (given, not_given):
            parameter.grad = one_kilo()
        del dead
    assert meter.breakdown() == kinds(parameters=2, gradients=1, activations=1, other=1)


def test_gradient_that_was_there_at_the_start_is_a_gradient_once_stepped():
    w = torch.rand(KILO, requires_grad=True)
    w.grad = one_kilo()
    with LiveTensorBytes(parameters=[w], other=[w.grad]) as meter:
        assert meter.breakdown() == kinds(parameters=1, other=1)
        torch.optim.SGD([w]).step()
    assert meter.breakdown() == kinds(parameters=1, gradients=1)


def test_tensor_given_twice_is_a_parameter():
    a = one_kilo()
    assert LiveTensorBytes(parameters=[a], other=[a[5:]]).breakdown() == kinds(parameters=1)


def test_nested_meters_count_both():
    w = torch.rand(KILO, requires_grad=True)
    with LiveTensorBytes(parameters=[w]) as outer:
        before = some_kilos(2)
        with LiveTensorBytes() as inner:
            w.grad = one_kilo()
            Squares([w]).step()
        after = one_kilo()
        assert inner.live < outer.live
    assert inner.breakdown() == kinds(gradients=1, optimizer=1, other=2)
    assert outer.breakdown() == kinds(parameters=1, gradients=1, optimizer=1, activations=2, other=2)
    assert inner.largest()[1] == outer.largest()[1] == 2 * BYTES
    del before, after


def test_meter_that_is_switched_on_again_goes_on():
    with LiveTensorBytes() as meter:
        a = one_kilo()
    unseen = one_kilo()
    with meter:
        b = one_kilo()
    assert meter.breakdown() == kinds(activations=2)
    del a, b, unseen


def test_after_an_exception_nothing_is_seen_any_more():
    w = torch.rand(KILO, requires_grad=True)

    def fail_before_the_step():
        w.grad = one_kilo()
        fail()

    meter = LiveTensorBytes()
    with pytest.raises(ZeroDivisionError), meter:
        fail_before_the_step()
    Squares([w]).step()
    assert meter.breakdown() == kinds(activations=1)


def test_largest_is_the_line_that_held_most():
    with LiveTensorBytes(parameters=[some_kilos(9)], other=[some_kilos(9)]) as meter:
        assert meter.largest() == ("", 0)  # nothing was allocated within
        passing = some_kilos(4)
        del passing
        several = [one_kilo() for _ in range(20)]
        more = some_kilos(19)
        assert meter.largest() == (line_of(one_kilo), 20 * BYTES)
        most = some_kilos(2)
    assert meter.largest() == (line_of(some_kilos), 21 * BYTES)
    del several, more, most


def test_largest_is_never_a_gradient():
    w = torch.rand(KILO, requires_grad=True)
    with LiveTensorBytes(parameters=[w]) as meter:
        w.grad = one_kilo()
        activation = torch.zeros(KILO // 2)
        assert meter.largest() == (line_of(one_kilo), BYTES)
    assert meter.largest()[1] == BYTES // 2
    del activation


def test_largest_is_the_line_that_called_pytorch():
    net = nn.Sequential(nn.Linear(32, 32, bias=False), nn.ReLU())

    def forward(x):
        return net(x).sum()

    def backward(loss):
        loss.backward()

    x = torch.rand(32, 32, requires_grad=True)
    with LiveTensorBytes(parameters=net.parameters(), other=[x]) as meter:
        loss = forward(x)
        assert meter.largest() == (line_of(forward), 2 * BYTES)  # what goes into ReLU and comes out
        backward(loss)
    # The gradients of the loss, in front of ReLU and of x; that of the weight is no activation.
    assert meter.largest() == (line_of(backward), 4 + 2 * BYTES)


def test_largest_of_code_elsewhere_has_its_whole_path():
    with LiveTensorBytes() as meter:
        exec(compile("\none_kilo()", "/elsewhere/code.py", "exec"), {"one_kilo": lambda: torch.zeros(KILO)})
        exec(compile("\ntorch.zeros(2 * 1024)", "/elsewhere/code.py", "exec"), {"torch": torch})
    assert meter.largest() == ("/elsewhere/code.py:2", 2 * BYTES)


def test_largest_from_a_thread_of_pytorchs_is_where_the_measured_thread_waits():
    meter = LiveTensorBytes()
    _thread.start_new_thread(meter.__torch_dispatch__, (torch.ops.aten.zeros.default, (), ([KILO],)))
    for _ in range(1000):
        if not meter.peak:
            time.sleep(0.01)
    line, size = meter.largest()
    assert (line.split(":")[0], size) == ("tests/utils/test_memory.py", BYTES)


def test_breakdown_and_largest_of_random_lives():
    draw = random.Random(0)
    alive, peak = [], Counter()
    with LiveTensorBytes() as meter:
        for _ in range(2000):
            if alive and draw.random() < 0.5:
                alive.pop(draw.randrange(len(alive)))
                continue
            function, count = draw.choice([(some_kilos, draw.randrange(1, 4)), (one_kilo, 1)])
            alive.append((function, count, function(count) if function is some_kilos else function()))
            now = Counter()
            for born_by, kilos, _ in alive:
                now[line_of(born_by)] += BYTES * kilos
            peak = max(peak, now, key=Counter.total)
            assert meter.breakdown() == kinds(activations=peak.total() // BYTES)
            assert meter.largest() == peak.most_common(1)[0]


@pytest.mark.parametrize("fused", [True, False])
def test_fake_tensors_take_what_real_ones_do(fused):
    def train():
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        net = nn.Sequential(stem, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 8 * 8, 5))
        images, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 5
        optimizer = torch.optim.Adam(net.parameters(), fused=fused)
        with LiveTensorBytes([*net.parameters(), *net.buffers()], [images, labels]) as meter:
            for _ in range(2):
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
        return meter.peak, meter.breakdown(), meter.largest()

    real = train()
    with FakeTensorMode():
        fake = train()
    assert fake == real
    assert all(real[1].values())  # there is something of every kind


def test_peak_memory_gives_mebibytes_of_the_block_alone():
    parameter, data = torch.zeros(MIB // 4), torch.zeros(MIB // 8)
    with PeakMemory(torch.device("cpu"), [parameter], [data]) as memory:
        some_kilos(512)
    some_kilos(4096)
    assert memory.mib == 3.5
    assert memory.breakdown_mib == {
        "parameters": 1.0,
        "gradients": 0.0,
        "optimizer": 0.0,
        "activations": 2.0,
        "other": 0.5,
    }


def test_peak_memory_of_a_gpu_is_its_allocators_and_the_rest_that_of_tensors():
    with (
        mock.patch("torch.cuda.reset_peak_memory_stats") as reset,
        mock.patch("torch.cuda.max_memory_allocated", return_value=3 * MIB),
        PeakMemory(torch.device("cuda")) as memory,
    ):
        reset.assert_called_once()
        some_kilos(512)
    assert memory.mib == 3.0
    assert sum(memory.breakdown_mib.values()) == 2.0


def test_peak_memory_lets_an_exception_pass_and_keeps_what_was_measured():
    memory = PeakMemory(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), memory:
        fail(some_kilos(512))
    assert (memory.mib, sum(memory.breakdown_mib.values())) == (2.0, 2.0)
