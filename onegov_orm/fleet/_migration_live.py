"""Has Alembic run revisions in one schema, on a connection of its own, under the schema's lock.

The lock belongs to the transaction, and to the connection as soon as a revision commits in the
middle, with an ``autocommit_block``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from onegov_orm._marking import find_mark, write_mark
from onegov_orm.errors import OrmError, PoolerRestriction
from onegov_orm.fleet import _sql_migrations
from onegov_orm.fleet._migration_failure import failure_in
from onegov_orm.fleet._migration_job import unbound
from onegov_orm.fleet._migration_plans import Goal, told
from onegov_orm.fleet._migration_scripts import (
    ALEMBIC,
    Scripts,
    configuration,
    revision_of,
    translated,
)
from onegov_orm.fleet.runner import Skipped
from onegov_orm.marks import now
from onegov_orm.provisioning import lock, lock_key

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.names import SchemaName


class LiveWorker:
    """Runs revisions in one schema after the other, in this process."""

    def __init__(
        self, context: FleetContext, scripts: Scripts, goal: Goal, lock_timeout_seconds: float
    ) -> None:
        self._context = context
        self._scripts = scripts
        self._goal = goal
        self._timeout = lock_timeout_seconds
        self._driver: Any = None

    def work(self, schema: SchemaName) -> str:
        """Run what is due, and return what there is to say; raises `Skipped`."""
        with self._context.connected(schema, lock_timeout_seconds=self._timeout) as connection:
            self._driver = connection.connection.dbapi_connection
            session_lock = SessionLock(connection, schema)
            try:
                with ALEMBIC, translated():
                    return self._run(connection, schema, session_lock)
            finally:
                session_lock.release()
                self._driver = None

    def interrupt(self) -> None:
        """Have the server cancel the statement that runs."""
        driver = self._driver
        if driver is not None:
            # It may be over just now.
            with suppress(Exception):
                driver.cancel()

    def close(self) -> None:
        """Do nothing: the connections are the pool's."""

    def _run(self, connection: Connection, schema: SchemaName, session_lock: SessionLock) -> str:
        run = _Run(self._scripts, self._goal)
        config = configuration(self._scripts.folder, schema=str(schema))
        environment = EnvironmentContext(config, self._scripts.directory, fn=run.steps)
        # Running env.py, if it has not been yet, would end an environment around it.
        options = {
            **unbound(self._scripts.options),
            "connection": connection,
            "version_table_schema": str(schema),
        }
        options["on_version_apply"] = [*_hooks(options), run.on_version_apply]
        if options.get("transaction_per_migration"):
            session_lock.take()
        with environment:
            environment.configure(**options)
            context = environment.get_context()
            watch_autocommit(context, schema, session_lock)
            with environment.begin_transaction():
                if not session_lock.is_held:
                    lock(connection, f"schema {schema}")
                with Operations.context(context), run.watching():
                    context.run_migrations()
                note_migration(connection, schema)
        return run.told()


class _Run:
    """One run of revisions in one schema."""

    def __init__(self, scripts: Scripts, goal: Goal) -> None:
        self._scripts = scripts
        self._goal = goal
        self._start: frozenset[str] = frozenset()
        self._end: frozenset[str] = frozenset()
        self._due: list[str] = []
        self._done = 0

    def steps(self, heads: Any, _context: Any) -> list[Any]:
        """Return what Alembic is to run from here; raises `Skipped` if it is nothing."""
        self._start = frozenset(heads)
        self._scripts.refuse_unknown(self._start)
        steps = self._scripts.steps(self._goal.direction, self._goal.target, heads)
        if not steps:
            raise Skipped(f"at {', '.join(sorted(heads)) or 'base'}")
        self._due = [revision_of(step) for step in steps]
        return steps

    def on_version_apply(self, *, heads: set[str], **_: Any) -> None:
        """Note where it has led to so far."""
        self._end = frozenset(heads)
        self._done += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raise what a revision raises such that it is named."""
        try:
            yield
        except (Skipped, OrmError, CommandError):
            raise
        except Exception as exc:
            if self._done >= len(self._due):
                raise
            raise failure_in(self._due[self._done], exc) from exc

    def told(self) -> str:
        """Return what there is to say once it is done."""
        return told(self._start, self._end, len(self._due))


def note_migration(connection: Connection, schema: str) -> None:
    """Write the moment into the schema's mark, if it has one."""
    # Where each revision has a transaction of its own, none is open by now.
    block: Any = nullcontext() if connection.in_transaction() else connection.begin()
    with block:
        mark = find_mark(connection, schema)
        if mark is not None:
            write_mark(connection, schema, replace(mark, migrated=now()))


def watch_autocommit(context: Any, schema: str, session_lock: SessionLock | None = None) -> None:
    """Have what an interrupted concurrent build left behind dropped before it is tried again.

    The lock that ends with the transaction is replaced by one that does not.
    """
    original = context.autocommit_block

    @contextmanager
    def autocommit_block() -> Iterator[None]:
        if session_lock is not None and not session_lock.is_held:
            session_lock.take_inside()
        with original():
            drop_invalid_indexes(context.connection, schema)
            yield

    context.autocommit_block = autocommit_block


def drop_invalid_indexes(connection: Connection, schema: str) -> None:
    """Drop indexes that nobody builds and nobody can use; the connection is in AUTOCOMMIT."""
    found = connection.execute(text(_sql_migrations.INVALID_INDEXES), {"schema": schema})
    for index in found.scalars().all():
        sql = _sql_migrations.drop_index_concurrently(schema, index)
        connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


class SessionLock:
    """The schema's lock as one that outlives transactions, if it is needed."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._key = {"key": lock_key(f"schema {schema}")}
        self.is_held = False

    def take(self) -> None:
        """Wait for it in a transaction of its own; behind a pooler it can't be had."""
        with suppress(PoolerRestriction), self._connection.begin():
            self.take_inside()

    def take_inside(self) -> None:
        """Wait for it in the transaction that is open, which may have the other lock."""
        self._connection.execute(text(_sql_migrations.SESSION_LOCK), self._key)
        self.is_held = True

    def release(self) -> None:
        """Let go of it."""
        if not self.is_held:
            return
        try:
            self._connection.rollback()
            with self._connection.begin():
                self._connection.execute(text(_sql_migrations.SESSION_UNLOCK), self._key)
        except SQLAlchemyError:
            # The lock ends with the connection.
            self._connection.invalidate()


def _hooks(options: Mapping[str, Any]) -> list[Any]:
    given = options.get("on_version_apply") or ()
    return [given] if callable(given) else list(given)
