"""A record of one task's search: what its steps chose, and what alpha and beta became, in plain numbers.

No tensor is kept: a record is made while the peak of live tensor bytes is measured, and is not part of it.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from models.supernet import CELL_TYPES
from search_space.architecture import Choice
from search_space.normalizers import AnnealedNormalizer
from search_space.task_search import Step, StepResult, TaskSearch

RECORDED_TASKS = 3  # of a run of few-shot tasks the first are recorded step by step
ALPHA, BETA = KINDS = ("alpha", "beta")
# {kind: {cell type: a list of numbers for each edge (alpha), for each node (beta)}}
Values = dict[str, dict[str, list[list[float]]]]


@dataclass(frozen=True)
class State:
    """Alpha and beta between two steps.

    normalizer: of the step before.
    values: of beta there are none where the edges' weights are equal.
    expected: what the next selection expects them to become; None where none is to come or it does not expect.
    """

    normalizer: AnnealedNormalizer
    values: Values
    expected: Values | None

    @classmethod
    def of(cls, search: TaskSearch, steps_left: int) -> "State":
        """That of a search now, ``steps_left`` architecture steps before its end."""
        names = {
            kind: {
                cell_type: [f"{kind}.{cell_type}.{number}" for number in range(len(parameters[cell_type]))]
                for cell_type in CELL_TYPES
            }
            for kind, parameters in ((ALPHA, search.architecture.alpha), (BETA, search.architecture.beta))
        }
        tensors = dict(search.architecture.named_parameters())
        values = _plain(names, tensors)
        if steps_left == 0 or not search.settings.alpha_expect:
            return cls(search.normalizer, values, None)
        expected = {name: search.selector.history.expected(name, steps_left) for name in tensors}
        complete = all(tensor is not None for tensor in expected.values())
        return cls(search.normalizer, values, _plain(names, expected) if complete else None)

    def probabilities(self, kind: str, cell_type: str) -> list[list[float]]:
        """The normalizer's, without noise."""
        return [self.normalizer(torch.tensor(row)).tolist() for row in self.values[kind][cell_type]]


def _plain(names: dict, tensors: dict[str, torch.Tensor]) -> Values:
    return {
        kind: {cell_type: [tensors[name].tolist() for name in rows] for cell_type, rows in types.items()}
        for kind, types in names.items()
    }


class Choices:
    """How often each candidate and each edge pair was chosen to get gradient.

    Attributes:
        ops: by cell type, of (edge, candidate). pairs: by cell type, of (node, pair). Empty where all get gradient.
        steps: the number of choices.
    """

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.steps = 0
        self.ops = {cell_type: Counter() for cell_type in CELL_TYPES}
        self.pairs = {cell_type: Counter() for cell_type in CELL_TYPES}

    def count(self, choice: Choice) -> None:
        self.steps += 1
        for cell_type, edges in (choice.ops or {}).items():
            self.ops[cell_type].update((edge, op) for edge, ops in enumerate(edges) for op in ops)
        for cell_type, pairs in (choice.pairs or {}).items():
            self.pairs[cell_type].update(enumerate(pairs))

    def note(self, search: TaskSearch, step: Step) -> None:
        """To be a search's ``on_step``."""
        self.count(step.choice)


@dataclass(frozen=True)
class RecordedStep:
    """A step: its loss and accuracies, its settings and choice, and the state that it led to."""

    result: StepResult
    temperature: float
    w_lr: float
    alpha_lr: float
    choice: Choice
    state: State


class SearchRecord:
    """Every step of one task.

    Attributes:
        start: the state before the first step.
        steps: what was done since.
    """

    def watch(self, search: TaskSearch) -> None:
        """Records what ``search`` does from now on."""
        self.start = State.of(search, 0)  # too early to expect anything
        self.steps: list[RecordedStep] = []
        search.on_step = self._note

    def _note(self, search: TaskSearch, step: Step) -> None:
        searching = step.result.validation_accuracy is not None
        self.steps.append(
            RecordedStep(
                step.result,
                search.normalizer.temperature,
                *(optimizer.param_groups[0]["lr"] for optimizer in step.optimizers),
                step.choice,
                State.of(search, step.steps_left - searching),
            )
        )


def record_of(task: int) -> SearchRecord | None:
    """For a test task that is to be recorded step by step."""
    return SearchRecord() if task < RECORDED_TASKS else None


# --- What was expected against what became --------------------------------------------------------------------------


def against_final(expected: Values, final: Values, kind: str) -> list[tuple[float, float]]:
    """(expected, final) of every number of a kind."""
    return [
        pair
        for cell_type in CELL_TYPES
        for rows in zip(expected[kind][cell_type], final[kind][cell_type], strict=True)
        for pair in zip(*rows, strict=True)
    ]


def mean_absolute_error(points: list[tuple[float, float]]) -> float:
    return sum(abs(expected - final) for expected, final in points) / len(points)


def correlation(points: list[tuple[float, float]]) -> float | None:
    """Pearson's; None where there is none, as of a constant."""
    value = torch.corrcoef(torch.tensor(points, dtype=torch.float64).T)[0, 1].item() if len(points) > 1 else torch.nan
    return value if value == value else None
