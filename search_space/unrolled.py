"""Second-order DARTS: the architecture gradient one weight step ahead (Liu et al., ICLR 2019, equations 7 and 8)."""

import torch

PERTURBATION = 0.01  # the published length of the finite difference in weights


@torch.no_grad()
def unrolled_architecture_gradient(search, training, validation, w_lr: float, choice) -> torch.Tensor:
    """The gradient of L_val(w - xi dL_train(w, alpha)/dw, alpha) in alpha and beta, left in their ``grad``.

    The step ahead is plain gradient descent with xi = ``w_lr``. Its second derivative times v, the gradient of L_val in
    the weights there, is the central difference of dL_train/dalpha at w +- eps v, eps = 0.01 / |v|.

    The supernet is left as it was, BN's statistics included, and its weights without gradients.

    Args:
        search: a search_space.task_search.TaskSearch, without drop-path: the difference is of one and the same loss.
        training, validation: its batches.

    Returns:
        What ``search.architecture_gradient`` returns, at the weights one step ahead.
    """
    weights, variables = list(search.supernet.parameters()), list(search.architecture.parameters())
    start = [weight.clone() for weight in weights]
    statistics = [(buffer, buffer.clone()) for buffer in search.supernet.buffers()]

    def move(directions: list[torch.Tensor | None], length: float | torch.Tensor) -> None:
        for weight, at, direction in zip(weights, start, directions, strict=True):
            weight.copy_(at if direction is None else at + length * direction)

    with torch.enable_grad():
        search.weight_gradient(training, choice)
    move(_take_gradients(weights), -w_lr)
    with torch.enable_grad():
        result = search.architecture_gradient(validation, choice, of_weights=True)
    ahead, gradients = _take_gradients(weights), _take_gradients(variables)

    norm = torch.stack([direction.norm() for direction in ahead if direction is not None]).norm()
    length = PERTURBATION / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    sides = []
    for sign in (1, -1):
        move(ahead, sign * length)
        with torch.enable_grad():
            search.architecture_gradient(training, choice)
        sides.append(_take_gradients(variables))
    move([None] * len(weights), 0.0)
    for buffer, before in statistics:
        buffer.copy_(before)
    for variable, gradient, plus, minus in zip(variables, gradients, *sides, strict=True):
        if gradient is not None:
            variable.grad = gradient - w_lr * (plus - minus) / (2 * length)
    return result


def _take_gradients(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor | None]:
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients
