"""The supernet against the textbook one of tests/helpers.py: outputs and every gradient, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import merged_candidates
from models.supernet import SupernetSettings
from search_space.architecture import EVERYTHING, Choice
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import (
    Mixing,
    copy_parameters,
    edges_of,
    random_images,
    reference_supernet,
    tiny_settings,
    tiny_supernet,
)
from utils.errors import InputError

IMAGES = 4
LABELS = torch.tensor([0, 1, 2, 1])

NETS = {
    "no reduction": {"reduction_layers": ()},
    "published layout": {"layers": 4, "nodes": 3, "reduction_layers": (1, 3)},
    "reduction first": {"reduction_layers": (0,), "layers": 3},
    "consecutive reductions": {"reduction_layers": (0, 1, 3), "layers": 4},
    "reduction last, one cell": {"reduction_layers": (0,), "layers": 1},
    "one node": {"nodes": 1, "reduction_layers": (1,), "layers": 3},
    "four nodes, three colours": {"nodes": 4, "init_channels": 4, "in_channels": 3},
}
SIZES = ((8, 8), (7, 7), (5, 5), (6, 7))
CASES = [(net, size) for net in NETS for size in (SIZES[:2] if net == "published layout" else SIZES)]


def mixtures_of(architecture, mixing: Mixing):
    normalizer = AnnealedNormalizer("softmax", mixing.temperature, 0.0)
    choice = EVERYTHING if mixing.ops is None and mixing.pairs is None else Choice(mixing.ops, mixing.pairs)
    return architecture.mixtures(normalizer, mixing.threshold, choice)


def outputs_and_gradients(supernet, architecture, images, mixing):
    """(logits, {name: gradient or None}) of the supernet, then of the reference."""
    results = []
    parameters, logits_of_alpha_beta = copy_parameters(supernet, architecture)
    for kind in ("supernet", "reference"):
        x = images.clone().requires_grad_()
        if kind == "supernet":
            leaves = dict(supernet.named_parameters()) | dict(architecture.named_parameters())
            for leaf in leaves.values():
                leaf.grad = None
            logits = supernet(x, mixtures_of(architecture, mixing), mixing.keep)
        else:
            leaves = parameters | logits_of_alpha_beta
            logits = reference_supernet(supernet.settings, parameters, logits_of_alpha_beta, x, mixing)
        F.cross_entropy(logits, LABELS).backward()
        gradients = {name: leaf.grad for name, leaf in leaves.items()} | {"images": x.grad}
        results.append((logits.detach(), gradients))
    return results


def assert_equals_reference(supernet, architecture, images, mixing):
    (logits, gradients), (expected, expected_gradients) = outputs_and_gradients(supernet, architecture, images, mixing)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for name, expected_gradient in expected_gradients.items():
        if expected_gradient is None:
            assert gradients[name] is None, f"{name} has a gradient"
        else:
            assert gradients[name] is not None, f"{name} has no gradient"
            torch.testing.assert_close(gradients[name], expected_gradient, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("primitives", [FEW_SHOT, FULL_TASK], ids=["few-shot", "full-task"])
@pytest.mark.parametrize(
    ("net", "size"), CASES, ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value))
)
def test_outputs_and_gradients_are_those_of_the_textbook_supernet(net, size, primitives):
    supernet, architecture = tiny_supernet(primitives=primitives, **NETS[net])
    images = random_images(IMAGES, size, supernet.settings.in_channels)
    assert_equals_reference(supernet, architecture, images, Mixing())


@pytest.mark.parametrize("primitives", [FEW_SHOT, FULL_TASK], ids=["few-shot", "full-task"])
def test_temperature_and_soft_pruning_equal_the_reference(primitives):
    supernet, architecture = tiny_supernet(primitives=primitives, layers=3)
    mixing = Mixing(temperature=0.5, threshold=0.1)
    pruned = torch.softmax(torch.stack(list(architecture.alpha["normal"])) / 0.5, -1) < 0.1
    assert 0 < pruned.sum() < pruned.numel()
    assert_equals_reference(supernet, architecture, random_images(IMAGES), mixing)


def test_drop_path_equals_the_reference_with_the_same_factors():
    supernet, architecture = tiny_supernet(layers=3)
    keep = supernet.draw_drop_path(IMAGES, 0.4, torch.Generator().manual_seed(3)).double()
    assert 0 < (keep == 0).sum() < keep.numel()
    assert_equals_reference(supernet, architecture, random_images(IMAGES), Mixing(keep=keep))


# Two candidates of each edge (the pools, the skip and a convolution among them), one pair of each node.
OPS = {
    kind: [{edge % 7, (3 * edge + shift) % 7} for edge in range(9)]
    for shift, kind in enumerate(("normal", "reduction"), 2)
}
PAIRS = {"normal": [(0, 1), (1, 2), (0, 3)], "reduction": [(0, 1), (0, 2), (2, 3)]}


@pytest.mark.parametrize(
    ("ops", "pairs"), [(OPS, None), (None, PAIRS), (OPS, PAIRS)], ids=["operations", "pairs", "operations and pairs"]
)
def test_gradient_under_a_choice_treats_the_other_terms_as_constants(ops, pairs):
    net = {"layers": 4, "nodes": 3, "reduction_layers": (1, 3)}
    supernet, architecture = tiny_supernet(**net)
    mixing = Mixing(temperature=0.7, threshold=0.01, ops=ops, pairs=pairs)
    assert_equals_reference(supernet, architecture, random_images(IMAGES), mixing)


def test_choice_never_changes_the_forward_pass(monkeypatch):
    net = {"layers": 4, "nodes": 3, "reduction_layers": (1, 3), "init_channels": 8}
    supernet, architecture = tiny_supernet(**net)
    supernet, architecture = supernet.float(), architecture.float()
    images = random_images(IMAGES, (9, 9)).float()
    nothing = Choice({kind: [set() for _ in range(9)] for kind in OPS})
    expected = supernet(images, mixtures_of(architecture, Mixing()))
    choices = (Choice(OPS), Choice(None, PAIRS), Choice(OPS, PAIRS), nothing)
    for choice in choices:
        mixtures = architecture.mixtures(AnnealedNormalizer("softmax", 1.0, 0.0), 0.0, choice)
        assert torch.equal(supernet(images, mixtures), expected)
    with torch.no_grad():
        # Candidates of small maps are merged, and round differently.
        torch.testing.assert_close(supernet(images, mixtures_of(architecture, Mixing())), expected.detach())
        monkeypatch.setattr(merged_candidates, "SMALL", 0)
        assert torch.equal(supernet(images, mixtures_of(architecture, Mixing())), expected)


def test_only_chosen_operations_keep_what_a_gradient_needs():
    supernet, architecture = tiny_supernet(layers=2, nodes=3)
    is_chosen = {}
    for kind, cell in zip(OPS, supernet.cells, strict=True):
        chosen = {
            (source, node, FEW_SHOT[k])
            for edge, (source, node) in enumerate(edges_of(3))
            for k in OPS[kind][edge]
            if source in PAIRS[kind][node]
        }
        for state, source in enumerate(cell.sources):
            for name in ("max_pool_3x3", "avg_pool_3x3"):  # one for every edge that leaves the state
                is_chosen[source.shared[name]] = any((state, node, name) in chosen for node in range(3))
            for node, operations in source.to_node.items():
                for name, operation in operations.items():
                    is_chosen[operation] = (state, int(node), name) in chosen
    assert {is_chosen[operation] for operation in is_chosen if not list(operation.parameters())} == {True, False}

    running, kept = [], dict.fromkeys(is_chosen, 0)

    def starts(operation, _):
        running.append(operation)

    def ends(*_):
        running.clear()

    def keep(tensor):
        for operation in running:
            kept[operation] += 1
        return tensor

    for operation in is_chosen:
        operation.register_forward_pre_hook(starts)
        operation.register_forward_hook(ends)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        supernet(random_images(IMAGES), mixtures_of(architecture, Mixing(ops=OPS, pairs=PAIRS)))
    assert {operation: number > 0 for operation, number in kept.items()} == is_chosen


def dominate(architecture, candidate: int) -> None:
    with torch.no_grad():
        for alphas in architecture.alpha.values():
            for alpha in alphas:
                alpha.zero_()[candidate] = 50.0


@pytest.mark.parametrize("case", ["all pruned", "only none"])
@pytest.mark.parametrize("size", [(8, 8), (7, 7)], ids=["even", "odd"])
def test_cell_without_any_candidate_gives_zeros(case, size):
    supernet, architecture = tiny_supernet(primitives=FULL_TASK, layers=3)
    if case == "only none":
        dominate(architecture, FULL_TASK.index("none"))
    mixing = Mixing(threshold=1.5 if case == "all pruned" else 0.01)
    outputs = []
    for cell in supernet.cells:
        cell.register_forward_hook(lambda _, __, nodes: outputs.append([node.clone() for node in nodes]))
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    logits = supernet(random_images(IMAGES, size), mixtures_of(architecture, mixing))
    assert [[node.shape for node in nodes] for nodes in outputs] == [
        [(IMAGES, 2, *at)] * 2 for at in (size, half, half)
    ]
    assert not any(node.any() for nodes in outputs for node in nodes)
    assert torch.equal(logits, supernet.head.bias.expand_as(logits))
    F.cross_entropy(logits, LABELS).backward()
    assert all(p.grad.isfinite().all() for p in supernet.parameters() if p.grad is not None)


def test_pruned_candidates_are_not_run():
    supernet, architecture = tiny_supernet(layers=1, reduction_layers=())
    dominate(architecture, FEW_SHOT.index("conv_3x3"))
    ran = []
    for name, module in supernet.named_modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and "sources" in name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    supernet(random_images(IMAGES), mixtures_of(architecture, Mixing(threshold=0.01)))
    assert ran
    assert all(".conv_3x3." in name for name in ran)


def test_every_norm_takes_the_same_statistics_once_in_a_forward_pass_whatever_is_chosen():
    statistics = []
    for ops, pairs in ((None, None), (OPS, PAIRS)):
        supernet, architecture = tiny_supernet(layers=2, nodes=3)
        supernet(random_images(IMAGES), mixtures_of(architecture, Mixing(ops=ops, pairs=pairs)))
        statistics.append(dict(supernet.named_buffers()))
    torch.testing.assert_close(statistics[0], statistics[1], rtol=0, atol=0)
    counts = [buffer.item() for name, buffer in statistics[1].items() if name.endswith("num_batches_tracked")]
    assert len(counts) > 50
    assert set(counts) == {1}


# --- Drop-path ------------------------------------------------------------------------------------------------------


def test_drop_path_drops_each_image_and_candidate_with_its_probability_and_scales_the_rest():
    supernet, _ = tiny_supernet(layers=2, nodes=3)
    keep = supernet.draw_drop_path(400, 0.2, torch.Generator().manual_seed(0))
    assert keep.shape == (2, 9, 7, 400)
    assert torch.unique(keep).tolist() == pytest.approx([0.0, 1.0, 1 / 0.8])
    others = [k for k in range(7) if k != FEW_SHOT.index("skip_connect")]
    dropped = (keep[:, :, others] == 0).double()
    assert dropped.mean().item() == pytest.approx(0.2, abs=0.01)
    # Every candidate of every edge is drawn for itself, and so is every image.
    assert dropped.mean(-1).min() > 0.1
    assert dropped.mean(-1).max() < 0.3
    assert len(torch.unique(dropped.flatten(0, 2), dim=0)) == dropped.flatten(0, 2).shape[0]
    assert dropped.mean((0, 1, 2)).max() < 0.45


def test_drop_path_never_drops_the_stride_1_skip():
    supernet, _ = tiny_supernet(layers=2, nodes=3, reduction_layers=(1,))
    keep = supernet.draw_drop_path(200, 0.5, torch.Generator().manual_seed(0))
    skip = keep[:, :, FEW_SHOT.index("skip_connect")]
    assert (skip[0] == 1).all(), "normal cell"
    for edge, (source, _) in enumerate(edges_of(3)):
        frequency = (skip[1, edge] == 0).double().mean().item()
        assert frequency == 0 if source >= 2 else 0.35 < frequency < 0.65, (edge, source)


def test_drop_path_of_a_list_without_skip():
    supernet, _ = tiny_supernet(primitives=("max_pool_3x3", "conv_3x3"))
    keep = supernet.draw_drop_path(50, 0.5, torch.Generator().manual_seed(0))
    assert keep.shape == (2, 5, 2, 50)


# --- Settings -------------------------------------------------------------------------------------------------------


def test_settings_survive_plain_values():
    settings = tiny_settings(reduction_layers=(0, 1))
    values = settings.as_dict()
    assert values["reduction_layers"] == [0, 1]
    assert SupernetSettings.from_dict(values) == settings


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"init_channels": 3}, "--init_channels"),
        ({"reduction_layers": (2,)}, "--reduction_layers"),
        ({"reduction_layers": (-1,)}, "--reduction_layers"),
        ({"reduction_layers": (1, 1)}, "--reduction_layers"),
        ({"layers": 65}, "--layers"),
        ({"layers": 0, "reduction_layers": ()}, "--layers"),
        ({"layers": 2.0}, "--layers"),
        ({"nodes": 9}, "--nodes"),
        ({"nodes": "3"}, "--nodes"),
        ({"init_channels": 4098}, "--init_channels"),
        ({"init_channels": 10**30}, "--init_channels"),
        ({"in_channels": 0}, "in_channels"),
        ({"primitives": ("conv_3x3", "conv_3x3")}, "candidates"),
        ({"primitives": ("conv_3x3", "conv_9x9")}, "candidates"),
        ({"primitives": ()}, "candidates"),
    ],
)
def test_settings_that_make_no_net_are_refused(changes, flag):
    with pytest.raises(InputError, match=flag):
        tiny_settings(**changes)


def test_smallest_and_largest_settings_are_allowed():
    tiny_settings(init_channels=2, layers=1, nodes=1, reduction_layers=())
    tiny_settings(init_channels=4096, layers=64, nodes=8, reduction_layers=(0, 63))
