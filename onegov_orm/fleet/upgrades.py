"""Upgrade tasks for the fleet: what is pending where, and running it."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm._ddl import run_script
from onegov_orm._upgrade_state import UpgradeState, foreign_table, upgrade_stamp
from onegov_orm._upgrade_tasks import Modules, UpgradeTask, find_task, load_tasks, upgrade_task
from onegov_orm.fleet import _sql_upgrades
from onegov_orm.fleet._upgrade_context import UpgradeContext
from onegov_orm.fleet._upgrade_run import NOTHING_PENDING, UpgradeStep
from onegov_orm.fleet.runner import (
    DEFAULT_OPTIONS,
    OnResult,
    Outcome,
    Report,
    Result,
    RunOptions,
    run_step,
)
from onegov_orm.names import SchemaName
from onegov_orm.provisioning import sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet.registry import Customer

__all__ = [
    "UpgradeContext",
    "UpgradeState",
    "UpgradeStatus",
    "UpgradeTask",
    "Upgrades",
    "upgrade_stamp",
    "upgrade_task",
]

#: How many schemas are asked for with one query: each takes some locks.
_BATCH_SIZE: Final = 1000

#: ``undefined_column``: the table is somebody else's.
_UNDEFINED_COLUMN: Final = "42703"

#: The names of the tasks that a schema lacks of one module, and of all modules in all schemas.
Lack = tuple[SchemaName, str, frozenset[str]]
Lacking = dict[SchemaName, dict[str, frozenset[str]]]


@dataclass(frozen=True, slots=True)
class UpgradeStatus:
    """The tasks that a schema has not seen yet, in their order."""

    schema: SchemaName
    pending: tuple[UpgradeTask, ...]

    @property
    def is_current(self) -> bool:
        """Whether the schema has seen all tasks."""
        return not self.pending

    def as_dict(self) -> dict[str, Any]:
        """Return the status, as JSON has it."""
        return {"schema": str(self.schema), "pending": [task.key for task in self.pending]}


class Upgrades:
    """The upgrade tasks of an application, and the fleet that they are for.

    :param modules: modules with tasks or their names; None for those of the entry points in
        the group ``onegov_upgrades``.

    Raises `ConfigurationError` for modules that can't be loaded, and for tasks that contradict
    each other.
    """

    def __init__(self, context: FleetContext, modules: Modules = None) -> None:
        self._context = context
        #: All tasks, in the order in which they run.
        self.tasks = load_tasks(modules)

    def status(self, schemas: Iterable[str] | None = None) -> list[UpgradeStatus]:
        """Return what is pending in each schema, from one query for a thousand of them.

        Tasks that always run are never pending. Raises `SchemaNotFound` and `ForeignSchema`.
        """
        return self._status(schemas, self.tasks)

    def upgrade(
        self,
        *,
        schemas: Iterable[str] | None = None,
        options: RunOptions = DEFAULT_OPTIONS,
        on_result: OnResult | None = None,
        stop: threading.Event | None = None,
        task: str | None = None,
        dry_run: bool = False,
    ) -> Report:
        """Run what is pending in these schemas, each in one transaction of its own.

        Schemas with nothing pending are skipped, and nothing is sent to them. With ``task``
        only this task is run, and before it what it requires and the schema lacks. With
        ``dry_run=True`` all is run, and undone. Raises `ConfigurationError` for an unknown task.
        """
        target = None if task is None else find_task(self.tasks, task)
        tasks = self.tasks if target is None else self._needed_by(target)
        always = target.always_run if target else any(each.always_run for each in tasks)
        statuses = self._status(schemas, tasks)
        todo = [each.schema for each in statuses if always or each.pending]
        skipped = [
            Result(str(each.schema), Outcome.SKIPPED, detail=NOTHING_PENDING)
            for each in statuses
            if not (always or each.pending)
        ]
        progress = _Progress(on_result, len(statuses))
        for result in skipped:
            progress(result)
        step = UpgradeStep(self._context.manager, tasks, dry_run)
        report = run_step(self._context, "upgrade", step, todo, options, progress, stop)
        results = sorted((*skipped, *report.results), key=lambda result: result.schema)
        return replace(report, results=tuple(results))

    def _needed_by(self, target: UpgradeTask) -> tuple[UpgradeTask, ...]:
        """Return the task with all that have to run before it, in their order."""
        needed = {target.key}
        for task in reversed(self.tasks):
            if task.key in needed:
                needed.update(task.requires)
        return tuple(task for task in self.tasks if task.key in needed)

    def _status(
        self, schemas: Iterable[str] | None, tasks: Sequence[UpgradeTask]
    ) -> list[UpgradeStatus]:
        lasting = [task for task in tasks if not task.always_run]
        customers, lacking = self._context.ask(
            schemas, lambda customers: self._lacking(customers, lasting)
        )
        return [_status_of(customer.schema, lasting, lacking) for customer in customers]

    def _lacking(self, customers: Sequence[Customer], tasks: Sequence[UpgradeTask]) -> Lacking:
        """Return the names of the tasks that are lacking, by schema and module."""
        wanted: dict[str, dict[str, bool]] = defaultdict(dict)
        for task in tasks:
            wanted[task.module][task.name] = True
        everything = {module: frozenset(names) for module, names in wanted.items()}
        lacking: Lacking = {customer.schema: dict(everything) for customer in customers}
        recorded = [customer.schema for customer in customers if customer.has_upgrades]
        if wanted and recorded:
            with self._context.connected() as connection:
                for start in range(0, len(recorded), _BATCH_SIZE):
                    batch = recorded[start : start + _BATCH_SIZE]
                    for schema, module, names in _read(connection, batch, json.dumps(wanted)):
                        lacking[schema][module] = names
        return lacking


class _Progress:
    """Counts the schemas that were skipped together with those of the run."""

    def __init__(self, on_result: OnResult | None, total: int) -> None:
        self._on_result = on_result
        self._total = total
        self._number = 0

    def __call__(self, result: Result, *_numbers: int) -> None:
        self._number += 1
        if self._on_result is not None:
            self._on_result(result, self._number, self._total)


def _read(connection: Connection, schemas: Sequence[SchemaName], wanted: str) -> list[Lack]:
    try:
        with connection.begin():
            run_script(connection, _sql_upgrades.PENDING_SETTINGS)
            statement = text(_sql_upgrades.pending(schemas))
            rows = connection.execute(statement, {"wanted": wanted}).all()
    except DBAPIError as exc:
        if sqlstate(exc) != _UNDEFINED_COLUMN:
            raise
        if len(schemas) == 1:
            raise foreign_table(schemas[0]) from exc
        # Which schema it is, the server does not tell.
        middle = len(schemas) // 2
        first = _read(connection, schemas[:middle], wanted)
        return first + _read(connection, schemas[middle:], wanted)
    return [(schemas[number], module, frozenset(names)) for number, module, names in rows]


def _status_of(
    schema: SchemaName, tasks: Sequence[UpgradeTask], lacking: Lacking
) -> UpgradeStatus:
    names = lacking[schema]
    return UpgradeStatus(schema, tuple(task for task in tasks if task.name in names[task.module]))
