"""tfml.py with a pre-training: its files, deaths, resuming, several processes, refusals."""

import shutil
import signal

import pytest
import torch

from tests.conftest import rows, write_omniglot
from tests.test_tfml import tensors

FLAGS = ("--dataset", "omniglot", "--meta_epochs", 1, "--warm_up_epochs", 1, "--eval_freq", 1)
FLAGS += ("--pretrain_epochs", 3, "--pretrain_batch_size", 100, "--pretrain_micro_batch", 30, "--pretrain_random", 1)
DECIDING = ("--dataset", "omniglot", "--meta_epochs", 0, "--pretrain_epochs", 3, "--pretrain_batch_size", 60)
DECIDING += ("--pretrain_micro_batch", 16, "--decide", 1)
TIMES = ("seconds", "images_per_second", "tasks_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_omniglot(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(scripts, data, tmp_path_factory):
    """The folder of an uninterrupted run. Not to be written to."""
    path = tmp_path_factory.mktemp("pretrained") / "run"
    scripts.tfml(path, *FLAGS, "--data_path", data, "--tensorboard", 1).succeeded()
    return path


def assert_same_run(path, expected) -> None:
    """The same meta-cell bit for bit, and the same logs but for times."""
    actual, wanted = tensors(path), tensors(expected)
    assert [name for name in wanted if not torch.equal(actual[name], wanted[name])] == []
    for log in ("pretraining.jsonl", "metrics.jsonl"):
        assert rows(path / log, without=TIMES) == rows(expected / log, without=TIMES)


def test_a_run_with_a_pre_training_logs_its_epochs_and_starts_meta_training_from_it(
    scripts, data, pretrained, tmp_path
):
    epochs = rows(pretrained / "pretraining.jsonl")
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    assert all(0 <= row["held_out_accuracy"] <= 1 and row["images_per_second"] > 0 for row in epochs)
    assert list((pretrained / "tb" / "pretraining").iterdir())
    # Without it, the meta-epoch starts from, and ends at, something else.
    scripts.tfml(tmp_path / "without", *FLAGS, "--data_path", data, "--pretrain_epochs", 0).succeeded()
    assert not (tmp_path / "without" / "pretraining.jsonl").exists()
    with_it, without = tensors(pretrained), tensors(tmp_path / "without")
    assert any(not torch.equal(with_it[name], without[name]) for name in with_it)
    # As the only thing done, it leaves a head of zeros for tasks.
    scripts.tfml(tmp_path / "only", *FLAGS, "--data_path", data, "--meta_epochs", 0).succeeded()
    values = torch.load(tmp_path / "only" / "meta_cell.pt", weights_only=True)
    assert len(values["cells"]) == 1
    assert not any(tensor.any() for tensor in values["head"].values())


def test_killed_at_changes_of_its_files_and_resumed(scripts, data, pretrained, tmp_path):
    path, deaths = tmp_path / "run", 0
    flags = (*FLAGS, "--data_path", data, "--resume")
    while (finished := scripts.tfml(path, *flags, die_at=4 * deaths + 1)).status:
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
    assert deaths > 4
    assert_same_run(path, pretrained)


def test_the_same_on_two_processes(scripts, data, pretrained, tmp_path):
    flags = scripts.tfml_flags(tmp_path / "run", *FLAGS, "--data_path", data)
    for finished in scripts.wait_for_each(*scripts.start_ranks(2, "tfml.py", *flags)):
        finished.succeeded()
    assert_same_run(tmp_path / "run", pretrained)


def test_other_settings_are_not_resumed(scripts, data, pretrained):
    finished = scripts.tfml(pretrained, *FLAGS, "--data_path", data, "--resume", "--pretrain_lr", 0.1)
    assert "--pretrain_lr was 0.003, not 0.1" in finished.complaint()


@pytest.mark.parametrize("spoil", [lambda state: state.pop("optimizers"), lambda state: state["supernet"].popitem()])
def test_a_checkpoint_of_something_else_is_refused(scripts, data, pretrained, tmp_path, spoil):
    path = shutil.copytree(pretrained, tmp_path / "run")
    state = torch.load(path / "pretraining.pt", weights_only=True)
    spoil(state)
    torch.save(state, path / "pretraining.pt")
    checkpoint = torch.load(path / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "epochs": 0}, path / "checkpoint.pt")
    finished = scripts.tfml(path, *FLAGS, "--data_path", data, "--resume")
    assert "pretraining.pt is of another run" in finished.complaint(after_a_bar=True)


@pytest.fixture(scope="module")
def decided(scripts, data, tmp_path_factory):
    """The folder of an uninterrupted run that decides. Not to be written to."""
    path = tmp_path_factory.mktemp("decided") / "run"
    scripts.tfml(path, *DECIDING, "--data_path", data).succeeded()
    return path


def test_a_run_that_decides_leaves_an_architecture_of_clear_choices(decided):
    assert [row["epoch"] for row in rows(decided / "pretraining.jsonl")] == [0, 1, 2]
    values = torch.load(decided / "meta_cell.pt", weights_only=True)
    for row in values["architecture"].values():
        if len(row) > 1:
            first, second = row.topk(2).values
            assert first - second > 0.69
    assert not any(tensor.any() for tensor in values["head"].values())


def test_one_that_decides_goes_on_after_it_was_killed(scripts, data, decided, tmp_path):
    path = tmp_path / "run"
    for die_at in (6, 12):
        finished = scripts.tfml(path, *DECIDING, "--data_path", data, "--resume", die_at=die_at)
        assert finished.status == -signal.SIGKILL, finished.stderr
    scripts.tfml(path, *DECIDING, "--data_path", data, "--resume").succeeded()
    assert_same_run(path, decided)


def test_it_decides_the_same_on_two_processes(scripts, data, decided, tmp_path):
    flags = scripts.tfml_flags(tmp_path / "run", *DECIDING, "--data_path", data)
    for finished in scripts.wait_for_each(*scripts.start_ranks(2, "tfml.py", *flags)):
        finished.succeeded()
    assert_same_run(tmp_path / "run", decided)
