"""The epochs of a full task, and a folder that is deleted meanwhile."""

import shutil

import pytest

from search_space.full_task.epochs import Epochs
from utils.errors import InputError
from utils.results.log_rows import DerivedEpochRow
from utils.run.run_directory import open_run


class Deleting:
    """Stands for what is trained: its second step deletes the run's folder."""

    def __init__(self, path):
        self.path, self.steps = path, 0

    def load_state_dict(self, state):
        raise AssertionError("there is no checkpoint")

    def train_epoch(self, epoch, batches, on_step):
        for number in batches:
            self.steps += 1
            if number == 1:
                shutil.rmtree(self.path)
            on_step()


def test_run_whose_folder_is_deleted_stops_at_the_next_step(tmp_path):
    path = tmp_path / "run"
    open_run(path, {})
    trained = Deleting(path)
    epochs = Epochs(trained, path / "checkpoint.pt", path / "derived.jsonl", DerivedEpochRow, 1)
    with pytest.raises(InputError, match=f"{path} was deleted"):
        epochs.run("x", 5, lambda epoch: (range(5),), on_epoch=lambda row: None)
    assert trained.steps == 2
    assert not path.exists()
