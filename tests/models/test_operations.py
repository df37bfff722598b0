"""Each candidate by itself: shapes, sizes and the details that the names leave open."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.operations import FactorizedReduce, MaxPool, Projection, Skip, has_parameters, pool, weighted_operation
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import random_images, reference_operation, reference_reduce

# Parameters at 28 channels: depthwise C k k, pointwise C C, FactorizedReduce two halves of C C/2.
PARAMETERS = {
    "conv_1x5_5x1": 2 * 5 * 28 * 28,
    "conv_3x3": 28 * 9 + 28 * 28,
    "sep_conv_3x3": 2 * (28 * 9 + 28 * 28),
    "sep_conv_5x5": 2 * (28 * 25 + 28 * 28),
    "dil_conv_3x3": 28 * 9 + 28 * 28,
    "dil_conv_5x5": 28 * 25 + 28 * 28,
}
WITH_STRIDE = [(name, stride) for name in PARAMETERS for stride in (1, 2)] + [("skip_connect", 2)]
POOLS = ("max_pool_3x3", "avg_pool_3x3")
WITH_NORM = [*WITH_STRIDE, *((name, stride) for name in POOLS for stride in (1, 2))]


def build(name: str, channels: int, stride: int) -> nn.Module:
    torch.manual_seed(0)
    return (pool if name in POOLS else weighted_operation)(name, channels, stride).double()


def test_candidate_lists_are_the_published_ones():
    assert (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "conv_1x5_5x1", "conv_3x3", "sep_conv_3x3", "dil_conv_3x3"),
    ) == FEW_SHOT
    assert (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"),
        *("dil_conv_5x5", "none"),
    ) == FULL_TASK


@pytest.mark.parametrize(("name", "stride"), WITH_NORM)
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 6), (1, 1)], ids=lambda size: "x".join(map(str, size)))
def test_shape_and_values(name, stride, size):
    x = random_images(3, size, channels=4) - 0.5
    operation = build(name, 4, stride)
    output = operation(x if name in POOLS else torch.relu(x))
    assert output.shape == (3, 4, -(-size[0] // stride), -(-size[1] // stride))
    expected = reference_operation(name, x, list(operation.parameters()), stride)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "stride"), WITH_NORM)
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1)], ids=lambda size: "x".join(map(str, size)))
def test_operation_is_the_norm_of_its_body_and_leaves_its_input(name, stride, size):
    operation = build(name, 4, stride)
    x = random_images(3, size, channels=4).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    torch.testing.assert_close(operation.norm(operation.body(x)), operation(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


def test_skip_gives_its_input_without_a_norm():
    x = random_images(3, channels=4)
    assert Skip()(x) is x
    assert Skip().body(x) is x
    assert Skip.norm is None


@pytest.mark.parametrize(("name", "stride"), WITH_STRIDE)
def test_parameter_count_at_28_channels(name, stride):
    count = sum(parameter.numel() for parameter in weighted_operation(name, 28, stride).parameters())
    assert count == PARAMETERS.get(name, 28 * 28)


def test_which_candidates_have_parameters():
    names = set(FEW_SHOT + FULL_TASK)
    assert {name for name in names if has_parameters(name, 1)} == set(PARAMETERS)
    assert {name for name in names if has_parameters(name, 2)} == {*PARAMETERS, "skip_connect"}


def test_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="conv_7x7"):
        weighted_operation("bottleneck_conv_7x7", 4, 1)


def test_average_pool_does_not_count_padding():
    layers = list(pool("avg_pool_3x3", 2, 1))
    ones = torch.ones(2, 2, 5, 5)
    assert torch.equal(layers[0](ones), ones)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 6), (7, 1), (1, 2), (1, 1)], ids=lambda size: "x".join(map(str, size)))
def test_maximum_is_that_of_pytorch_with_a_gradient_and_without(size, stride, layout):
    """To the last bit, so that it does not matter which of the two a search runs."""
    x = (random_images(3, size, channels=4) - 2).contiguous(memory_format=layout)
    before, expected = x.clone(), F.max_pool2d(x, 3, stride, padding=1)
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient):
            output = MaxPool(stride)(x)
        assert torch.equal(output, expected)
        assert output.stride() == expected.stride() or 1 in size
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", POOLS)
def test_pools_are_followed_by_norm(name):
    output = build(name, 2, 1)(5 + 3 * random_images(6, channels=2))
    assert output.mean((0, 2, 3)).abs().max() < 1e-9
    assert (output.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_conv_1x5_5x1_strides_in_its_first_convolution():
    first, second = (layer for layer in build("conv_1x5_5x1", 4, 2).modules() if isinstance(layer, nn.Conv2d))
    assert (first.kernel_size, first.stride, first.groups) == ((1, 5), (2, 2), 1)
    assert (second.kernel_size, second.stride, second.groups) == ((5, 1), (1, 1), 1)


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (6, 7), (1, 1), (2, 1)], ids=lambda size: "x".join(map(str, size)))
def test_factorized_reduce_offsets_its_second_half_on_even_sizes_only(size):
    x = random_images(3, size, channels=6)
    operation = FactorizedReduce(6, 4).double()
    expected = reference_reduce(x, list(operation.parameters()))
    assert expected.shape == (3, 4, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(operation(x), expected, rtol=1e-9, atol=1e-9)


def test_projection_is_a_1x1_convolution_with_norm():
    operation = Projection(12, 4)
    assert [parameter.shape for parameter in operation.parameters()] == [(4, 12, 1, 1)]
    assert operation(torch.rand(2, 12, 5, 5)).shape == (2, 4, 5, 5)


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (6, 7), (1, 1)], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("form", [Projection, FactorizedReduce])
def test_parts_of_the_convolution_that_come_from_each_state_sum_up_to_the_whole(form, size):
    torch.manual_seed(0)
    operation = form(6, 4).double()
    states = [random_images(3, size, channels=2, seed=seed) for seed in range(3)]
    total = sum(operation.convolve(state, index) for index, state in enumerate(states))
    expected = operation(torch.cat(states, dim=1))
    torch.testing.assert_close(operation.norm(total), expected, rtol=1e-9, atol=1e-9)
