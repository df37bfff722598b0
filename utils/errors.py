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
    """A budget of memory is too little.

    Args:
        work: what it is too little for, e.g. "to search". least_mib: the smallest budget that would do.
        remedy: what else would help, to be said at the end. flag: that the budget is given by.
    """

    def __init__(self, budget_mib: float, work: str, least_mib: float, remedy: str = "", flag: str = "--memory_budget"):
        super().__init__(budget_mib, work, least_mib, remedy, flag)  # what another process makes it of again
        self.least_mib, self.remedy = math.ceil(10 * least_mib) / 10, remedy

    def __str__(self) -> str:
        budget_mib, work, _, remedy, flag = self.args
        return (
            f"{flag} {budget_mib:g} MiB is too little {work}: the smallest that would do is {self.least_mib:g} "
            f"MiB{remedy}."
        )
