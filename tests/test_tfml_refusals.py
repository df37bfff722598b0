"""tfml.py: what it refuses, and that nothing is lost by it."""

import shutil
import subprocess

import pytest
import torch

from tests.conftest import contents, fill, rows, wait_for, write_omniglot
from tests.test_tfml import assert_same_run

MISTAKES = {  # that the parser cannot know, one of each kind; the others are in tests/search_space/flags
    "--n_train 100": "--n_train",  # and 4 queries: a class has 100 images
    "--reduction_layers 9": "--reduction_layers",
    "--dataset omniglot --data_path nowhere": "--data_path",
    "--w_lr 1e308": "--w_lr",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name(scripts, tmp_path, mistake):
    complaint = scripts.tfml(tmp_path / "run", *mistake.split()).complaint()
    assert complaint.startswith("tfml.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_said(scripts, tmp_path):
    assert "--device cuda" in scripts.tfml(tmp_path / "run", "--device", "cuda").complaint()
    assert not (tmp_path / "run").exists()


def test_read_only_place(scripts, tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert str(tiny_disk) in scripts.tfml(tiny_disk).complaint()
    assert str(tiny_disk) in scripts.tfml(tiny_disk / "run").complaint()


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run's folder."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("left", ["checkpoint.pt", "meta_cell.pt"])
def test_earlier_run_is_not_overwritten(scripts, copied, left):
    """Not even where only one of its two files of tensors is left."""
    for name in {"checkpoint.pt", "meta_cell.pt"} - {left}:
        (copied / name).unlink()
    before = contents(copied)
    complaint = scripts.tfml(copied).complaint()
    assert str(copied) in complaint
    assert "--resume" in complaint
    assert contents(copied) == before


def test_training_is_resumed_on_the_same_data_only(scripts, tmp_path):
    """Those of the training and of the meta-tests, wherever they lie."""

    def train(data, *flags):
        return scripts.tfml(path, "--dataset", "omniglot", "--data_path", data, *flags)

    path, data = tmp_path / "run", write_omniglot(tmp_path / "data")
    train(data, "--meta_epochs", 1, "--eval_epochs", 1).succeeded()
    before = contents(path)
    for changes in ({"train": 5}, {"val": 5}):
        other = write_omniglot(tmp_path / str(changes), **changes)
        complaint = train(other, "--resume").complaint(after_a_bar=True)
        assert "--resume needs the run's own settings: --data_path (SHA-256)" in complaint
    assert contents(path) == before


def test_training_and_search_do_not_overwrite_each_other(scripts, trained, copied, tmp_path):
    search = tmp_path / "search"
    scripts.onnas(trained / "meta_cell.pt", search, "--eval_epochs", 1).succeeded()
    before = contents(search), contents(copied)
    assert "onnas.py" in scripts.tfml(search, "--resume").complaint()
    assert "tfml.py" in scripts.onnas(trained / "meta_cell.pt", copied, "--resume").complaint()
    assert (contents(search), contents(copied)) == before


@pytest.mark.parametrize("flags", ["--init_channels 6", "--warm_up_epochs 1"])
def test_other_settings_are_not_resumed(scripts, copied, flags):
    before = contents(copied)
    assert flags.split()[0] in scripts.tfml(copied, "--resume", *flags.split()).complaint()
    assert contents(copied) == before


@pytest.mark.parametrize("spoil", ["no epochs", "epochs in words", "negative epochs", "one cell fewer"])
def test_nonsense_checkpoint_is_refused_by_name(scripts, copied, spoil):
    values = torch.load(copied / "checkpoint.pt", weights_only=True)
    match spoil:
        case "no epochs":
            del values["epochs"]
        case "epochs in words":
            values["epochs"] = "four"
        case "negative epochs":
            values["epochs"] = -4
        case "one cell fewer":
            values["state"]["cells"] = []
    torch.save(values, copied / "checkpoint.pt")
    before = contents(copied)
    assert "checkpoint.pt" in scripts.tfml(copied, "--resume").complaint()
    assert contents(copied) == before


@pytest.mark.parametrize("flags", ["--init_channels 6", "--n 4", "--cells separate"])
def test_checkpoint_of_another_run_is_refused_by_name(scripts, tmp_path, copied, flags):
    """As it says of its own settings it is sound, but it is not this run's."""
    scripts.tfml(tmp_path / "other", "--meta_epochs", 0, *flags.split()).succeeded()
    shutil.copy(tmp_path / "other/checkpoint.pt", copied)
    before = contents(copied)
    assert "checkpoint.pt" in scripts.tfml(copied, "--resume").complaint()
    assert contents(copied) == before


@pytest.mark.parametrize("garbage", ['{"meta_epoch": "x"}\n', '{"meta_epo'])
def test_garbage_in_the_metrics_of_a_run(scripts, copied, trained, garbage):
    """They are no part of the state: the run goes on where a line is cut short, else the file is named."""
    with (copied / "metrics.jsonl").open("a") as file:
        file.write(garbage)
    finished = scripts.tfml(copied, "--resume")
    if garbage.endswith("\n"):
        assert "metrics.jsonl" in finished.complaint()
    else:
        assert finished.succeeded()
        assert_same_run(copied, trained)


def test_full_disk(scripts, tiny_disk):
    path = tiny_disk / "run"
    flags = ("--eval_freq", 1000, "--eval_epochs", 1)
    pid = scripts.start("tfml.py", *scripts.tfml_flags(path, "--meta_epochs", 1000, *flags))
    wait_for(lambda: (path / "metrics.jsonl").exists() and rows(path / "metrics.jsonl"))
    ballast = fill(tiny_disk)
    finished = scripts.wait(pid)
    assert finished.status == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "No space left on device" in finished.stderr.splitlines()[-1]
    before = contents(path)
    assert not list(path.glob("*.tmp"))
    # Still full.
    assert str(path) in scripts.tfml(path, "--resume", *flags).complaint()
    assert contents(path) == before
    # With space again, the run goes on.
    ballast.unlink()
    meta_epochs = torch.load(path / "checkpoint.pt", weights_only=True)["epochs"] + 1
    scripts.tfml(path, "--resume", "--meta_epochs", meta_epochs, *flags).succeeded()
    assert [row["meta_epoch"] for row in rows(path / "metrics.jsonl")] == list(range(meta_epochs))
