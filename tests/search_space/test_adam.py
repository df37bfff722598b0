"""Adam without its first moment against torch's own Adam with beta1 = 0."""

import copy

import pytest
import torch
from torch import nn

from search_space.adam import MomentumFreeAdam

STEPS = 20
BETAS = (0.0, 0.999)


def weights(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Those of convolutions with the channels last, a vector, a lone number and a matrix that is sliced."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 1, 5, 5), (7,), (), (6, 10)]
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    values[:2] = [value.contiguous(memory_format=torch.channels_last) for value in values[:2]]
    return [nn.Parameter(value) for value in values]


def gradients(parameters: list[nn.Parameter], step: int) -> list[torch.Tensor | None]:
    """Of very different sizes; every third step leaves the first parameter without one, and one the last until late."""
    generator = torch.Generator().manual_seed(step + 1)
    values = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * 10 ** (number - 2.0)
        for number, p in enumerate(parameters)
    ]
    if step % 3 == 1:
        values[0] = None
    if step < 12:
        values[-1] = None
    return values


def give(parameters: list[nn.Parameter], values: list[torch.Tensor | None]) -> None:
    """Gradients as autograd makes them: new tensors, laid out as the parameters are."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None if value is None else torch.empty_like(parameter).copy_(value)


def take_steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> list[torch.Tensor]:
    """Takes steps; returns the parameters after each of them."""
    after = []
    for step in steps:
        give(parameters, gradients(parameters, step))
        optimizer.step()
        after += [parameter.detach().clone() for parameter in parameters]
    return after


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_updates_are_those_of_adam_with_beta1_zero(fused, dtype, weight_decay):
    """Bit for bit against the fused one, to rounding against the plain one."""
    parameters, expected = weights(dtype), weights(dtype)
    optimizer = MomentumFreeAdam(parameters, 0.01, weight_decay=weight_decay)
    reference = torch.optim.Adam(expected, 0.01, BETAS, weight_decay=weight_decay, fused=fused)
    tolerance = 0.0 if fused else 20 * torch.finfo(dtype).eps
    pairs = zip(
        take_steps(optimizer, parameters, range(STEPS)), take_steps(reference, expected, range(STEPS)), strict=True
    )
    for actual, wanted in pairs:
        torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)
    assert all(
        not torch.equal(now, before) for now, before in zip(parameters, weights(dtype), strict=True)
    )  # there was something to compare
    for actual, wanted in zip(parameters, expected, strict=True):
        state, second_moment = optimizer.state[actual], reference.state[wanted]["exp_avg_sq"]
        torch.testing.assert_close(state["exp_avg_sq"], second_moment, rtol=tolerance, atol=tolerance)
        assert state["step"] == reference.state[wanted]["step"]


def test_other_constants_are_handed_on():
    parameters, expected = weights(), weights()
    optimizer = MomentumFreeAdam(parameters, 0.02, beta2=0.9, eps=1e-2)
    reference = torch.optim.Adam(expected, 0.02, (0.0, 0.9), eps=1e-2, fused=True)
    actual, wanted = (take_steps(*each, range(5)) for each in ((optimizer, parameters), (reference, expected)))
    assert all(map(torch.equal, actual, wanted))


def test_groups_have_learning_rates_and_decays_of_their_own():
    runs = []
    for kind, constants in ((MomentumFreeAdam, {}), (torch.optim.Adam, {"betas": BETAS, "fused": True})):
        parameters = weights()
        groups = [
            {"params": parameters[:2], "lr": 0.1},
            {"params": parameters[2:3], "weight_decay": 0.1},
            {"params": parameters[3:]},
        ]
        optimizer = kind(groups, lr=0.001, **constants)
        before = take_steps(optimizer, parameters, range(3))
        optimizer.param_groups[0]["lr"] = 0.0  # may be changed on the way
        runs.append(before + take_steps(optimizer, parameters, range(3, 6)))
    assert all(map(torch.equal, *runs))
    ours = [runs[0][start : start + 5] for start in range(0, 30, 5)]
    assert torch.equal(ours[2][0], ours[5][0])
    assert not torch.equal(ours[2][2], ours[5][2])


def test_a_parameter_without_a_gradient_is_left_alone():
    """Weight decay too, and its count of steps: as if the step had not been."""
    parameters = weights()
    optimizer = MomentumFreeAdam(parameters, 0.01, weight_decay=0.1)
    give(parameters, gradients(parameters, 0))
    optimizer.step()
    assert parameters[-1] not in optimizer.state
    before = parameters[0].detach().clone()
    state = {name: tensor.clone() for name, tensor in optimizer.state[parameters[0]].items()}
    give(parameters, gradients(parameters, 1))
    assert parameters[0].grad is None
    optimizer.step()
    assert torch.equal(parameters[0], before)
    assert optimizer.state[parameters[0]].keys() == state.keys()
    assert all(torch.equal(optimizer.state[parameters[0]][name], tensor) for name, tensor in state.items())


def test_no_gradient_at_all_is_no_step():
    parameters = weights()
    optimizer = MomentumFreeAdam(parameters, 0.01, weight_decay=0.1)
    assert optimizer.step() is None
    assert not optimizer.state
    assert all(map(torch.equal, parameters, weights()))


def test_the_closures_value_is_returned():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = MomentumFreeAdam([parameter], 0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()  # gradients are on within
        return loss

    loss = optimizer.step(closure)
    assert loss.item() == 5.0
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.5, -1.5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_state_dict_goes_on_identically(dtype):
    parameters = weights(dtype)
    optimizer = MomentumFreeAdam(parameters, 0.01, weight_decay=1e-3)
    take_steps(optimizer, parameters, range(7))
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    state = copy.deepcopy(optimizer.state_dict())
    again = MomentumFreeAdam(copies, 0.5)  # the learning rate is of the state
    again.load_state_dict(state)
    steps = range(7, STEPS)
    actual, wanted = take_steps(again, copies, steps), take_steps(optimizer, parameters, steps)
    assert all(map(torch.equal, actual, wanted))


def test_the_state_is_one_tensor_of_the_parameters_size():
    parameters = weights()
    optimizer = MomentumFreeAdam(parameters, 0.01)
    take_steps(optimizer, parameters, range(STEPS))
    for parameter in parameters:
        state = dict(optimizer.state[parameter])
        assert state.pop("step").shape == ()
        (tensor,) = state.values()
        assert (tensor.shape, tensor.dtype, tensor.stride()) == (parameter.shape, parameter.dtype, parameter.stride())
