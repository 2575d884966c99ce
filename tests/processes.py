"""Processes that do the same thing at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from onegov_orm import SessionManager
from tests.models import Base

_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def make_schema(dsn: str, schema: str) -> int:
    """Make a schema together with the other processes; tell how often it was new."""
    mgr = SessionManager(dsn, Base)
    heard: list[str] = []

    def hear(schema: str, connection: Any) -> None:
        heard.append(schema)

    mgr.on_schema_init.connect(hear)
    _barrier.wait(60)
    mgr.set_current_schema(schema)
    mgr.session().connection()
    mgr.dispose()
    return len(heard)


def create_schema(dsn: str, schema: str) -> str:
    """Create an empty schema together with the other processes; tell how it went."""
    mgr = SessionManager(dsn, Base)
    _barrier.wait(60)
    try:
        mgr.create_schema(schema)
    except Exception as error:
        return type(error).__name__
    else:
        return "created"
    finally:
        mgr.dispose()


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Have processes of their own, each of which runs one task of every round."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes"])
    barrier = context.Barrier(number)
    with ProcessPoolExecutor(number, context, _meet, (barrier,)) as executor:
        yield executor


def nobody_else_stays(execute: Callable[[str], list[tuple[Any, ...]]]) -> bool:
    """Wait until a connection from outside is the only one, for a server needs its time."""
    count = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    deadline = time.monotonic() + 10
    while execute(count) != [(1,)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
