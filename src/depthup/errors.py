"""The one kind of error that a user caused and can mend."""

from __future__ import annotations

from pathlib import Path


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


def not_loaded(part: str, name: str, kind: str, error: Exception) -> UserError:
    """A part of a model, by hub id or directory, that transformers could not load as what it should be."""
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists():
        return UserError(f"{part} {name}: no such directory")
    reason = str(error).strip().split("\n")[0]
    return UserError(
        f"{part} {name}: cannot load it as a Hugging Face {kind} ({reason}); without the hub give a directory"
    )
