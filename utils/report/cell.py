"""The drawing of one cell of a genotype as inline SVG, which takes its colours from the page's style sheet."""

from utils.report.markup import Markup, tag

# In units of the drawing: on a phone, where a cell of three nodes is as wide as the page, about a pixel.
ROW = 32  # from a node down to the next
COLUMN = 92  # from a node to the next: an operation's name fits in
NARROW = 34  # the same, where no name is in between
RADIUS = 12  # of a node
MARGIN = 16
LETTER = 6.4  # width of a letter of a name


def draw_cell(cell: list[tuple[str, int]], description: str) -> Markup:
    """Nodes down a staircase. An edge leaves to the right and comes in from above; its operation is where it turns.

    So no two names can meet: each has the row of its source and the column of its target for itself.

    Args:
        cell: (operation, input) pairs, two a node in node order; input 0 and 1 are the cell's inputs, ``i + 2`` is
            node ``i``. Every node is part of the output.
        description: for those who cannot see it.
    """
    nodes = len(cell) // 2
    steps = [NARROW, (NARROW + COLUMN) // 2, *[COLUMN] * (nodes - 1), (NARROW + COLUMN) // 2]
    columns = [MARGIN + sum(steps[:number]) for number in range(nodes + 3)]
    rows = [MARGIN + ROW * number for number in range(nodes + 3)]
    edges = [(operation, source, number // 2 + 2) for number, (operation, source) in enumerate(cell)]

    def path(source: int, target: int) -> str:
        return f"M{columns[source]} {rows[source]}H{columns[target]}V{rows[target] - RADIUS - 2}"

    parts = [
        tag("path", d="".join(path(node, nodes + 2) for node in range(2, nodes + 2)), class_="edge to-output"),
        tag("path", d="".join(path(source, target) for _, source, target in edges), class_="edge"),
    ]
    for state, name in enumerate(_names(nodes)):
        x, y = columns[state], rows[state]
        kind = "input" if state < 2 else "output" if state == nodes + 2 else "node"
        if kind != "input":  # an edge's arrow
            parts.append(tag("path", d=f"M{x - 4} {y - RADIUS - 6}h8l-4 6z", class_="arrow"))
        parts.append(tag("circle", cx=x, cy=y, r=RADIUS, class_=kind))
        parts.append(tag("text", *name, x=x, y=y, dy="0.32em", text_anchor="middle", class_="state"))
    for operation, source, target in edges:
        x, y, width = columns[target], rows[source], LETTER * len(operation) + 8
        parts.append(tag("rect", x=f"{x - width / 2:.1f}", y=y - 9, width=f"{width:.1f}", height=18, rx=4))
        parts.append(tag("text", operation, x=x, y=y, dy="0.32em", text_anchor="middle", class_="operation"))
    width, height = columns[-1] + MARGIN, rows[-1] + MARGIN
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=description, class_="cell")


def _names(nodes: int) -> list[list]:
    """What is written into each state: c with its index below for the outputs of cells, a number for a node."""
    cells = [["c", tag("tspan", index, dy="0.3em", class_="index")] for index in ("k-2", "k-1", "k")]
    return [*cells[:2], *([str(node)] for node in range(nodes)), cells[2]]
