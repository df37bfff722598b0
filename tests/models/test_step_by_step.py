"""Step-by-step back-propagation against ordinary back-propagation through the same supernet, and what it keeps."""

import random
import re
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import merged_candidates
from models.batch_norm import BatchNorm
from models.operations import CANDIDATES
from models.search_cell import OLDER, Mixture, SearchCell
from models.step_by_step import MicroBatch, step_by_step_backward
from search_space.architecture import EVERYTHING, Choice, input_pairs
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import TYPES, WAYS, edges_of, random_images, tiny_supernet
from utils.memory import LiveTensorBytes

LISTS = {"few-shot": FEW_SHOT, "full-task": FULL_TASK}
GRADIENT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the norm of each gradient
FLOOR = {torch.float64: 1e-12, torch.float32: 1e-6}  # of the norm of the largest gradient
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the loss and of BN's buffers

with_and_without_inputs = pytest.mark.parametrize("keep_inputs", [True, False], ids=["inputs kept", "nodes only"])
of_weights_or_not = pytest.mark.parametrize("of_weights", [True, False], ids=["weights", "architecture only"])


@dataclass(frozen=True)
class Result:
    """What a pass leaves behind; gradients and buffers by name."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor]

    def with_gradient(self) -> set[str]:
        return {name for name, gradient in self.gradients.items() if gradient is not None}


class Problem:
    """A supernet, a batch and a mixture, whose gradients are taken in one way and in the other.

    Args:
        threshold: of soft pruning. training: BN normalises by the statistics of the batch.
        net: changes to three cells of which the second is a reduction.
    """

    def __init__(
        self,
        seed: int = 0,
        size: tuple[int, int] = (6, 6),
        images: int = 4,
        drop_path: bool = False,
        threshold: float = 0.0,
        choice: Choice = EVERYTHING,
        training: bool = True,
        dtype: torch.dtype = torch.float64,
        **net,
    ):
        self.supernet, self.architecture = tiny_supernet(seed, **{"layers": 3, **net})
        self.supernet.to(dtype).train(training)
        self.architecture.to(dtype)
        generator = torch.Generator().manual_seed(seed)
        for norm in self.supernet.modules():
            if isinstance(norm, BatchNorm):
                norm.running_mean.normal_(generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
        self.initial_buffers = copy_buffers(self.supernet)
        self.images = random_images(images, size, self.supernet.settings.in_channels, seed).to(dtype)
        self.labels = torch.randint(WAYS, (images,), generator=generator)
        self.keep = self.supernet.draw_drop_path(images, 0.3, generator).to(dtype) if drop_path else None
        self.threshold = threshold
        self.choice = choice

    def mixtures(self) -> dict[str, Mixture]:
        return self.architecture.mixtures(AnnealedNormalizer("softmax", 0.7, 0.0), self.threshold, self.choice)

    def criterion(self, logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, self.labels)

    def ordinary(self, of_weights: bool = True, mixtures: dict[str, Mixture] | None = None) -> Result:
        self.start()
        loss = self.criterion(self.supernet(self.images, mixtures or self.mixtures(), self.keep))
        loss.backward(inputs=None if of_weights else list(self.architecture.parameters()))
        return self.result(loss)

    def step_by_step(
        self, of_weights: bool = True, keep_inputs: bool = True, mixtures: dict[str, Mixture] | None = None
    ) -> Result:
        self.start()
        micro_batch = MicroBatch(self.images, mixtures or self.mixtures(), self.criterion, self.keep)
        loss = step_by_step_backward(self.supernet, micro_batch, of_weights=of_weights, keep_inputs=keep_inputs)
        return self.result(loss)

    def start(self) -> None:
        """Without gradients, and with the buffers of the beginning."""
        self.supernet.load_state_dict(self.initial_buffers, strict=False)
        self.supernet.zero_grad()
        self.architecture.zero_grad()

    def result(self, loss: torch.Tensor) -> Result:
        modules = (self.supernet, self.architecture)
        gradients = {name: parameter.grad for module in modules for name, parameter in module.named_parameters()}
        return Result(loss.detach(), gradients, copy_buffers(self.supernet))


def copy_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_same(actual: Result, expected: Result) -> None:
    dtype = expected.loss.dtype
    same = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(actual.loss, expected.loss, **same)
    torch.testing.assert_close(actual.buffers, expected.buffers, **same)
    assert actual.with_gradient() == expected.with_gradient()
    norms = {name: expected.gradients[name].norm().item() for name in expected.with_gradient()}
    floor = FLOOR[dtype] * max(norms.values(), default=0.0)
    for name, norm in norms.items():
        error = (actual.gradients[name] - expected.gradients[name]).norm().item()
        assert error <= GRADIENT_TOLERANCE[dtype] * norm + floor, (name, error, norm)


def only(few: dict[str, set[int]], nodes: int = 2) -> Choice:
    """The same candidates on every edge of a cell type."""
    return Choice({kind: [few[kind] for _ in edges_of(nodes)] for kind in TYPES})


# --- Random nets ----------------------------------------------------------------------------------------------------


def random_case(seed: int):
    """The arguments of a random problem, then of a pass; the id says what was drawn."""
    draws = random.Random(seed)
    layers, nodes, channels = draws.randint(1, 6), draws.randint(1, 4), draws.choice((2, 4))
    reductions = tuple(layer for layer in range(layers) if draws.random() < 0.4)
    candidates = draws.choice(list(LISTS))
    size = draws.choice(((8, 8), (7, 7), (9, 6), (5, 8), (3, 2), (1, 5)))
    dtype = torch.float32 if seed % 3 == 2 else torch.float64
    options = ("drop-path", "pruning", "operations", "pairs", "eval", "architecture only", "nodes only")
    drawn = [option for option in options if draws.random() < 0.5]

    k = len(LISTS[candidates])
    ops = {kind: [set(draws.sample(range(k), 2)) for _ in edges_of(nodes)] for kind in TYPES}
    pairs = {kind: [draws.choice(input_pairs(node)) for node in range(nodes)] for kind in TYPES}
    problem = {
        "seed": seed,
        "size": size,
        "images": draws.randint(3, 5),
        "drop_path": "drop-path" in drawn,
        "threshold": 0.08 if "pruning" in drawn else 0.0,
        "choice": Choice(ops if "operations" in drawn else None, pairs if "pairs" in drawn else None),
        "training": "eval" not in drawn,
        "dtype": dtype,
        "layers": layers,
        "nodes": nodes,
        "init_channels": channels,
        "in_channels": draws.choice((1, 3)),
        "reduction_layers": reductions,
        "primitives": LISTS[candidates],
    }
    backward = {"of_weights": "architecture only" not in drawn, "keep_inputs": "nodes only" not in drawn}
    cells = "".join("R" if layer in reductions else "N" for layer in range(layers))
    shape = f"{cells}, {nodes} nodes of {channels} channels, {'x'.join(map(str, size))}"
    return pytest.param(problem, backward, id=", ".join([shape, candidates, *drawn, str(dtype).removeprefix("torch.")]))


@pytest.mark.parametrize(("problem", "backward"), [random_case(seed) for seed in range(64)])
def test_loss_gradients_and_statistics_are_those_of_ordinary_back_propagation(problem, backward):
    problem = Problem(**problem)
    expected = problem.ordinary(backward["of_weights"])
    assert_same(problem.step_by_step(**backward), expected)


# --- What gets a gradient -------------------------------------------------------------------------------------------


@of_weights_or_not
@with_and_without_inputs
def test_gradients_of_micro_batches_add_up(of_weights, keep_inputs):
    problem = Problem(drop_path=True)
    once = problem.step_by_step(of_weights, keep_inputs).gradients
    expected = {name: None if gradient is None else 2 * gradient for name, gradient in once.items()}
    micro_batch = MicroBatch(problem.images, problem.mixtures(), problem.criterion, problem.keep)
    problem.result(step_by_step_backward(problem.supernet, micro_batch, of_weights=of_weights, keep_inputs=keep_inputs))
    for name, parameter in (*problem.supernet.named_parameters(), *problem.architecture.named_parameters()):
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


@with_and_without_inputs
def test_weights_keep_the_gradient_they_have_where_none_is_asked_for(keep_inputs):
    problem = Problem()
    assert all(name.startswith(("alpha", "beta")) for name in problem.step_by_step(False, keep_inputs).with_gradient())
    for parameter in problem.supernet.parameters():
        parameter.grad = torch.ones_like(parameter)
    micro_batch = MicroBatch(problem.images, problem.mixtures(), problem.criterion)
    step_by_step_backward(problem.supernet, micro_batch, of_weights=False, keep_inputs=keep_inputs)
    assert all((parameter.grad == 1).all() for parameter in problem.supernet.parameters())


@with_and_without_inputs
def test_mixtures_without_a_gradient_give_that_of_the_weights_alone(keep_inputs):
    problem = Problem(drop_path=True)
    with torch.no_grad():
        mixtures = problem.mixtures()
    actual = problem.step_by_step(True, keep_inputs, mixtures)
    assert actual.with_gradient() == {name for name, _ in problem.supernet.named_parameters()}
    assert_same(actual, problem.ordinary(True, mixtures))


WITHOUT_A_GRADIENT = {
    "nothing is trained": {"choice": only({"normal": set(), "reduction": set()})},
    "only none is trained": {
        "primitives": FULL_TASK,
        "choice": only({kind: {FULL_TASK.index("none")} for kind in TYPES}),
    },
    "all is pruned": {"threshold": 1.5},
}


@pytest.mark.parametrize("case", WITHOUT_A_GRADIENT)
@of_weights_or_not
@with_and_without_inputs
def test_without_a_trained_candidate_only_the_head_gets_a_gradient(case, of_weights, keep_inputs):
    problem = Problem(**WITHOUT_A_GRADIENT[case])
    actual = problem.step_by_step(of_weights, keep_inputs)
    assert actual.with_gradient() == ({"head.weight", "head.bias"} if of_weights else set())
    assert_same(actual, problem.ordinary(of_weights))


@of_weights_or_not
@with_and_without_inputs
def test_gradient_passes_a_constant_cell_by_the_older_input_and_not_two_of_them(of_weights, keep_inputs):
    choice = only({"normal": set(range(7)), "reduction": set()})
    for reductions, reached in (((1,), {"0", "2"}), ((1, 2), {"3"})):
        problem = Problem(layers=1 + max(reductions) + 1, reduction_layers=reductions, choice=choice)
        actual = problem.step_by_step(of_weights, keep_inputs)
        with_gradient = actual.with_gradient()
        assert {name.split(".")[1] for name in with_gradient if name.startswith("cells")} == (
            reached if of_weights else set()
        )
        assert {name.split(".")[1] for name in with_gradient if name.startswith("alpha")} == {"normal"}
        assert_same(actual, problem.ordinary(of_weights))


@with_and_without_inputs
def test_gradient_through_the_older_input_is_part_of_it(keep_inputs, monkeypatch):
    problem = Problem(layers=4)
    actual = problem.step_by_step(keep_inputs=keep_inputs)
    for cell in problem.supernet.cells:
        reader = cell.inputs[OLDER]
        monkeypatch.setattr(reader, "convolve", lambda x, index, whole=reader.convolve: whole(x.detach(), index))
    cut = problem.ordinary()
    # Cells 2 and 3 are read as newer inputs and by the head only.
    for name in cut.with_gradient():
        if name.startswith(("stem", "cells", "head")):
            error = (actual.gradients[name] - cut.gradients[name]).norm() / cut.gradients[name].norm()
            assert (error > 1e-3) == name.startswith(("stem", "cells.0", "cells.1")), (name, error)


@of_weights_or_not
def test_only_trained_candidates_are_run_again_each_once(of_weights, monkeypatch):
    draws = random.Random(0)
    ops = {kind: [set(draws.sample(range(7), 3)) for _ in edges_of(3)] for kind in TYPES}
    pairs = {"normal": [(0, 1), (1, 2), (0, 3)], "reduction": [(0, 1), (0, 2), (2, 3)]}
    problem = Problem(layers=4, nodes=3, reduction_layers=(1, 3), threshold=0.03, choice=Choice(ops, pairs))
    mixtures = problem.mixtures()
    expected, untrained = set(), 0
    for layer in range(4):
        kind = problem.supernet.settings.cell_type(layer)
        for edge, (source, node) in enumerate(edges_of(3)):
            for k, name in enumerate(FEW_SHOT):
                if mixtures[kind].active[edge][k] and k in ops[kind][edge] and source in pairs[kind][node]:
                    is_shared = "pool" in name or (name == "skip_connect" and (kind == "normal" or source >= 2))
                    place = "shared" if is_shared else f"to_node.{node}"
                    expected.add(f"cells.{layer}.sources.{source}.{place}.{name}")
                else:
                    untrained += mixtures[kind].active[edge][k]
    assert untrained > len(expected) > 20

    ran = Counter()

    def record(name, body):
        def recorded(x):
            ran[name] += 1
            return body(x)

        return recorded

    for name, module in problem.supernet.named_modules():
        if re.fullmatch(r"cells\.\d\.sources\.\d\.(shared|to_node\.\d)\.\w+", name):
            monkeypatch.setattr(module, "body", record(name, module.body))

    def criterion(logits):
        ran.clear()  # up to here it was the forward pass
        return F.cross_entropy(logits, problem.labels)

    monkeypatch.setattr(problem, "criterion", criterion)
    problem.step_by_step(of_weights, mixtures=mixtures)
    assert ran == Counter(expected)


# --- Memory ---------------------------------------------------------------------------------------------------------

IMAGES, CHANNELS, NODES, SIDE = 4, 4, 2, 36  # too large for candidates to be merged
FEW = ("max_pool_3x3", "conv_3x3", "sep_conv_3x3")
FLOAT = 4  # bytes
STATE_BYTES = IMAGES * CHANNELS * SIDE * SIDE * FLOAT
SCALE_BYTES = CHANNELS * FLOAT


def flat_problem(layers: int, primitives: tuple[str, ...] = FEW) -> Problem:
    """Every state of every cell takes STATE_BYTES."""
    return Problem(
        size=(SIDE, SIDE),
        dtype=torch.float32,
        images=IMAGES,
        layers=layers,
        nodes=NODES,
        init_channels=CHANNELS,
        reduction_layers=(),
        primitives=primitives,
    )


def peak(problem: Problem, of_weights: bool, **step_by_step: bool) -> int:
    """Of step-by-step back-propagation with these arguments; without any, of the ordinary one."""
    mixtures = problem.mixtures()
    backward = problem.step_by_step if step_by_step else problem.ordinary
    with LiveTensorBytes() as meter:
        backward(of_weights, mixtures=mixtures, **step_by_step)
    return meter.peak


def tensor_bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def seen_bytes(cell: SearchCell) -> int:
    """The weights of a cell that the meter sees, because views are taken of them."""
    return tensor_bytes(parameter for reader in cell.inputs for parameter in reader.parameters())


def own_bytes(module: nn.Module, of_weights: bool) -> int:
    """What a module adds to the live bytes: its buffers and the gradients of its parameters."""
    return (tensor_bytes(module.parameters()) if of_weights else 0) + tensor_bytes(module.buffers())


@of_weights_or_not
@with_and_without_inputs
def test_another_cell_adds_its_kept_states_to_the_peak(of_weights, keep_inputs):
    small, large = flat_problem(3), flat_problem(4)
    growth = peak(large, of_weights, keep_inputs=keep_inputs) - peak(small, of_weights, keep_inputs=keep_inputs)
    kept = NODES * STATE_BYTES + (2 * (STATE_BYTES + SCALE_BYTES) if keep_inputs else 0)
    cell = large.supernet.cells[-1]
    assert kept <= growth <= kept + own_bytes(cell, of_weights) + seen_bytes(cell)


@of_weights_or_not
@with_and_without_inputs
def test_merged_candidates_add_no_more_than_their_copies(of_weights, keep_inputs, monkeypatch):
    alone = peak(flat_problem(3), of_weights, keep_inputs=keep_inputs)
    monkeypatch.setattr(merged_candidates, "SMALL", STATE_BYTES // FLOAT)
    together = peak(flat_problem(3), of_weights, keep_inputs=keep_inputs)
    # For each of the edges that leave a state: what is read, and the outputs of two convolutions.
    assert together <= alone + 3 * NODES * STATE_BYTES


def test_another_cell_adds_far_more_to_the_peak_of_ordinary_back_propagation():
    growth = peak(flat_problem(3), of_weights=False) - peak(flat_problem(2), of_weights=False)
    assert growth > len(edges_of(NODES)) * len(FEW) * STATE_BYTES  # an activation of each candidate on each edge


@pytest.mark.parametrize("name", ["conv_3x3", "sep_conv_3x3"])
@of_weights_or_not
@with_and_without_inputs
def test_peak_is_the_kept_states_and_one_candidate(name, of_weights, keep_inputs):
    operation = CANDIDATES[name](CHANNELS, 1).to(memory_format=torch.channels_last)
    with LiveTensorBytes() as alone:
        x = torch.ones(IMAGES, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        arriving = torch.ones_like(x)
        operation(x.requires_grad_()).backward(arriving)
    problem = flat_problem(3, (name,))
    # Beside ReLU of its state and one node's gradient, which are part of the candidate alone: the state itself, the
    # sum of its gradients, that of the cell's other input, and those of the other nodes.
    beside = (3 + NODES - 1) * STATE_BYTES
    kept = 3 * (NODES * STATE_BYTES + (2 * (STATE_BYTES + SCALE_BYTES) if keep_inputs else 0))
    own = own_bytes(problem.supernet, of_weights) + sum(seen_bytes(cell) for cell in problem.supernet.cells)
    assert peak(problem, of_weights, keep_inputs=keep_inputs) <= kept + alone.peak + beside + own


@of_weights_or_not
def test_inputs_that_are_not_kept_are_saved_in_the_cells_below_the_peak(of_weights):
    problem = flat_problem(3)
    saved = peak(problem, of_weights, keep_inputs=True) - peak(problem, of_weights, keep_inputs=False)
    assert saved >= 2 * 2 * STATE_BYTES


@pytest.mark.parametrize(("candidates", "widest"), [("few-shot", "sep_conv_3x3"), ("full-task", "sep_conv_5x5")])
@of_weights_or_not
@with_and_without_inputs
def test_peak_is_that_of_the_widest_candidate_whatever_their_number(candidates, widest, of_weights, keep_inputs):
    one, many = flat_problem(2, (widest,)), flat_problem(2, LISTS[candidates])
    growth = peak(many, of_weights, keep_inputs=keep_inputs) - peak(one, of_weights, keep_inputs=keep_inputs)
    own = own_bytes(many.supernet, of_weights) - own_bytes(one.supernet, of_weights)
    coefficients = len(edges_of(NODES)) * len(LISTS[candidates]) * FLOAT
    assert growth <= own + 2 * len(TYPES) * coefficients  # with their gradients


def test_partial_channels_are_refused_and_not_wrong():
    supernet, architecture = tiny_supernet(init_channels=4, partial_channels=2)
    mixtures = architecture.mixtures(AnnealedNormalizer("softmax", 1.0, 0.0), 0.0)
    with pytest.raises(ValueError, match="partial channels"):
        step_by_step_backward(
            supernet, MicroBatch(random_images(2), mixtures, torch.sum), of_weights=True, keep_inputs=True
        )
