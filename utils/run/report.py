"""Pages and pictures of a run, made in a process of its own: Matplotlib and Jinja2 are not in the run's memory."""

from pathlib import Path

from utils.run.aside import aside


def make_report(path: Path) -> None:
    """Writes report.html into a run's folder.

    Raises:
        InputError: the page cannot be written.
    """

    def write() -> None:
        from utils.report.page import write_report

        write_report(path)

    aside(write)


def draw_genotype(genotype: dict, network: dict, path: Path) -> None:
    """Writes a PNG of those cells of a genotype that a network with these settings has; both in plain values.

    Raises:
        InputError: the picture cannot be written.
    """

    def draw() -> None:
        from utils.pictures.cells import cells_of, draw_genotype

        draw_genotype(cells_of(genotype, network), path)

    aside(draw)
