"""An episode: one few-shot task, as tensors."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """One few-shot task: a support set to adapt to and a query set to test on, both ordered class by class.

    number: of the episode among its tasks; every random draw for the task depends on it.
    support, query: images, uint8 (N, C, H, W) and (Q, C, H, W).
    support_labels, query_labels: int64 (N,) and (Q,), places in ``class_names``.
    class_names: what the labels 0, 1, ... are.
    """

    number: int
    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    class_names: tuple[str, ...]
