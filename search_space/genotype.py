"""The genotype: the discrete network that alpha and beta point to (as DARTS reads it)."""

from models.supernet import NORMAL, REDUCTION
from search_space.architecture import Architecture, input_pairs


def read_genotype(architecture: Architecture, primitives: tuple[str, ...]) -> dict:
    """For each node its best pair of inputs, on each of the two edges the best candidate other than "none".

    Returns DARTS's form, in plain values: ``{"normal": [[op, input], ...], "normal_concat": [...], "reduce": ...}``,
    two entries a node; input 0 and 1 are the cell's inputs, ``i + 2`` is node ``i``.
    """
    concat = list(range(2, architecture.nodes + 2))
    return {
        "normal": _read_cell(architecture, NORMAL, primitives),
        "normal_concat": concat,
        "reduce": _read_cell(architecture, REDUCTION, primitives),
        "reduce_concat": concat,
    }


def _read_cell(architecture: Architecture, cell_type: str, primitives: tuple[str, ...]) -> list[list]:
    candidates = [k for k, name in enumerate(primitives) if name != "none"]
    cell = []
    for node, beta in enumerate(architecture.beta[cell_type]):
        for source in input_pairs(node)[int(beta.argmax())]:
            logits = architecture.alpha[cell_type][architecture.edges.index((source, node))].tolist()
            cell.append([primitives[max(candidates, key=lambda k: logits[k])], source])
    return cell
