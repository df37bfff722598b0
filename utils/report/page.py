"""The page of a run, report.html: result, memory, learning curves, genotype, examples, settings; needs no network."""

import string
from collections.abc import Callable
from numbers import Real
from pathlib import Path

from utils.memory import KINDS
from utils.report.cell import draw_cell
from utils.report.curves import charts
from utils.report.markup import Markup, join, tag
from utils.report.run_files import FEW_SHOT, FULL, TFML, RunFiles, read_run
from utils.run.files import replacing

TEMPLATE = Path(__file__).with_suffix(".html")
NAME = "report.html"
NAMED_CLASSES = 12  # of a full task, the first so many
LONG = 24  # letters of a setting's value that do not fit beside its name


def write_report(path: Path) -> Path:
    """Writes report.html into a run's folder, and returns its path.

    Raises:
        InputError: there is no run, its files are damaged, or the page cannot be written.
    """
    text = page(read_run(path), path)
    with replacing(path / NAME) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path / NAME


def page(run: RunFiles, path: Path) -> str:
    """The whole page of a run; ``path`` is named in the command that makes it again."""
    parts = (head, result, memory, curves, genotype, examples, settings)
    again = tag("code", f"python -m utils.report {path}")
    footer = tag("footer", tag("p", "Made from the files in the run's folder; again by ", again, ".", class_="note"))
    body = "\n".join([*(part(run) for part in parts), footer])
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=join([title(run)]), body=body)


# --- Numbers --------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three significant digits, but no more than a thousandth or, below that, a millionth; whole numbers in full."""
    size = abs(value)
    if isinstance(value, int) or size >= 100 or value == 0:
        return f"{value:,.0f}"
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.001 else 6
    return f"{value:.{decimals}f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"


def unit(name: str) -> Callable[[float], str]:
    """Formats a number with its unit behind it."""
    return lambda value: f"{number(value)}\N{NARROW NO-BREAK SPACE}{name}"


def shown(figures: dict, key: str, as_text: Callable[[float], str], within: str = "") -> Markup:
    """A figure, marked with the key that it has in the files: "key", or "within.key"."""
    value = figures[key]
    text = as_text(value) if isinstance(value, Real) else value
    return tag("data", text, value=value, data_key=f"{within}.{key}" if within else key)


seconds, mib = unit("s"), unit("MiB")
Lines = dict[str, tuple[str, Callable[[float], str]]]
FEW_SHOT_TABLE: Lines = {
    "tasks": ("Tasks", number),
    "accuracy_before": ("Accuracy before adapting", percent),
    "seconds_per_task": ("Time of adapting to a task", seconds),
    "seconds_per_step": ("Time of a step", seconds),
    "peak_memory_mib": ("Peak memory, adapting", mib),
    "peak_memory_test_mib": ("Peak memory, testing", mib),
    "supernet_parameters": ("Parameters of the supernet", number),
    "supernet_storage_mib": ("Storage of the supernet", mib),
    "meta_cell_storage_mib": ("Storage of the meta-cell", mib),
}
DERIVED_TABLE: Lines = {
    "derived_parameters": ("Parameters", number),
    "derived_macs": ("Multiply-accumulates for an image", number),
    "derived_epochs": ("Epochs", number),
    "derived_seconds": ("Time of training", seconds),
    "derived_peak_memory_mib": ("Peak memory, training", mib),
    "derived_peak_memory_test_mib": ("Peak memory, testing", mib),
    "derived_peak_memory_inference_mib": ("Peak memory, a single image", mib),
}
SEARCH_TABLE: Lines = {
    "accuracy": ("Accuracy of the searched supernet", percent),
    "validation_accuracy": ("Accuracy on the architecture's half", percent),
    "search_epochs": ("Epochs", number),
    "best_epoch": ("Best epoch, from 0", number),
    "search_seconds": ("Time of the search", seconds),
    "seconds_per_step": ("Time of a step", seconds),
    "peak_memory_mib": ("Peak memory, searching", mib),
    "peak_memory_test_mib": ("Peak memory, testing", mib),
    "supernet_parameters": ("Parameters of the supernet", number),
    "supernet_storage_mib": ("Storage of the supernet", mib),
    "meta_cell_storage_mib": ("Storage of the meta-cell", mib),
}
SO_FAR_TABLE: Lines = {
    "epoch": ("Last epoch, from 0", number),
    "accuracy": ("Accuracy on the weights' half", percent),
    "loss": ("Loss on the weights' half", number),
    "seconds_per_step": ("Time of a step", seconds),
    "peak_memory_mib": ("Peak memory, searching", mib),
}
TFML_TABLE: Lines = {
    "meta_epoch": ("Meta-epoch, from 0", number),
    "test_loss": ("Loss, meta-test", number),
    "train_accuracy": ("Accuracy, meta-training", percent),
    "train_loss": ("Loss, meta-training", number),
    "seconds": ("Time of the meta-epoch", seconds),
    "tasks_per_second": ("Tasks a second", number),
    "peak_memory_mib": ("Peak memory, adapting", mib),
    "supernet_storage_mib": ("Storage of the supernet", mib),
    "meta_cell_storage_mib": ("Storage of the meta-cell", mib),
}


# --- Sections -------------------------------------------------------------------------------------------------------


def section(title: str, *content: object, kind: str = "") -> Markup:
    return tag("section", tag("h2", title), *content, **({"class_": kind} if kind else {}))


def table(figures: dict, lines: Lines, caption: str = "") -> Markup:
    rows = [
        tag("tr", tag("th", label, scope="row"), tag("td", shown(figures, key, as_text)))
        for key, (label, as_text) in lines.items()
        if figures.get(key) is not None
    ]
    if not rows:
        return Markup()
    return tag("table", *([tag("caption", caption)] if caption else []), tag("tbody", *rows))


def head(run: RunFiles) -> Markup:
    """What the run is, and whether it is finished."""
    flags = run.settings
    if run.kind == TFML:
        kind = "Two-Fold Meta-Learning"
    elif run.kind == FEW_SHOT:
        kind = f"On-device search of few-shot tasks, --search {flags['search']}"
    elif flags["genotype"]:
        kind = f"Training of the network of {flags['genotype']}"
    else:
        kind = f"On-device search of a full task, --search {flags['search']}"
    parts = [tag("p", kind, class_="kind"), tag("h1", title(run))]
    if not run.finished:
        parts.append(tag("p", f"Unfinished: {progress(run)} so far.", class_="notice"))
    return tag("header", *parts)


def title(run: RunFiles) -> str:
    flags = run.settings
    about = f"{flags['dataset']}" if run.kind == FULL else f"{flags['dataset']}, {flags['n']}-way {flags['k']}-shot"
    return f"{flags['name']}: {about}" if flags.get("name") else about


def progress(run: RunFiles) -> str:
    flags, done = run.settings, {name: len(rows) for name, rows in run.logs.items()}
    if run.kind == TFML:
        return f"{done['metrics']:,} of {flags['meta_epochs']:,} meta-epochs"
    if run.kind == FEW_SHOT:
        return f"{done['tasks']:,} of {flags['eval_epochs']:,} tasks"
    if done["derived"] or flags["genotype"]:
        return f"{done['derived']:,} of {flags['derived_epochs']:,} epochs of the derived network's training"
    return f"{done['search']:,} of {flags['epochs']:,} epochs of the search"


def result(run: RunFiles) -> Markup:
    """The number that the run was for, and the tables of the others."""
    figures, flags = run.figures, run.settings
    if run.kind == TFML:
        key, tables = "test_accuracy", {"": TFML_TABLE}
        said = (
            f"of the queries are classified correctly in the last meta-test: {flags['eval_epochs']:,} tasks of classes "
            f"not trained on, {flags['q']} queries a class"
        )
    elif run.kind == FEW_SHOT:
        key, tables = "accuracy", {"": FEW_SHOT_TABLE}
        said = f"of the queries are classified correctly after adapting, {flags['q']} queries a class"
    elif run.finished:
        key, tables = "derived_accuracy", {"Derived network": DERIVED_TABLE, "Search": SEARCH_TABLE}
        said = "of the test images are classified correctly by the derived network"
    else:
        key, tables = "validation_accuracy", {"": SO_FAR_TABLE}
        said = "of the architecture's half are classified correctly in the last epoch of the search"
    if figures.get(key) is None:
        headline = [tag("p", "No result." if run.finished else "No result yet.")]
    else:
        number = [tag("span", shown(figures, key, percent), class_="value")]
        if figures.get(f"{key}_ci95") is not None:
            number.append(tag("span", " ± ", shown(figures, f"{key}_ci95", percent), class_="interval"))
            said += "; ± is the 95 % interval of the mean"
        headline = [tag("p", *number, class_="headline"), tag("p", f"{said}.")]
    if names := figures.get("classes"):
        more = ["..."] if len(names) > NAMED_CLASSES else []
        headline.append(tag("p", f"Classes: {', '.join([*names[:NAMED_CLASSES], *more])}", class_="note"))
    shown_tables = [table(figures, lines, caption) for caption, lines in tables.items()]
    return tag("section", tag("div", *headline), tag("div", *shown_tables), class_="result columns")


def memory(run: RunFiles) -> Markup:
    works = {
        "peak_memory_breakdown_mib": "searching" if run.kind == FULL else "adapting",
        "derived_peak_memory_breakdown_mib": "training the derived network",
    }
    parts = []
    for key, work in works.items():
        if run.figures.get(key):
            parts.append(tag("p", f"Live tensors at the highest moment of {work}, by what they are for", class_="note"))
            parts.append(bar(run.figures, key))
    return section("Memory at the peak", *parts, kind="memory") if parts else Markup()


def bar(figures: dict, key: str) -> Markup:
    """A bar whose segments are as long as the parts of a peak are large, and the parts in figures."""
    segments, entries = [], []
    for kind in (kind for kind in KINDS if kind in figures[key]):
        size = figures[key][kind]
        if size > 0:
            segments.append(tag("span", class_=kind, style=f"flex-grow:{size:.6f}", title=kind))
        value = shown(figures[key], kind, mib, within=key)
        entries.append(tag("div", tag("dt", tag("span", class_=f"swatch {kind}"), kind), tag("dd", value)))
    return join([tag("div", *segments, class_="bar"), tag("dl", *entries, class_="parts")])


def curves(run: RunFiles) -> Markup:
    drawn = charts(run.kind, run.logs)
    return section("Learning curves", tag("div", *drawn, class_="columns")) if drawn else Markup()


def genotype(run: RunFiles) -> Markup:
    cells = run.figures.get("genotype")
    if not cells:
        return Markup()
    drawings = []
    for key, name in (("normal", "Normal cell"), ("reduce", "Reduction cell")):
        said = "; ".join(f"{operation} from state {source}" for operation, source in cells[key])
        drawings.append(tag("figure", tag("figcaption", name), draw_cell(cells[key], f"{name}: {said}")))
    note = "The one found most often." if run.kind == FEW_SHOT else "What the derived network consists of."
    return section("Genotype", tag("p", note, class_="note"), tag("div", *drawings, class_="columns"))


def examples(run: RunFiles) -> Markup:
    tasks = []
    for task, example in enumerate(run.logs["examples"]):
        names, images = example["classes"], example["shown"]
        classes = [_class(number, names[number], images) for number, images in enumerate(images)]
        some = f", {len(images)} of its {len(names)} classes" if len(images) < len(names) else ""
        tasks.append(
            tag("div", tag("h3", f"Task {task}{some}"), tag("div", *classes, class_="classes"), class_="example")
        )
    if not tasks:
        return Markup()
    note = "Of each class the first support images, and below them the first queries with the class they were given."
    return section("Support and query images", tag("p", note, class_="note"), *tasks)


def _class(number: int, name: str, images: dict) -> Markup:
    support = [tag("li", tag("img", src=uri, alt="support image")) for uri in images["support"]]
    queries = []
    for query in images["queries"]:
        right = query["predicted"] == number
        said = f"{'✓' if right else '✗'} {query['predicted']}"
        picture = tag("img", src=query["image"], alt="query image")
        queries.append(tag("li", picture, said, class_="right" if right else "wrong"))
    parts = [
        tag("p", tag("strong", number), " ", *_breakable(name)),
        tag("ul", *support, class_="images"),
        tag("ul", *queries, class_="images queries"),
    ]
    return tag("div", *parts, class_="class")


def _breakable(name: str) -> list[str | Markup]:
    """A name like "folder/folder/name" in parts, between which a line may end."""
    first, *others = name.split("/")
    return [first, *(part for other in others for part in ("/", tag("wbr"), other))]


def settings(run: RunFiles) -> Markup:
    rows = []
    for flag, value in run.settings.items():
        if value is None or value == "":
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        look = {"class_": "long"} if len(text) > LONG else {}
        rows.append(tag("div", tag("dt", flag), tag("dd", text), **look))
    others = "" if run.kind == TFML else ", those for other kinds of tasks too"
    note = f"Every flag of {run.settings['script']} that had a value{others}."
    return section("Settings", tag("p", note, class_="note"), tag("dl", *rows, class_="settings"))
