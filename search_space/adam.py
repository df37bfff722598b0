"""Adam for beta1 = 0, the published setting: then the first moment is the gradient itself, and is not stored."""

import torch
from torch.optim.adam import adam

from utils.optimizers import without_dynamo

Tensors = list[torch.Tensor]


def update(parameters: Tensors, gradients: Tensors, squares: Tensors, steps: Tensors, group: dict) -> None:
    """Adam's update for beta1 = 0 of each parameter, in place; the gradients are used up.

    Args:
        squares: second moments, (...) as the parameters. steps: how many steps came before, scalars.
        group: with the settings beta2, lr, weight_decay and eps.
    """
    adam(
        parameters,
        gradients,
        gradients,  # in the place of the first moments: each is read before it is written
        squares,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=0.0,
        beta2=group["beta2"],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


class MomentumFreeAdam(torch.optim.Optimizer):
    """The updates of ``torch.optim.Adam(betas=(0, beta2), fused=True)`` with half of its state.

    The gradients are used up by :meth:`step`: with weight decay, what is left in them is not the gradient any more.
    """

    def __init__(self, params, lr: float, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0):
        # With "fused", load_state_dict brings a step count to its parameter's device, where the fused kernel wants it.
        defaults = {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": weight_decay, "fused": True}
        without_dynamo()
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient; returns what ``closure``, if given, does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            states = [self._state(parameter) for parameter in parameters]
            squares, steps = ([state[name] for state in states] for name in ("exp_avg_sq", "step"))
            update(parameters, gradients, squares, steps, group)
        return loss

    def _state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
