"""Brings many schemas to a target: scripts are replayed by threads, the rest is run by Alembic."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm._ddl import run_script
from onegov_orm.errors import ForeignSchema, MigrationError
from onegov_orm.fleet import _sql_migrations
from onegov_orm.fleet._migration_failure import failure_in
from onegov_orm.fleet._migration_live import LiveWorker
from onegov_orm.fleet._migration_plans import Goal, Move, Planner
from onegov_orm.fleet._migration_process import ProcessWorker, first_message
from onegov_orm.fleet._versions import Standing, read_standing
from onegov_orm.fleet.runner import (
    OnResult,
    Outcome,
    Report,
    Result,
    RunOptions,
    Skipped,
    Worker,
    run,
)
from onegov_orm.marks import Mark, now
from onegov_orm.provisioning import lock_key, sqlstate

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet._migration_scripts import Scripts
    from onegov_orm.names import SchemaName

#: A process of Alembic's takes as long to start as it takes for some twenty schemas.
SCHEMAS_PER_PROCESS: Final = 25

#: How often a schema is looked at again that others are changing at the same time.
_LOOKS: Final = 5

#: ``undefined_table``, ``invalid_schema_name`` and ``unique_violation``: what a script ends with
#: if the schema changed before it had the lock.
_CHANGED: Final = ("42P01", "3F000", "23505")


class MigrationRun:
    """One run over many schemas: knows where they stand, and the moves from there."""

    def __init__(
        self,
        name: str,
        context: FleetContext,
        scripts: Scripts,
        goal: Goal,
        replay: bool,
        manager_path: str | None,
    ) -> None:
        self.context = context
        self.planner = Planner(scripts, goal, context.engine.dialect, replay)
        self.standings: dict[SchemaName, Standing] = {}
        self._name = name
        self._scripts = scripts
        self._goal = goal
        self._manager_path = manager_path

    def __call__(
        self,
        standings: Mapping[SchemaName, Standing],
        options: RunOptions,
        on_result: OnResult | None,
        stop: threading.Event | None,
    ) -> Report:
        """Run what is due; raises `MigrationError` if nothing can be done anywhere."""
        started = time.monotonic()
        self.standings = dict(standings)
        finished, due = self._sort_out()
        counter = _Counter(on_result, len(standings))
        for result in finished:
            counter(result, 0, 0)
        options = self._adapted(options, due)
        message = self._first_message(options, due)

        def make_worker() -> Worker:
            return MigrationWorker(self, self._live_worker(message, options), options)

        report = run(self._name, due, make_worker, options, counter, stop)
        results = sorted([*finished, *report.results], key=lambda result: result.schema)
        seconds = time.monotonic() - started
        return replace(report, results=tuple(results), seconds=seconds)

    def _sort_out(self) -> tuple[list[Result], list[SchemaName]]:
        """Return the results of schemas where nothing is due, and the other schemas."""
        finished: list[Result] = []
        due: list[SchemaName] = []
        errors: list[MigrationError] = []
        for schema, standing in self.standings.items():
            try:
                move = self.planner.move(standing.versions)
            except MigrationError as exc:
                errors.append(exc)
                due.append(schema)
                continue
            if move.is_nothing:
                detail = f"at {', '.join(sorted(standing.versions)) or 'base'}"
                finished.append(Result(str(schema), Outcome.SKIPPED, detail=detail))
            else:
                due.append(schema)
        if errors and len(errors) == len(self.standings):
            raise errors[0]
        return finished, due

    def _adapted(self, options: RunOptions, due: list[SchemaName]) -> RunOptions:
        """Return the options with fewer workers, where more would cost more than they do."""
        if not any(self._is_live(schema) for schema in due):
            return options
        worthwhile = -(-len(due) // SCHEMAS_PER_PROCESS)
        return replace(options, workers=max(1, min(options.workers, worthwhile)))

    def _is_live(self, schema: SchemaName) -> bool:
        try:
            return self.planner.move(self.standings[schema].versions).recorded is None
        except MigrationError:
            return False

    def _first_message(self, options: RunOptions, due: list[SchemaName]) -> dict[str, Any] | None:
        """Return what processes are told, None where one schema at a time is migrated anyway."""
        if min(options.workers, len(due)) < 2:
            return None
        return first_message(
            self.context.manager,
            self._manager_path,
            folder=str(self._scripts.folder.absolute()),
            direction=self._goal.direction.value,
            target=self._goal.target,
            purges=self._goal.purges,
            lock_timeout_seconds=options.lock_timeout_seconds,
        )

    def _live_worker(self, message: dict[str, Any] | None, options: RunOptions) -> Any:
        if message is not None:
            return ProcessWorker(message)
        timeout = options.lock_timeout_seconds
        return LiveWorker(self.context, self._scripts, self._goal, timeout)


class MigrationWorker:
    """Brings one schema after the other to the target, in the way that its move needs."""

    def __init__(self, job: MigrationRun, live: Any, options: RunOptions) -> None:
        self._job = job
        self._live = live
        self._timeout = options.lock_timeout_seconds
        self._driver: Any = None
        #: Which message of a script was sent last.
        self._number = 0

    def work(self, schema: SchemaName) -> str:
        """Run what is due; raises `Skipped` if that is nothing by now."""
        standing = self._job.standings[schema]
        for _ in range(_LOOKS):
            move = self._job.planner.move(standing.versions)
            if move.is_nothing:
                raise Skipped(f"at {', '.join(sorted(standing.versions)) or 'base'}")
            if move.recorded is None:
                return str(self._live.work(schema))
            try:
                self._replay(schema, standing, move)
            except DBAPIError as exc:
                # Somebody else was there first, or there is a real mistake.
                found = self._look_again(schema, standing, exc)
                if found is None:
                    raise self._failure(move, exc) from exc
                standing = found
            else:
                return move.detail
        raise MigrationError(f'others keep changing the schema "{schema}": try again later')

    def interrupt(self) -> None:
        """Have the server cancel what runs."""
        driver = self._driver
        if driver is not None:
            # It may be over just now.
            with suppress(Exception):
                driver.cancel()
        self._live.interrupt()

    def close(self) -> None:
        """End the process, if there is one."""
        self._live.close()

    def _replay(self, schema: SchemaName, standing: Standing, move: Move) -> None:
        """Send the script of the move, in one transaction."""
        key = lock_key(f"schema {schema}")
        messages = list(move.messages(schema, standing, key))
        messages[-1].append(_mark_of(schema, standing))
        context = self._job.context
        with context.connected(schema, lock_timeout_seconds=self._timeout) as connection:
            self._driver = connection.connection.dbapi_connection
            try:
                with connection.begin():
                    for self._number, message in enumerate(messages):
                        # The recorder has read the statements.
                        run_script(connection, message, is_harmless=True)
            finally:
                self._driver = None

    def _look_again(
        self, schema: SchemaName, standing: Standing, error: DBAPIError
    ) -> Standing | None:
        """Return where the schema stands if that is what the error was about."""
        is_moved = _sql_migrations.MOVED in str(error.orig)
        if not is_moved and sqlstate(error) not in _CHANGED:
            return None
        with self._job.context.connected() as connection, connection.begin():
            found = read_standing(connection, schema)
        return None if found == standing else found

    def _failure(self, move: Move, error: DBAPIError) -> BaseException:
        """Return an error such that it tells the revision, if it was one."""
        if not move.revisions or error.connection_invalidated:
            return error
        return failure_in(move.revisions[self._number], error)


class _Counter:
    """Tells of results, and how many there are so far."""

    def __init__(self, on_result: OnResult | None, total: int) -> None:
        self._on_result = on_result
        self._total = total
        self._number = 0

    def __call__(self, result: Result, *_: int) -> None:
        """Tell of one more."""
        self._number += 1
        if self._on_result is not None:
            self._on_result(result, self._number, self._total)


def _mark_of(schema: SchemaName, standing: Standing) -> str:
    """Return what writes the moment into the schema's mark."""
    mark = Mark.parse(standing.comment)
    if mark is None:
        raise ForeignSchema(schema)
    return _sql.comment_on_schema(schema, replace(mark, migrated=now()).comment)
