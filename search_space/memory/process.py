"""From the memory that a process may have to what is left of it for tensors (--process_budget)."""

from dataclasses import replace

from models.supernet import SupernetSettings
from search_space.flags.onnas import MemoryFlags
from search_space.memory.fit import plan_search_aside
from search_space.memory.predict import Prediction
from search_space.memory.size import Size
from search_space.settings import SearchSettings
from utils.errors import BudgetError
from utils.run.process_memory import resident_mib

# Measured on one thread, C = 28, 4 cells, from what is resident after the imports to the peak: see
# tests/benchmarks/README.md. Code of the operations, what oneDNN compiles, Python's objects of the network:
FIXED_MIB = 80
# Live tensors, the workspaces of operations, and the gaps that malloc cannot use, by a MiB of the first:
PER_TENSOR_MIB = 2.4


def plan_within(
    settings: SearchSettings, memory: MemoryFlags, network: SupernetSettings, size: Size
) -> tuple[SearchSettings, Prediction | None]:
    """What :func:`search_space.memory.fit.plan_search` gives, for the budget of tensors or of the process.

    Raises:
        BudgetError: the budget is too little; the message names the smallest that would do.
        InputError: more candidates are to be chosen than there are.
    """
    budget = memory.process_budget
    if budget is None:
        return plan_search_aside(settings, memory, network, size)
    before = resident_mib() + FIXED_MIB
    left = max(0.0, (budget - before) / PER_TENSOR_MIB)
    try:
        return plan_search_aside(settings, replace(memory, memory_budget=left), network, size)
    except BudgetError as error:
        least = before + PER_TENSOR_MIB * error.least_mib
        raise BudgetError(budget, "to search", least, error.remedy, flag="--process_budget") from error
