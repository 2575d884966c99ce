"""The exit codes, which scripts can rely on."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended; the same number means the same thing in all commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    FOUND = 3
    NOT_FOUND = 4
    EXISTS = 5
    UNREACHABLE = 6
    DENIED = 7
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """What it says, in a few words."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.OK: "done, or nothing to do",
    Exit.FAILED: "something failed, or was declined",
    Exit.USAGE: "wrong options, arguments or configuration",
    Exit.FOUND: "looked and found something: pending, drift, a fault",
    Exit.NOT_FOUND: "no such schema, file or revision",
    Exit.EXISTS: "a schema or file of that name exists already",
    Exit.UNREACHABLE: "no connection to the database",
    Exit.DENIED: "the database user lacks a right",
    Exit.INTERRUPTED: "ended by Ctrl-C, after a report",
    Exit.TERMINATED: "ended by SIGTERM, after a report",
}


class Problem(Exception):
    """A mistake that is told to the user in a sentence, with its exit code."""

    def __init__(self, message: str, exit_code: Exit = Exit.USAGE, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint


class Interrupted(Exception):
    """A signal ended what ran; the server has undone it."""

    def __init__(self, exit_code: Exit) -> None:
        super().__init__(exit_code.meaning)
        self.exit_code = exit_code


class Declined(Exception):
    """The user was asked, and said no."""
