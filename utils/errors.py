"""The exceptions whose text is meant for the person who typed the command."""

import math


class InputError(Exception):
    """A flag, a file or a machine is not what it should be.

    The message is one sentence that names the flag or the file and says what would be right. The scripts print it
    and exit with status 2; see :func:`utils.run.cli.run`.
    """


class WriteError(InputError):
    """A file cannot be written: no space, no permission, no such folder."""


class BudgetError(InputError):
    """--memory_budget is too little.

    Args:
        work: what it is too little for, e.g. "to search". least_mib: the smallest budget that would do.
        remedy: what else would help, to be said at the end.
    """

    def __init__(self, budget_mib: float, work: str, least_mib: float, remedy: str = ""):
        self.least_mib = math.ceil(10 * least_mib) / 10
        super().__init__(budget_mib, work, least_mib, remedy)  # what another process makes it of again

    def __str__(self) -> str:
        budget_mib, work, _, remedy = self.args
        return (
            f"--memory_budget {budget_mib:g} MiB is too little {work}: the smallest that would do is "
            f"{self.least_mib:g} MiB{remedy}."
        )
