"""All that can be done to the customers of a database, in one class."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from types import ModuleType
from typing import IO, TYPE_CHECKING, Unpack

from onegov_orm.errors import ConfigurationError
from onegov_orm.fleet import cloning, drift, dumps, lifecycle, selection
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet._versions import read_standings
from onegov_orm.fleet.drift import DriftReport
from onegov_orm.fleet.lifecycle import Spare, Trashed
from onegov_orm.fleet.registry import Customer, Overview, read_overview
from onegov_orm.fleet.runner import (
    DEFAULT_OPTIONS,
    OnResult,
    Report,
    RunArguments,
    Step,
    run_named_step,
)
from onegov_orm.fleet.upgrades import Upgrades, UpgradeStatus
from onegov_orm.marks import LIVE, State
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from onegov_orm.fleet.doctor import Verdict
    from onegov_orm.fleet.migrations import Migrations, Status
    from onegov_orm.session_manager import SessionManager


class Fleet:
    """Migrates, checks and cares for all customers of a `SessionManager`'s database.

    ::

        fleet = Fleet(mgr, migrations='migrations')
        report = fleet.migrate(options=RunOptions(workers=8, canary=2))
        for result in report.of(Outcome.FAILED):
            print(result.schema, result.error)

    :param migrations: the folder of the Alembic environment; by default the manager's.
    :param upgrades: modules with upgrade tasks, or their names; by default the manager's.
    :param manager_path: where processes can import the manager from, such as ``app.db:mgr``:
        needed where Alembic runs in several of them, and the engine was configured with more
        than plain data, or has listeners.

    The fleet is what carries the library's mark in the database. What runs over schemas takes
    ``schemas`` (their names; None: all customers), `RunOptions`, a function that is called
    after each schema, and an event that stops the run; it returns a `Report`, and raises no
    error of a single schema.
    """

    def __init__(
        self,
        mgr: SessionManager,
        *,
        migrations: str | os.PathLike[str] | None = None,
        upgrades: Iterable[str | ModuleType] | None = None,
        manager_path: str | None = None,
    ) -> None:
        self.context = FleetContext(mgr)
        self._manager_path = manager_path
        self.manager = mgr
        self._folder = mgr.migrations if migrations is None else migrations
        self._modules = mgr.upgrades if upgrades is None else upgrades

    # -- who is there

    def customers(
        self,
        namespace: str | None = None,
        *,
        states: Collection[State] = LIVE,
        names: Iterable[str] | None = None,
    ) -> list[Customer]:
        """Return the customers, sorted by name; asks the server once.

        With names, exactly these; raises `SchemaNotFound` and `ForeignSchema`.
        """
        return self.context.customers(namespace=namespace, states=states, names=names)

    def select(
        self,
        *patterns: str,
        namespace: str | None = None,
        exclude: Iterable[str] = (),
        states: Collection[State] = LIVE,
    ) -> list[SchemaName]:
        """Return the names of customers that match a name or a pattern such as ``towns-*``."""
        names = [each.schema for each in self.customers(namespace, states=states)]
        return selection.select(names, patterns, exclude=exclude)

    def overview(
        self,
        namespace: str | None = None,
        *,
        states: Collection[State] = LIVE,
        names: Iterable[str] | None = None,
    ) -> list[Overview]:
        """Return the customers with size, tables, rows, revision and dates."""
        customers = self.customers(namespace, states=states, names=names)
        standings = read_standings(self.context, (each.schema for each in customers))
        with self.context.connected() as connection:
            numbers = read_overview(connection, customers)
        return [
            replace(each, revisions=tuple(sorted(standings[each.schema].versions)))
            for each in numbers
        ]

    # -- the life of one schema

    def create(self, schema: str) -> None:
        """Make a new customer's schema, complete; raises `SchemaExists`."""
        lifecycle.create(self.context, schema)

    def rename(self, old: str, new: str) -> None:
        """Give a customer's schema another name."""
        lifecycle.rename(self.context, old, new)

    def clone(self, source: str, target: str, *, data: bool = True) -> None:
        """Make a new schema like another one; with ``data=False`` its tables are empty."""
        cloning.clone(self.context, source, target, data=data)

    def drop(
        self, schema: str, *, purge: bool = False, stop: threading.Event | None = None
    ) -> str:
        """Put a schema into the trash, and return its name there; or drop it for good."""
        return lifecycle.drop(self.context, schema, purge=purge, stop=stop)

    def trash(self) -> list[Trashed]:
        """Return what is in the trash, the newest first."""
        return lifecycle.trash(self.context)

    def undo(self, name: str, *, to: str | None = None) -> str:
        """Bring a dropped schema back, by its name or that in the trash; returns its name."""
        return lifecycle.undo(self.context, name, to=to)

    def purge(
        self,
        names: Iterable[str] | None = None,
        *,
        older_than: timedelta | None = None,
        on_result: OnResult | None = None,
        stop: threading.Event | None = None,
    ) -> Report:
        """Drop what is in the trash for good, in batches that the server has locks for."""
        return lifecycle.purge(
            self.context, names, older_than=older_than, on_result=on_result, stop=stop
        )

    def suspend(self, schema: str, note: str | None = None) -> None:
        """Have the sessions of a customer refused, in all processes within five seconds."""
        lifecycle.suspend(self.context, schema, note)

    def resume(self, schema: str) -> None:
        """Let the sessions of a suspended customer in again."""
        lifecycle.resume(self.context, schema)

    def annotate(self, schema: str, note: str) -> None:
        """Set the note of a customer."""
        lifecycle.annotate(self.context, schema, note)

    def adopt(self, *schemas: str) -> None:
        """Make existing schemas, which this library did not make, part of the fleet."""
        lifecycle.adopt(self.context, *schemas)

    def fill_spares(self, count: int) -> int:
        """Have so many schemas ready for new customers; returns how many were made."""
        return lifecycle.fill_spares(self.context, count)

    def keep_spares(self) -> int:
        """Drop the spares that are made of something older, and return how many are left."""
        return lifecycle.keep_spares(self.context)

    def spares(self) -> list[Spare]:
        """Return the schemas that are ready for new customers."""
        return lifecycle.spares(self.context)

    # -- files

    def dump(self, schema: str, file: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write a schema, with its data, to a file."""
        dumps.dump(self.context, schema, file)

    def restore(self, file: str | os.PathLike[str] | IO[bytes], schema: str | None = None) -> str:
        """Make a schema from a file, under its own or another name, which is returned."""
        return dumps.restore(self.context, file, schema)

    # -- over all schemas

    def run(self, step: Step, *, name: str | None = None, **run: Unpack[RunArguments]) -> Report:
        """Run a function of a connection and a schema's name in each schema's transaction.

        With a name, it is noted in each schema that it ran, and it runs there but once.
        """
        title = str(getattr(step, "__name__", "step")) if name is None else name
        return run_named_step(
            self.context,
            title,
            step,
            self._names(run.get("schemas")),
            options=run.get("options", DEFAULT_OPTIONS),
            on_result=run.get("on_result"),
            stop=run.get("stop"),
            is_recorded=name is not None,
        )

    def check(
        self,
        *,
        schemas: Iterable[str] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DriftReport:
        """Compare each schema with the models, and with the other schemas."""
        return drift.check(self.context, schemas=schemas, on_progress=on_progress)

    def doctor(self, *, fleet_size: int | None = None) -> list[Verdict]:
        """Tell whether server, rights, extensions, pooler and settings fit, by trying.

        ``fleet_size`` is how many customers are planned, if there are not as many yet.
        """
        # Knows of everything, and is rarely asked.
        from onegov_orm.fleet.doctor import diagnose

        return diagnose(self.context, fleet_size=fleet_size)

    # -- migrations

    @cached_property
    def migrations(self) -> Migrations:
        """The Alembic environment; raises `ConfigurationError` if there is none."""
        if self._folder is None:
            raise ConfigurationError(
                "there is no Alembic environment: name its folder with migrations=..., or make "
                "one with `onegov-orm init`"
            )
        # Needs Alembic, which who has no migrations may not have.
        from onegov_orm.fleet.migrations import Migrations

        return Migrations(self.context, self._folder, manager_path=self._manager_path)

    def status(self, schemas: Iterable[str] | None = None) -> Status:
        """Return the revisions of each schema, and what is pending; asks the server once."""
        return self.migrations.status(schemas)

    def migrate(
        self, target: str = "heads", *, replay: bool = True, **run: Unpack[RunArguments]
    ) -> Report:
        """Run the pending migrations of each schema.

        With ``replay=False`` Alembic runs each revision in each schema, also those that are
        the same statements everywhere.
        """
        return self.migrations.migrate(target, replay=replay, **run)

    def downgrade(
        self, target: str, *, replay: bool = True, **run: Unpack[RunArguments]
    ) -> Report:
        """Take migrations of each schema back, down to the target."""
        return self.migrations.downgrade(target, replay=replay, **run)

    def stamp(
        self,
        target: str | Sequence[str] = "heads",
        *,
        purge: bool = False,
        **run: Unpack[RunArguments],
    ) -> Report:
        """Note in each schema that it is at the target, without running anything.

        With ``purge=True`` whatever it was at is forgotten.
        """
        return self.migrations.stamp(target, purge=purge, **run)

    # -- upgrade tasks

    @cached_property
    def upgrades(self) -> Upgrades:
        """The upgrade tasks."""
        return Upgrades(self.context, self._modules)

    def upgrade(
        self, *, task: str | None = None, dry_run: bool = False, **run: Unpack[RunArguments]
    ) -> Report:
        """Run the pending upgrade tasks of each schema; with ``dry_run=True`` all is undone."""
        return self.upgrades.upgrade(task=task, dry_run=dry_run, **run)

    def upgrade_status(self, schemas: Iterable[str] | None = None) -> list[UpgradeStatus]:
        """Return the pending upgrade tasks of each schema; asks the server once."""
        return self.upgrades.status(schemas)

    def _names(self, schemas: Iterable[str] | None) -> list[SchemaName]:
        return [customer.schema for customer in self.customers(names=schemas)]
