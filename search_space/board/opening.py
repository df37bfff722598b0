"""What TensorBoard shows is written, or with --tensorboard 0 not: then it and Matplotlib are not imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.supernet import SupernetSettings

if TYPE_CHECKING:
    from search_space.board.board import Board, FullTaskBoard
    from search_space.full_task.search import FullTaskSearch
    from utils.pictures.event_log import EventLog


class NoBoard:
    """In the place of a board or of an event log: is told everything, and writes nothing."""

    def _ignore(self, *_: object) -> None: ...

    add_task = add_meta_epoch = add_meta_test = add_epoch = add_row = _ignore


def open_board(wanted: int, folder: Path, network: SupernetSettings, first: int) -> Board | NoBoard:
    """A :class:`Board` of few-shot tasks or of meta-training."""
    if not wanted:
        return NoBoard()
    from search_space.board.board import Board

    return Board(folder, network, first)


def open_full_task_board(
    wanted: int, folder: Path, search: FullTaskSearch, first: int, steps: int
) -> FullTaskBoard | NoBoard:
    """A :class:`FullTaskBoard`."""
    if not wanted:
        return NoBoard()
    from search_space.board.board import FullTaskBoard

    return FullTaskBoard(folder, search, first, steps)


def open_events(wanted: int, folder: Path, first: int) -> EventLog | NoBoard:
    """An :class:`EventLog`."""
    if not wanted:
        return NoBoard()
    from utils.pictures.event_log import EventLog

    return EventLog(folder, first)
