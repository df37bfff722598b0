"""Adam for tasks side by side: each steps its own part of a tensor, and only where it got a gradient."""

import torch

from search_space.adam import update
from utils.optimizers import without_dynamo


class BatchedAdam(torch.optim.Optimizer):
    """Does for each task what :class:`search_space.adam.MomentumFreeAdam` does for its tensors alone.

    The gradients are used up by :meth:`step`.

    Args:
        params: (T, ...) each, contiguous; part t is that of task t.
    """

    def __init__(self, params, lr: float, beta2: float = 0.999, eps: float = 1e-8):
        without_dynamo()
        super().__init__(params, {"lr": lr, "beta2": beta2, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, stepped: list[list[bool]]):
        """One update of what got a gradient.

        Args:
            stepped: for each parameter T booleans, whether the task's part got one.
        """
        for group in self.param_groups:
            parameters, gradients, squares, steps = [], [], [], []
            for parameter, tasks in zip(group["params"], stepped, strict=True):
                if parameter.grad is None:
                    continue
                state = self._state(parameter)
                for part in _parts(tasks, state["steps"]):
                    parameters.append(parameter[part])
                    gradients.append(parameter.grad[part])
                    squares.append(state["exp_avg_sq"][part])
                    steps.append(float(state["steps"][part][0]))
                state["steps"] += torch.tensor(tasks)
            if parameters:
                steps = list(torch.tensor(steps, device=parameters[0].device).unbind())
                update(parameters, gradients, squares, steps, group)

    def _state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            state["steps"] = torch.zeros(len(parameter), dtype=torch.long)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _parts(tasks: list[bool], steps: torch.Tensor) -> list[slice]:
    """What is stepped: all at once if every task is, and has been as often as the others; else task by task."""
    if all(tasks) and bool((steps == steps[0]).all()):
        return [slice(None)]
    return [slice(task, task + 1) for task, is_stepped in enumerate(tasks) if is_stepped]
