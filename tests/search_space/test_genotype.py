"""The genotype: read off by hand, to text and back, and what is refused."""

import ast
import json
from collections import Counter
from itertools import combinations

import pytest
import torch

from search_space.architecture import Architecture
from search_space.genotype import Genotype, random_genotype, read_genotype, save_genotype
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.conftest import contents, fill
from utils.errors import InputError


def test_best_pair_of_each_node_and_best_operation_but_none_of_each_edge():
    architecture = Architecture(3, 8, torch.Generator().manual_seed(0))
    best = {  # by cell type: the best candidate of the nine edges, by number; 7 is "none"
        "normal": [2, 0, 1, 3, 4, 5, 6, 0, 2],
        "reduction": [0, 1, 2, 3, 4, 5, 6, 1, 3],
    }
    with torch.no_grad():
        for kind, winners in best.items():
            for alpha, winner in zip(architecture.alpha[kind], winners, strict=True):
                alpha.zero_()
                alpha[winner] = 1.0
                alpha[7] = 2.0  # "none" is more probable still
            for beta in architecture.beta[kind]:
                beta.zero_()
        # Pairs in their order: (0, 1) (0, 2) (1, 2), and (0, 1) (0, 2) (0, 3) (1, 2) (1, 3) (2, 3).
        architecture.beta["normal"][1][2] = 1.0
        architecture.beta["normal"][2][4] = 1.0
        architecture.beta["reduction"][1][1] = 1.0
        architecture.beta["reduction"][2][5] = 1.0
    genotype = read_genotype(architecture, FULL_TASK)
    # Edges in their order: (0, 0) (1, 0), (0, 1) (1, 1) (2, 1), (0, 2) (1, 2) (2, 2) (3, 2).
    assert genotype.as_dict() == {
        "normal": [
            ["skip_connect", 0],
            ["max_pool_3x3", 1],
            ["sep_conv_3x3", 1],
            ["sep_conv_5x5", 2],
            ["dil_conv_5x5", 1],
            ["skip_connect", 3],
        ],
        "normal_concat": [2, 3, 4],
        "reduce": [
            ["max_pool_3x3", 0],
            ["avg_pool_3x3", 1],
            ["skip_connect", 0],
            ["sep_conv_5x5", 2],
            ["avg_pool_3x3", 2],
            ["sep_conv_3x3", 3],
        ],
        "reduce_concat": [2, 3, 4],
    }
    assert genotype.nodes == 3
    assert json.loads(json.dumps(genotype.as_dict())) == genotype.as_dict()


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


# Of the candidates "none", "skip_connect" and "sep_conv_3x3": the edges into nodes 0 and 1, from states 0, 1 (, 2).
THREE = ("none", "skip_connect", "sep_conv_3x3")
ALPHA = [
    [0.2, 0.3, 0.5],
    [0.8, 0.1, 0.1],
    [0.1, 0.2, 0.7],  # the best of 0.7
    [0.9, 0.06, 0.04],  # the least, though its "none" is the largest of all
    [0.3, 0.4, 0.3],
]


def architecture_of(alpha: list[list[float]], beta: list[list[float]] | None, edge_weights: str) -> Architecture:
    """With the same probabilities in both cell types."""
    architecture = Architecture(2, 3, torch.Generator().manual_seed(0), edge_weights)
    with torch.no_grad():
        for groups, values in ((architecture.alpha, alpha), (architecture.beta, beta or [])):
            for parameters in groups.values():
                for parameter, row in zip(parameters, values, strict=True):
                    # A constant added to logits changes no probability.
                    parameter.copy_(logits_of(row) + 5 * row[0])
    return architecture


def test_edges_that_weigh_alike_are_chosen_by_their_best_candidate():
    """DARTS: of node 1 the edges of 0.7 and 0.4, not that whose "none" is the most probable."""
    genotype = read_genotype(architecture_of(ALPHA, None, "equal"), THREE)
    assert genotype.normal == genotype.reduce
    assert genotype.normal == (
        ("sep_conv_3x3", 0),
        ("skip_connect", 1),  # of a tie the first
        ("sep_conv_3x3", 0),
        ("skip_connect", 2),
    )


@pytest.mark.parametrize(
    ("beta", "pair"),
    [
        ([0.4, 0.3, 0.3], (0, 2)),  # 0.28, 0.018, 0.12
        ([0.05, 0.8, 0.15], (1, 2)),  # 0.035, 0.048, 0.06
        ([0.09, 0.9, 0.01], (0, 1)),  # 0.063, 0.054, 0.004
    ],
)
def test_edge_normalisation_multiplies_the_best_candidates(beta, pair):
    """PC-DARTS: an edge's probability times its best candidate's."""
    genotype = read_genotype(architecture_of(ALPHA, [[0.9, 0.1], beta], "edges"), THREE)
    best = {0: "sep_conv_3x3", 1: "skip_connect", 2: "skip_connect"}
    for entries in (genotype.normal, genotype.reduce):
        assert entries[:2] == (("sep_conv_3x3", 0), ("skip_connect", 1))
        assert entries[2:] == tuple((best[source], source) for source in pair)


# --- Drawn at random ------------------------------------------------------------------------------------------------


def drawn(number: int, nodes: int, primitives: tuple[str, ...] = FULL_TASK) -> list[Genotype]:
    generator = torch.Generator().manual_seed(nodes)
    return [random_genotype(primitives, nodes, generator) for _ in range(number)]


def test_random_genotype_depends_on_the_generator_only():
    assert drawn(3, 4) == drawn(3, 4)
    assert len(set(drawn(20, 4))) == 20


def test_random_genotype_draws_pairs_and_operations_uniformly():
    """4.5 standard deviations of a binomial count either way; 'none' never."""
    number = 2000
    genotypes = drawn(number, 3)
    for cell in ("normal", "reduce"):
        entries = [getattr(genotype, cell) for genotype in genotypes]
        for node in range(3):
            pairs = Counter((entry[2 * node][1], entry[2 * node + 1][1]) for entry in entries)
            possible = list(combinations(range(node + 2), 2))
            assert set(pairs) == set(possible)
            for count in pairs.values():
                share = 1 / len(possible)
                assert abs(count - number * share) <= 4.5 * (number * share * (1 - share)) ** 0.5
        for place in range(6):
            names = Counter(entry[place][0] for entry in entries)
            assert set(names) == set(FULL_TASK) - {"none"}
            for count in names.values():
                assert abs(count - number / 7) <= 4.5 * (number * 6 / 49) ** 0.5


# --- To text and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primitives", [FEW_SHOT, FULL_TASK])
@pytest.mark.parametrize("nodes", range(1, 9))
def test_every_form_is_read_back(nodes, primitives, tmp_path):
    for genotype in drawn(10, nodes, primitives):
        assert Genotype.from_dict(genotype.as_dict(), "x") == genotype
        assert Genotype.parse(json.dumps(genotype.as_dict()), "x") == genotype
        assert Genotype.parse(genotype.as_text(), "x") == genotype
    for name in ("genotype.json", "genotype.txt"):
        save_genotype(genotype, tmp_path / name)
        assert Genotype.load(tmp_path / name) == genotype


def test_text_is_that_of_darts():
    """What Python writes of DARTS's own named tuple, whose concat is a range."""
    genotype = Genotype(
        (("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("dil_conv_5x5", 0)),
        (2, 3),
        (("avg_pool_3x3", 1), ("sep_conv_5x5", 0), ("skip_connect", 1), ("skip_connect", 2)),
        (2, 3),
    )
    assert genotype.as_text() == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 2), ('dil_conv_5x5', 0)], "
        "normal_concat=range(2, 4), reduce=[('avg_pool_3x3', 1), ('sep_conv_5x5', 0), ('skip_connect', 1), "
        "('skip_connect', 2)], reduce_concat=range(2, 4))"
    )


# As its repository has it.
DARTS_V2 = """DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
    ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
    normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2),
    ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=[2, 3, 4, 5])
"""


def test_published_genotype_is_read(tmp_path):
    genotype = Genotype.parse(DARTS_V2, "x")
    assert genotype.nodes == 4
    assert genotype.normal[4:] == (("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2))
    assert genotype.reduce[2:4] == (("skip_connect", 2), ("max_pool_3x3", 1))
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)
    (tmp_path / "darts").write_text("\n  # found on CIFAR-10\n\n" + DARTS_V2.removeprefix("DARTS_V2 = "))
    assert Genotype.load(tmp_path / "darts") == genotype


NORMAL = "[('conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 1), ('max_pool_3x3', 2)]"
NESTED = "[[('conv_3x3', 0), ('skip_connect', 1)], [('sep_conv_3x3', 1), ('max_pool_3x3', 2)]]"
FORMS = {
    "a list for each node": (
        f"Genotype(normal={NESTED}, normal_concat=range(2, 4), reduce={NESTED}, reduce_concat=range(2, 4))"
    ),
    "a tuple for each node, of one cell": (
        f"x = Genotype(normal={NORMAL}, normal_concat=[2, 3], "
        f"reduce={NESTED.translate(str.maketrans('[]', '()'))}, reduce_concat=[2, 3])"
    ),
    "a printed dict": (
        f"{{'normal': {NORMAL}, 'normal_concat': range(2, 4), 'reduce': {NESTED}, 'reduce_concat': (2, 3)}}"
    ),
    "JSON with a list for each node": (
        f'{{"normal": {NESTED}, "normal_concat": [2, 3], "reduce": {NESTED}, "reduce_concat": [2, 3]}}'.replace(
            "'", '"'
        )
        .replace("(", "[")
        .replace(")", "]")
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_genotypes_that_other_programs_print(form, mark, line_end, tmp_path):
    (tmp_path / "printed").write_bytes(
        mark + FORMS[form].replace(", ", ",\n ").encode().replace(b"\n", line_end) + line_end
    )
    genotype = Genotype.load(tmp_path / "printed")
    assert genotype.normal == genotype.reduce == tuple(ast.literal_eval(NORMAL))
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3)


# --- What is refused ------------------------------------------------------------------------------------------------


def two_nodes() -> dict:
    cell = [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 0], ["dil_conv_3x3", 2]]
    return {"normal": cell, "normal_concat": [2, 3], "reduce": list(cell), "reduce_concat": [2, 3]}


def refusal(read, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert len(said) < 400
    return said


def with_entry(place: int, entry: object) -> dict:
    values = two_nodes()
    values["reduce"][place] = entry
    return values


REFUSED = {
    "no operation of ours": (with_entry(2, ["conv_9x9", 0]), "node 1 of reduce has an operation 'conv_9x9'"),
    "none": (with_entry(2, ["none", 0]), "'none'"),
    "no operation at all": (with_entry(2, [["x"], 0]), "operation ['x']"),
    "an endless operation": (with_entry(2, ["x" * 50_000, 0]), "operation 'xxx"),
    "a later node": (with_entry(1, ["skip_connect", 2]), "node 0 of reduce reads input 2, expected from 0 to 1"),
    "itself": (with_entry(3, ["skip_connect", 3]), "node 1 of reduce reads input 3"),
    "a negative input": (with_entry(3, ["skip_connect", -1]), "reads input -1"),
    "a fraction": (with_entry(3, ["skip_connect", 1.0]), "reads input 1.0"),
    "not a number": (with_entry(3, ["skip_connect", float("nan")]), "reads input nan"),
    "a truth value": (with_entry(3, ["skip_connect", True]), "reads input True"),
    "text": (with_entry(3, ["skip_connect", "1"]), "reads input '1'"),
    "the same input twice": (with_entry(3, ["skip_connect", 0]), "node 1 of reduce reads input 0 twice"),
    "no pair": (with_entry(3, ["skip_connect"]), "expected a pair"),
    "three": (with_entry(3, ["skip_connect", 0, 1]), "expected a pair"),
    "no entry": (with_entry(3, None), "expected a pair"),
    "two letters": (with_entry(3, "ab"), "expected a pair"),
    "a node of three pairs": ({**two_nodes(), "normal": [[["skip_connect", 0]] * 3]}, "node 0 of normal is [["),
    "nodes and pairs": (with_entry(3, [["skip_connect", 0], ["skip_connect", 1]]), "node 0 of reduce is ['sep"),
    "odd": ({**two_nodes(), "normal": two_nodes()["normal"][:3]}, "normal has 3 entries"),
    "a node is missing": ({**two_nodes(), "normal": two_nodes()["normal"][:2]}, "1 nodes in normal and 2 in reduce"),
    "no node": ({**two_nodes(), "normal": [], "normal_concat": []}, "normal has 0 entries"),
    "nine nodes": ({**two_nodes(), "normal": two_nodes()["normal"][:2] * 9}, "normal has 18 entries"),
    "no list": ({**two_nodes(), "normal": "sep_conv_3x3"}, "normal must be a list"),
    "a field is missing": ({"normal": []}, "no normal_concat"),
    "a field too many": ({**two_nodes(), "hue": 3}, "'hue'"),
    "a field that is no text": ({**two_nodes(), 7: 3}, "field 7"),
    "no concatenation": ({**two_nodes(), "normal_concat": None}, "normal_concat must be a list"),
    "fractions are concatenated": ({**two_nodes(), "normal_concat": [2, 3.0]}, "normal_concat must be a list"),
    "a node is left out": ({**two_nodes(), "reduce_concat": [3]}, "reduce_concat leaves out node 0"),
    "an input is concatenated": ({**two_nodes(), "reduce_concat": [1, 2, 3]}, "reduce_concat is [1, 2, 3]"),
    "a node is concatenated twice": ({**two_nodes(), "reduce_concat": [2, 3, 3]}, "reduce_concat is [2, 3, 3]"),
    "another order": ({**two_nodes(), "reduce_concat": [3, 2]}, "expected every node once: [2, 3]"),
    "a list": ([1, 2], "does not hold a genotype"),
    "nothing": (None, "does not hold a genotype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_are_no_genotype(name):
    values, expected = REFUSED[name]
    said = refusal(Genotype.from_dict, values, "genotype.json")
    assert said.startswith("genotype.json")
    assert expected in said


@pytest.mark.parametrize("name", REFUSED)
def test_such_values_as_json(name, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(REFUSED[name][0]))
    assert str(path) in refusal(Genotype.load, path)


CELL = "[('skip_connect', 0), ('skip_connect', 1)]"
REST = f"reduce={CELL}, reduce_concat=[2]"
WHOLE = f"Genotype(normal={CELL}, normal_concat=[2], {REST})"
TEXTS = {
    "": "expected JSON or Genotype(",
    "{}": "no normal",
    "{": "expected JSON or Genotype(",
    "[" * 60_000: "Genotype(",
    '{"normal":' * 6_000: "expected JSON or Genotype(",
    "{**{}}": "Genotype(",
    "{'normal': 1, 'normal': 2}": "'normal' twice",
    "-" * 60_000 + "1": "Genotype(",
    "x" + ".x" * 30_000: "Genotype(",
    "1" + "+1" * 30_000: "Genotype(",
    WHOLE.replace("[2]", "[" * 20_000): "Genotype(",
    " " * 70_000: "too large",
    WHOLE.replace("[2]", "9" * 10_000): "Genotype(",
    WHOLE.replace("[2]", "range(2, 1000000000000)"): "expected every node once: [2]",
    WHOLE.replace("[2]", f"range(2, 1{'0' * 400})"): "expected every node once: [2]",
    WHOLE.replace("[2]", "range(2, 2)"): "leaves out node 0",
    WHOLE.replace("[2]", "range(2)"): "Genotype(",
    WHOLE.replace("[2]", "range(2, 3, 1)"): "Genotype(",
    WHOLE.replace("[2]", "range(2, '3')"): "Genotype(",
    WHOLE.replace("[2]", "list(range(2, 3))"): "Genotype(",
    WHOLE.replace("[2]", "{[]: 1}"): "Genotype(",
    WHOLE.replace("[2]", "{2}"): "must be a list",
    WHOLE.replace("normal_concat=[2]", "normal_concat=[2], normal_concat=[2]"): "'normal_concat' twice",
    '{"normal": 1, "normal": 2}': "'normal' twice",
    '{"normal": NaN}': "no normal_concat",
    WHOLE.replace("normal_concat=[2]", "**{'normal_concat': [2]}"): "no normal_concat",
    f"Genotype({CELL}, [2], {REST})": "Genotype(",
    f"Genotype(normal={CELL}, {REST})": "no normal_concat",
    WHOLE.replace("Genotype", "Phenotype"): "Genotype(",
    f"{WHOLE}\n{WHOLE}": "one genotype",
    f"import os\n{WHOLE}": "one genotype",
    f"lambda: {WHOLE}": "one genotype",
    WHOLE[:-1]: "Genotype(",
    WHOLE + "\0": "Genotype(",
    WHOLE.replace("'skip_connect'", r"'\d\p'"): "operation",
    WHOLE.replace("'skip_connect'", "skip_connect"): "Genotype(",
    WHOLE.replace("'skip_connect'", "__import__('os').abort()"): "Genotype(",
}


@pytest.mark.parametrize("text", TEXTS, ids=[text[:30] or "empty" for text in TEXTS])
@pytest.mark.filterwarnings("error")
def test_text_that_is_no_genotype(text, tmp_path):
    said = refusal(Genotype.parse, text, "darts.txt")
    assert said.startswith("darts.txt")
    assert TEXTS[text] in said
    (tmp_path / "darts.txt").write_text(text)
    assert refusal(Genotype.load, tmp_path / "darts.txt").endswith(said.removeprefix("darts.txt"))


def test_the_text_that_these_are_made_of_is_one():
    assert Genotype.parse(WHOLE, "x").normal == (("skip_connect", 0), ("skip_connect", 1))
    assert Genotype.from_dict(two_nodes(), "x").nodes == 2


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[" * 10_000_000, bytes(100), "é".encode() * 40_000])
def test_file_of_something_else(content, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    assert str(path) in refusal(Genotype.load, path)


def test_no_file(tmp_path):
    assert str(tmp_path / "x.json") in refusal(Genotype.load, tmp_path / "x.json")
    assert str(tmp_path) in refusal(Genotype.load, tmp_path)


def test_other_endings_are_not_written(tmp_path):
    (genotype,) = drawn(1, 2)
    for name in ("genotype.yaml", "genotype", ".json"):
        assert ".json or .txt" in refusal(save_genotype, genotype, tmp_path / name)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["genotype.json", "genotype.txt"])
def test_full_disk_leaves_the_file_that_was_there(tiny_disk, name):
    path = tiny_disk / name
    path.write_text("old")
    ballast = fill(tiny_disk)
    assert str(path) in refusal(save_genotype, drawn(1, 8)[0], path)
    ballast.unlink()
    assert contents(tiny_disk) == {name: b"old"}
