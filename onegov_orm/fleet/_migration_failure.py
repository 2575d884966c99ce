"""The error of a schema whose migration failed: it tells in which revision."""

from __future__ import annotations

from onegov_orm.errors import OrmError
from onegov_orm.fleet.runner import one_line


class RevisionFailure(OrmError):
    """A revision failed in a schema.

    What is raised is a class of this kind, with the name of the error that it was.
    """

    sqlstate: str | None = None


def failure(kind: str, reason: str, sqlstate: str | None) -> RevisionFailure:
    """Return the error that was of this kind, with the server's code for it."""
    named: type[RevisionFailure] = type(kind, (RevisionFailure,), {})
    error = named(reason or kind)
    error.sqlstate = sqlstate
    return error


def failure_in(revision: str, error: BaseException) -> RevisionFailure:
    """Return an error such that it names the revision."""
    kind, reason, sqlstate = described(error)
    return failure(kind, f"{reason} (in revision {revision})".strip(), sqlstate)


def described(error: BaseException) -> tuple[str, str, str | None]:
    """Return the kind of an error, what it says, and the server's code for it."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    kind, _, reason = one_line(error).partition(": ")
    return kind, reason, state
