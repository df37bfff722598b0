"""Pages and pictures of a run: Matplotlib and Jinja2 are imported when one is made, after the search."""

from pathlib import Path


def make_report(path: Path) -> None:
    """Writes report.html into a run's folder.

    Raises:
        InputError: the page cannot be written.
    """
    from utils.report.page import write_report

    write_report(path)


def draw_genotype(genotype: dict, network: dict, path: Path) -> None:
    """Writes a PNG of those cells of a genotype that a network with these settings has; both in plain values.

    Raises:
        InputError: the picture cannot be written.
    """
    from utils.pictures.cells import cells_of, draw_genotype

    draw_genotype(cells_of(genotype, network), path)
