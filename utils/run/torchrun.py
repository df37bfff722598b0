"""What torchrun says to the processes that it starts, and keeps for them while it starts them again."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import Store


def process_count() -> int:
    """How many processes there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def refuse_processes(what: str) -> None:
    """Raises:
    InputError: there are several processes.
    """
    if process_count() > 1:
        raise InputError(f"{what} is of one process: start it without torchrun, or with --nproc_per_node 1.")


def refuse_unsafe_restarts() -> None:
    """Raises:
    InputError: the machines would restart on one store, whose entries of an earlier start they could not tell.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ["TORCHELASTIC_MAX_RESTARTS"]) > 0 and int(os.environ["GROUP_WORLD_SIZE"]) > 1:
        raise InputError(
            "torchrun's --max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the "
            "environment of torchrun on each, and --resume."
        )


def is_first_to_say(last_words: str) -> bool:
    """Whether this process is to print why it ends: one does, of those that end with the same words."""
    if process_count() == 1:
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending
    try:
        store = kept_store()
        return store is None or store.add(f"said {os.environ['TORCHELASTIC_RESTART_COUNT']} {last_words}", 1) == 1
    except RuntimeError:  # torchrun has ended
        return True


def remember_run(path: Path) -> None:
    """Keeps in mind that the run in ``path`` is this job's."""
    store = kept_store()
    if store is not None:
        store.set(f"run {path.absolute()}", "")


def is_restarted(path: Path) -> bool:
    """Whether the run in ``path`` is this job's, so that a process that was started again is to go on with it."""
    store = kept_store()
    return store is not None and store.check([f"run {path.absolute()}"])


def kept_store() -> "Store | None":
    """What outlives the processes; None without torchrun, or where it was told to keep none.

    Raises:
        RuntimeError: torchrun has ended.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore  # here, as torch takes seconds to import

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=3))
