"""The one kind of error that a user caused and can mend."""


class UserError(Exception):
    """Bad input: one line that names the file, line or option, says what is wrong and what to do.

    The commands print it without a traceback and exit with status 2; in Python it is an ordinary exception.
    """

    def __init__(self, message: str) -> None:
        # A worker of a DataLoader hands on its whole traceback as the message; our line ends it.
        if message.startswith("Caught "):
            message = message.strip().splitlines()[-1].partition(": ")[2]
        # What a file holds may stand in it.
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))
