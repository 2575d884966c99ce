"""Examines whether there is a pooler in between, in which mode, and whether we know of it."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any, Final

from sqlalchemy import text

from onegov_orm._pool import driver_connection
from onegov_orm.fleet import _sql_doctor
from onegov_orm.fleet._doctor_verdict import Examination, Finding, fine, warning

#: How long a second connection is waited for, which a small pooler may not have.
_WAIT_SECONDS: Final = 3.0


def pooler(examination: Examination) -> Iterator[Finding]:
    """Tell whose connection ours is, and whether it is the same in the next transaction.

    A pooler tells clients process numbers of its own. Where it lends connections for a
    transaction, somebody else gets ours as soon as our transaction is over.
    """
    is_expected = examination.manager.pooler is not None
    with examination.context.connected() as connection:
        told = driver_connection(connection.connection.dbapi_connection).info.backend_pid
        with connection.begin():
            real = connection.scalar(text(_sql_doctor.BACKEND))
        if told == real:
            mode = None
        else:
            mode = "transaction" if _backend_of_another(examination) == real else "session"
    if mode is None and is_expected:
        yield warning(
            "there is no pooler in between, and pooler='external' opens a connection for each "
            "transaction",
            "Leave pooler='external' out, or let the dsn name the pooler.",
        )
    elif mode is None:
        yield fine("there is no pooler in between")
    elif is_expected:
        yield fine(f"there is a pooler in between, in {mode} mode, and pooler='external' fits")
    else:
        yield warning(
            f"there is a pooler in between, in {mode} mode, that the manager does not know of",
            "Make the manager with pooler='external'.",
        )


def reporting(examination: Examination) -> Iterator[Finding]:
    """Tell whether the server reports when somebody moves the search path."""
    with examination.undone() as connection:
        connection.execute(text(_sql_doctor.ONE))
        driver: Any = driver_connection(connection.connection.dbapi_connection)
        is_reported = driver.info.parameter_status("search_path") is not None
    if is_reported:
        yield fine("the server reports the search path: each statement is verified")
    else:
        yield fine(
            "the server does not report the search path, as PostgreSQL 18 does: it is set again "
            "after each statement that may move it"
        )


def _backend_of_another(examination: Examination) -> int | None:
    """Return which process serves a second client, None if a pooler has none for it yet."""
    found: list[int | None] = []

    def ask() -> None:
        rows = examination.ask(_sql_doctor.BACKEND)
        found.append(rows[0][0])

    thread = Thread(target=ask, name="doctor", daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    return found[0] if found else None
