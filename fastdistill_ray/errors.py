"""The error that is the user's to mend."""


class UserError(ValueError):
    """The one kind of error that becomes one line and exit code 2.

    Anything else keeps its traceback: it is a bug, or the machine's.
    """


class FailedError(Exception):
    """This one request cannot be answered now; the text says why."""
