"""report.html: its numbers are those of the files, it loads nothing, and nothing gets into it as code."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import ROOT, contents, fill
from tests.utils.hand_written_runs import EVIL, few_shot_run, full_run, tfml_run, unfinish, write
from utils.errors import InputError
from utils.memory import KINDS
from utils.report.figures import as_text
from utils.report.page import write_report

ACCURACIES = [0.5, 0.75, 1.0, 0.625, 0.875, 0.25]
RUNS = {
    "few-shot": lambda path, **flags: few_shot_run(path, "onnas", ACCURACIES, flags, accuracy_ci95=0.2192),
    "full": lambda path, **flags: full_run(path, "full", 0.503, 3, flags),
    "tfml": lambda path, **flags: tfml_run(path, flags=flags),
}
VOID = {"meta", "img", "wbr"}


class Page(HTMLParser):
    """A page's elements, its visible text, its figures by key, and its table cells."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.text, self.figures, self.cells = [], "", {}, []
        self._open = []
        self.feed((path / "report.html").read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self._open.append((name, dict(attributes)))
        if name == "td":
            self.cells.append("")

    def handle_endtag(self, name):
        assert self._open.pop()[0] == name

    def handle_data(self, text):
        names = [name for name, _ in self._open]
        if "style" in names:
            return
        self.text += text
        if "data" in names:
            attributes = self._open[names.index("data")][1]
            self.figures[attributes["data-key"]] = (attributes["value"], text)
        if "td" in names:
            assert "data" in names  # each cell is a figure and nothing else
            self.cells[-1] += text


@pytest.fixture(params=RUNS)
def run(request, tmp_path) -> Path:
    return RUNS[request.param](tmp_path / request.param)


def page_of(path: Path) -> Page:
    assert write_report(path) == path / "report.html"
    return Page(path)


def look_up(figures: dict, key: str) -> float:
    for part in key.split("."):
        figures = figures[part]
    return figures


def assert_shows(text: str, value: float) -> None:
    """The text is the value, rounded to its last digit."""
    digits, unit = re.fullmatch(r"([\d,.]+)(?:\N{NARROW NO-BREAK SPACE}(\S+))?", text).groups()
    digits = digits.replace(",", "")
    decimals = len(digits.partition(".")[2])
    scale = 100 if unit == "%" else 1
    assert float(digits) == pytest.approx(scale * value, abs=0.5001 * 10**-decimals)


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_every_number_of_the_files_is_on_the_page_and_no_other(run):
    page, figures = page_of(run), json.loads((run / "results.json").read_text())
    if (run / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        figures |= [row for row in rows if "test_accuracy" in row][-1]
    numbers = {key for key, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    numbers |= {f"{key}.{kind}" for key in figures if key.endswith("breakdown_mib") for kind in KINDS}
    assert set(page.figures) == numbers - {"ways", "shots", "queries"}  # in its title and its words
    for key, (value, text) in page.figures.items():
        assert float(value) == look_up(figures, key)
        assert_shows(text, look_up(figures, key))
    assert len(page.cells) > 5
    assert all(page.cells)


def test_figures_to_come_have_a_place(tmp_path):
    """Of the network that was found, and of the process."""
    more = {"found_accuracy": 0.5, "found_parameters": 7, "found_macs": 11, "found_storage_mib": 0.5, "macs": 70}
    more |= {"agreement": 0.9, "candidate_entropy": 1.25, "found_peak_memory_mib": 3.5, "process_memory_mib": 512.0}
    page = page_of(few_shot_run(tmp_path, "onnas", ACCURACIES, **more))
    assert set(more) <= set(page.figures)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((7, "7"), (3318512, "3,318,512"), (1239.8, "1,240"), (506.64, "507"), (20.94, "20.9"), (1.7926, "1.79")),
        *((0.0463, "0.046"), (0.00038, "0.000380"), (0.0, "0")),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert as_text("key", value) == text


def test_settings_are_shown(run):
    text = page_of(run).text
    for flag, value in json.loads((run / "args.json").read_text()).items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        assert (f"{flag}{shown}" in text) == (value not in (None, ""))


def test_memory_bar_is_split_as_the_peak_is(tmp_path):
    page = page_of(RUNS["few-shot"](tmp_path))
    segments = {
        values["class"]: float(values["style"].removeprefix("flex-grow:"))
        for name, values in page.elements
        if name == "span" and "style" in values
    }
    breakdown = json.loads((tmp_path / "results.json").read_text())["peak_memory_breakdown_mib"]
    whole = sum(breakdown.values())
    assert segments == pytest.approx({kind: 100 * size / whole for kind, size in breakdown.items() if size}, rel=1e-5)


def test_predictions_are_marked(tmp_path):
    page = page_of(RUNS["few-shot"](tmp_path))
    looks = [values.get("class") for name, values in page.elements if name == "li"]
    assert [look for look in looks if look] == ["wrong", "wrong", "right"]
    assert re.findall("[✓✗] [0-9]", page.text) == ["✗ 1", "✗ 1", "✓ 1"]
    assert "Task 0, 2 of its 3 classes" in page.text


def test_operations_of_the_genotype_are_drawn(tmp_path):
    text = page_of(RUNS["few-shot"](tmp_path)).text
    for operation in ("max_pool_3x3", "conv_1x5_5x1", "dil_conv_3x3", "skip_connect", "sep_conv_3x3", "avg_pool_3x3"):
        assert operation in text


def test_only_cells_that_the_network_has_are_drawn(tmp_path):
    network = {"init_channels": 4, "layers": 2, "nodes": 2, "reduction_layers": [0, 1]}
    text = page_of(few_shot_run(tmp_path, "onnas", ACCURACIES, network=network)).text
    assert "Reduction cell" in text
    assert "Normal cell" not in text


def test_drawings_take_their_colours_from_the_page(run):
    """A colour that is written out would be the same in light and dark."""
    page_of(run)
    drawings = re.findall("<svg.*?</svg>", (run / "report.html").read_text(), re.DOTALL)
    assert len(drawings) >= 2
    for drawing in drawings:
        assert "var(--" in drawing
        assert not re.search(r"(?:fill|stroke): (?:#|rgb|black|white)", drawing)


# --- Unfinished runs ------------------------------------------------------------------------------------------------


def test_finished_runs_do_not_say_otherwise(run):
    assert "nfinished" not in page_of(run).text


def few_shot_so_far(path: Path, tasks: int) -> Path:
    return unfinish(RUNS["few-shot"](path), tasks=tasks)


def test_few_shot_tasks_so_far(tmp_path):
    page = page_of(few_shot_so_far(tmp_path, 3))
    assert "Unfinished: 3 of 6 tasks" in page.text
    values = [0.5, 0.75, 1.0]
    assert float(page.figures["accuracy"][0]) == pytest.approx(0.75)
    assert float(page.figures["accuracy_ci95"][0]) == pytest.approx(1.96 * statistics.stdev(values) / 3**0.5)
    assert page.figures["peak_memory_mib"][0] == "14.25"  # of the heaviest, the third


@pytest.mark.parametrize("tasks", [0, 1])
def test_too_few_tasks_for_a_curve(tmp_path, tasks):
    page = page_of(few_shot_so_far(tmp_path, tasks))
    assert f"{tasks} of 6 tasks" in page.text
    assert ("No result yet" in page.text) == (tasks == 0)
    assert "accuracy_ci95" not in page.figures
    assert "Learning curves" not in page.text


def test_a_line_that_is_cut_short_ends_the_tasks(tmp_path):
    few_shot_so_far(tmp_path, 2)
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('{"task": 2, "accu')
    assert "2 of 6 tasks" in page_of(tmp_path).text


def test_a_run_that_goes_on_is_unfinished_again(tmp_path):
    RUNS["few-shot"](tmp_path)
    settings = json.loads((tmp_path / "args.json").read_text())
    write(tmp_path, args=settings | {"eval_epochs": 9})
    assert "6 of 9 tasks" in page_of(tmp_path).text


def test_full_task_so_far(tmp_path):
    page = page_of(unfinish(RUNS["full"](tmp_path), search=3, derived=0))
    assert "3 of 4 epochs of search" in page.text
    assert float(page.figures["validation_accuracy"][0]) == pytest.approx(0.3)
    assert "derived_accuracy" not in page.figures


def test_derived_network_so_far(tmp_path):
    genotype = json.loads((RUNS["full"](tmp_path) / "results.json").read_text())["genotype"]
    page = page_of(write(unfinish(tmp_path, derived=3), genotype=genotype))
    assert "3 of 5 epochs of training" in page.text
    assert "Reduction cell" in page.text


def test_meta_epochs_so_far(tmp_path):
    page = page_of(unfinish(tfml_run(tmp_path), metrics=120))
    assert "120 of 250 meta-epochs" in page.text
    assert page.figures["meta_epoch"][0] == "99"  # the last that was tested


def test_untrained_meta_cell(tmp_path):
    page = page_of(tfml_run(tmp_path, meta_epochs=0))
    assert "No result." in page.text
    assert "nfinished" not in page.text


# --- Nothing from elsewhere -----------------------------------------------------------------------------------------


def test_no_resource_is_loaded(run):
    page, source = page_of(run), (run / "report.html").read_text()
    assert "http:" not in source
    assert "https:" not in source
    assert not re.search(r"url\(|@import|//", re.sub(r"base64,[^\"]*", "", source).replace("<!doctype html>", ""))
    assert {name for name, _ in page.elements}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form"}
    )
    sources = [values["src"] for name, values in page.elements if "src" in values]
    assert all(uri.startswith("data:image/") for uri in sources)
    (policy,) = (v["content"] for _, v in page.elements if v.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("run", RUNS)
def test_nothing_gets_in_as_code(tmp_path, run):
    page = page_of(RUNS[run](tmp_path / "run", name=EVIL, dataset=EVIL))
    assert "script" not in {name for name, _ in page.elements}
    assert not [key for _, values in page.elements for key in values if key.startswith("on")]
    assert page.text.count(EVIL) >= 4  # title, headline, settings
    harmless = page_of(RUNS[run](tmp_path / "other", name="a", dataset="b"))
    assert [name for name, _ in harmless.elements] == [name for name, _ in page.elements]


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    """Python's form of a path or a flag that is not UTF-8."""
    path = RUNS["tfml"](tmp_path / "caf\udce9", name="caf\udce9")
    assert "caf\\udce9" in write_report(path).read_text()


# --- The command and its refusals -----------------------------------------------------------------------------------


def test_command(tmp_path):
    path = tfml_run(tmp_path / "run", 2)
    for folder, status in ((path, 0), (tmp_path / "none", 2)):
        command = [sys.executable, "-m", "utils.report", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    assert (path / "report.html").is_file()
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "none" / "args.json") in done.stderr


@pytest.mark.parametrize(
    "content", ["", "7", '{"script": "another.py"}', '{"script": "tfml.py", "dataset": "omniglot"}']
)
def test_a_folder_without_a_run_is_refused(tmp_path, content):
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(InputError, match=r"args\.json"):
        write_report(tmp_path)
    assert set(contents(tmp_path)) == {"args.json"}


def test_full_disk_keeps_the_old_page(tiny_disk, tmp_path):
    shutil.copytree(RUNS["few-shot"](tmp_path / "run"), tiny_disk, dirs_exist_ok=True)
    (tiny_disk / "report.html").write_text("old")
    fill(tiny_disk)
    with pytest.raises(InputError, match=r"report\.html"):
        write_report(tiny_disk)
    assert (tiny_disk / "report.html").read_text() == "old"
    assert not (tiny_disk / "report.html.tmp").exists()
