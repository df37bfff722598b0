"""tfml.py from its command line to its files, on nets so small that a run takes a second."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest
import torch

import tfml
from search_space.evaluation import Start
from search_space.flags.shared import TaskFlags
from search_space.flags.tfml import MetaTestFlags, TfmlFlags
from search_space.settings import SearchSettings
from tests.conftest import ROOT, Scripts, contents, rows, wait_for
from utils.results.log_rows import TaskRow
from utils.run.ranks import Ranks

TIMES = ("seconds", "tasks_per_second")
TRAINING_KEYS = {"meta_epoch", "train_loss", "train_accuracy", *TIMES}
META_TEST_KEYS = {"test_loss", "test_accuracy", "test_accuracy_ci95", "peak_memory_mib", "peak_memory_breakdown_mib"}


def tensors(path, name="meta_cell.pt") -> dict[str, torch.Tensor]:
    """Every tensor of a meta-cell, by the names of its part and its own."""
    values = torch.load(path / name, weights_only=True)
    values = values.get("state", values)  # of a checkpoint
    parts = {f"cell {number}": cell for number, cell in enumerate(values["cells"])}
    parts |= {part: values[part] for part in ("stem", "head", "architecture")}
    return {f"{part}/{name}": tensor for part, group in parts.items() for name, tensor in group.items()}


def assert_same_run(path, expected) -> None:
    """The same meta-cell bit for bit, and the same metrics but for times."""
    for name in ("meta_cell.pt", "checkpoint.pt"):
        actual, wanted = tensors(path, name), tensors(expected, name)
        assert actual.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(actual[name], wanted[name])] == []
    metrics = [rows(folder / "metrics.jsonl", without=TIMES) for folder in (path, expected)]
    assert metrics[0] == metrics[1]


# --- Files ----------------------------------------------------------------------------------------------------------


def test_files_of_a_run(trained):
    files = {name for name in contents(trained) if not name.startswith("tb/")}
    assert files == {"args.json", "checkpoint.pt", "meta_cell.pt", "metrics.jsonl", "results.json", "report.html"}
    args = json.loads((trained / "args.json").read_text())
    assert (args["init_channels"], args["meta_epochs"], args["path"]) == (4, 4, str(trained))
    assert args["script"] == "tfml.py"
    assert "resume" not in args
    assert torch.load(trained / "checkpoint.pt", weights_only=True)["epochs"] == 4


def test_results_say_what_the_meta_cell_is(trained):
    results = json.loads((trained / "results.json").read_text())
    assert (results["task"], results["dataset"], results["meta_epochs"]) == ("tfml", "synthetic", 4)
    assert results["data"] == {"split": "train", "classes": 1_000_000, "images": 100_000_000}
    assert results["network"]["init_channels"] == 4
    assert results["meta_cell (SHA-256)"] == hashlib.sha256((trained / "meta_cell.pt").read_bytes()).hexdigest()
    saved = torch.load(trained / "meta_cell.pt", weights_only=True)
    parts = (*saved["cells"], saved["stem"], saved["head"], saved["architecture"])
    assert results["meta_cell_storage_mib"] * 2**20 == 4 * sum(
        tensor.numel() for part in parts for tensor in part.values()
    )
    assert results["settings"] == json.loads((trained / "args.json").read_text())


def test_metrics_hold_the_keys_that_apply(trained):
    metrics = rows(trained / "metrics.jsonl")
    assert [row["meta_epoch"] for row in metrics] == [0, 1, 2, 3]
    for row in metrics:
        tested = row["meta_epoch"] in (1, 3)  # --eval_freq 2
        assert set(row) == (TRAINING_KEYS | META_TEST_KEYS if tested else TRAINING_KEYS)
        assert all(0 <= value <= 1 for key, value in row.items() if key.endswith("_accuracy"))
        assert row["tasks_per_second"] == pytest.approx(2 / row["seconds"])


def test_last_meta_epoch_is_tested_whatever_the_frequency(scripts, tmp_path):
    scripts.tfml(tmp_path / "run", "--meta_epochs", 2, "--eval_freq", 100, "--eval_epochs", 1).succeeded()
    first, last = rows(tmp_path / "run/metrics.jsonl")
    assert set(first) == TRAINING_KEYS
    assert set(last) == TRAINING_KEYS | META_TEST_KEYS - {"test_accuracy_ci95"}  # one task has no interval


def test_no_meta_epochs_writes_the_untrained_meta_cell(scripts, trained, tmp_path):
    for name in ("run", "again"):
        scripts.tfml(tmp_path / name, "--meta_epochs", 0).succeeded()
    assert_same_run(tmp_path / "run", tmp_path / "again")
    assert rows(tmp_path / "run/metrics.jsonl") == []
    untrained, after = tensors(tmp_path / "run"), tensors(trained)
    assert {name: tensor.shape for name, tensor in untrained.items()} == {n: t.shape for n, t in after.items()}


def test_starts_from_a_meta_cell(scripts, trained, tmp_path):
    """With another number of ways all but the head is what it was, and the head is zero."""
    given, flags = ("--meta_cell", trained / "meta_cell.pt"), ("--meta_epochs", 0)
    scripts.tfml(tmp_path / "same", *given, *flags).succeeded()
    scripts.tfml(tmp_path / "more", *given, *flags, "--n", 4).succeeded()
    start, same, more = tensors(trained), tensors(tmp_path / "same"), tensors(tmp_path / "more")
    for name, tensor in start.items():
        assert torch.equal(same[name], tensor), name
        if name.startswith("head/"):
            assert more[name].shape[0] == 4 != tensor.shape[0]
            assert not more[name].any()
        else:
            assert torch.equal(more[name], tensor), name
    digest = hashlib.sha256((trained / "meta_cell.pt").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "more/args.json").read_text())["meta_cell (SHA-256)"] == digest
    # A run goes on wherever the file lies by then, but from no other one.
    moved = shutil.copy(trained / "meta_cell.pt", tmp_path / "moved.pt")
    scripts.tfml(tmp_path / "same", "--meta_cell", moved, "--meta_epochs", 1, "--resume").succeeded()
    assert any(not torch.equal(tensors(tmp_path / "same")[name], tensor) for name, tensor in start.items())
    other = ("--meta_cell", tmp_path / "same/meta_cell.pt", "--resume")
    assert "SHA-256" in scripts.tfml(tmp_path / "more", *other, *flags, "--n", 4).complaint()


def test_a_start_that_does_not_fit_is_refused(scripts, trained, tmp_path):
    given = ("--meta_cell", trained / "meta_cell.pt", "--meta_epochs", 0)
    assert "init_channels 4, not 6" in scripts.tfml(tmp_path / "run", *given, "--init_channels", 6).complaint()
    scripts.tfml(tmp_path / "separate", "--cells", "separate", "--meta_epochs", 0).succeeded()
    separate = ("--meta_cell", tmp_path / "separate/meta_cell.pt")
    assert "--cells separate" in scripts.tfml(tmp_path / "run", *separate).complaint()
    assert not (tmp_path / "run").exists()
    scripts.tfml(tmp_path / "own", *separate, "--cells", "separate", "--meta_epochs", 0).succeeded()


def test_real_process_says_little_and_gives_the_same(trained, tmp_path):
    command = [sys.executable, "tfml.py", *map(str, Scripts.tfml_flags(tmp_path / "run"))]
    # The last bit depends on the number of threads; the other runs have one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert_same_run(tmp_path / "run", trained)
    assert len(finished.stdout.splitlines()) == 3  # two meta-tests, and where the meta-cell is
    assert "arning" not in finished.stdout + finished.stderr


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of what torch.compile imports
def test_compiled_tasks_give_the_same(compiled_passes, tmp_path, monkeypatch):
    """Two tasks side by side; the last meta-epoch is measured, and so not compiled."""
    flags = ("--layers", 1, "--reduction_layers", "--meta_epochs", 2, "--eval_freq", 9, "--eval_epochs", 1)
    for compiled in (0, 1):
        command = Scripts.tfml_flags(tmp_path / f"{compiled}", *flags, "--compile", compiled)
        monkeypatch.setattr(sys, "argv", ["tfml.py", *map(str, command)])
        tfml.main()
        assert compiled_passes == [(2, 6, 1, 28, 28), (2, 3, 1, 28, 28)] * compiled
    plain, compiled = tensors(tmp_path / "0"), tensors(tmp_path / "1")
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-5, atol=1e-5)


# --- The algorithm --------------------------------------------------------------------------------------------------


def test_warm_up_leaves_alpha_and_beta_alone_and_lengthened_it_is_the_same_run(scripts, trained, tmp_path):
    path, states = tmp_path / "run", []
    for meta_epochs in (0, 1, 2, 4):  # --warm_up_epochs 2
        run = scripts.tfml(path, "--meta_epochs", meta_epochs, "--resume").succeeded()
        assert ("adapt weights only: --warm_up_epochs is 2." in run.stdout) == (meta_epochs in (1, 2))
        states.append(tensors(path))
    names = [name for name in states[0] if name.startswith("architecture/")]
    assert len(names) >= 4  # alpha and beta, of normal and reduction cells
    for name in names:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[1][name], states[2][name])
        # One node has one pair: the weight of a lone pair is 1 whatever its beta.
        if states[0][name].numel() > 1:
            assert not torch.equal(states[2][name], states[3][name]), name
    for before, after in pairwise(states):
        cell = [name for name in before if name.startswith("cell 0/")]
        assert any(not torch.equal(before[name], after[name]) for name in cell)
    assert all(torch.equal(states[3][name], tensor) for name, tensor in tensors(trained).items())


def test_separate_cells_are_kept_and_searched(scripts, tmp_path):
    sizes = {}
    network = ("--layers", 4, "--reduction_layers", 1, 3, "--init_channels", 16, "--eval_epochs", 1)
    for cells, number, meta_epochs in (("meta", 1, 0), ("separate", 4, 1)):
        path = tmp_path / cells
        flags = ("--cells", cells, "--meta_epochs", meta_epochs, "--warm_up_epochs", 0)
        scripts.tfml(path, *network, *flags).succeeded()
        assert len(torch.load(path / "meta_cell.pt", weights_only=True)["cells"]) == number
        sizes[cells] = sum(tensor.numel() for tensor in tensors(path).values())
    assert 3 < sizes["separate"] / sizes["meta"] < 4
    scripts.onnas(path / "meta_cell.pt", tmp_path / "search", "--eval_epochs", 1).succeeded()
    results = json.loads((tmp_path / "search/results.json").read_text())
    assert results["meta_cell_storage_mib"] == results["supernet_storage_mib"]


def test_seed_and_weightings_matter(scripts, tmp_path):
    states = []
    for flags in ((), ("--task_weighting", "mean"), ("--cell_weighting", "softmax"), ("--seed", 22)):
        path = tmp_path / str(len(states))
        scripts.tfml(path, "--meta_epochs", 1, "--eval_epochs", 1, *flags).succeeded()
        states.append(tensors(path))
    for one, other in combinations(states, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


# --- Bit for bit ----------------------------------------------------------------------------------------------------


def test_meta_lr_decays_to_zero(scripts, tmp_path):
    """Both folds are linear in the step: with half of it the second meta-epoch goes half as far."""
    for epochs, flags in ((1, ()), (2, ()), (2, ("--meta_lr_decay", "linear"))):
        path = tmp_path / "".join((str(epochs), *flags))
        scripts.tfml(path, "--meta_epochs", epochs, "--eval_freq", 100, "--eval_epochs", 1, *flags).succeeded()
    once, twice = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    decayed = tensors(tmp_path / "2--meta_lr_decaylinear")
    assert any(not torch.equal(twice[name], once[name]) for name in once)
    for name, tensor in decayed.items():
        torch.testing.assert_close(tensor, (once[name] + twice[name]) / 2)
    flags = ("--meta_epochs", 3, "--meta_lr_decay", "linear", "--resume")
    assert "--meta_epochs" in scripts.tfml(tmp_path / "2--meta_lr_decaylinear", *flags).complaint()


def test_a_worker_changes_nothing(scripts, tmp_path, trained):
    scripts.tfml(tmp_path / "run", "--workers", 1).succeeded()
    assert_same_run(tmp_path / "run", trained)


def test_killed_at_changes_of_its_files_and_resumed(scripts, tmp_path, trained):
    path, deaths = tmp_path / "run", 0
    # Each life gets two changes further than the one before it, so that it dies at other places.
    while (finished := scripts.tfml(path, "--resume", die_at=2 * deaths + 1)).status:
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
        for name in ("checkpoint.pt", "meta_cell.pt"):
            if (path / name).exists():
                tensors(path, name)
    assert deaths > 4
    assert_same_run(path, trained)
    assert not list(path.glob("*.tmp"))


def test_interrupted_by_the_keyboard(scripts, tmp_path, trained):
    path = tmp_path / "run"
    pid = scripts.start("tfml.py", *scripts.tfml_flags(path, "--meta_epochs", 100))
    wait_for(lambda: (path / "metrics.jsonl").exists() and rows(path / "metrics.jsonl"))
    scripts.send_signal(pid, signal.SIGINT)
    finished = scripts.wait(pid)
    assert finished.status == 130
    assert "Traceback" not in finished.stderr
    assert "--resume" in finished.stderr.splitlines()[-1]
    tensors(path, "checkpoint.pt")
    scripts.tfml(path, "--resume").succeeded()
    assert_same_run(path, trained)


def test_tasks_at_once_changes_nothing_but_rounding(scripts, tmp_path):
    """Three tasks in groups of two and one, and one by one; after one meta-epoch rounding is not amplified yet."""
    for number in (1, 2):
        flags = ("--meta_batch_size", 3, "--meta_epochs", 1, "--warm_up_epochs", 0, "--tasks_at_once", number)
        scripts.tfml(tmp_path / str(number), *flags).succeeded()
    one, two = (tensors(tmp_path / str(number)) for number in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-3)


def test_test_task_that_diverges_does_not_end_the_training(monkeypatch):
    """Its loss is None then: hours of training are not to be lost by it, and NaN is not JSON."""
    flags = replace(TfmlFlags(*(None,) * 7), test=MetaTestFlags(eval_epochs=2), tasks=TaskFlags())
    start = Start(None, None, SearchSettings(1, 1, 2, 0.1, 0.1), 0)
    figures = {"accuracy": 0.5, "accuracy_before": 0.2, "seconds": 1.0, "seconds_per_step": 1.0}
    found = [TaskRow(**figures, task=n, loss=loss, genotype={}, predictions=[]) for n, loss in enumerate((1.0, None))]
    monkeypatch.setattr(tfml, "search_task", lambda *_: found.pop(0))
    monkeypatch.setattr(Start, "unfold", lambda *_: None)
    numbers = iter([SimpleNamespace(number=0), SimpleNamespace(number=1)])
    monkeypatch.setattr(tfml, "episodes", lambda *_: numbers)
    metrics, first, _ = tfml.meta_test(Ranks(), start, None, flags)
    assert (metrics["test_accuracy"], metrics["test_accuracy_ci95"]) == (0.5, 0)
    assert metrics["test_loss"] is None
    assert first.task == 0
