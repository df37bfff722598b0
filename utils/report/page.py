"""Writes report.html: result, memory, learning curves, genotype, examples, settings."""

from pathlib import Path

import jinja2

from utils.pictures.cells import cell_figure, cells_of
from utils.pictures.style import PALETTE, as_svg
from utils.report.curves import charts
from utils.report.figures import Figure, figure, headline_key, tables, values_of
from utils.results.confusion import WIDE, confusion_text
from utils.results.run_files import RunFiles, read_run
from utils.results.schema import FEW_SHOT, FULL, TFML
from utils.results.settings import OWN
from utils.run.files import write_text

NAME = "report.html"
NAMED_CLASSES = 12  # of a full task, the first so many
LONG = 24  # letters of a setting's value that do not fit beside its name


def write_report(path: Path) -> Path:
    """Writes report.html into a run's folder, and returns its path.

    Raises:
        InputError: there is no run, its files are damaged, or the page cannot be written.
    """
    write_text(path / NAME, page(read_run(path)))
    return path / NAME


def page(run: RunFiles) -> str:
    """The whole page of a run; whatever is not markup is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values, key = values_of(run), headline_key(run)
    interval = f"{key}_ci95"
    return environment.get_template("page.html").render(
        run=run,
        title=title(run),
        kind=kind(run),
        headline=figure(values, key) if values.get(key) is not None else None,
        interval=figure(values, interval) if values.get(interval) is not None else None,
        between=between(values, key),
        meaning=meaning(run),
        classes=[
            *values.get("classes", [])[:NAMED_CLASSES],
            *(["..."] if len(values.get("classes", [])) > NAMED_CLASSES else []),
        ],
        tables=tables(run, values),
        memory=memory(run, values),
        charts=charts(run.kind, run.logs),
        confusion=confusion(values),
        cells=cells(run, values),
        settings=settings(run),
        palette=PALETTE,
    )


def title(run: RunFiles) -> str:
    flags = run.settings
    if run.kind == OWN:
        return flags.get("name") or f"{flags['support'] or flags['adapted']}"
    about = flags["dataset"] if run.kind == FULL else f"{flags['dataset']}, {flags['n']}-way {flags['k']}-shot"
    return f"{flags['name']}: {about}" if flags.get("name") else about


def kind(run: RunFiles) -> str:
    """What the run is."""
    flags = run.settings
    if run.kind == TFML:
        return "Two-Fold Meta-Learning"
    if run.kind == OWN:
        return "Own images, " + ("classified" if flags["adapted"] else f"adapted to by --search {flags['search']}")
    if run.kind == FEW_SHOT:
        return f"On-device search of few-shot tasks, --search {flags['search']}"
    if flags["genotype"]:
        return f"Training of the network of {flags['genotype']}"
    return f"On-device search of a full task, --search {flags['search']}"


def meaning(run: RunFiles) -> str:
    """What the headline's share is of."""
    flags = run.settings
    if run.kind == TFML:
        return (
            f"of the queries are classified correctly in the last meta-test: {flags['eval_epochs']:,} tasks of classes "
            f"not trained on, {flags['q']} queries a class"
        )
    if run.kind == OWN:
        own = "support images are classified correctly, each by a network that was adapted without it"
        return own if headline_key(run) == "folds_accuracy" else "of the labelled images are classified correctly"
    if run.kind == FEW_SHOT:
        return f"of the queries are classified correctly after adapting, {flags['q']} queries a class"
    if run.finished:
        return "of the test images are classified correctly by the derived network"
    return "of the architecture's half are classified correctly in the last epoch of the search"


def between(values: dict, key: str) -> dict | None:
    """The ends of the interval of the headline's share, and whether they are far apart."""
    ends = values.get(f"{key}_interval")
    if ends is None:
        return None
    shown = [Figure(f"{key}_interval", end, figure({key: end}, key).text) for end in ends]
    return {"ends": shown, "wide": ends[1] - ends[0] > WIDE}


def confusion(values: dict) -> str | None:
    """What was taken for what, as text; None where it is not known."""
    matrices = (values.get(f"{prefix}confusion") for prefix in ("", "folds_", "derived_"))
    matrix = next(filter(None, matrices), None)
    return matrix and confusion_text(matrix, values["classes"])


def memory(run: RunFiles, values: dict) -> list[dict]:
    """Of each peak that is known: what was done, and its parts."""
    works = {
        "peak_memory_breakdown_mib": "searching" if run.kind == FULL else "adapting",
        "derived_peak_memory_breakdown_mib": "training the derived network",
    }
    peaks = []
    for key, work in works.items():
        if values.get(key):
            parts = {kind: figure(values[key], kind, within=key) for kind in values[key]}
            peaks.append({"work": work, "parts": parts, "mib": sum(part.value for part in parts.values()) or 1})
    return peaks


def cells(run: RunFiles, values: dict) -> dict:
    """The drawings of the genotype's cells, by title: of a small task those that the supernet has."""
    if not values.get("genotype"):
        return {}
    network = run.results.network if run.finished and run.kind in (FEW_SHOT, OWN) else None
    return {
        name: as_svg(
            cell_figure({"": cell}), f"{name}: " + "; ".join(f"{op} from state {source}" for op, source in cell)
        )
        for name, cell in cells_of(values["genotype"], network).items()
    }


def settings(run: RunFiles) -> list[dict]:
    """Every flag that had a value."""
    texts = {
        flag: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for flag, value in run.settings.items()
        if value not in (None, "")
    }
    return [{"flag": flag, "text": text, "long": len(text) > LONG} for flag, text in texts.items()]
