"""The genotype: the discrete network that alpha and beta point to, in DARTS's form."""

import ast
import json
import reprlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.operations import OPERATIONS
from models.supernet import EDGES, NORMAL, PAIRS, REDUCTION
from search_space.architecture import Architecture, input_pairs
from utils.errors import InputError
from utils.run.files import read_file, write_json, write_text

CELLS = ("normal", "reduce")
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
MAX_NODES = 8
MAX_BYTES = 64 * 1024  # of a file: eight nodes take less than two KiB
FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
TWO_A_NODE = "expected two (operation, input) pairs a node, in one list or in a list for each node"

Entry = tuple[str, int]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    normal, reduce: (op, input) pairs, two a node in node order; input 0 and 1 are the cell's inputs, ``i + 2`` node i.
    normal_concat, reduce_concat: the states that are the cell's output: every node.
    """

    normal: tuple[Entry, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Entry, ...]
    reduce_concat: tuple[int, ...]

    @property
    def nodes(self) -> int:
        """Nodes of a cell."""
        return len(self.normal) // 2

    def as_dict(self) -> dict:
        """Plain values: ``{"normal": [[op, input], ...], "normal_concat": [...], "reduce": ...}``."""
        return {
            "normal": [list(entry) for entry in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(entry) for entry in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }

    def as_text(self) -> str:
        """DARTS's own line: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)``."""
        return (
            f"Genotype(normal={list(self.normal)}, normal_concat={_concat_text(self.normal_concat)}, "
            f"reduce={list(self.reduce)}, reduce_concat={_concat_text(self.reduce_concat)})"
        )

    @classmethod
    def from_dict(cls, values: object, source: str) -> "Genotype":
        """The inverse of :meth:`as_dict`, for values that are not to be trusted.

        A cell may also be a list for each node, of its two pairs, as MetaNAS and pt.darts print it.

        Args:
            source: where the values come from, to be named when they are refused.

        Raises:
            InputError: they are not a genotype of 1 to 8 nodes a cell, all of them concatenated, each with two
                different inputs that exist and operations that exist.
        """
        if not isinstance(values, dict):
            raise InputError(f"{source} does not hold a genotype: expected {', '.join(FIELDS)}.")
        missing = [field for field in FIELDS if field not in values]
        unknown = [field for field in values if field not in FIELDS]
        if missing:
            raise InputError(f"{source} does not hold a genotype: it has no {missing[0]}.")
        if unknown:
            raise InputError(
                f"{source} has a field {reprlib.repr(unknown[0])} that no genotype has: expected {', '.join(FIELDS)}."
            )
        cells = {cell: _read_entries(values[cell], cell, source) for cell in CELLS}
        nodes = {cell: len(entries) // 2 for cell, entries in cells.items()}
        if nodes["normal"] != nodes["reduce"]:
            raise InputError(
                f"{source} has {nodes['normal']} nodes in normal and {nodes['reduce']} in reduce: expected as many."
            )
        concats = {cell: _read_concat(values[f"{cell}_concat"], cell, nodes[cell], source) for cell in CELLS}
        return cls(cells["normal"], concats["normal"], cells["reduce"], concats["reduce"])

    @classmethod
    def parse(cls, text: str, source: str) -> "Genotype":
        """Reads JSON (:meth:`as_dict`), a printed dict, or DARTS's text (:meth:`as_text`), given a name or not.

        Raises:
            InputError: the text is none of them, or not a genotype as :meth:`from_dict` wants it.
        """
        _check_size(len(text), source)
        try:
            values = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, source))
        except (ValueError, RecursionError):
            values = _parse_python(text.strip(), source)
        return cls.from_dict(values, source)

    @classmethod
    def load(cls, path: Path) -> "Genotype":
        """Reads a file, of any of these forms whatever its name; a byte-order mark before it is no part of it.

        Raises:
            InputError: no such file, or one that does not hold a genotype.
        """
        try:
            text = read_file(path, MAX_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: expected a genotype as JSON or as {FORM}.") from error
        return cls.parse(text, str(path))


def save_genotype(genotype: Genotype, path: Path) -> None:
    """Writes a genotype, whole or not at all: as JSON where the name ends in .json, as DARTS's text for .txt.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    if path.suffix not in (".json", ".txt"):
        raise InputError(f"cannot write a genotype to {path}: its name must end in .json or .txt.")
    if path.suffix == ".json":
        write_json(path, genotype.as_dict())
        return
    write_text(path, genotype.as_text() + "\n")


def read_genotype(architecture: Architecture, primitives: tuple[str, ...]) -> Genotype:
    """For each node its best pair of inputs, on each of the two edges the best candidate other than "none"."""
    normal, reduction = (_best_entries(architecture, cell_type, primitives) for cell_type in (NORMAL, REDUCTION))
    concat = tuple(range(2, architecture.nodes + 2))
    return Genotype(normal, concat, reduction, concat)


def random_genotype(primitives: tuple[str, ...], nodes: int, generator: torch.Generator) -> Genotype:
    """For each node a pair of inputs, on each of the two edges a candidate other than "none", all equally likely."""
    names = [name for name in primitives if name != "none"]

    def draw(choices: list):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    normal, reduction = (
        tuple((draw(names), source) for node in range(nodes) for source in draw(input_pairs(node))) for _ in CELLS
    )
    concat = tuple(range(2, nodes + 2))
    return Genotype(normal, concat, reduction, concat)


def _best_entries(architecture: Architecture, cell_type: str, primitives: tuple[str, ...]) -> tuple[Entry, ...]:
    candidates = [k for k, name in enumerate(primitives) if name != "none"]
    entries = []
    for node in range(architecture.nodes):
        for source in _best_pair(architecture, cell_type, node, candidates):
            logits = architecture.alpha[cell_type][architecture.edges.index((source, node))].tolist()
            entries.append((primitives[max(candidates, key=lambda k: logits[k])], source))
    return tuple(entries)


def _best_pair(architecture: Architecture, cell_type: str, node: int, candidates: list[int]) -> list[int]:
    """The inputs of a node: its best pair, or without pairs the two edges whose best candidates weigh the most.

    That is DARTS's rule; with edge normalisation a candidate's weight is multiplied by its edge's (PC-DARTS).
    """
    if architecture.weighting == PAIRS:
        return list(input_pairs(node)[int(architecture.beta[cell_type][node].argmax())])
    edges = [architecture.edges.index((source, node)) for source in range(node + 2)]
    weights = torch.stack([architecture.alpha[cell_type][edge].detach().softmax(0) for edge in edges])
    strengths = weights[:, candidates].amax(1)
    if architecture.weighting == EDGES:
        strengths = strengths * architecture.beta[cell_type][node].detach().softmax(0)
    return sorted(strengths.topk(2).indices.tolist())


def _concat_text(concat: tuple[int, ...]) -> str:
    whole = range(concat[0], concat[-1] + 1)
    return repr(whole) if concat == tuple(whole) else repr(list(concat))


# --- Reading what is not to be trusted ------------------------------------------------------------------------------


def _check_size(size: int, source: str) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{source} is too large, {size} bytes: expected at most {MAX_BYTES}.")


def _unique(pairs: list[tuple[str, object]], source: str) -> dict:
    """A dictionary of fields, of which none is given twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{source} gives {reprlib.repr(twice)} twice: expected each field once.")
    return values


def _parse_python(text: str, source: str) -> dict:
    """The keyword arguments of ``Genotype(...)``, or a dict, read as literals: nothing of the text is run."""
    refusal = InputError(f"{source} does not hold one genotype, whole: expected JSON or {FORM}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            (statement,) = ast.parse(text).body
        value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
        if isinstance(value, ast.Dict) and None not in value.keys:
            pairs = [
                (ast.literal_eval(key), _literal(held)) for key, held in zip(value.keys, value.values, strict=True)
            ]
        elif isinstance(value, ast.Call) and _is_name(value.func, "Genotype") and not value.args:
            pairs = [(keyword.arg, _literal(keyword.value)) for keyword in value.keywords]
        else:
            raise refusal
        return _unique(pairs, source)
    # What ast.parse raises depends on the Python: too deep a nesting is a SyntaxError, RecursionError or MemoryError.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise refusal from error


def _is_name(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name


def _literal(expression: ast.expr) -> object:
    if not (isinstance(expression, ast.Call) and _is_name(expression.func, "range")):
        return ast.literal_eval(expression)
    first, end = (ast.literal_eval(argument) for argument in expression.args)
    return list(range(first, end)[: MAX_NODES + 1])  # a longer one is too long anyhow, and might be endless


def _read_entries(values: object, cell: str, source: str) -> tuple[Entry, ...]:
    if not isinstance(values, list | tuple):
        raise InputError(f"{source}: {cell} must be a list: {TWO_A_NODE}.")
    if any(map(_is_node, values)):
        values = _without_nodes(values, cell, source)
    if len(values) % 2 or not 1 <= len(values) // 2 <= MAX_NODES:
        raise InputError(
            f"{source}: {cell} has {len(values)} entries, expected two a node and from 1 to {MAX_NODES} nodes."
        )
    entries = tuple(_read_entry(value, cell, number // 2, source) for number, value in enumerate(values))
    for node, ((_, first), (_, second)) in enumerate(zip(entries[::2], entries[1::2], strict=True)):
        if first == second:
            raise InputError(f"{source}: node {node} of {cell} reads input {first} twice, expected two different ones.")
    return entries


def _is_node(value: object) -> bool:
    """Whether it is a list of pairs, and not a pair."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(pair, list | tuple) for pair in value)


def _without_nodes(values: Sequence, cell: str, source: str) -> list:
    """The pairs of a cell that has a list for each node."""
    for node, pairs in enumerate(values):
        if not _is_node(pairs) or len(pairs) != 2:
            raise InputError(f"{source}: node {node} of {cell} is {reprlib.repr(pairs)}, {TWO_A_NODE}.")
    return [pair for pairs in values for pair in pairs]


def _read_entry(value: object, cell: str, node: int, source: str) -> Entry:
    where = f"{source}: node {node} of {cell}"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"{where} has an entry {reprlib.repr(value)}, expected a pair (operation, input).")
    name, state = value
    if not isinstance(name, str) or name not in OPERATIONS or name == "none":
        known = ", ".join(sorted(OPERATIONS - {"none"}))
        raise InputError(f"{where} has an operation {reprlib.repr(name)}, expected one of {known}.")
    if type(state) is not int or not 0 <= state <= node + 1:
        raise InputError(
            f"{where} reads input {reprlib.repr(state)}, expected from 0 to {node + 1}: "
            "the cell's inputs are 0 and 1, an earlier node i is i + 2."
        )
    return name, state


def _read_concat(value: object, cell: str, nodes: int, source: str) -> tuple[int, ...]:
    every = list(range(2, nodes + 2))
    if not isinstance(value, list | tuple) or any(type(state) is not int for state in value):
        raise InputError(f"{source}: {cell}_concat must be a list of whole numbers, expected {every}.")
    left_out = [state - 2 for state in every if state not in value]
    if left_out:
        raise InputError(
            f"{source}: {cell}_concat leaves out node {left_out[0]}, but the networks here concatenate every node: "
            f"expected {every}."
        )
    if list(value) != every:
        raise InputError(f"{source}: {cell}_concat is {reprlib.repr(list(value))}, expected every node once: {every}.")
    return tuple(value)
