"""Each candidate by itself: shapes, values, sizes and the details that the names leave open."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.operations import CANDIDATES, FactorizedReduce, MaxPool, Projection, Skip, has_parameters
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import random_images, reference_operation, reference_reduce

# Parameters at 28 channels: depthwise C k k, pointwise C C, FactorizedReduce two halves of C C/2.
PARAMETERS = {
    ("max_pool_3x3", 1): 0,
    ("avg_pool_3x3", 2): 0,
    ("skip_connect", 1): 0,
    ("skip_connect", 2): 28 * 28,
    ("conv_1x5_5x1", 1): 2 * 5 * 28 * 28,
    ("conv_3x3", 2): 28 * 9 + 28 * 28,
    ("sep_conv_3x3", 1): 2 * (28 * 9 + 28 * 28),
    ("sep_conv_5x5", 2): 2 * (28 * 25 + 28 * 28),
    ("dil_conv_3x3", 1): 28 * 9 + 28 * 28,
    ("dil_conv_5x5", 2): 28 * 25 + 28 * 28,
}
every_candidate = pytest.mark.parametrize(
    ("name", "stride"), [(name, stride) for name in CANDIDATES for stride in (1, 2)]
)


def every_size(*sizes):
    return pytest.mark.parametrize("size", sizes, ids=lambda size: "x".join(map(str, size)))


def test_candidate_lists_are_the_published_ones():
    assert (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "conv_1x5_5x1", "conv_3x3", "sep_conv_3x3", "dil_conv_3x3"),
    ) == FEW_SHOT
    assert (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"),
        *("dil_conv_5x5", "none"),
    ) == FULL_TASK


@every_candidate
@every_size((8, 8), (7, 7), (5, 6), (1, 1))
def test_candidate_is_that_of_the_textbook_and_the_norm_of_its_body(name, stride, size):
    torch.manual_seed(0)
    operation = CANDIDATES[name](4, stride).double()
    x = random_images(3, size, channels=4) - 0.5
    own = (torch.relu(x) if has_parameters(operation) else x).contiguous(memory_format=torch.channels_last)
    before = own.clone()
    output = operation(own)
    assert output.shape == (3, 4, -(-size[0] // stride), -(-size[1] // stride))
    expected = reference_operation(name, x, list(operation.parameters()), stride)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    norm = operation.norm or nn.Identity()
    torch.testing.assert_close(norm(operation.body(own)), output, rtol=1e-12, atol=1e-12)
    assert torch.equal(own, before)


def test_skip_gives_its_input_without_a_norm():
    x = random_images(3, channels=4)
    assert Skip()(x) is x
    assert Skip().body(x) is x
    assert Skip.norm is None


@pytest.mark.parametrize("candidate", PARAMETERS)
def test_parameter_count_at_28_channels(candidate):
    name, stride = candidate
    operation = CANDIDATES[name](28, stride)
    assert sum(parameter.numel() for parameter in operation.parameters()) == PARAMETERS[candidate]
    assert has_parameters(operation) == (PARAMETERS[candidate] > 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("stride", [1, 2])
@every_size((8, 8), (5, 6), (7, 1), (1, 2), (1, 1))
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


def test_pools_are_followed_by_norm_and_the_average_does_not_count_padding():
    ones = torch.ones(2, 2, 5, 5)
    assert torch.equal(CANDIDATES["avg_pool_3x3"](2, 1).body(ones), ones)
    for name in ("max_pool_3x3", "avg_pool_3x3"):
        output = CANDIDATES[name](2, 1).double()(5 + 3 * random_images(6, channels=2))
        assert output.mean((0, 2, 3)).abs().max() < 1e-9
        assert (output.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_conv_1x5_5x1_strides_in_its_first_convolution():
    first, second, _ = CANDIDATES["conv_1x5_5x1"](4, 2)
    assert (first.kernel_size, first.stride, first.groups) == ((1, 5), (2, 2), 1)
    assert (second.kernel_size, second.stride, second.groups) == ((5, 1), (1, 1), 1)


@every_size((6, 6), (7, 7), (6, 7), (1, 1), (2, 1))
def test_factorized_reduce_offsets_its_second_half_on_even_sizes_only(size):
    x = random_images(3, size, channels=6)
    operation = FactorizedReduce(6, 4).double()
    expected = reference_reduce(x, list(operation.parameters()))
    assert expected.shape == (3, 4, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(operation(torch.relu(x)), expected, rtol=1e-9, atol=1e-9)


@every_size((6, 6), (7, 7), (6, 7), (1, 1))
@pytest.mark.parametrize("form", [Projection, FactorizedReduce])
def test_parts_of_the_convolution_that_come_from_each_state_sum_up_to_the_whole(form, size):
    torch.manual_seed(0)
    operation = form(6, 4).double()
    states = [random_images(3, size, channels=2, seed=seed) for seed in range(3)]
    total = sum(operation.convolve(state, index) for index, state in enumerate(states))
    expected = operation(torch.cat(states, dim=1))
    torch.testing.assert_close(operation.norm(total), expected, rtol=1e-9, atol=1e-9)
