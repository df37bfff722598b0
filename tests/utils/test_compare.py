"""The comparison of methods: its command lines for onnas.py, its numbers by hand, and how it stops and goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search_space import methods
from tests.conftest import ROOT, Scripts, contents, rows, wait_for
from tests.utils import hand_written_runs
from utils import compare
from utils.results.settings import METHODS
from utils.run.cli import run

# Stands in for onnas.py: logs how it was called, and writes what FAKE_RESULTS says for the folder, or fails as told.
FAKE = """
import json, os, sys, time
from pathlib import Path

flags = sys.argv[1:]
path = Path(flags[flags.index("--path") + 1])
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps(flags) + "\\n")
print("a word on stdout")
print("\\r 10%|#  | task", file=sys.stderr, end="")
told = json.loads(Path(os.environ["FAKE_RESULTS"]).read_text())[path.name]
if "fails" in told:
    print("\\nonnas.py: error: " + told["fails"], file=sys.stderr)
    sys.exit(told["status"])
if "dies" in told:
    os.kill(os.getpid(), told["dies"])
if "waits" in told:
    path.parent.mkdir(exist_ok=True)
    try:
        (path.parent / "waiting").touch()
        time.sleep(told["waits"])
    except KeyboardInterrupt:
        time.sleep(0.3)
        (path.parent / "ended in order").touch()
        sys.exit(130)
path.mkdir(parents=True, exist_ok=True)
for name, value in told["files"].items():
    lines = isinstance(value, list)
    text = "".join(json.dumps(row) + "\\n" for row in value) if lines else json.dumps(value)
    (path / (name + (".jsonl" if lines else ".json"))).write_text(text)
"""


STEPWISE = {"step_by_step": 1, "schedule": "fastest", "split_num": None}


def few_shot(*accuracies: float, search: str = "onnas", settings: tuple = (), **changes) -> dict:
    """What a run of few-shot tasks writes."""
    flags = {**STEPWISE, **dict(settings)}
    return {"files": hand_written_runs.few_shot(search, list(accuracies), flags, **{"shots": 1, **changes})}


def full_task(accuracy: float, seed: int, **changes) -> dict:
    """What a run of the full task writes."""
    return {"files": hand_written_runs.full_task("full", accuracy, seed, {"split_num": 4}, **changes)}


class Comparison:
    """Runs utils.compare over the script above, in this process."""

    def __init__(self, folder: Path, monkeypatch, capsys):
        self.path = folder / "compare"
        self.script, self._log, self._results = folder / "fake.py", folder / "log", folder / "results"
        self.script.write_text(FAKE)
        self._patch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("FAKE_LOG", str(self._log))
        monkeypatch.setenv("FAKE_RESULTS", str(self._results))

    def tell(self, told: dict) -> None:
        """Says what each run does."""
        self._results.write_text(json.dumps(told))
        self._log.unlink(missing_ok=True)

    def run(self, told: dict, *flags: object) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        self.tell(told)
        self._patch.setattr(sys, "argv", ["compare", "--path", str(self.path), *map(str, flags)])
        status = 0
        try:
            run(lambda: compare.main(self.script), "utils.compare", "it goes on.")
        except SystemExit as end:
            status = end.code
        return status, *self._capsys.readouterr()

    def calls(self) -> list[list[str]]:
        """The flags of each run."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def table(self) -> list[list[str]]:
        """The cells of the written table."""
        lines = (self.path / "compare.md").read_text().splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]

    def written(self) -> dict[str, dict]:
        return {row["method"]: row for row in json.loads((self.path / "compare.json").read_text())["methods"]}


@pytest.fixture
def comparison(tmp_path, monkeypatch, capsys, restored_process) -> Comparison:
    return Comparison(tmp_path, monkeypatch, capsys)


# --- Few-shot tasks -------------------------------------------------------------------------------------------------

TWO = {
    "full": few_shot(0.5, 0.75, 1.0, settings={"step_by_step": 0, "schedule": "ordinary", "split_num": 1}),
    "onnas": few_shot(0.75, 0.75, 0.75, settings={"split_num": 5}, peak_memory_mib=4.0),
}


def test_numbers_are_those_of_the_runs_and_differences_are_task_by_task(comparison):
    status, stdout, _ = comparison.run(TWO, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert status == 0
    assert str(comparison.path / "compare.md") in stdout
    assert "3 omniglot tasks, 5-way 1-shot, 15 queries a class, seed 21" in stdout
    rows = comparison.written()
    # 0.5, 0.75 and 1 have a standard deviation of 0.25; so have the differences 0.25, 0 and -0.25.
    interval = 1.96 * 0.25 / 3**0.5
    assert rows["full"]["accuracy"] == pytest.approx(0.75)
    assert rows["full"]["accuracy_ci95"] == pytest.approx(interval)
    assert "difference" not in rows["full"]
    assert rows["onnas"]["accuracy_ci95"] == pytest.approx(0)
    assert rows["onnas"]["difference"] == pytest.approx(0)
    assert rows["onnas"]["difference_ci95"] == pytest.approx(interval)
    assert rows["onnas"]["peak_memory_mib"] == 4.0
    heads, _, full, onnas = comparison.table()
    assert heads[:4] == ["method", "schedule", "accuracy (%)", "difference to full (%)"]
    assert full == ["full", "all at once, split 1", "75.00 +- 28.29", "", "12.3", "2.0", "", "0.125", "23,237"]
    assert onnas[:5] == ["onnas", "step by step (fastest), split 5", "75.00 +- 0.00", "+0.00 +- 28.29", "4.0"]


def test_first_method_is_what_the_others_are_compared_with(comparison):
    told = {"onnas": few_shot(0.5, 0.6), "full": few_shot(0.8, 0.7)}
    comparison.run(told, "--methods", "onnas", "full", "--meta_cell", "cell.pt")
    assert list(comparison.written()) == ["onnas", "full"]
    assert comparison.written()["full"]["difference"] == pytest.approx(0.2)


def test_a_single_task_has_no_interval(comparison):
    told = {"full": few_shot(0.5), "onnas": few_shot(0.75)}
    status, _, _ = comparison.run(told, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert status == 0
    assert comparison.table()[3][2:4] == ["75.00", "+25.00"]


def test_every_method_is_run_on_the_flags_that_are_passed_on(comparison):
    told = {method: few_shot(0.5, 0.6) for method in METHODS}
    cells = ("--meta_cell", "a b.pt", "--metanas_cells", "separate.pt", "--pcdarts_cell", "partial.pt")
    tasks = ("--dataset", "omniglot", "--n", 5, "--reduction_layers", 1, 3, "--seed", 7)
    more = ("--flags", "onnas", " --split_num=5", "--flags", "onnas", "--name 'a b'", "--flags", "full", "--k 3 ")
    status, _, stderr = comparison.run(told, *cells, *tasks, *more[:-3])
    assert status == 0, stderr
    passed_on = shlex.split("--dataset omniglot --n 5 --reduction_layers 1 3 --seed 7")
    own = {"metanas": "separate.pt", "pcdarts": "partial.pt"}
    extra = {"onnas": ["--split_num=5", "--name", "a b"]}
    assert comparison.calls() == [
        [
            *("--search", method, "--path", str(comparison.path / method), "--resume"),
            *("--meta_cell", own.get(method, "a b.pt"), *passed_on, *extra.get(method, [])),
        ]
        for method in ("full", "darts", "pcdarts", "metanas", "random", "onnas")
    ]
    status, _, stderr = comparison.run(told, *cells, *tasks, *more)
    assert (status, comparison.calls()) == (2, [])
    assert "--k must be the same for every method" in stderr


def test_what_onnas_says_goes_to_stderr(comparison):
    _, stdout, stderr = comparison.run(TWO, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert stderr.splitlines() == [
        *("1/2 full: loading ...", "a word on stdout", " 10%|#  | task"),
        *("2/2 onnas: loading ...", "a word on stdout", " 10%|#  | task"),
    ]
    assert "a word" not in stdout


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (few_shot(0.5, 0.6, 0.7, dataset="synthetic"), "dataset is synthetic and omniglot"),
        (few_shot(0.5, 0.6, 0.7, shots=5), "shots is 5 and 1"),
        (few_shot(0.5, 0.6, 0.7, settings={"seed": 22}), "--seed is 22 and 21"),
        (
            few_shot(0.5, 0.6, 0.7, settings={"seed": 21, "data_path (SHA-256)": "ab"}),
            "--data_path (by its content) is ab and None",
        ),
        (few_shot(0.5, 0.6), "--eval_epochs"),
    ],
)
def test_other_tasks_are_not_compared(comparison, other, named):
    """As of a run that was there already."""
    status, stdout, stderr = comparison.run(
        {**TWO, "random": other}, "--methods", "full", "onnas", "random", "--meta_cell", "cell.pt"
    )
    assert (status, stdout) == (2, "")
    assert stderr.splitlines()[-1].startswith("utils.compare: error: random and full were not run on the same tasks")
    assert named in stderr


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"results": {"dataset": "omniglot"}}, "results.json is damaged"),
        ({"tasks": [{"x": 1}]}, "tasks.jsonl is damaged"),
        ({"args": {**TWO["onnas"]["files"]["args"], "eval_epochs": 9}}, "results.json is not of the run in its folder"),
    ],
)
def test_what_a_run_did_not_write_is_named(comparison, files, named):
    told = {**TWO, "onnas": {"files": {**TWO["onnas"]["files"], **files}}}
    status, _, stderr = comparison.run(told, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert status == 2
    assert named in stderr.splitlines()[-1]
    assert str(comparison.path / "onnas") in stderr.splitlines()[-1]


# --- The full task --------------------------------------------------------------------------------------------------


def test_seeds_of_the_full_task(comparison):
    told = {
        "full_seed1": full_task(0.90, 1),
        "full_seed2": full_task(0.92, 2),
        "full_seed3": full_task(0.94, 3),
        "pcdarts_seed1": full_task(0.91, 1),
        "pcdarts_seed2": full_task(0.92, 2),
        "pcdarts_seed3": full_task(0.93, 3, derived_macs=5_000_000),
    }
    methods = ("--methods", "full", "pcdarts")
    status, stdout, stderr = comparison.run(told, "--task", "full", *methods, "--seeds", 1, 2, 3, "--epochs", 2)
    assert status == 0, stderr
    assert [call[:2] + call[4:] for call in comparison.calls()] == [
        ["--search", method, "--resume", "--task", "full", "--seed", seed, "--epochs", "2"]
        for method in ("full", "pcdarts")
        for seed in ("1", "2", "3")
    ]
    rows = comparison.written()
    assert rows["full"]["derived_accuracy"] == pytest.approx(0.92)
    assert rows["full"]["derived_accuracy_sd"] == pytest.approx(0.02)
    assert rows["pcdarts"]["difference"] == pytest.approx(0, abs=1e-12)
    assert rows["pcdarts"]["difference_sd"] == pytest.approx(0.01)  # of 0.01, 0 and -0.01
    assert rows["pcdarts"]["peak_memory_mib"] == 103.0
    assert rows["pcdarts"]["derived_parameters"] == 2000
    assert "peak_memory_test_mib" not in rows["full"]
    assert stdout.startswith("cifar10, seeds 1, 2, 3; +- is the standard deviation over seeds.")
    full = dict(zip(comparison.table()[0], comparison.table()[2], strict=True))
    assert full["derived accuracy (%)"] == "92.00 +- 2.00"
    assert full["derived MACs"] == "5,000,000"
    assert full["testing (MiB)"] == ""


def test_one_seed_of_the_full_task(comparison):
    told = {"full": full_task(0.9, 21), "random": full_task(0.85, 21)}
    flags = ("--task", "full", "--methods", "full", "random", "--meta_cell", "cell.pt")
    assert comparison.run(told, *flags)[0] == 0
    assert comparison.calls()[1][5:] == ["--task", "full", "--meta_cell", "cell.pt"]
    assert comparison.written()["random"]["difference"] == pytest.approx(-0.05)
    assert comparison.table()[3][2:4] == ["85.00", "-5.00"]


# --- What is refused, before anything is run ------------------------------------------------------------------------

REFUSED = {
    "--methods full darts": "--methods full needs --meta_cell FILE",
    "--methods full metanas --meta_cell x": "--metanas_cells FILE: the meta_cell.pt that tfml.py --cells separate",
    "--methods pcdarts --meta_cell x": "--pcdarts_cell FILE: the meta_cell.pt that tfml.py --partial_channels K",
    "--meta_cell x": "--methods pcdarts needs --pcdarts_cell",
    "--meta_cell=": "--methods full needs --meta_cell FILE",
    "--methods full full --meta_cell x": "each method once",
    "--methods best": "--methods",
    "--seeds 1 2": "--seeds: goes with --task full",
    "--task full --seeds 1 1": "each seed once",
    "--task full --seeds 1 2 --seed 3": "no --seed beside them",
    "--task full --seeds -1": "--seeds",
    "--flags best '--k 3'": "argument --flags: expected one of full",
    """--flags full "--name 'x" """: "argument --flags: expected flags as in a shell",
    "--flags full": "--flags",
    "--search full": "--search does not go to onnas.py",
    "--search=full": "--search does not go to onnas.py",
    "--task full --genotype x": "--genotype does not go to onnas.py",
    "--dry_run": "--dry_run does not go to onnas.py",
    "--flags full '--path x'": "--path does not go to onnas.py",
    "--flags full ' --seed=3'": "--seed must be the same for every method",
    "--path ''": "--path",
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistaken_flag_is_refused_by_name(comparison, mistake):
    status, stdout, stderr = comparison.run({}, *shlex.split(mistake))
    assert (status, stdout, comparison.calls()) == (2, "", [])
    assert stderr.startswith("utils.compare: error: ")
    assert stderr.count("\n") == 1
    assert REFUSED[mistake] in stderr
    assert not comparison.path.exists()


# --- Stopping and going on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "said"), [(2, "--k was 5, not 3."), (1, "ZeroDivisionError")])
def test_a_run_that_fails_ends_the_comparison_and_the_others_are_kept(comparison, status, said):
    told = {**TWO, "random": {"fails": said, "status": status}}
    flags = ("--methods", "full", "random", "onnas", "--meta_cell", "cell.pt")
    ended, stdout, stderr = comparison.run(told, *flags)
    assert (ended, stdout) == (status, "")
    sentence = f"utils.compare: error: random ended with status {status}: onnas.py: error: {said}"
    assert stderr.splitlines()[-1] == sentence
    assert stderr.count(said) == 1
    assert set(contents(comparison.path)) == {"full/args.json", "full/results.json", "full/tasks.jsonl"}
    told["random"] = few_shot(0.1, 0.2, 0.3)
    assert comparison.run(told, *flags)[0] == 0
    assert list(comparison.written()) == ["full", "random", "onnas"]


def test_a_run_that_is_killed(comparison):
    told = {**TWO, "onnas": {"dies": signal.SIGKILL}}
    status, _, stderr = comparison.run(told, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert status == 128 + signal.SIGKILL
    assert "utils.compare: error: onnas ended with status -9" in stderr.splitlines()[-1]


SENTENCE = "utils.compare: interrupted; it goes on."


def test_ctrl_c_that_only_the_run_has_seen(comparison):
    told = {**TWO, "onnas": {"fails": "interrupted", "status": 130}}
    status, _, stderr = comparison.run(told, "--methods", "full", "onnas", "--meta_cell", "cell.pt")
    assert status == 130
    assert stderr.splitlines()[-1] == SENTENCE
    assert (comparison.path / "full/results.json").exists()


def test_ctrl_c_lets_the_run_end_in_order(comparison, tmp_path):
    comparison.tell({"full": {"waits": 30}})
    code = (
        "from pathlib import Path; from utils.run.cli import run; from utils.compare import main; "
        f"run(lambda: main(Path({str(comparison.script)!r})), 'utils.compare', 'it goes on.')"
    )
    flags = ["--path", str(comparison.path), "--methods", "full", "--meta_cell", "cell.pt"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for((comparison.path / "waiting").exists)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == SENTENCE
    assert "Traceback" not in stderr
    assert (comparison.path / "ended in order").exists()


# --- The real onnas.py ----------------------------------------------------------------------------------------------


def test_two_searches_of_the_same_tasks(trained, tmp_path, monkeypatch, capsys):
    flags = map(str, Scripts.onnas_flags(trained / "meta_cell.pt", tmp_path / "compare"))
    monkeypatch.setattr(sys, "argv", ["compare", "--methods", "full", "onnas", *flags])
    compare.main()
    assert "2 synthetic tasks, 3-way 2-shot, 4 queries a class, seed 21" in capsys.readouterr().out
    written = json.loads((tmp_path / "compare/compare.json").read_text())["methods"]
    for row in written:
        results = json.loads((tmp_path / "compare" / row["method"] / "results.json").read_text())
        assert results["search"] == row["method"]
        for key in ("accuracy", "accuracy_ci95", "peak_memory_mib", "peak_memory_test_mib", "supernet_parameters"):
            assert row[key] == pytest.approx(results[key])
        assert row["schedule"] == "step by step (fastest), split 1"
    full, onnas = (rows(tmp_path / "compare" / method / "tasks.jsonl") for method in ("full", "onnas"))
    differences = [one["accuracy"] - other["accuracy"] for one, other in zip(onnas, full, strict=True)]
    assert written[1]["difference"] == pytest.approx(sum(differences) / len(differences))


def test_every_method_can_be_compared():
    """utils must not know search_space, so the names stand there a second time."""
    assert set(METHODS) == set(methods.METHODS)
