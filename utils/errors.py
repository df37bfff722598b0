"""The one exception whose text is meant for the person who typed the command."""


class InputError(Exception):
    """A flag, a file or a machine is not what it should be.

    The message is one sentence that names the flag or the file and says what would be right. The scripts print it
    and exit with status 2; see :func:`utils.cli.run`.
    """
