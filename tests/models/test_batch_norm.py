"""BN in place against PyTorch's own and against its formula: values, gradients, statistics, and what it keeps."""

import copy

import pytest
import torch
from torch import nn

from models.batch_norm import BatchNorm, average_statistics, channel_means, share_tracking
from models.operations import CANDIDATES

# Two pixels at least for each channel: PyTorch's own refuses one.
SHAPES = [(4, 2, 8, 8), (3, 6, 7, 5), (5, 3, 1, 1), (4, 1, 3, 3), (1, 4, 6, 6), (2, 1, 1, 1), (3, 16, 1, 4)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = {"float64": torch.float64, "float32": torch.float32}
STATISTICS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
by_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
with_affine = pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])


def draw(shape, seed: int = 0, dtype=torch.float64, layout=torch.channels_last) -> torch.Tensor:
    """Of mean 2 and standard deviation 3."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 + 3 * numbers).to(dtype).contiguous(memory_format=layout)


def scramble(norm: nn.BatchNorm2d) -> None:
    """Draws running statistics and affine parameters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        for parameter in norm.parameters():
            parameter.normal_(generator=generator)


def own_and_native(channels: int, affine: bool, dtype=torch.float64, training: bool = True) -> list[nn.BatchNorm2d]:
    own = BatchNorm(channels, affine=affine).to(dtype).train(training)
    native = nn.BatchNorm2d(channels, affine=affine).to(dtype).train(training)
    scramble(own)
    native.load_state_dict(own.state_dict())
    return [own, native]


def by_formula(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean = x.mean((0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
    output = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return output * norm.weight[:, None, None] + norm.bias[:, None, None] if norm.affine else output


def gradients(function, norm: nn.BatchNorm2d, x: torch.Tensor) -> list[torch.Tensor]:
    """Those of the input and of the affine parameters, for an arbitrary gradient of the output."""
    x = x.clone().requires_grad_()
    output = function(x * 1)  # a copy, which may be overwritten
    return list(torch.autograd.grad(output, [x, *norm.parameters()], draw(x.shape, 7, x.dtype)))


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


# --- Values, statistics and gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
@every_shape
def test_channel_means_are_those_of_all_pixels_whatever_the_number_of_threads(shape, threads):
    """Of 3 x 7 rows two threads do not get the same number, three do."""
    x = draw(shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        means = channel_means(x)
    finally:
        torch.set_num_threads(before)
    for channel, mean in enumerate(means):
        assert mean.item() == pytest.approx(sum(x[:, channel].flatten().tolist()) / x[:, channel].numel(), rel=1e-12)


@every_shape
@every_layout
@every_dtype
@by_mode
@with_affine
def test_outputs_and_running_statistics_are_those_of_pytorch(shape, layout, dtype, training, affine):
    own, native = own_and_native(shape[1], affine, dtype, training)
    for call in range(3):
        x = draw(shape, call, dtype, layout)
        expected = native(x)
        torch.testing.assert_close(own(x.clone()), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert own.num_batches_tracked.item() == (3 if training else 0)
    tolerance = STATISTICS_TOLERANCE[dtype]
    torch.testing.assert_close(buffers(own), buffers(native), rtol=tolerance, atol=tolerance)


@every_shape
@every_layout
@by_mode
@with_affine
def test_output_without_a_gradient_is_the_same(shape, layout, training, affine):
    own, other = (own_and_native(shape[1], affine, training=training)[0] for _ in range(2))
    x = draw(shape, layout=layout)
    with torch.no_grad():
        output = own(x.clone())
    assert torch.equal(output, other(x.clone()))
    assert all(torch.equal(a, b) for a, b in zip(own.buffers(), other.buffers(), strict=True))


@every_shape
@every_layout
@every_dtype
@by_mode
@with_affine
def test_gradients_are_those_of_pytorch_and_of_the_formula(shape, layout, dtype, training, affine):
    own, native = own_and_native(shape[1], affine, dtype, training)
    x = draw(shape, dtype=dtype, layout=layout)
    actual = gradients(own, own, x)
    formula = gradients(lambda x: by_formula(native, x), native, x)
    tolerance = TOLERANCE[dtype]
    for of_own, of_native, of_formula in zip(actual, gradients(native, native, x), formula, strict=True):
        scale = max(1.0, of_formula.abs().max().item())  # of two pixels it is the small rest of large terms
        torch.testing.assert_close(of_own, of_native, rtol=tolerance, atol=tolerance * scale)
        torch.testing.assert_close(of_own, of_formula, rtol=tolerance, atol=tolerance * scale)


@every_layout
@by_mode
@with_affine
def test_gradients_are_the_quotients_of_small_differences(layout, training, affine):
    own, _ = own_and_native(3, affine, training=training)
    x = draw((3, 3, 2, 3), layout=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: own(x * 1), (x, *own.parameters()))


@pytest.mark.parametrize("size", [6, 28, 84])
def test_large_mean_beside_small_deviation_is_as_accurate_as_in_pytorch(size):
    shape = (25, 2, size, size)
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = (100 + 1e-2 * numbers).contiguous(memory_format=torch.channels_last)
    exact_norm = nn.BatchNorm2d(2, affine=False).double()

    def results(norm, x):
        (gradient,) = gradients(norm, norm, x)
        return [norm(x.clone()), gradient, norm.running_var]

    exact = results(exact_norm, x.double())
    errors = [
        [((a - b).norm() / b.norm()).item() for a, b in zip(results(norm, x), exact, strict=True)]
        for norm in (BatchNorm(2), nn.BatchNorm2d(2, affine=False))
    ]
    for what, own, native in zip(("output", "gradient", "running variance"), *errors, strict=True):
        assert own < 4 * native + 1e-6, what


# --- What it keeps --------------------------------------------------------------------------------------------------


def saved_by(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output, and what is saved for the backward pass."""
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return module(x), saved


@every_shape
@by_mode
def test_input_is_overwritten_and_only_the_output_is_kept(shape, training):
    own, _ = own_and_native(shape[1], affine=False, training=training)
    x = draw(shape).requires_grad_() * 1
    output, saved = saved_by(own, x)
    assert output.data_ptr() == x.data_ptr()
    assert [tensor.data_ptr() for tensor in saved if tensor.shape == shape] == [output.data_ptr()]
    assert [tensor.shape for tensor in saved if tensor.shape != shape] == [(shape[1],)]


@by_mode
def test_affine_norm_keeps_what_it_normalised_and_no_more(training):
    own, _ = own_and_native(6, affine=True, training=training)
    x = draw((3, 6, 7, 5)).requires_grad_() * 1
    _, saved = saved_by(own, x)
    assert {tensor.data_ptr() for tensor in saved if tensor.shape == x.shape} == {x.data_ptr()}
    assert {tensor.numel() for tensor in saved if tensor.shape != x.shape} == {6}


def test_convolution_and_norm_keep_one_input_and_one_output():
    layers = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), BatchNorm(6)).double()
    layers.to(memory_format=torch.channels_last)
    x = draw((3, 4, 7, 5))
    output, saved = saved_by(layers, x)
    activations = [tensor.data_ptr() for tensor in saved if tensor.shape[-2:] == x.shape[-2:]]
    assert sorted(activations) == sorted([x.data_ptr(), output.data_ptr()])


def test_input_without_a_gradient_is_overwritten_too():
    x = draw((3, 6, 7, 5))
    with torch.no_grad():
        assert BatchNorm(6).double()(x).data_ptr() == x.data_ptr()


# --- A part of the channels -----------------------------------------------------------------------------------------


@by_mode
@with_affine
@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 4), slice(5, 6)], ids=lambda part: f"{part.start}:{part.stop}")
def test_part_of_the_channels_is_that_part_of_the_whole(part, training, affine):
    own, _ = own_and_native(6, affine, training=training)
    x, arriving = draw((3, 6, 7, 5)).requires_grad_(), draw((3, 6, 7, 5), seed=1)
    arriving_part = torch.zeros_like(arriving)
    arriving_part[:, part] = arriving[:, part]
    leaves = [x, *own.parameters()]
    with own.tracking.paused():
        whole, of_part = own(x * 1), own(x[:, part] * 1, part)
    torch.testing.assert_close(of_part, whole[:, part], rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(whole, leaves, arriving_part)
    actual = torch.autograd.grad(of_part, leaves, arriving[:, part])
    for of_own, of_whole in zip(actual, expected, strict=True):
        torch.testing.assert_close(of_own, of_whole, rtol=1e-11, atol=1e-11)


# --- Running statistics ---------------------------------------------------------------------------------------------


@by_mode
def test_statistics_do_not_change_while_tracking_is_paused_and_the_output_is_the_same(training):
    operation = CANDIDATES["sep_conv_3x3"](4, 1).double().train(training)
    tracking = share_tracking(operation)
    x = draw((3, 4, 7, 5))
    before = buffers(operation)
    with tracking.paused():
        with tracking.paused():
            paused = operation(x)
        operation(x)  # still paused: it nests
    with pytest.raises(ZeroDivisionError), tracking.paused():
        raise ZeroDivisionError
    assert len(before) == 2 * 3
    torch.testing.assert_close(buffers(operation), before, rtol=0, atol=0)
    assert torch.equal(paused, operation(x))
    tracked = {name: int(value) for name, value in buffers(operation).items() if name.endswith("tracked")}
    assert set(tracked.values()) == {int(training)}


def test_tracking_is_of_a_network_and_of_its_copies_each():
    network = nn.Sequential(BatchNorm(2), BatchNorm(2))
    tracking = share_tracking(network)
    copied = copy.deepcopy(network)
    with tracking.paused():
        network(torch.rand(3, 2, 4, 4))
        copied(torch.rand(3, 2, 4, 4))
    assert [int(norm.num_batches_tracked) for norm in (*network, *copied)] == [0, 0, 1, 1]


def test_average_statistics_are_the_mean_over_the_passes():
    norm = BatchNorm(3).double().eval()
    scramble(norm)
    parts = [draw((2, 3, 5, 4), seed) for seed in range(3)]
    average_statistics(norm, [part.clone() for part in parts], norm)
    for actual, of_parts in (
        (norm.running_mean, [part.mean((0, 2, 3)) for part in parts]),
        (norm.running_var, [part.var((0, 2, 3)) for part in parts]),
    ):
        torch.testing.assert_close(actual, sum(of_parts) / 3, rtol=1e-12, atol=1e-12)
