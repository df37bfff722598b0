"""tfml.py and onnas.py in several processes: the same results, deaths, restarts and refusals."""

import json
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.conftest import ROOT, contents, rows, wait_for
from tests.test_onnas import PROCESS_KEYS
from tests.test_onnas import assert_same_run as assert_same_search
from tests.test_tfml import assert_same_run, tensors
from utils.errors import InputError
from utils.run import torchrun
from utils.run.ranks import ENDED, Ranks, _packed, join_ranks, use_one_thread
from utils.run.torchrun import is_first_to_say, is_restarted, process_count, refuse_processes, remember_run

# Three tasks do not go into two equal shares; five meta-epochs, three of them with alpha and beta.
TRAINING = ("--meta_epochs", 5, "--meta_batch_size", 3, "--tasks_at_once", 2, "--eval_freq", 3, "--eval_epochs", 3)
TASKS = 5
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": 1}


@pytest.fixture(scope="module")
def alone(scripts, tmp_path_factory) -> Path:
    """The folder of a run of tfml.py in one process. Not to be written to."""
    path = tmp_path_factory.mktemp("alone") / "run"
    scripts.tfml(path, *TRAINING).succeeded()
    return path


def start_training(scripts, ranks: int, path, *flags) -> list[int]:
    return scripts.start_ranks(ranks, "tfml.py", *scripts.tfml_flags(path, *TRAINING, *flags))


def train(scripts, ranks: int, path, *flags) -> list:
    return scripts.wait_for_each(*start_training(scripts, ranks, path, *flags))


def done(path: Path) -> int:
    """Meta-epochs that the run in a folder has written."""
    metrics = path / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


# --- The same results -----------------------------------------------------------------------------------------------


def test_training_is_the_same_on_more_ranks_than_there_are_tasks(scripts, alone, tmp_path):
    first, *others = [finished.succeeded() for finished in train(scripts, 4, tmp_path / "run")]
    assert_same_run(tmp_path / "run", alone)
    assert len(first.stdout.splitlines()) == 3  # two meta-tests, and where the meta-cell is
    assert [(other.stdout, other.stderr) for other in others] == [("", "")] * 3
    assert contents(tmp_path / "run").keys() == contents(alone).keys()


def test_training_goes_on_with_another_number_of_ranks(scripts, alone, tmp_path):
    path = tmp_path / "run"
    for ranks, meta_epochs in ((2, 2), (1, 5)):
        for finished in train(scripts, ranks, path, "--resume", "--meta_epochs", meta_epochs, "--eval_freq", 3):
            finished.succeeded()
    metrics = [[{"train_loss": row["train_loss"]} for row in rows(p / "metrics.jsonl")] for p in (path, alone)]
    assert metrics[0] == metrics[1]
    assert all(torch.equal(tensor, tensors(alone)[name]) for name, tensor in tensors(path).items())


def test_search_is_the_same_on_any_number_of_ranks(scripts, alone, tmp_path):
    """It goes on with another number of them."""
    folders = [tmp_path / "one", tmp_path / "several"]
    scripts.onnas(alone / "meta_cell.pt", folders[0], "--eval_epochs", TASKS).succeeded()
    for ranks, tasks in ((2, 2), (3, TASKS)):
        flags = scripts.onnas_flags(alone / "meta_cell.pt", folders[1], "--eval_epochs", tasks, "--resume")
        first, *others = scripts.wait_for_each(*scripts.start_ranks(ranks, "onnas.py", *flags))
        assert len(first.succeeded().stdout.splitlines()) == 1
        assert [other.succeeded().stdout for other in others] == [""] * (ranks - 1)
    assert_same_search(folders[1], folders[0])
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    for result in results:
        for name in ("seconds_per_task", "seconds_per_step", "settings", *PROCESS_KEYS):
            del result[name]
    assert results[0] == results[1]


def test_torchrun_itself(scripts, alone, tmp_path):
    """It sets OMP_NUM_THREADS. Without the --, it takes --n for one of its own flags."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--", "tfml.py"]
    flags = [str(flag) for flag in scripts.tfml_flags(tmp_path / "run", *TRAINING)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    finished = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 3
    assert_same_run(tmp_path / "run", alone)


# --- Deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_a_rank_ends_the_run_and_it_can_be_resumed(scripts, alone, tmp_path, victim):
    path, draws = tmp_path / "run", random.Random(victim)
    pids = start_training(scripts, 2, path)
    wait_for(lambda: done(path) >= 1)
    time.sleep(draws.uniform(0, 0.3))
    scripts.send_signal(pids[victim], signal.SIGKILL)
    finished = scripts.wait_for_each(*pids)
    if finished[victim].status == -signal.SIGKILL:  # it may have been over
        survivor = finished[1 - victim]
        assert survivor.status == 2, survivor.stderr
        assert "Traceback" not in survivor.stderr
        assert survivor.stderr.splitlines()[-1] == f"tfml.py: error: {ENDED}"
    tensors(path, "checkpoint.pt")
    for resumed in train(scripts, 2 - victim, path, "--resume"):
        resumed.succeeded()
    assert_same_run(path, alone)


def test_stopped_by_the_keyboard_or_by_torchrun(scripts, alone, tmp_path):
    for number, says in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "torchrun has stopped this process")):
        path = tmp_path / number.name
        pids = start_training(scripts, 2, path)
        wait_for(lambda path=path: done(path) >= 1)
        for pid in pids:
            scripts.send_signal(pid, number)
        for finished in scripts.wait_for_each(*pids):
            assert "Traceback" not in finished.stderr
            # The one that waits for the other when that one ends says so.
            assert finished.status == 130 or ENDED in finished.stderr
            assert says in finished.stderr or ENDED in finished.stderr
            assert "--resume" in finished.stderr.splitlines()[-1]
        tensors(path, "checkpoint.pt")


def test_restarted_by_torchrun_it_goes_on_by_itself(scripts, alone, tmp_path):
    """Although it was started without --resume."""
    path = tmp_path / "run"
    config = json.dumps({"nproc_per_node": 2, "max_restarts": 1})
    agent = scripts.start("tests/agent.py", config, "tfml.py", *scripts.tfml_flags(path, *TRAINING))
    wait_for(lambda: done(path) >= 1)
    scripts.send_signal(children(agent)[-1], signal.SIGKILL)
    finished = scripts.wait(agent).succeeded()
    assert "going on to 5" in finished.stdout
    assert_same_run(path, alone)


def test_restart_does_not_make_a_run_of_another_job_its_own(scripts, alone, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(alone, path)
    before = contents(path)
    config = json.dumps({"nproc_per_node": 2, "max_restarts": 1})
    finished = scripts.run("tests/agent.py", config, "tfml.py", *scripts.tfml_flags(path, *TRAINING))
    assert finished.status == 1
    assert contents(path) == before
    said = [line for line in finished.stderr.splitlines() if line.startswith("tfml.py: error: ")]
    assert len(said) == 2  # once in each life
    assert "pass --resume" in said[0]


def test_machines_whose_restarts_are_not_safe_are_refused(scripts, tmp_path):
    config = {"min_nodes": 2, "max_nodes": 2, "rdzv_endpoint": f"127.0.0.1:{free_port()}", "max_restarts": 1}
    configs = [json.dumps({**config, "is_host": is_host}) for is_host in (True, False)]
    flags = ("tfml.py", *scripts.tfml_flags(tmp_path / "run"))
    agents = scripts.start_each([("tests/agent.py", text, *flags) for text in configs])
    said = "".join(finished.stderr for finished in scripts.wait_for_each(*agents))
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in said
    assert not (tmp_path / "run").exists()


def test_two_machines_train_together_and_one_goes_on_when_the_other_dies(scripts, alone, tmp_path):
    path = tmp_path / "run"
    endpoint = f"127.0.0.1:{free_port()}"
    config = {"max_nodes": 2, "rdzv_endpoint": endpoint, "max_restarts": 3}
    flags = ("tfml.py", *scripts.tfml_flags(path, *TRAINING, "--resume"))
    # The machine that the others meet at must live; any other may die, if it does not keep the store for all.
    configs = [json.dumps({**config, "is_host": is_host}) for is_host in (True, False)]
    host, other = scripts.start_each([("tests/agent.py", text, *flags) for text in configs], **OWN_STORE)
    wait_for(lambda: children(host) and children(other))
    (worker,) = children(other)
    wait_for(lambda: done(path) >= 1)
    for pid in (other, worker):
        scripts.send_signal(pid, signal.SIGKILL)
    survivor, victim = scripts.wait_for_each(host, other)
    assert victim.status == -signal.SIGKILL
    assert "going on to 5" in survivor.succeeded().stdout
    assert_same_run(path, alone)


# --- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--n", "--init_channels"])
def test_mistake_is_said_once(scripts, tmp_path, flag):
    """Of the command line, or one that only the network knows."""
    flags = scripts.tfml_flags(tmp_path / "run", flag, {"--n": 1, "--init_channels": 7}[flag])
    finished = scripts.run("tests/agent.py", json.dumps({"nproc_per_node": 3}), "tfml.py", *flags)
    assert finished.status == 1
    (said,) = [line for line in finished.stderr.splitlines() if line.startswith("tfml.py: error: ")]
    assert flag in said
    assert "exitcode  : 2" in finished.stderr
    assert not (tmp_path / "run").exists()


def test_run_that_may_not_be_written_is_refused_by_every_rank(scripts, alone):
    before = contents(alone)
    for finished in train(scripts, 2, alone):
        assert "pass --resume" in finished.complaint()
    assert contents(alone) == before


def test_full_task_is_of_one_process(scripts, tmp_path):
    flags = ("--task", "full", "--path", tmp_path / "run", "--device", "cpu")
    for finished in scripts.wait_for_each(*scripts.start_ranks(2, "onnas.py", *flags)):
        assert "--task full is of one process" in finished.complaint()
    assert not (tmp_path / "run").exists()


# --- The modules ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_one_process_joins_nobody(monkeypatch, two_threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ranks = join_ranks(torch.device("cpu"))
    assert (ranks, torch.get_num_threads()) == (Ranks(0, 1), 2)
    use_one_thread()
    assert torch.get_num_threads() == 1
    assert not distributed.is_initialized()
    assert ranks.is_first
    assert ranks.share(range(3)) == range(3)
    assert ranks.gather(lambda item: item * 2, [3, 1, 2]) == [6, 2, 4]
    assert ranks.from_first(lambda: "value") == "value"
    ranks.leave()


def test_threads_that_the_user_asked_for_are_left(monkeypatch, two_threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    join_ranks(torch.device("cpu"))
    assert torch.get_num_threads() == 2


def test_shares_are_every_item_once():
    shares = [Ranks(number, 3).share(range(10)) for number in range(3)]
    assert [list(share) for share in shares] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


def test_tensors_arrive_as_they_were_and_can_be_changed():
    sent = {"a": torch.randn(3, 4).t(), "b": torch.tensor(7), "c": torch.zeros(0, 2), "d": (None, 0.5, "text")}
    arrived = pickle.loads(_packed(sent))
    assert arrived.keys() == sent.keys()
    for name in "abc":
        assert arrived[name].dtype == sent[name].dtype
        assert torch.equal(arrived[name], sent[name])
        arrived[name].add_(1)
    assert arrived["d"] == sent["d"]
    assert not torch.equal(arrived["a"], sent["a"])


@pytest.fixture
def agent_store(monkeypatch):
    """The environment of a process of two that torchrun has started."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    return store


def store_that_is_gone():
    raise RuntimeError("the connection was refused")


def test_last_words_are_said_once(agent_store, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert [is_first_to_say("it is full.") for _ in range(3)] == [True, False, False]
    assert is_first_to_say("it is empty.")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert is_first_to_say("it is full.")
    monkeypatch.setattr(torchrun, "kept_store", store_that_is_gone)
    assert is_first_to_say("it is full.")


def test_without_torchrun_there_is_one_process_that_says_everything():
    assert process_count() == 1
    assert [is_first_to_say("it is full.") for _ in range(2)] == [True, True]
    remember_run(Path("run"))
    assert not is_restarted(Path("run"))
    refuse_processes("--task full")


def test_run_is_remembered_by_its_place(agent_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_restarted(Path("run"))
    remember_run(Path("run"))
    assert is_restarted(tmp_path / "run")
    assert not is_restarted(tmp_path / "other")
    with pytest.raises(InputError, match="--task full is of one process"):
        refuse_processes("--task full")
