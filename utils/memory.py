"""Peak memory and what it consists of: live tensor bytes on a CPU, the CUDA allocator's own count on a GPU."""

import functools
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

MIB = 2**20
KINDS = ("parameters", "gradients", "optimizer", "activations", "other")
PARAMETERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, OTHER = KINDS
METERED_STEPS = 3  # of a long epoch the first steps are measured: the meter slows them down
ROOT = Path(__file__).resolve().parents[1]
TORCH = f"{Path(torch.__file__).parent}{os.sep}"


class _Storage(weakref.ref):
    """What is known of a storage, during and after its life.

    key: its id. size: bytes. kind: one of KINDS, as far as is known yet. born: the number of its birth.
    place: the code that it was born in and the offset of the instruction there, None if it is not known.
    """

    __slots__ = ("born", "key", "kind", "place", "size")


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that are alive, each storage once, and keeps the peak and its parts.

    A storage is counted from when it is given or an operation returns it, until it dies. It slows each operation down
    by some microseconds, so it is switched on for the steps that are measured.

    Its kind holds for its whole life, also where it shows late, as a gradient's does:
        parameters: given as such.
        gradients: the ``.grad`` of what an optimizer steps; at the end, also that of the parameters given.
        optimizer: the state of an optimizer that has stepped.
        activations: what else the operations return.
        other: given as such, or a temporary of an optimizer's step.

    Args:
        parameters, other: the tensors that are there at the start.

    Attributes:
        live, peak: bytes.
    """

    def __init__(self, parameters: Iterable[torch.Tensor] = (), other: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.live = 0
        self.peak = 0
        self._alive: dict[int, _Storage] = {}
        self._dead: list[_Storage] = []  # those that were alive at the peak
        self._births = 0
        self._births_at_peak = 0
        self._thread = threading.get_ident()
        self._parameters = []
        self._kind = PARAMETERS  # of what is born now
        for tensor in parameters:
            self._parameters.append(weakref.ref(tensor))
            self._see(tensor)
        self._kind = OTHER
        for tensor in other:
            self._see(tensor)
        self._given = self._births

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch's guard against torch.compile costs each operation half a microsecond

    def __enter__(self) -> "LiveTensorBytes":
        self._kind = ACTIVATIONS
        self._hooks = (
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        )
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*exception)
        alive = (parameter() for parameter in self._parameters)
        self._mark(GRADIENTS, (parameter.grad for parameter in alive if parameter is not None))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._see(result)
        elif isinstance(result, (tuple, list)):
            for value in result:
                if isinstance(value, torch.Tensor):
                    self._see(value)
        return result

    def breakdown(self) -> dict[str, int]:
        """Bytes at the peak by kind, in the order of KINDS; they add up to the peak."""
        sizes = dict.fromkeys(KINDS, 0)
        for storage in self._at_peak():
            sizes[storage.kind] += storage.size
        return sizes

    def largest(self) -> tuple[str, int]:
        """The line, "folder/file.py:123", whose activations and temporaries held most at the peak, and their bytes.

        It is the innermost line outside PyTorch: what back-propagation allocates is of the line that called it.
        What was given counts for no line; ("", 0) if there is nothing else.
        """
        held = Counter({"": 0})
        for storage in self._at_peak():
            if storage.kind in (ACTIVATIONS, OTHER) and storage.born > self._given:
                held[_line(storage.place)] += storage.size
        return held.most_common(1)[0]

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # PyTorch keeps one Python object for a storage, as long as the storage lives
        if key in self._alive:
            return
        self._births += 1
        record = _Storage(storage, self._forget)
        record.key, record.size, record.kind, record.born = key, storage.nbytes(), self._kind, self._births
        # Autograd's threads for a GPU start outside Python: then the line is where the measured thread waits for them.
        frame = _innermost(sys._getframe(1)) or _innermost(sys._current_frames().get(self._thread))
        # The number of the line would take a microsecond, so it is worked out when it is asked for.
        record.place = frame and (frame.f_code, frame.f_lasti)
        self._alive[key] = record
        self.live += record.size
        if self.live > self.peak:
            self.peak = self.live
            self._births_at_peak = self._births
            self._dead.clear()

    def _forget(self, record: _Storage) -> None:
        del self._alive[record.key]
        self.live -= record.size
        if record.born <= self._births_at_peak:
            self._dead.append(record)

    def _at_peak(self) -> Iterator[_Storage]:
        # The living first, in one go: one that dies from now on, as garbage may, is counted already.
        everything = [*self._alive.values(), *self._dead]
        return (storage for storage in everything if storage.born <= self._births_at_peak)

    def _mark(self, kind: str, tensors: Iterable[torch.Tensor | None]) -> None:
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                record = self._alive.get(id(tensor.untyped_storage()))
                if record is not None:
                    record.kind = kind

    def _before_step(self, optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        self._mark(GRADIENTS, (parameter.grad for group in optimizer.param_groups for parameter in group["params"]))
        self._kind = OTHER

    def _after_step(self, optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        self._mark(OPTIMIZER, (value for state in optimizer.state.values() for value in state.values()))
        self._kind = ACTIVATIONS


@functools.cache
def _is_foreign(filename: str) -> bool:
    return filename.startswith(TORCH) or filename == __file__


def _innermost(frame: FrameType | None) -> FrameType | None:
    """The innermost frame, from ``frame`` outwards, that is neither PyTorch's nor of this file."""
    while frame is not None and _is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


@functools.cache
def _line(place: tuple[CodeType, int] | None) -> str:
    if place is None:
        return ""
    code, offset = place
    path = Path(code.co_filename).resolve()
    number = next(line for start, end, line in code.co_lines() if start <= offset < end)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{number}"


class PeakMemory:
    """``with PeakMemory(device, parameters, other) as memory: ...``, then its attributes.

    Args:
        parameters, other: the tensors that are there at the start, for :class:`LiveTensorBytes`.

    Attributes:
        mib: the peak in MiB; on a CPU that of live tensor bytes, on a GPU that of the CUDA allocator.
        breakdown_mib: the peak of live tensor bytes by kind, in MiB. On a CPU they add up to ``mib``; on a GPU they
            leave out the allocator's rounding and what operations need inside, and have the CPU's tensors too.
    """

    def __init__(
        self, device: torch.device, parameters: Iterable[torch.Tensor] = (), other: Iterable[torch.Tensor] = ()
    ):
        self._device = device
        self._meter = LiveTensorBytes(parameters, other)
        self.mib = 0.0
        self.breakdown_mib = dict.fromkeys(KINDS, 0.0)

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._meter.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._meter.__exit__(*exception)
        cuda = self._device.type == "cuda"
        self.mib = (torch.cuda.max_memory_allocated(self._device) if cuda else self._meter.peak) / MIB
        self.breakdown_mib = {kind: size / MIB for kind, size in self._meter.breakdown().items()}
