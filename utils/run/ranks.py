"""Several processes do a part each, and all know all results in order.

    torchrun --standalone --nproc_per_node 2 -- tfml.py ...

torchrun starts the processes, on one machine or on many, and gives each a number, its rank. What one process computes
here must not depend on how many there are; so each of several has one thread, unless OMP_NUM_THREADS says otherwise.
"""

import contextlib
import copyreg
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from utils.errors import InputError
from utils.run.torchrun import kept_store, process_count, refuse_unsafe_restarts

# How long a process waits for the slowest. One that dies is noticed at once.
TIMEOUT = timedelta(minutes=30)
ENDED = "another process of the run has ended or cannot be reached: start the run again with --resume."


@dataclass(frozen=True)
class Ranks:
    """This process's number, from 0, and how many there are.

    An InputError that one of them raises in :meth:`gather` or :meth:`from_first`, every one raises.
    """

    number: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, and prints."""
        return self.number == 0

    def share(self, items: Sequence) -> Sequence:
        """This process's part: every ``size``-th item."""
        return items[self.number :: self.size]

    def gather(self, function: Callable, items: Sequence) -> list:
        """``[function(item) for item in items]``; each process computes its share.

        Args:
            function: what it returns can be pickled, and its tensors are on the CPU.
        """
        if self.size == 1:
            return [function(item) for item in items]
        own = _outcome(lambda: [function(item) for item in self.share(items)])
        outcomes = [None] * self.size
        with _saying_that_one_ended():
            distributed.all_gather_object(outcomes, _packed(own))
        shares = [_value(pickle.loads(outcome)) for outcome in outcomes]
        return [shares[index % self.size][index // self.size] for index in range(len(items))]

    def from_first(self, function: Callable[[], object]) -> object:
        """What ``function()`` returns in the first process, which alone calls it."""
        if self.size == 1:
            return function()
        outcome = [_outcome(function) if self.is_first else None]
        with _saying_that_one_ended():
            distributed.broadcast_object_list(outcome, src=0)
        return _value(outcome[0])

    def leave(self) -> None:
        """At the end, when there is nothing more to gather."""
        if self.size > 1:
            distributed.destroy_process_group()


def use_one_thread() -> None:
    """Computes on one thread, unless OMP_NUM_THREADS says otherwise: as each of several processes does."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def join_ranks(device: torch.device) -> Ranks:
    """Waits for the other processes, if there are any; each gets its own GPU. All but the first print nothing.

    Raises:
        InputError: there are fewer GPUs than processes, or the others cannot be reached, now or after a restart.
    """
    size = process_count()
    if size == 1:
        return Ranks()
    use_one_thread()
    number = int(os.environ["RANK"])
    signal.signal(signal.SIGTERM, _stop)  # torchrun sends it where another process has ended
    if number > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if device.type == "cuda":
        gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if local >= gpus:
            raise InputError(f"torchrun's --nproc_per_node is more than the {gpus} GPUs: each process needs its own.")
        torch.cuda.set_device(local)
    refuse_unsafe_restarts()
    with _saying_that_one_ended():
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, **_meeting_place(number, size)
        )
        distributed.barrier()  # one that ended while others still connect would leave them waiting
    return Ranks(number, size)


def _meeting_place(number: int, size: int) -> dict:
    """Where the processes find each other: the default, or torchrun's store, apart from what earlier starts left."""
    store = kept_store()
    if store is None:
        return {}
    store.set_timeout(TIMEOUT)
    start = f"start {os.environ['TORCHELASTIC_RESTART_COUNT']} of {size}"
    return {"store": distributed.PrefixStore(start, store), "rank": number, "world_size": size}


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt("torchrun has stopped this process, as when another one of the run has ended")


@contextlib.contextmanager
def _saying_that_one_ended() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(ENDED) from error


def _packed(value: object) -> bytes:
    """Pickles a value, tensors as arrays: torch's own way takes six times as long for the many tensors of a task."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {torch.Tensor: _as_array}
    pickler.dump(value)
    return buffer.getvalue()


def _as_array(tensor: torch.Tensor) -> tuple:
    return torch.from_numpy, (tensor.numpy(),)


def _outcome(function: Callable[[], object]) -> tuple[object, str | None]:
    """What a function returns, or the text of its complaint."""
    try:
        return function(), None
    except InputError as error:
        return None, str(error)


def _value(outcome: tuple[object, str | None]) -> object:
    value, complaint = outcome
    if complaint is not None:
        raise InputError(complaint)
    return value
