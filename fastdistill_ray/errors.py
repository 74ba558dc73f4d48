"""The one kind of error that a user mends."""


class UserError(ValueError):
    """A fault in what the user gave: a field, a file, a row, a cluster that is too small.

    Its message is one line that names what is wrong and what to do. The commands print it alone and
    end with exit code 2; any other exception keeps its traceback: it is a bug, or the machine's.
    """
