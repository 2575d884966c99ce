"""Tells the user what went wrong: one message and an exit code, no traceback."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._settings import mask

#: The server's codes, or the beginnings of them, of what the user can do something about.
_UNREACHABLE = ("08", "28", "3D000", "53300", "57P03")
_DENIED = "42501"
_CANCELLED = "57014"


@dataclass(frozen=True)
class Explanation:
    """What is told of an error."""

    message: str
    exit_code: Exit
    hint: str = ""
    kind: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it, as JSON has it."""
        return {
            "error": {
                "kind": self.kind,
                "message": self.message,
                "hint": self.hint,
                "exit_code": self.exit_code.value,
            }
        }


def explain(error: Exception, invocation: Invocation) -> Explanation | None:
    """Return what to tell of an error, None if it is a fault of the program."""
    if isinstance(error, Problem):
        return _explained(error, error.exit_code, error.hint)
    # Whatever else there is to explain came with SQLAlchemy.
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    from onegov_orm.errors import OrmError

    if isinstance(error, OrmError):
        return _explain_own(error, invocation)
    if isinstance(error, DBAPIError):
        return _explain_server(error)
    if isinstance(error, (ArgumentError, NoSuchModuleError)):
        return _explained(error, Exit.USAGE)
    if isinstance(error, FileNotFoundError):
        return _explained(error, Exit.NOT_FOUND)
    if isinstance(error, FileExistsError):
        return _explained(error, Exit.EXISTS)
    if isinstance(error, OSError):
        return _explained(error, Exit.FAILED)
    if type(error).__module__.startswith("alembic."):
        return _explained(error, Exit.FAILED)
    if isinstance(error, ModuleNotFoundError):
        return _explain_missing(error)
    return None


def _explained(error: Exception, exit_code: Exit, hint: str = "") -> Explanation:
    return Explanation(mask(str(error).strip()), exit_code, mask(hint), type(error).__name__)


def _explain_own(error: Any, invocation: Invocation) -> Explanation:
    # They are loaded already, as one of them was raised.
    from onegov_orm import errors

    if isinstance(error, errors.NotInTrash):
        message = f'nothing in the trash is called "{error.schema}", nor was'
        hint = "`onegov-orm trash` shows what is there."
        return Explanation(message, Exit.NOT_FOUND, hint, type(error).__name__)
    if isinstance(error, errors.SchemaNotFound):
        message = f'there is no schema "{error.schema}" in the fleet'
        hint = _similar(error.schema, invocation)
        return Explanation(message, Exit.NOT_FOUND, hint, type(error).__name__)
    if isinstance(error, errors.SchemaExists):
        message = f'the schema "{error.schema}" exists already'
        hint = "Choose another name; `undo` and `restore` take one with --to."
        return Explanation(message, Exit.EXISTS, hint, type(error).__name__)
    codes = {
        errors.InvalidSchemaName: Exit.USAGE,
        errors.ConfigurationError: Exit.USAGE,
        errors.UnsupportedDatabase: Exit.USAGE,
        errors.ForeignSchema: Exit.NOT_FOUND,
        errors.PermissionDenied: Exit.DENIED,
        errors.PoolExhausted: Exit.UNREACHABLE,
    }
    found = (code for kind, code in codes.items() if isinstance(error, kind))
    return _explained(error, next(found, Exit.FAILED))


def _similar(schema: str, invocation: Invocation) -> str:
    """Return a question that names the schema that was meant, if one looks like it."""
    fleet = invocation.open_fleet
    try:
        names = [str(name) for name in fleet.select()] if fleet is not None else []
    except Exception:
        # The first error is the one to be told.
        names = []
    found = difflib.get_close_matches(schema, names, n=3)
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return "`onegov-orm list` shows all; `onegov-orm adopt` takes one in that others made."


def _explain_server(error: Any) -> Explanation:
    original = error.orig
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or ""
    message = mask(str(original).strip())
    kind = type(original).__name__
    # A connection that could not be made has no code: libpq tells it in words only.
    if state.startswith(_UNREACHABLE) or (not state and kind == "OperationalError"):
        hint = "`onegov-orm doctor` shows which database is meant, and what says so."
        return Explanation(message, Exit.UNREACHABLE, hint, kind)
    if state == _DENIED:
        return Explanation(message, Exit.DENIED, "", kind)
    hint = "Another session may hold locks." if state == "55P03" else ""
    return Explanation(f"the server refused: {message}", Exit.FAILED, hint, kind)


def _explain_missing(error: ModuleNotFoundError) -> Explanation | None:
    extras = {"alembic": "migrations", "psycopg": "psycopg", "asyncpg": "asyncpg"}
    extra = extras.get((error.name or "").partition(".")[0])
    if extra is None:
        return None
    hint = f"pip install 'onegov_orm[{extra}]'"
    return Explanation(str(error), Exit.USAGE, hint, type(error).__name__)
