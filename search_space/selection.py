"""Expectation-based selection: which candidates and edge pairs get gradient in a step (On-NAS)."""

from collections import deque
from collections.abc import Iterator

import torch

from models.supernet import CELL_TYPES
from search_space.architecture import Architecture, Choice, Noise, input_pairs
from search_space.normalizers import AnnealedNormalizer

HISTORY = 6
EXPLORE = 0.2


def expected_final(parameter: torch.Tensor, updates: list[torch.Tensor], steps_left: int) -> torch.Tensor:
    """Where ``parameter`` will be after ``steps_left`` more steps if they are like the last ones, ``updates``."""
    return parameter + steps_left * torch.stack(updates).mean(0)


def choose(
    candidates: list[int],
    expected: list[float] | None,
    number: int,
    generator: torch.Generator,
) -> set[int]:
    """Chooses ``number`` of ``candidates``; all, where there are no more.

    With probability 0.8 those with the largest expected value, with 0.2 (exploration) uniformly from the others
    without the current best. With ``expected`` None: uniformly from all.
    """
    if len(candidates) <= number:
        return set(candidates)
    if expected is None:
        return _draw(candidates, number, generator)
    ranked = sorted(candidates, key=lambda candidate: expected[candidate], reverse=True)
    if torch.rand((), generator=generator).item() < EXPLORE:
        return _draw(ranked[1:], number, generator)
    return set(ranked[:number])


def _draw(candidates: list[int], number: int, generator: torch.Generator) -> set[int]:
    order = torch.randperm(len(candidates), generator=generator)[:number]
    return {candidates[i] for i in order.tolist()}


class UpdateHistory:
    """The last architecture updates d_t = parameter_(t+1) - parameter_t of named parameters, one task long."""

    def __init__(self):
        self._last: dict[str, torch.Tensor] = {}
        self._updates: dict[str, deque[torch.Tensor]] = {}

    def record(self, parameters: dict[str, torch.Tensor]) -> None:
        """Notes where the parameters are now: once at the start, then after each architecture step."""
        for name, parameter in parameters.items():
            now = parameter.detach().clone()
            if name in self._last:
                self._updates.setdefault(name, deque(maxlen=HISTORY)).append(now - self._last[name])
            self._last[name] = now

    def tensors(self) -> Iterator[torch.Tensor]:
        """All that is kept."""
        yield from self._last.values()
        for updates in self._updates.values():
            yield from updates

    def state_dict(self) -> dict:
        """All that is kept, in tensors and plain values."""
        return {"last": self._last, "updates": {name: list(updates) for name, updates in self._updates.items()}}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self._last = {name: tensor.to(device) for name, tensor in state["last"].items()}
        self._updates = {
            name: deque((update.to(device) for update in updates), maxlen=HISTORY)
            for name, updates in state["updates"].items()
        }

    def expected(self, name: str, steps_left: int) -> torch.Tensor | None:
        """The expected final value of a parameter; None until there are enough updates."""
        updates = self._updates.get(name, ())
        if len(updates) < HISTORY:
            return None
        return expected_final(self._last[name], list(updates), steps_left)


class Selector:
    """Chooses, once per optimisation step, what gets gradient in one task's search.

    Args:
        sampleno: candidates per edge that get gradient; None: all.
        alpha_expect: choose by expected final value; otherwise uniformly.
        beta_sampling: one edge pair per node gets gradient; otherwise all.
    """

    def __init__(
        self,
        architecture: Architecture,
        sampleno: int | None,
        alpha_expect: bool,
        beta_sampling: bool,
        generator: torch.Generator,
    ):
        self.architecture = architecture
        self.sampleno = sampleno
        self.alpha_expect = alpha_expect
        self.beta_sampling = beta_sampling
        self.generator = generator
        self.history = UpdateHistory()
        self.record()

    def record(self) -> None:
        """To be called after each architecture step."""
        if self.sampleno is not None or self.beta_sampling:
            self.history.record(dict(self.architecture.named_parameters()))

    def choose(
        self, normalizer: AnnealedNormalizer, prune_threshold: float, steps_left: int, noise: Noise = None
    ) -> Choice:
        """What gets gradient in the coming step.

        Args:
            steps_left: architecture steps (batches) left in this task, the coming one included.
            noise: the step's Gumbel noise, which settles what is pruned.
        """
        ops = {} if self.sampleno is not None else None
        pairs = {} if self.beta_sampling else None
        for cell_type in CELL_TYPES:
            if ops is not None:
                probabilities = self.architecture.op_probabilities(cell_type, normalizer, Choice(noise=noise))
                ops[cell_type] = [
                    choose(
                        [k for k, runs in enumerate(edge_unpruned) if runs],
                        self._expected(f"alpha.{cell_type}.{edge}", steps_left),
                        self.sampleno,
                        self.generator,
                    )
                    for edge, edge_unpruned in enumerate((probabilities >= prune_threshold).tolist())
                ]
            if pairs is not None:
                nodes = range(self.architecture.nodes)
                pairs[cell_type] = [self._choose_pair(cell_type, node, steps_left) for node in nodes]
        return Choice(ops, pairs, noise)

    def _choose_pair(self, cell_type: str, node: int, steps_left: int) -> tuple[int, int]:
        options = input_pairs(node)
        expected = self._expected(f"beta.{cell_type}.{node}", steps_left)
        (index,) = choose(list(range(len(options))), expected, 1, self.generator)
        return options[index]

    def _expected(self, name: str, steps_left: int) -> list | None:
        expected = self.history.expected(name, steps_left) if self.alpha_expect else None
        return None if expected is None else expected.tolist()
