"""The rounding that tests/benchmarks/tf32.py does in a GPU's place."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks.tf32 import TF32Products, tf32


def test_it_is_the_nearest_number_of_ten_bits():
    """By NumPy in float64: a fraction in [0.5, 1) of 11 bits, its first bit implied."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    fraction, exponent = np.frexp(x.double().numpy())
    assert tf32(x).tolist() == np.ldexp(np.round(fraction * 2**11) / 2**11, exponent).tolist()
    assert tf32(torch.tensor([0.0, 1 + 2**-10])).tolist() == [0.0, 1 + 2**-10]


@pytest.mark.parametrize(
    ("product", "second"), [(F.conv2d, (4, 3, 3, 3)), (lambda x, w: x.flatten(1) @ w, (75, 2))], ids=["conv", "matrix"]
)
def test_both_factors_are_rounded_forward_and_backward(product, second):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(size, generator=generator).requires_grad_() for size in ((2, 3, 5, 5), second))
    with TF32Products():
        rounded = product(x, w)
        gradient = torch.randn(rounded.shape, generator=generator)
        rounded.backward(gradient)
    a, b = (tf32(factor.detach()).requires_grad_() for factor in (x, w))
    expected = product(a, b)
    expected.backward(tf32(gradient))
    assert torch.equal(rounded, expected)
    assert torch.equal(x.grad, a.grad)
    assert torch.equal(w.grad, b.grad)
    assert not torch.equal(expected, product(x, w))
