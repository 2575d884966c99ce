"""Runs the tasks that one schema has not seen, in the transaction that the runner began."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from inspect import isgenerator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from onegov_orm._ddl import run_script
from onegov_orm._marking import find_mark, write_mark
from onegov_orm._pool import driver_connection
from onegov_orm._statements import Effects, effects_of
from onegov_orm._upgrade_state import executed_tasks, make_state, record
from onegov_orm._upgrade_tasks import UpgradeTask
from onegov_orm.errors import OrmError, UpgradeFailed
from onegov_orm.fleet import _sql_upgrades
from onegov_orm.fleet._upgrade_context import UpgradeContext
from onegov_orm.fleet.runner import Skipped, one_line
from onegov_orm.marks import now
from onegov_orm.provisioning import sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName
    from onegov_orm.session_manager import SessionManager

logger = logging.getLogger("onegov_orm.upgrades")

#: How many tasks are named in the detail of a result.
_MOST_NAMES: Final = 5

#: What a text of nothing else ends the transaction with.
_ENDS: Final = re.compile(
    r"\s*(?:commit|rollback|end|abort)(?:\s+(?:work|transaction))?\s*;?\s*", re.IGNORECASE
)
_GUARDED: Final = ("commit", "before_cursor_execute")
_CANNOT_END: Final = (
    "a task can't end the transaction: what all tasks do is committed in the end, or none of it"
)

NOTHING_PENDING: Final = "nothing pending"


@dataclass(frozen=True)
class UpgradeStep:
    """The step that the runner takes in each schema."""

    manager: SessionManager
    tasks: Sequence[UpgradeTask]
    dry_run: bool = False

    def __call__(self, connection: Connection, schema: SchemaName) -> str:
        """Run what is pending, and return what was done; raises `UpgradeFailed`."""
        if not self.dry_run:
            return self._run(connection, schema)
        with _undone(connection):
            return f"dry run, undone: {self._run(connection, schema)}"

    def _run(self, connection: Connection, schema: SchemaName) -> str:
        make_state(connection)
        executed = executed_tasks(connection, schema)
        pending = [task for task in self.tasks if task.always_run or task.key not in executed]
        if not pending:
            raise Skipped(NOTHING_PENDING)
        moments: dict[UpgradeTask, datetime] = {}
        effective: list[UpgradeTask] = []
        guard = _Guard(connection)
        with self.manager.disable_change_signals(), guard.standing():
            context = UpgradeContext(self.manager, connection, schema)
            try:
                for task in pending:
                    if _execute(task, context, guard, is_last=task is pending[-1]):
                        effective.append(task)
                    moments[task] = now()
            finally:
                context.close()
        lasting = {task: moment for task, moment in moments.items() if not task.always_run}
        if lasting:
            record(connection, schema, lasting)
        if effective:
            _mark(connection, schema)
        return _detail(pending, effective)


def _execute(task: UpgradeTask, context: UpgradeContext, guard: _Guard, *, is_last: bool) -> bool:
    """Run a task, and tell whether it did something; raises `UpgradeFailed`."""
    logger.debug("upgrade task %s", task.key, extra={"schema": str(context.schema)})
    try:
        did = _did_something(_call(task, context), context.flush)
        context.flush()
        guard.check()
        # What is checked at the commit only is checked here, where the task has a name.
        run_script(context.connection, [_sql_upgrades.CHECK_CONSTRAINTS])
        if not is_last:
            run_script(context.connection, [_sql_upgrades.DEFER_CONSTRAINTS])
    except Exception as exc:
        state = sqlstate(exc) if isinstance(exc, DBAPIError) else None
        raise UpgradeFailed(task.key, one_line(exc), state) from exc
    return did


def _call(task: UpgradeTask, context: UpgradeContext) -> Any:
    if task.raw:
        return task.function(context.connection, [context.schema])
    return task.function(context)


def _did_something(result: Any, flush: Callable[[], None]) -> bool:
    """Tell whether a task did something; a generator is run, and flushed after each part."""
    if not isgenerator(result):
        return result is not False
    did = False
    while True:
        try:
            part = next(result)
        except StopIteration as end:
            return did or end.value is True
        flush()
        did = did or part is not False


class _Guard:
    """Refuses what would end the transaction, and so leave a part of it behind."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Keep the transaction open in the block."""
        for name in _GUARDED:
            event.listen(self._connection, name, getattr(self, name))
        try:
            yield
        finally:
            for name in _GUARDED:
                event.remove(self._connection, name, getattr(self, name))

    def commit(self, connection: Any) -> None:
        """Refuse a commit by SQLAlchemy's means."""
        raise OrmError(_CANNOT_END)

    def before_cursor_execute(
        self, connection: Any, cursor: Any, statement: str, *_arguments: Any
    ) -> None:
        """Refuse a text that ends the transaction."""
        if _ENDS.fullmatch(statement) or Effects.ESCAPES in effects_of(statement):
            raise OrmError(_CANNOT_END)

    def check(self) -> None:
        """Raise if the transaction ended all the same, behind SQLAlchemy's back."""
        state: Any = driver_connection(self._connection.connection.dbapi_connection)
        if state.is_idle:
            raise OrmError(_CANNOT_END)


@contextmanager
def _undone(connection: Connection) -> Iterator[None]:
    """Undo at the end of the block what was done in it."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        if savepoint.is_active:
            savepoint.rollback()


def _mark(connection: Connection, schema: SchemaName) -> None:
    """Note in the schema's mark that something was changed now."""
    mark = find_mark(connection, schema)
    if mark is not None:
        write_mark(connection, schema, replace(mark, migrated=now()))


def _detail(pending: Sequence[UpgradeTask], effective: Sequence[UpgradeTask]) -> str:
    if len(pending) > _MOST_NAMES:
        idle = len(pending) - len(effective)
        return f"{len(pending)} tasks" + (f", {idle} of them had nothing to do" if idle else "")
    return ", ".join(
        task.key if task in effective else f"{task.key} (nothing to do)" for task in pending
    )
