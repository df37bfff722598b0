"""From the memory that a process may have to what is left of it for tensors (--process_budget)."""

from dataclasses import replace

import torch

from models.supernet import SupernetSettings
from search_space.flags.onnas import MemoryFlags
from search_space.memory.fit import plan_search_aside
from search_space.memory.predict import Prediction
from search_space.memory.size import Size
from search_space.settings import SearchSettings
from utils.errors import BudgetError, InputError
from utils.run.process_memory import process_memory, resident_mib

# Measured on one thread, C = 28, 4 cells, from what is resident after the imports to the peak: see
# tests/benchmarks/README.md. Code of the operations, what oneDNN compiles, Python's objects of the network:
FIXED_MIB = 66
# Live tensors, the workspaces of operations, and the gaps that malloc cannot use, by a MiB of the first. Where all
# cells are in memory at once, most tensors are activations that stay.
PER_TENSOR_MIB = 2.6
PER_TENSOR_MIB_OF_CUDA_BUILD = 3.8
PER_TENSOR_MIB_ALL_AT_ONCE = 1.3
RUN_TO_RUN_MIB = 2  # what is resident after the imports differs by less


def plan_within(
    settings: SearchSettings, memory: MemoryFlags, network: SupernetSettings, size: Size, device: torch.device
) -> tuple[SearchSettings, Prediction | None]:
    """What :func:`search_space.memory.fit.plan_search` gives, for the budget of tensors or of the process.

    Raises:
        BudgetError: the budget is too little; the message names the smallest that would do.
        InputError: more candidates are to be chosen than there are, or the process is planned and the tensors are on
            a GPU.
    """
    if device.type != "cpu" and memory.process_budget is not None:
        raise InputError("--process_budget is for --device cpu: the process does not hold a GPU's tensors.")
    if device.type != "cpu" or not memory.is_planned:
        return plan_search_aside(settings, memory, network, size)
    before, per_tensor = resident_mib() + FIXED_MIB, _per_tensor_mib(memory)
    imports = process_memory().get("process_memory_mib", 0.0)  # their peak; much of it has been given back

    def process_mib(tensors_mib: float) -> float:
        return max(imports, before + per_tensor * tensors_mib)

    budget = memory.process_budget
    if budget is not None:
        left = (budget - before) / per_tensor if budget >= imports else 0.0
        memory = replace(memory, memory_budget=max(0.0, left))
    try:
        settings, prediction = plan_search_aside(settings, memory, network, size)
    except BudgetError as error:
        if budget is None:
            raise
        least = process_mib(error.least_mib) + RUN_TO_RUN_MIB
        raise BudgetError(budget, "to search", least, error.remedy, flag="--process_budget") from error
    return settings, replace(prediction, process_mib=process_mib(prediction.peak_mib))


def _per_tensor_mib(memory: MemoryFlags) -> float:
    if not memory.step_by_step:
        return PER_TENSOR_MIB_ALL_AT_ONCE
    return PER_TENSOR_MIB if torch.version.cuda is None else PER_TENSOR_MIB_OF_CUDA_BUILD
