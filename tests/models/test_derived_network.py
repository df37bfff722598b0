"""The derived network against a textbook one on PyTorch's own layers, and against the supernet it was derived from."""

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm
from models.derived_network import DerivedNetwork, DerivedSettings
from models.operations import CANDIDATES
from models.search_cell import Mixture
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import WAYS, edges_of, random_images, tiny_supernet
from tests.textbook_operations import Reduce, operation, projection
from utils.errors import InputError
from utils.memory import LiveTensorBytes

LISTS = {"few-shot": FEW_SHOT, "full-task": FULL_TASK}
IMAGES = 4
LABELS = torch.tensor([0, 1, 2, 1])
NORMAL = (("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2))
REDUCE = (("skip_connect", 0), ("avg_pool_3x3", 1), ("conv_1x5_5x1", 1), ("skip_connect", 2))
SETTINGS = {"in_channels": 1, "channels": 2, "layers": 3, "reduction_layers": (1,), "normal": NORMAL, "reduce": REDUCE}
LAYOUTS = {
    "no reduction": {"layers": 2, "reduction_layers": ()},
    "published layout": {"layers": 4, "reduction_layers": (1, 3)},
    "consecutive reductions": {"layers": 3, "reduction_layers": (0, 1)},
    "one cell": {"layers": 1, "reduction_layers": (0,)},
}


def random_edges(nodes: int, primitives: tuple[str, ...], generator: torch.Generator) -> tuple:
    names = [name for name in primitives if name != "none"]
    edges = []
    for node in range(nodes):
        pairs = list(combinations(range(node + 2), 2))
        pair = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        edges += [(names[int(torch.randint(len(names), (), generator=generator))], source) for source in pair]
    return tuple(edges)


def derived_network(seed: int = 0, **changes) -> DerivedNetwork:
    """In float64, with affine parameters and statistics far from those of the beginning."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DerivedNetwork(DerivedSettings(**{**SETTINGS, **changes}), WAYS).double()
        for norm in network.modules():
            if isinstance(norm, BatchNorm):
                nn.init.normal_(norm.weight, 1, 0.3)
                nn.init.normal_(norm.bias, 0, 0.3)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return network


def drop_path(network: DerivedNetwork, images: int = IMAGES, probability: float = 0.4) -> torch.Tensor:
    return network.draw_drop_path(images, probability, torch.Generator().manual_seed(3)).double()


# --- The reference: DARTS's evaluation network, cell outputs concatenated --------------------------------------------


AFFINE = nn.BatchNorm2d


class ReferenceCell(nn.Module):
    def __init__(self, edges, channels, reduction, after_reduction):
        super().__init__()
        width = len(edges) // 2 * channels
        self.sources = [source for _, source in edges]

        older = Reduce if after_reduction else projection
        self.inputs = nn.ModuleList([older(width, channels, AFFINE), projection(width, channels, AFFINE)])
        self.operations = nn.ModuleList(
            operation(name, channels, 2 if reduction and source < 2 else 1, AFFINE) for name, source in edges
        )

    def forward(self, older, newer, keep):
        states = [self.inputs[0](older), self.inputs[1](newer)]
        for node in range(len(self.sources) // 2):
            total = 0.0
            for edge in (2 * node, 2 * node + 1):
                output = self.operations[edge](states[self.sources[edge]])
                if keep is not None and not isinstance(self.operations[edge][0], nn.Identity):
                    output = output * keep[edge].view(-1, 1, 1, 1)
                total = total + output
            states.append(total)
        return torch.cat(states[2:], 1)


class Reference(nn.Module):
    def __init__(self, settings: DerivedSettings):
        super().__init__()
        reductions = settings.reduction_layers
        width = len(settings.normal) // 2 * settings.channels
        self.auxiliary_at = int(settings.layers * 2 / 3)
        self.stem = nn.Sequential(
            nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.ModuleList(
            ReferenceCell(
                settings.reduce if layer in reductions else settings.normal,
                settings.channels,
                layer in reductions,
                layer - 1 in reductions,
            )
            for layer in range(settings.layers)
        )
        self.head = nn.Linear(width, WAYS)
        if settings.auxiliary:
            self.auxiliary_head = nn.Sequential(
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Conv2d(width, 128, 1, bias=False),
                nn.BatchNorm2d(128),
                nn.ReLU(),
                nn.Conv2d(128, 768, 2, bias=False),
                nn.BatchNorm2d(768),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(768, WAYS),
            )

    def forward(self, images, keep=None):
        older = newer = self.stem(images)
        auxiliary = None
        for layer, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer, None if keep is None else keep[layer])
            if layer == self.auxiliary_at and self.training and hasattr(self, "auxiliary_head"):
                auxiliary = self.auxiliary_head(newer)
        logits = self.head(newer.mean((2, 3)))
        return logits if auxiliary is None else (logits, auxiliary)


def reference_of(network: DerivedNetwork) -> Reference:
    """With the network's tensors, which it owns in the same order."""
    reference = Reference(network.settings).double().train(network.training)
    tensors = dict(zip(reference.state_dict(), network.state_dict().values(), strict=True))
    reference.load_state_dict(tensors)
    return reference


def objective(outputs) -> torch.Tensor:
    if isinstance(outputs, tuple):
        return F.cross_entropy(outputs[0], LABELS) + 0.4 * F.cross_entropy(outputs[1], LABELS)
    return F.cross_entropy(outputs, LABELS)


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in network.parameters()]


CASES = [(layout, "few-shot", nodes) for layout in LAYOUTS for nodes in (1, 3)]
CASES += [(layout, "full-task", nodes) for layout in ("no reduction", "published layout") for nodes in (2, 4)]


@pytest.mark.parametrize(("layout", "primitives", "nodes"), CASES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_outputs_gradients_and_statistics_are_those_of_the_textbook_network(layout, primitives, nodes, training):
    generator = torch.Generator().manual_seed(nodes)
    cells = {cell: random_edges(nodes, LISTS[primitives], generator) for cell in ("normal", "reduce")}
    network = derived_network(auxiliary=True, **LAYOUTS[layout], **cells).train(training)
    reference = reference_of(network)
    images = random_images(IMAGES, (9, 8))
    keep = drop_path(network) if training else None
    outputs, expected = network(images, keep), reference(images, keep)
    assert isinstance(outputs, tuple) == training
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    objective(outputs).backward()
    objective(expected).backward()
    torch.testing.assert_close(gradients(network), gradients(reference), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(list(network.buffers()), list(reference.buffers()), rtol=1e-9, atol=1e-9)


def test_without_a_gradient_the_output_is_the_same():
    network = derived_network().eval()
    images = random_images(IMAGES)
    expected = network(images).detach()
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)
        # What BN overwrites is nobody else's: neither the images nor a state that another edge reads.
        assert torch.equal(images, random_images(IMAGES))


def test_every_parameter_is_used_and_those_of_the_auxiliary_head_are_counted_apart():
    network = derived_network(auxiliary=True).train()
    objective(network(random_images(IMAGES))).backward()
    assert all(gradient is not None for gradient in gradients(network))
    # By hand, S = 4, C = 2: stem 4*9 + 2*4; two inputs 2*(4*2 + 2*2) a cell.
    # Normal: sep_conv_3x3 2*(2*9 + 2*2 + 2*2), max pool 2*2, dil_conv_3x3 2*9 + 2*2 + 2*2.
    # Reduction: stride-2 skip 2*2 + 2*2, average pool 2*2, conv_1x5_5x1 2*(2*2*5) + 2*2. Head 4*3 + 3.
    normal, reduction = 52 + 4 + 26, 8 + 4 + 44
    assert network.parameter_count == 44 + 3 * 24 + 2 * normal + reduction + 15
    assert derived_network().parameter_count == network.parameter_count


# --- Drop-path ------------------------------------------------------------------------------------------------------


def test_drop_path_drops_each_image_and_edge_with_its_probability_and_never_the_identity():
    network = derived_network()
    keep = network.draw_drop_path(2000, 0.2, torch.Generator().manual_seed(0))
    assert keep.shape == (3, 4, 2000)
    assert torch.unique(keep).tolist() == pytest.approx([0.0, 1.0, 1 / 0.8])
    dropped = (keep == 0).double().mean(-1)
    identity = torch.zeros(3, 4, dtype=torch.bool)
    identity[[0, 2], 1] = True  # the normal cell's second edge
    identity[1, 3] = True  # the reduction's last edge reads a node, its first a cell input with stride 2
    assert (keep[identity] == 1).all()
    assert dropped[~identity].min() > 0.15
    assert dropped[~identity].max() < 0.25
    assert len(torch.unique(keep[~identity], dim=0)) == 9


# --- Inheriting -----------------------------------------------------------------------------------------------------


def one_hot(edges: tuple, primitives: tuple[str, ...]) -> Mixture:
    """Weight 1 for each edge and operation of the genotype, by the supernet's numbers of edges and candidates."""
    numbers = edges_of(len(edges) // 2)
    coefficients = torch.zeros(len(numbers), len(primitives), dtype=torch.float64)
    for edge, (name, source) in enumerate(edges):
        coefficients[numbers.index((source, edge // 2)), primitives.index(name)] = 1.0
    active = (coefficients > 0).tolist()
    return Mixture(coefficients, active, active)


def searched_and_derived(nodes: int, primitives: str, layout: str, seed: int = 0):
    """A supernet with statistics of its own, its mixtures on a genotype, and the network that inherits."""
    supernet, _ = tiny_supernet(nodes=nodes, primitives=LISTS[primitives], **LAYOUTS[layout])
    generator = torch.Generator().manual_seed(seed + nodes)
    for norm in supernet.modules():
        if isinstance(norm, BatchNorm):
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    normal, reduce = (random_edges(nodes, LISTS[primitives], generator) for _ in range(2))
    mixtures = {"normal": one_hot(normal, LISTS[primitives]), "reduction": one_hot(reduce, LISTS[primitives])}
    network = derived_network(1, normal=normal, reduce=reduce, **LAYOUTS[layout])
    network.inherit(supernet)
    return supernet, mixtures, network


@pytest.mark.parametrize("primitives", LISTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_inherited_network_is_the_supernet_with_all_weight_on_the_genotype(nodes, layout, primitives):
    supernet, mixtures, network = searched_and_derived(nodes, primitives, layout)
    for training in (False, True, False):  # in the end by the statistics that the pass in training left
        for module in (supernet, network):
            module.train(training)
        images = random_images(IMAGES, (7, 8), seed=int(training))
        torch.testing.assert_close(network(images), supernet(images, mixtures), rtol=1e-9, atol=1e-9)


def test_inherited_weights_are_copies():
    supernet, _, network = searched_and_derived(2, "few-shot", "published layout")
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    network.train()
    objective(network(random_images(IMAGES))).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 4},
        {"layers": 4},
        {"reduction_layers": (0,)},
        {"normal": NORMAL[:2], "reduce": REDUCE[:2]},
    ],
)
def test_a_supernet_of_another_size_is_refused(changes):
    supernet, _ = tiny_supernet(layers=3, reduction_layers=(1,))
    derived_network().inherit(supernet)
    with pytest.raises(InputError, match=r"--inherit_weights 1 .*leave out --derived_channels and --derived_layers"):
        derived_network(**changes).inherit(supernet)


def test_a_supernet_of_partial_channels_is_refused():
    supernet, _ = tiny_supernet(layers=3, reduction_layers=(1,), init_channels=4, partial_channels=2)
    with pytest.raises(InputError, match="--partial_channels"):
        derived_network(channels=4).inherit(supernet)


# --- Step by step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_step_by_step_has_the_gradient_of_ordinary_back_propagation(layout, training):
    results = []
    for step_by_step in (False, True):
        network = derived_network(auxiliary=True, **LAYOUTS[layout]).train(training)
        keep = drop_path(network) if training else None
        loss = objective(network(random_images(IMAGES), keep, step_by_step))
        loss.backward()
        results.append([loss.detach(), *gradients(network), *network.buffers()])
    ordinary, by_step = results
    assert [gradient is None for gradient in by_step] == [gradient is None for gradient in ordinary]
    for got, expected in zip(by_step, ordinary, strict=True):
        if expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_step_by_step_keeps_the_activations_of_one_cell():
    def activations(layers: int, step_by_step: bool) -> int:
        network = derived_network(layers=layers, reduction_layers=(), channels=4).train()
        images = random_images(IMAGES, (16, 16))
        with LiveTensorBytes([*network.parameters(), *network.buffers()], [images]) as meter:
            objective(network(images, None, step_by_step)).backward()
        return meter.breakdown()["activations"]

    state = IMAGES * 4 * 16 * 16 * 8  # bytes of one node's
    ordinary, by_step = (activations(8, step) - activations(4, step) for step in (False, True))
    # Beside the cell that is run again, a cell is its two inputs of C channels.
    assert by_step <= 4 * 2.1 * state
    assert ordinary >= 4 * 10 * state


# --- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": 3}, "--derived_channels must be even"),
        ({"layers": 0, "reduction_layers": ()}, "--derived_layers"),
        ({"in_channels": 0}, "in_channels"),
        ({"reduction_layers": (3,)}, "--reduction_layers must be from 0 to 2 with --derived_layers 3"),
        ({"reduction_layers": (1, 1)}, "--reduction_layers"),
    ],
)
def test_settings_that_make_no_net_are_refused(changes, text):
    with pytest.raises(InputError, match=text):
        DerivedSettings(**{**SETTINGS, **changes})


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_operation_can_be_used(name):
    edges = ((name, 0), (name, 1))
    network = derived_network(normal=edges, reduce=edges).train()
    assert network(random_images(IMAGES)).shape == (IMAGES, WAYS)
