"""What searches did, as TensorBoard shows it: scalars of every row, and of some tasks and epochs pictures.

TensorBoard opens on accuracy, loss and memory; a picture's slider goes through the tasks, meta-tests or epochs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matplotlib.figure import Figure

from models.supernet import SupernetSettings
from search_space.board.figures import architecture_figure, choices_figure, expectation_figure, steps_figure
from search_space.board.search_record import Choices, SearchRecord, State, Values
from search_space.full_task.search import FullTaskSearch
from utils.pictures.cells import cell_figure, cells_of
from utils.pictures.event_log import EventLog
from utils.results.log_rows import MetaEpochRow, SearchEpochRow, TaskRow
from utils.results.row_log import RowLog, read_rows


def add_search(events: EventLog, number: int, network: SupernetSettings, record: SearchRecord, genotype: dict) -> None:
    """Writes the pictures of one task's recorded search, at a number."""
    choices, final = Choices(), record.steps[-1].state
    for step in record.steps:
        choices.count(step.choice)
    expected = {at: step.state.expected for at, step in enumerate(record.steps, start=1) if step.state.expected}
    figures = {
        "search/architecture": architecture_figure(network, {" before": record.start, " after": final}),
        "search/cells": cell_figure(cells_of(genotype, network.as_dict())),
        "search/choices": choices_figure(network, choices),
        "search/expectation": expectation_figure(expected, final.values, "step"),
        "search/steps": steps_figure(record.steps),
    }
    events.add_figures(number, _present(figures))


def _present(figures: dict[str, Figure | None]) -> dict[str, Figure]:
    return {tag: figure for tag, figure in figures.items() if figure is not None}


class Board:
    """Of many tasks: of test tasks, or of meta-epochs with a meta-test now and then.

    Args:
        first: what an earlier life of the run has written of this number and later ones is void.
    """

    def __init__(self, folder: Path, network: SupernetSettings, first: int):
        self.network = network
        self.events = EventLog(folder, first)

    def add_task(self, row: TaskRow, record: SearchRecord | None) -> None:
        """Writes the figures of a test task, and its pictures if it was recorded."""
        self.events.add_row(row)
        if record is not None:
            add_search(self.events, row.task, self.network, record, row.genotype)

    def add_meta_epoch(self, row: MetaEpochRow, learning_rates: dict[str, float]) -> None:
        """Writes the figures of a meta-epoch."""
        self.events.add_row(row, learning_rates)

    def add_meta_test(self, meta_epoch: int, first: TaskRow, record: SearchRecord) -> None:
        """Writes the memory and the pictures of the ``first`` task of a meta-test."""
        peaks = {"adapting": first.peak_memory_mib, "testing": first.peak_memory_test_mib}
        self.events.add_scalars(meta_epoch, {f"meta_test_memory_mib/{use}": mib for use, mib in peaks.items()})
        add_search(self.events, meta_epoch, self.network, record, first.genotype)


@dataclass(frozen=True, kw_only=True)
class ExpectedRow:
    """What alpha and beta were expected to become, after an epoch, in expected.jsonl."""

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str | None] = None
    epoch: int
    expected: dict[str, dict[str, list[list[float]]]]


class FullTaskBoard:
    """Of the search of a full task, epoch by epoch.

    Args:
        folder: of the events; what else a resumed search needs to compare expectations with the end is there as well.
        first: the epoch that the search is at.
        steps: of an epoch.
    """

    def __init__(self, folder: Path, search: FullTaskSearch, first: int, steps: int):
        self.search = search
        self.steps = steps
        self.network = search.search.supernet.settings
        self.events = EventLog(folder, first)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "expected.jsonl"
        self._expected = RowLog(path, ExpectedRow, sum(row.epoch < first for row in read_rows(path, ExpectedRow)))
        self._choices = Choices()
        search.search.on_step = self._choices.note

    def add_epoch(self, row: SearchEpochRow) -> None:
        """Writes what an epoch did and led to; with the last, what was expected of it all along."""
        search = self.search
        rates = [optimizer.param_groups[0]["lr"] for optimizer in search.optimizers]
        settings = {"temperature": search.search.normalizer.temperature, "w_lr": rates[0], "alpha_lr": rates[1]}
        self.events.add_row(row, settings)
        if row.epoch >= search.warm_up_epochs:
            self._add_pictures(row.epoch)
        self._choices.clear()

    def _add_pictures(self, epoch: int) -> None:
        left = (self.search.settings.epochs - epoch - 1) * self.steps
        state = State.of(self.search.search, left)
        figures = {
            "search/architecture": architecture_figure(self.network, {"": state}),
            "search/cells": cell_figure(cells_of(self.search.network.genotype().as_dict(), self.network.as_dict())),
            "search/choices": choices_figure(self.network, self._choices),
        }
        if state.expected is not None:
            self._expected.append(ExpectedRow(epoch=epoch, expected=state.expected))
        if left == 0:
            figures["search/expectation"] = self._expectation(state.values)
        self.events.add_figures(epoch, _present(figures))

    def _expectation(self, final: Values) -> Figure | None:
        return expectation_figure({row.epoch: row.expected for row in self._expected.rows}, final, "epoch")
