"""The one kind of error that a user caused and can mend."""


class UserError(Exception):
    """Bad input: one line that names the file, line or option, says what is wrong and what to do.

    The commands print it without a traceback and exit with status 2; in Python it is an ordinary exception.
    """
