"""Folding and unfolding, against loops over elements, tasks and cells."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.meta_cell import MetaCell, first_fold, second_fold
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import build_supernet, tiny_settings, tiny_supernet
from utils.errors import InputError

# Every kind of place: normal, reduction, after a reduction, a reduction after a reduction.
EVERY_PLACE = {"layers": 5, "reduction_layers": (1, 2)}
LAYOUTS = {
    "every place": EVERY_PLACE,
    "published": {"layers": 4, "nodes": 3, "reduction_layers": (1, 3)},
    "no reduction": {"layers": 3, "reduction_layers": ()},
    "reduction first": {"layers": 3, "reduction_layers": (0,)},
    "reduction last": {"layers": 3, "reduction_layers": (2,)},
    "reductions only": {"layers": 3, "reduction_layers": (0, 1, 2)},
    "one cell": {"layers": 1, "reduction_layers": ()},
    "partial channels": {"layers": 4, "reduction_layers": (1, 2), "edge_weights": "edges", "partial_channels": 2},
}


def make(separate: bool = False, **changes):
    supernet, architecture = tiny_supernet(**changes)
    return supernet, architecture, MetaCell.of(supernet, architecture, separate)


def scramble(*modules, seed: int) -> None:
    """Moves every parameter, by more for a larger seed so that softmax weights are far from even."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_((1 + seed) * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def change_by_hand(start: float, ends: list[float], weighting: str) -> float:
    deltas = [end - start for end in ends]
    if weighting == "mean":
        return sum(deltas) / len(deltas)
    total = sum(math.exp(delta) for delta in deltas)
    return sum(math.exp(delta) / total * delta for delta in deltas)


def folded_by_hand(start: torch.Tensor, ends: list[torch.Tensor], weighting: str, lr: float) -> torch.Tensor:
    columns = zip(*(end.flatten().tolist() for end in ends), strict=True)
    values = [
        value + lr * change_by_hand(value, column, weighting)
        for value, column in zip(start.flatten().tolist(), columns, strict=True)
    ]
    return torch.tensor(values, dtype=start.dtype).view(start.shape)


def assert_same(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("weighting", ["softmax", "mean"])
def test_first_fold_is_the_sum_over_tasks_element_by_element(weighting):
    supernet, architecture, meta_cell = make(**EVERY_PLACE)
    start, adapted = meta_cell.separate(supernet), []
    for task in range(3):
        meta_cell.unfold(supernet, architecture)
        scramble(supernet, architecture, seed=task)
        adapted.append(MetaCell.of(supernet, architecture, separate=True))
    folded = first_fold(start, adapted, weighting, w_meta_lr=0.7, a_meta_lr=0.3)

    def by_hand(part, lr):
        tensors = part(start)
        return {n: folded_by_hand(t, [part(a)[n] for a in adapted], weighting, lr) for n, t in tensors.items()}

    for layer in range(5):
        assert_same(folded.cells[layer], by_hand(lambda m, layer=layer: m.cells[layer], 0.7))
    assert_same(folded.stem, by_hand(lambda m: m.stem, 0.7))
    assert_same(folded.head, by_hand(lambda m: m.head, 0.7))
    assert_same(folded.architecture, by_hand(lambda m: m.architecture, 0.3))


@pytest.mark.parametrize("weighting", ["softmax", "mean"])
def test_second_fold_is_the_sum_over_the_cells_that_own_a_tensor(weighting):
    supernet, architecture, meta_cell = make(**EVERY_PLACE)
    scramble(supernet, architecture, seed=1)
    cells = [{name: p.detach().clone() for name, p in cell.named_parameters()} for cell in supernet.cells]
    folded = second_fold(meta_cell, MetaCell.of(supernet, architecture, separate=True), weighting)
    (after,) = folded.cells
    owners = Counter(name for cell in cells for name in cell)
    assert set(owners.values()) == {2, 3, 5}  # two reductions, two places behind one, three not behind one
    expected = {
        name: folded_by_hand(start, [cell[name] for cell in cells if name in cell], weighting, 1.0)
        for name, start in meta_cell.cells[0].items()
    }
    assert_same(after, expected)
    assert_same(folded.stem, dict(supernet.stem.named_parameters()))
    assert_same(folded.architecture, dict(architecture.named_parameters()))


@pytest.mark.parametrize("weighting", ["softmax", "mean"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_folding_what_was_unfolded_changes_nothing(layout, weighting):
    supernet, architecture, meta_cell = make(init_channels=4, **LAYOUTS[layout])
    scramble(supernet, architecture, seed=3)
    meta_cell.unfold(supernet, architecture)
    separate = MetaCell.of(supernet, architecture, separate=True)
    folded = second_fold(meta_cell, separate, weighting)
    for part in ("stem", "head", "architecture"):
        for name, tensor in getattr(meta_cell, part).items():
            assert torch.equal(getattr(folded, part)[name], tensor)
    assert folded.cells[0].keys() == meta_cell.cells[0].keys()
    for name, tensor in meta_cell.cells[0].items():
        assert torch.equal(folded.cells[0][name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unfolding_gives_every_place_what_it_needs(layout):
    supernet, architecture, meta_cell = make(init_channels=4, **LAYOUTS[layout])
    before = {name: p.detach().clone() for name, p in architecture.named_parameters()}
    scramble(supernet, architecture, seed=3)
    meta_cell.unfold(supernet, architecture)
    (cell_state,) = meta_cell.cells
    for cell in supernet.cells:
        for name, parameter in cell.named_parameters():
            assert torch.equal(parameter, cell_state[name])
    for name, parameter in architecture.named_parameters():
        assert torch.equal(parameter, before[name])


def shapes_by_hand(nodes: int, channels: int, layers: int, reductions: tuple[int, ...], share: int) -> Counter:
    """The tensors that a meta-cell of the few-shot candidates must own; these see 1/share of the channels."""
    wide, half, seen = nodes * channels, channels // 2, channels // share
    edges = sum(range(2, nodes + 2))
    shapes = Counter({(channels, wide, 1, 1): 1})  # newer input
    if any(layer - 1 not in reductions for layer in range(layers)):
        shapes[channels, wide, 1, 1] += 1  # older input
    if any(layer - 1 in reductions for layer in range(layers)):
        shapes[half, wide, 1, 1] += 2  # older input behind a reduction
    if reductions:
        shapes[seen // 2, seen, 1, 1] += 2 * 2 * nodes  # stride-2 skip on the edges from the two inputs
    shapes[seen, seen, 1, 5] += edges
    shapes[seen, seen, 5, 1] += edges
    shapes[seen, 1, 3, 3] += 4 * edges  # conv_3x3, dil_conv_3x3 and sep_conv_3x3 twice
    shapes[seen, seen, 1, 1] += 4 * edges
    return shapes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_meta_cell_owns_the_union_of_what_the_places_need_and_no_more(layout):
    values = LAYOUTS[layout]
    supernet, _, meta_cell = make(init_channels=4, **values)
    (cell_state,) = meta_cell.cells
    assert set(cell_state) == {name for cell in supernet.cells for name, _ in cell.named_parameters()}
    share = values.get("partial_channels", 1)
    expected = shapes_by_hand(values.get("nodes", 2), 4, values["layers"], values["reduction_layers"], share)
    assert Counter(tuple(tensor.shape) for tensor in cell_state.values()) == expected


def test_state_is_a_copy():
    supernet, architecture, meta_cell = make()
    before = {name: tensor.clone() for name, tensor in meta_cell.cells[0].items()}
    scramble(supernet, architecture, seed=1)
    assert_same(meta_cell.cells[0], before)


def test_separate_cells_hold_what_each_place_needs_and_survive_unfolding():
    supernet, architecture, meta_cell = make(**EVERY_PLACE)
    separate = meta_cell.separate(supernet)
    for cell, state in zip(supernet.cells, separate.cells, strict=True):
        assert_same(state, {name: meta_cell.cells[0][name] for name, _ in cell.named_parameters()})
    scramble(supernet, architecture, seed=1)
    own = MetaCell.of(supernet, architecture, separate=True)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    scramble(supernet, architecture, seed=1)
    own.unfold(supernet, architecture)
    assert_same(dict(supernet.named_parameters()), before)


def test_head_of_other_ways_starts_at_zero():
    _, _, meta_cell = make()
    supernet, architecture = tiny_supernet(ways=7)
    meta_cell.unfold(supernet, architecture)
    assert supernet.head.weight.shape[0] == 7
    assert not supernet.head.weight.any()
    assert not supernet.head.bias.any()


def test_head_of_the_same_ways_is_the_stored_one():
    supernet, architecture, meta_cell = make()
    scramble(supernet, architecture, seed=1)
    meta_cell.unfold(supernet, architecture)
    assert_same(meta_cell.head, dict(supernet.head.named_parameters()))


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True], ids=["meta", "separate"])
def test_file_holds_tensors_and_plain_values_and_loads_as_it_was(tmp_path, separate):
    _, _, meta_cell = make(separate, **EVERY_PLACE)
    meta_cell.save(tmp_path / "meta_cell.pt")
    assert torch.load(tmp_path / "meta_cell.pt", weights_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ["meta_cell.pt"]
    loaded = MetaCell.load(tmp_path / "meta_cell.pt")
    assert (loaded.settings, loaded.ways) == (meta_cell.settings, meta_cell.ways)
    for part in ("stem", "head", "architecture"):
        assert_same(getattr(loaded, part), getattr(meta_cell, part))
    for actual, expected in zip(loaded.cells, meta_cell.cells, strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused_by_name(tmp_path, share):
    path = tmp_path / "meta_cell.pt"
    make()[2].save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"meta_cell\.pt"):
        MetaCell.load(path)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        MetaCell.load(tmp_path / "nowhere.pt")


def other_format(values):
    return {**values, "format": 99}


def without_stem(values):
    return {name: value for name, value in values.items() if name != "stem"}


def unknown_setting(values):
    return {**values, "settings": {**values["settings"], "hue": 3}}


@pytest.mark.parametrize("spoil", [other_format, without_stem, unknown_setting, lambda values: [1, 2]])
def test_file_of_something_else_is_refused_by_name(tmp_path, spoil):
    path = tmp_path / "other.pt"
    torch.save(spoil(make()[2].as_dict()), path)
    with pytest.raises(InputError, match=r"other\.pt"):
        MetaCell.load(path)


def renamed(tensors):
    (first, tensor), *rest = tensors.items()
    return dict(rest) | {f"{first}x": tensor}


def resized(tensors):
    (first, tensor), *rest = tensors.items()
    return {first: torch.cat([tensor, tensor]), **dict(rest)}


def last_number(value):
    def spoil(tensors):
        *rest, (last, tensor) = tensors.items()
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return dict(rest) | {last: tensor}

    return spoil


def of_type(dtype):
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


SPOILT = {
    "renamed": renamed,
    "resized": resized,
    "missing": lambda tensors: {},
    "no dictionary": lambda tensors: list(tensors.values()),
    "no tensors": lambda tensors: dict.fromkeys(tensors, 1.0),
    "not a number": last_number(float("nan")),
    "infinite": last_number(float("-inf")),
    "double": of_type(torch.float64),
    "whole numbers": of_type(torch.int32),
    "elsewhere": lambda tensors: {name: tensor.to("meta") for name, tensor in tensors.items()},
}


def stored(separate: bool = False, **changes) -> MetaCell:
    """As a script makes it."""
    return MetaCell.of(*build_supernet(tiny_settings(**changes), 3, 0), separate)


def assert_refused(meta_cell: MetaCell, ways: int = 3, **changes) -> None:
    with pytest.raises(InputError, match=r"some\.pt"):
        meta_cell.check_fits(*build_supernet(tiny_settings(**changes), ways, 1), Path("some.pt"))


@pytest.mark.parametrize("part", ["cells", "stem", "head", "architecture"])
@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("ways", [3, 5], ids=["same ways", "other ways"])
def test_other_tensors_than_the_settings_need_are_refused(part, spoil, ways):
    meta_cell = stored()
    if part == "cells":
        meta_cell = replace(meta_cell, cells=[SPOILT[spoil](meta_cell.cells[0])])
    else:
        meta_cell = replace(meta_cell, **{part: SPOILT[spoil](getattr(meta_cell, part))})
    assert_refused(meta_cell, ways)


def test_wrong_number_of_separate_cells_is_refused():
    meta_cell = stored(separate=True, **EVERY_PLACE)
    for cells in (meta_cell.cells[:3], [], meta_cell.cells * 2, None, dict(enumerate(meta_cell.cells))):
        assert_refused(replace(meta_cell, cells=cells), **EVERY_PLACE)


@pytest.mark.parametrize("ways", [4, -3, 3.5, "three", None])
def test_head_of_other_ways_than_it_says_is_refused(ways):
    assert_refused(replace(stored(), ways=ways))


@pytest.mark.parametrize("separate", [False, True], ids=["meta", "separate"])
@pytest.mark.parametrize("ways", [3, 5])
def test_right_tensors_fit(separate, ways):
    supernet, architecture = build_supernet(tiny_settings(**EVERY_PLACE), ways, 1)
    stored(separate, **EVERY_PLACE).check_fits(supernet, architecture, Path("some.pt"))


@pytest.mark.parametrize("primitives", [FEW_SHOT, FULL_TASK], ids=["few-shot", "full-task"])
def test_published_meta_cell_is_about_a_quarter_of_its_four_cells(tmp_path, primitives):
    settings = tiny_settings(
        in_channels=3, init_channels=28, layers=4, nodes=3, reduction_layers=(1, 3), primitives=primitives
    )
    states = [MetaCell.of(*build_supernet(settings, 5, 0), separate) for separate in (False, True)]
    cell_bytes = [sum(t.numel() * t.element_size() for cell in state.cells for t in cell.values()) for state in states]
    file_bytes = []
    for number, state in enumerate(states):
        state.save(tmp_path / str(number))
        file_bytes.append((tmp_path / str(number)).stat().st_size)
        others = (state.stem, state.head, state.architecture)
        other_bytes = sum(t.numel() * t.element_size() for part in others for t in part.values())
        assert state.parameter_bytes() == cell_bytes[number] + other_bytes
    assert cell_bytes[0] <= 0.28 * cell_bytes[1]
    assert states[0].parameter_bytes() <= 0.28 * states[1].parameter_bytes()
    assert file_bytes[0] <= 0.28 * file_bytes[1]
