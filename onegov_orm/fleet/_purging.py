"""Drops schemas for good, in portions that the server has locks for.

Dropping a schema takes a lock for all that is in it, some nine for each table, and a server has
room for some thousands of them. So what is in it goes first, in transactions of its own. What
is interrupted is a schema with a part of its tables, which the next purge drops.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from onegov_orm._ddl import run_script
from onegov_orm._marking import read_mark, write_mark
from onegov_orm.errors import OrmError, SchemaNeeded
from onegov_orm.fleet import _sql_lifecycle
from onegov_orm.fleet._moving import lock_capacity
from onegov_orm.fleet.runner import Interruption, RunOptions
from onegov_orm.marks import State
from onegov_orm.provisioning import lock, schema_exists

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.names import SchemaName

#: One schema at a time, and others' locks are waited for shortly and often: on tables that
#: customers share, everybody who comes later waits behind us.
OPTIONS: Final = RunOptions(workers=1, lock_timeout_seconds=1.0, tries=10)

#: How much of the server's room for locks one portion may take; others need some, too.
_SHARE_OF_LOCKS: Final = 4

#: The most things that one portion drops, so that a transaction stays short.
_MOST_THINGS: Final = 500

_VIEWS: Final = ["v", "m"]
_TABLES: Final = ["r", "p", "f"]
_OTHERS: Final = ["S", "c"]


class Purger:
    """Drops one schema after the other; a worker of the runner."""

    def __init__(self, context: FleetContext, stop: threading.Event | None = None) -> None:
        self._context = context
        self._stop = stop
        self._interruption = Interruption()
        self.interrupt = self._interruption.interrupt

    def work(self, schema: SchemaName) -> str:
        """Drop a schema; raises `SchemaNeeded` if something outside depends on it."""
        timeout = OPTIONS.lock_timeout_seconds
        with (
            self._context.connected(schema, lock_timeout_seconds=timeout) as connection,
            self._interruption.of(connection),
        ):
            portions = 0
            while self._drop_portion(connection, schema, is_first=not portions):
                portions += 1
                if self._stop is not None and self._stop.is_set():
                    raise OrmError("it was stopped on the way: the next purge goes on")
        return f"in {portions} portions" if portions > 1 else ""

    def close(self) -> None:
        """Do nothing: the connections are the pool's."""

    def _drop_portion(self, connection: Connection, schema: SchemaName, is_first: bool) -> bool:
        """Drop a portion of what is in the schema; tell whether the schema is still there."""
        with connection.begin():
            lock(connection, f"schema {schema}")
            if not schema_exists(connection, schema):
                return False
            if is_first:
                self._condemn(connection, schema)
                return True
            portion = next(_portions(connection, schema), None)
            run_script(connection, portion or [_sql_lifecycle.drop_schema(schema)])
            return portion is not None

    def _condemn(self, connection: Connection, schema: SchemaName) -> None:
        """Note that there is no way back, before anything is dropped."""
        refuse_needed(connection, schema)
        mark = read_mark(connection, schema)
        if mark.state is not State.PURGING:
            write_mark(connection, schema, mark.changed_to(State.PURGING))


def refuse_needed(connection: Connection, schema: SchemaName) -> None:
    """Raise `SchemaNeeded` if something outside of the schema would be dropped with it."""
    dependents = connection.execute(text(_sql_lifecycle.OUTSIDERS), {"schema": schema})
    if found := list(dependents.scalars()):
        raise SchemaNeeded(schema, found)


def _portions(connection: Connection, schema: SchemaName) -> Iterator[list[str]]:
    """Yield the statements of the next portion, and of what comes after it."""
    budget = lock_capacity(connection) // _SHARE_OF_LOCKS
    parameters: dict[str, Any] = {"schema": schema, "number": _MOST_THINGS}
    keys = connection.execute(text(_sql_lifecycle.FOREIGN_KEYS), parameters).all()
    if keys:
        fitting = _fitting(keys, budget)
        yield [_sql_lifecycle.drop_foreign_key(table, name) for table, name in fitting]
    for kinds in (_VIEWS, _TABLES, _OTHERS):
        found = {**parameters, "kinds": kinds}
        relations = connection.execute(text(_sql_lifecycle.RELATIONS), found).all()
        if relations:
            yield _drops(_fitting(relations, budget))
    rest = connection.execute(text(_sql_lifecycle.ROUTINES_AND_TYPES), parameters).all()
    if rest:
        yield _drops(_fitting(rest, budget))


def _fitting(rows: Sequence[Any], budget: int) -> list[tuple[str, str]]:
    """Return the first rows whose locks fit into the budget together, one at the least."""
    fitting: list[tuple[str, str]] = []
    for kind, identifier, locks in rows:
        budget -= locks
        if budget < 0 and fitting:
            break
        fitting.append((kind, identifier))
    return fitting


def _drops(things: Sequence[tuple[str, str]]) -> list[str]:
    return [
        _sql_lifecycle.drop_objects(kind, [identifier for _, identifier in group])
        for kind, group in groupby(things, key=lambda thing: thing[0])
    ]
