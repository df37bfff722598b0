"""What searches did, as TensorBoard shows it: a run of its own for each task whose steps are recorded."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path

from models.supernet import SupernetSettings
from search_space.board.search_pictures import SearchPictures, picture_of_cells, picture_of_expectation
from search_space.board.search_record import (
    KINDS,
    Choices,
    SearchRecord,
    State,
    Values,
    against_final,
    correlation,
    mean_absolute_error,
)
from search_space.full_task.search import FullTaskSearch
from search_space.genotype import Genotype
from utils.pictures.event_log import EventLog
from utils.results.schema import TaskRow
from utils.run.run_directory import JsonLines

RECORDED_TASKS = 3  # of a run of few-shot tasks the first are recorded step by step
SHOWN_STEPS = 10  # whose pictures are drawn; of more, TensorBoard shows ten unless told otherwise


def record_of(task: int) -> SearchRecord | None:
    """For a test task that is to be recorded step by step."""
    return SearchRecord() if task < RECORDED_TASKS else None


class Board:
    """Of many tasks: of test tasks, or of meta-epochs with a meta-test now and then.

    Args:
        folder: of the events; runs of recorded tasks are folders in it, ``<name>_<number>``.
        first: what an earlier life of the run has written of this number and later ones is void.
    """

    def __init__(self, folder: Path, network: SupernetSettings, first: int):
        self.folder = folder
        self.pictures = SearchPictures(network)
        self.events = EventLog(folder, first)
        remove_runs(folder, first)

    def add_row(self, index: str, row: dict) -> None:
        """Writes the numbers of a row of metrics; see :meth:`EventLog.add_row`."""
        self.events.add_row(index, row)

    def add_task(self, result: TaskRow, record: SearchRecord | None) -> None:
        """Writes the figures of a test task, and its steps if they were recorded."""
        self.add_row("task", {**asdict(result), "tasks_per_second": 1 / result.seconds})
        if record is not None:
            self._add_record(f"task_{result.task}", record, result)

    def add_meta_test(self, meta_epoch: int, first: TaskRow, record: SearchRecord) -> None:
        """Writes the meta-learned alpha and beta, and of a meta-test's ``first`` task the figures, cells and steps."""
        self.events.add(
            meta_epoch,
            pictures={**self.pictures.architecture(record.start), "cells/test_task": picture_of_cells(first.genotype)},
        )
        figures = {name: value for name, value in asdict(first).items() if name != "task"}
        self.add_row("test_task", {**figures, "test_task": meta_epoch})
        self._add_record(f"meta_test_{meta_epoch}", record, first)

    def _add_record(self, run: str, record: SearchRecord, result: TaskRow) -> None:
        events = EventLog(self.folder / run)
        last = len(record.steps)
        shown = {round(place * last / (SHOWN_STEPS - 1)) for place in range(SHOWN_STEPS)}
        events.add(0, pictures=self.pictures.architecture(record.start))
        choices = Choices()
        for number, step in enumerate(record.steps, start=1):
            values = {**step.result._asdict(), "temperature": step.temperature}
            values |= {"w_lr": step.w_lr, "alpha_lr": step.alpha_lr}
            scalars, pictures = {f"step/{name}": value for name, value in values.items() if value is not None}, {}
            choices.count(step.choice)
            if number in shown:
                pictures = {**self.pictures.architecture(step.state), **self.pictures.choices(choices)}
                choices.clear()
            events.add(number, scalars, pictures)
            if step.state.expected is not None:
                add_expectation(events, number, step.state.expected, record.steps[-1].state.values, number in shown)
        genotype = Genotype.from_dict(result.genotype, run).as_text()
        events.add(last, pictures={"cells/found": picture_of_cells(result.genotype)}, texts={"genotype": genotype})
        events.write()


class FullTaskBoard:
    """Of the search of a full task, epoch by epoch.

    Args:
        folder: of the events; what else a resumed search needs to compare expectations with the end is there as well.
        first: the epoch that the search is at.
        steps: of an epoch.
    """

    def __init__(self, folder: Path, search: FullTaskSearch, first: int, steps: int):
        self.folder = folder
        self.search = search
        self.steps = steps
        self.pictures = SearchPictures(search.search.supernet.settings)
        self.events = EventLog(folder, first)
        remove_runs(folder, first)
        folder.mkdir(parents=True, exist_ok=True)
        self._expected = JsonLines(folder / "expected.jsonl", keep=lambda number, row: row.get("epoch") in range(first))
        self._choices = Choices()
        search.search.on_step = self._choices.note

    def add_epoch(self, row: dict) -> None:
        """Writes what an epoch, of row["epoch"], did and led to; with the last, what was expected of it all along."""
        epoch, search = row["epoch"], self.search
        rates = [optimizer.param_groups[0]["lr"] for optimizer in search.optimizers]
        settings = {"temperature": search.search.normalizer.temperature, "w_lr": rates[0], "alpha_lr": rates[1]}
        if epoch >= search.warm_up_epochs:
            left = (search.settings.epochs - epoch - 1) * self.steps
            state = State.of(search.search, left)
            self.events.add(
                epoch,
                pictures={
                    **self.pictures.architecture(state),
                    **self.pictures.choices(self._choices),
                    "cells/found": picture_of_cells(search.genotype().as_dict()),
                },
            )
            if state.expected is not None:
                self._expected.append({"epoch": epoch, "expected": state.expected})
                self._expected.kept.append({"epoch": epoch, "expected": state.expected})
            if left == 0:
                self._compare(epoch, state.values)
        self._choices.clear()
        self.events.add_row("epoch", {**row, **settings})

    def _compare(self, last: int, final: Values) -> None:
        events = EventLog(self.folder / f"expected_{last}")
        for row in self._expected.kept:
            add_expectation(events, row["epoch"], row["expected"], final, picture=True)
        events.write()


def add_expectation(events: EventLog, step: int, expected: Values, final: Values, picture: bool) -> None:
    """Adds how far, after ``step``, what the selection expected alpha and beta to become was from what they became."""
    scalars, pictures = {}, {}
    for kind in KINDS:
        points = against_final(expected, final, kind)
        if not points:  # equal weights have no beta
            continue
        figures = {"mean_absolute_error": mean_absolute_error(points), "correlation": correlation(points)}
        scalars |= {f"expected_{kind}/{name}": value for name, value in figures.items() if value is not None}
        if picture:
            pictures[f"expected_{kind}/against_final"] = picture_of_expectation(points)
    events.add(step, scalars, pictures)


def remove_runs(folder: Path, first: int) -> None:
    """Removes the runs in a folder, ``<name>_<number>``, from number ``first`` on."""
    for run in folder.glob("*/"):
        number = re.fullmatch(r".*_(\d+)", run.name)
        if number and int(number[1]) >= first:
            shutil.rmtree(run)
