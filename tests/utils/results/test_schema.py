"""Files of results: what is written is read back, and what cannot be is refused in one sentence, with its key."""

import contextlib
import json
import math
import random
import shutil
import string

import pytest

from tests.utils.hand_written_runs import few_shot, few_shot_run, full_run, tfml_run, write
from utils.errors import InputError
from utils.results.checking import as_values
from utils.results.log_rows import ExampleRow, MetaEpochRow, TaskRow
from utils.results.row_log import RowLog, read_rows
from utils.results.run_files import read_run
from utils.results.schema import read_results, write_results
from utils.run.run_directory import lock_folder

DEEP = "[" * 100_000


def test_results_are_written_as_they_were_read(tmp_path):
    for folder in (
        few_shot_run(tmp_path / "few", "onnas", [0.5, 0.6]),
        full_run(tmp_path / "full", "darts", 0.5, 1),
        tfml_run(tmp_path / "tfml", 3),
    ):
        values = json.loads((folder / "results.json").read_text())
        results = read_results(folder / "results.json")
        assert as_values(results) == values
        write_results(folder / "again.json", results)
        assert json.loads((folder / "again.json").read_text()) == values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": "high"}, 'accuracy is "high", not a number'),
        ({"accuracy": math.nan}, "accuracy is NaN, not a number"),
        ({"accuracy": 1.5}, "accuracy is 1.5, not from 0 to 1"),
        ({"accuracy": 10**400}, "accuracy is 1000"),
        ({"tasks": True}, "tasks is true, not a whole number"),
        ({"tasks": 2.5}, "tasks is 2.5, not a whole number"),
        ({"ways": -1}, "ways is -1, not 0 or more"),
        ({"search": "guess"}, 'search is "guess", not one of full'),
        ({"task": "other"}, "not of a run"),
        ({"task": ["fewshot"]}, "not of a run"),
        ({"network": 4}, "network is 4, not an object"),
        ({"data": {"split": "test", "classes": 3}}, "data has no images"),
        ({"settings": {"script": "onnas.py"}}, "settings has no dataset"),
        ({"genotype": {"normal": [["a", 0]], "reduce": []}}, "genotype.normal is a list, not a cell"),
        ({"genotype": {"normal": [["a", 0], ["b", 2]], "reduce": []}}, "genotype.normal is a list, not a cell"),
        ({"genotype": {"normal": [["a", 0], ["b", "1"]], "reduce": []}}, r'genotype.normal[1][1] is "1", not a whole'),
        ({"peak_memory_breakdown_mib": {"other": "x"}}, 'peak_memory_breakdown_mib.other is "x", not a number'),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, said):
    values = few_shot("onnas", [0.5, 0.6])["results"]
    path = write(tmp_path, results={**values, **change}) / "results.json"
    with pytest.raises(InputError) as refusal:
        read_results(path)
    assert said in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["results.json", "args.json", "tasks.jsonl", "genotype.json", "examples.jsonl"])
@pytest.mark.parametrize(
    "content", ["\n", "{\n", "[1]\n", "{}\n", DEEP + "\n", "\ud800\n", f'{{"task": {DEEP}\n', '"x"\n']
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    few_shot_run(tmp_path, "onnas", [0.5, 0.6])
    (tmp_path / name).write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=name):
        read_run(tmp_path)


def test_files_with_random_damage_are_read_or_refused(tmp_path):
    draw = random.Random(0)
    for folder in (few_shot_run(tmp_path / "few", "onnas", [0.5, 0.6]), full_run(tmp_path / "full", "full", 0.5, 1)):
        for path in sorted(folder.glob("*.json*")):
            content = path.read_text()
            for _ in range(30):
                place, size = draw.randrange(len(content)), draw.choice((0, 1, 5))
                junk = "".join(draw.choices(string.printable, k=draw.choice((0, 1, 3))))
                path.write_text(content[:place] + junk + content[place + size :])
                with contextlib.suppress(InputError):
                    read_run(folder)
            path.write_text(content)


def test_a_device_or_a_folder_is_no_file(tmp_path):
    few_shot_run(tmp_path, "onnas", [0.5, 0.6])
    (tmp_path / "genotype.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"genotype\.json"):
        read_run(tmp_path)


# --- Logs -------------------------------------------------------------------------------------------------------------


def row(number: int, **changes) -> MetaEpochRow:
    values = {"train_loss": 0.5, "train_accuracy": 0.25, "seconds": 1.0, "tasks_per_second": 2.0}
    return MetaEpochRow(meta_epoch=number, **{**values, **changes})


def test_rows_are_there_at_once_without_what_does_not_apply(tmp_path):
    log = RowLog(tmp_path / "log", MetaEpochRow)
    for number in range(3):
        log.append(row(number))
        assert read_rows(tmp_path / "log", MetaEpochRow) == log.rows == [row(n) for n in range(number + 1)]
    assert "test_accuracy" not in (tmp_path / "log").read_text()


def test_a_later_life_goes_on_where_it_is_told_to(tmp_path):
    first = RowLog(tmp_path / "log", MetaEpochRow)
    for number in range(4):
        first.append(row(number))
    second = RowLog(tmp_path / "log", MetaEpochRow, before=2)
    second.append(row(2, seconds=9.0))
    assert read_rows(tmp_path / "log", MetaEpochRow) == [row(0), row(1), row(2, seconds=9.0)]


def test_a_line_that_is_cut_short_at_the_end_does_not_count(tmp_path):
    log = RowLog(tmp_path / "log", MetaEpochRow)
    log.append(row(0))
    with log.path.open("a") as file:
        file.write('{"meta_epoch": 1, "trai')
    assert RowLog(tmp_path / "log", MetaEpochRow).rows == [row(0)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "line 2: it is cut short or not JSON"),
        ('{"meta_epoch": 1}', "line 2: it has no train_loss"),
        (json.dumps({**as_values(row(1)), "secands": 1}), 'line 2: it has a key "secands" that is not known'),
        (json.dumps(as_values(row(2))), "line 2: meta_epoch is 2, not 1"),
        (json.dumps({**as_values(row(1)), "seconds": "x"}), 'line 2: seconds is "x", not a number'),
    ],
)
def test_a_damaged_line_is_refused_and_the_log_kept(tmp_path, line, said):
    """A row of another number tells that two processes wrote the log."""
    content = "\n".join([json.dumps(as_values(row(0))), line, json.dumps(as_values(row(2)))]) + "\n"
    (tmp_path / "log").write_text(content)
    with pytest.raises(InputError, match=said):
        RowLog(tmp_path / "log", MetaEpochRow)
    assert (tmp_path / "log").read_text() == content


@pytest.mark.parametrize(
    "uri", ["http://a.example/a.png", "javascript:alert(1)", "data:text/html;base64,AAAA", "a.png"]
)
def test_an_image_is_inside_the_page(tmp_path, uri):
    shown = [{"support": [uri], "queries": []}]
    write(tmp_path, examples=[{"classes": ["a"], "shown": shown}] * 2)
    with pytest.raises(InputError, match=r"shown\[0\]\.support\[0\]"):
        read_rows(tmp_path / "examples.jsonl", ExampleRow)


def test_rows_of_tasks(tmp_path):
    folder = few_shot_run(tmp_path, "onnas", [0.5, 0.75])
    assert [(task.task, task.accuracy) for task in read_rows(folder / "tasks.jsonl", TaskRow)] == [(0, 0.5), (1, 0.75)]


def test_a_log_notices_that_its_run_was_deleted(tmp_path):
    path = tmp_path / "run"
    lock_folder(path)
    log = RowLog(path / "log", MetaEpochRow)
    shutil.rmtree(path)
    with pytest.raises(InputError, match="deleted"):
        log.append(row(0))
