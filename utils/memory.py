"""Peak memory: live tensor bytes on a CPU, the CUDA allocator's own count on a GPU."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

MIB = 2**20


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that are alive, each storage once, and keeps the peak.

    A storage is counted from when it is given as ``resident`` or an operation returns it, until it dies. It slows each
    operation down by some microseconds, so it is switched on for the steps that are measured.
    """

    def __init__(self, resident: Iterable[torch.Tensor] = ()):
        super().__init__()
        self._alive: dict[int, weakref.ref] = {}
        self.live = 0
        self.peak = 0
        for tensor in resident:
            self._see(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self._see(value)
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # PyTorch keeps one Python object for a storage, as long as the storage lives
        if key in self._alive:
            return
        size = storage.nbytes()

        def forget(_, key=key, size=size):
            del self._alive[key]
            self.live -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


class PeakMemory:
    """``with PeakMemory(device, resident) as memory: ...`` then ``memory.mib``.

    Args:
        resident: the tensors that are there when the measured work starts; a CPU's count needs them named.
    """

    def __init__(self, device: torch.device, resident: Iterable[torch.Tensor]):
        self._device = device
        self._counter = None if device.type == "cuda" else LiveTensorBytes(resident)
        self.mib = 0.0

    def __enter__(self) -> "PeakMemory":
        if self._counter is None:
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._counter.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        if self._counter is None:
            self.mib = torch.cuda.max_memory_allocated(self._device) / MIB
            return
        self._counter.__exit__(*exception)
        self.mib = self._counter.peak / MIB
