"""Tables for people: Markdown for a file, aligned text for a terminal, and how numbers are put."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from utils.results.published import TITLES

NOT_RUN, UNFINISHED, PUBLISHED, RUN = "not run", "unfinished", "published", "run"  # the states of a row
NOT_PUBLISHED = "not published"


class Column(NamedTuple):
    """A column of a table.

    cell: a row's text. brief: the heading in a terminal, where there is room for a few columns only; none: left out.
    """

    head: str
    cell: Callable[[dict], str]
    brief: str = ""


def markdown(columns: Sequence[Column], rows: Iterable[dict]) -> str:
    """The whole table in Markdown."""
    lines = [[column.head for column in columns], ["---"] * len(columns), *_cells(columns, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(columns: Sequence[Column], rows: Iterable[dict]) -> str:
    """The columns that have a brief heading, aligned for a terminal; those with nothing in them are left out."""
    columns = [column for column in columns if column.brief]
    lines = [[column.brief for column in columns], *_cells(columns, rows)]
    shown = [cells for cells in zip(*lines, strict=True) if any(cells[1:])]
    widths = [max(map(len, cells)) for cells in shown]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in zip(*shown, strict=True)
    )


def _cells(columns: Sequence[Column], rows: Iterable[dict]) -> list[list[str]]:
    return [[column.cell(row) for column in columns] for row in rows]


# --- Cells ------------------------------------------------------------------------------------------------------------


def text(key: str) -> Callable[[dict], str]:
    return lambda row: str(row.get(key) or "")


def number(key: str, form: str, scale: float = 1) -> Callable[[dict], str]:
    """A number; of a row that was expected and not run, that it was not."""

    def cell(row: dict) -> str:
        value = row.get(key)
        if value is None:
            return NOT_RUN if row.get("state") == NOT_RUN else ""
        return format(scale * value if scale != 1 else value, form)

    return cell


def count(key: str) -> Callable[[dict], str]:
    """A whole number, nothing where there is none."""
    return lambda row: "" if row.get(key) is None else f"{row[key]:d}"


def percent(key: str, spread: str, sign: str = "", digits: int = 1) -> Callable[[dict], str]:
    """E.g. "92.1 +- 1.4", from two fractions in a row; nothing where there is none."""

    def cell(row: dict) -> str:
        if row.get(key) is None:
            return ""
        half = "" if row.get(spread) is None else f" +- {100 * row[spread]:.{digits}f}"
        return f"{100 * row[key]:{sign}.{digits}f}{half}"

    return cell


def measured(key: str, spread: str) -> Callable[[dict], str]:
    """An accuracy in percent, or the state of a row that has none."""
    accuracy = percent(key, spread)

    def cell(row: dict) -> str:
        if row.get("state") == UNFINISHED:
            return f"{UNFINISHED}: {row['progress']}"
        return accuracy(row) or (NOT_RUN if row.get("state") == NOT_RUN else "")

    return cell


def duration(key: str) -> Callable[[dict], str]:
    """Seconds as "0:08:59"."""
    seconds = number(key, ".0f")
    return lambda row: str(timedelta(seconds=round(row[key]))) if row.get(key) is not None else seconds(row)


def dataset(row: dict) -> str:
    return TITLES.get(row["dataset"], row["dataset"])


def device(row: dict) -> str:
    """A processor, or the GPU's name."""
    return {"cpu": "CPU"}.get(row.get("device"), row.get("device") or "")


def meta_cell(row: dict) -> str:
    """The first digits of its SHA-256."""
    return (row.get("meta_cell") or "")[:8]
