"""Listens to the statements of all engines, while a block of this thread or task wants to hear."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from traceback import walk_stack
from typing import Any, Final, Protocol

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, base
from sqlalchemy.sql.elements import (
    ReleaseSavepointClause,
    RollbackToSavepointClause,
    SavepointClause,
)

from onegov_orm._analyzing.analysis import Query
from onegov_orm._analyzing.shortened import digest, shortened
from onegov_orm._places import place

_EVENTS: Final = ("before_cursor_execute", "after_cursor_execute")
_SAVEPOINTS: Final = (SavepointClause, RollbackToSavepointClause, ReleaseSavepointClause)


class Watcher(Protocol):
    """Who wants to hear of statements."""

    is_open: bool

    def started(self, query: Query) -> None:
        """Hear of a statement that is about to be sent."""

    def ended(self, query: Query) -> None:
        """Hear that a statement has run, and how long it took."""


_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


class StatementEvents:
    """Tells the watchers of this thread or task of each statement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._is_attached = False
        self._had_events = False
        #: What has not ended yet, by the identity of its cursor, and since when.
        self._running: dict[int, tuple[Query, float]] = {}

    def open(self) -> None:
        """Listen for one block more."""
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._had_events = Engine._has_events
                if not self._is_attached:
                    self._attach()
                Engine._has_events = True

    def close(self) -> None:
        """Listen for one block less; after the last one, nobody is called any more."""
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                Engine._has_events = self._had_events or self._are_others_attached()
                # The statement of another thread would fail, if what it iterates over changed.
                # Listeners that nobody calls can wait for a quiet moment.
                if not _is_statement_running():
                    self._detach()
                self._running.clear()

    def _attach(self) -> None:
        for name in _EVENTS:
            event.listen(Engine, name, getattr(self, name))
        self._is_attached = True

    def _detach(self) -> None:
        for name in _EVENTS:
            event.remove(Engine, name, getattr(self, name))
        self._is_attached = False

    def _are_others_attached(self) -> bool:
        """Tell whether somebody else has begun to listen to all engines meanwhile."""
        dispatch: Any = Engine.dispatch
        listeners = [len(each._clslevel.get(Engine, ())) for each in dispatch._event_descriptors]
        return sum(listeners) > len(_EVENTS)

    def before_cursor_execute(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        """Tell of a statement that is about to be sent."""
        watchers = [each for each in _watchers.get() if each.is_open]
        if not watchers:
            return
        schema = connection.get_execution_options().get("schema")
        query = Query(
            statement=statement,
            parameters=shortened(parameters),
            place=place(),
            schema=None if schema is None else str(schema),
            rows=len(parameters) if executemany and isinstance(parameters, list) else None,
            is_repeatable=_is_repeatable(context),
            key=digest(parameters),
        )
        for watcher in watchers:
            watcher.started(query)
        self._running[id(cursor)] = (query, perf_counter())

    def after_cursor_execute(
        self,
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        """Tell how long the statement took."""
        ended = perf_counter()
        watchers = [each for each in _watchers.get() if each.is_open]
        running = self._running.pop(id(cursor), None) if watchers else None
        if running is None:
            return
        query, started = running
        query.seconds = ended - started
        query.is_reading = cursor.description is not None and not _changes_rows(context)
        if executemany and query.rows is None:
            # SQLAlchemy has put many rows into one statement.
            query.rows = cursor.rowcount
        for watcher in watchers:
            watcher.ended(query)


_events = StatementEvents()


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell the watcher of the statements of this thread or task, and of the tasks it starts."""
    _watchers.set((*_watchers.get(), watcher))
    _events.open()
    try:
        yield
    finally:
        # A block may end in another context than it began in, where a token would be refused.
        _watchers.set(tuple(each for each in _watchers.get() if each is not watcher))
        _events.close()


def _is_statement_running() -> bool:
    """Tell whether a thread is in the part of SQLAlchemy that calls the listeners."""
    return any(
        frame.f_code.co_filename == base.__file__
        for innermost in sys._current_frames().values()
        for frame, _ in walk_stack(innermost)
    )


def _is_repeatable(context: Any) -> bool:
    """Tell whether to do the same again is of no use."""
    compiled = getattr(context, "compiled", None)
    is_savepoint = isinstance(getattr(compiled, "statement", None), _SAVEPOINTS)
    return not is_savepoint and not getattr(context, "isinsert", False)


def _changes_rows(context: Any) -> bool:
    return any(getattr(context, name, False) for name in ("isinsert", "isupdate", "isdelete"))
