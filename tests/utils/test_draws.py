"""Draws depend on (seed, purpose, index) and on nothing else."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from utils.draws import derive_seed, numpy_generator, torch_generator

NAMES = [(21, "labels", 0), (21, "labels", 1), (21, "images", 0), (22, "labels", 0), (2, "1labels", 0), (21, "labels")]


def test_same_name_same_stream_in_any_order():
    forward = {name: torch.rand(4, generator=torch_generator(*name)).tolist() for name in NAMES}
    backward = {name: torch.rand(4, generator=torch_generator(*name)).tolist() for name in reversed(NAMES)}
    assert forward == backward
    numbers = {name: numpy_generator(*name).random(4).tolist() for name in NAMES}
    assert numbers == {name: numpy_generator(*name).random(4).tolist() for name in reversed(NAMES)}


def test_other_names_other_streams():
    assert len({derive_seed(*name) for name in NAMES}) == len(NAMES)
    assert len({torch.rand(4, generator=torch_generator(*name)).sum().item() for name in NAMES}) == len(NAMES)
    assert len({derive_seed(0, "task", index) for index in range(2000)}) == 2000
    assert len({derive_seed(seed, "task", 0) for seed in range(2000)}) == 2000
    # Not one number from (1, 23) and (12, 3).
    assert derive_seed(0, "a", 1, 23) != derive_seed(0, "a", 12, 3)


def test_two_generators_do_not_share_their_state():
    first, second = torch_generator(1, "a"), torch_generator(1, "b")
    expected = torch.rand(3, generator=torch_generator(1, "a"))
    torch.rand(100, generator=second)
    assert torch.equal(torch.rand(3, generator=first), expected)


def test_neighbouring_streams_are_not_correlated():
    rows = torch.stack([torch.randn(2000, generator=torch_generator(0, "noise", index)) for index in range(20)])
    correlation = torch.corrcoef(rows) - torch.eye(20)
    assert correlation.abs().max() < 0.12


def test_global_generators_are_neither_used_nor_moved():
    expected = derive_seed(3, "x"), torch.rand(2, generator=torch_generator(3, "x")).tolist()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert (derive_seed(3, "x"), torch.rand(2, generator=torch_generator(3, "x")).tolist()) == expected
    numpy_generator(3, "x").random()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_seed_is_one_that_torch_and_numpy_take():
    for index in range(200):
        assert 0 <= derive_seed(0, "range", index) < 2**63


def test_seed_is_the_same_in_another_process():
    command = "from utils.draws import derive_seed; print(derive_seed(21, 'labels', 3))"
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True)
    assert int(output.stdout) == derive_seed(21, "labels", 3)
