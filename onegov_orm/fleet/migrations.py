"""Migrates all customers with Alembic: what is pending is known from one query.

Most revisions send the same SQL in each schema. They are run once, without a database, and what
they would send is replayed by threads; the others are run by Alembic, in processes of their own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onegov_orm._stamp import quick_heads
from onegov_orm.fleet._migration_init import init_environment
from onegov_orm.fleet._versions import Standing, read_standings
from onegov_orm.fleet.runner import DEFAULT_OPTIONS, Outcome, Report, Result, RunOptions

if TYPE_CHECKING:
    from onegov_orm.fleet._context import FleetContext
    from onegov_orm.fleet._migration_plans import Goal
    from onegov_orm.fleet._migration_scripts import Scripts
    from onegov_orm.fleet.runner import OnResult
    from onegov_orm.names import SchemaName

__all__ = ["Migrations", "SchemaStatus", "Status", "init_environment"]


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a schema stands: its revisions, those that are pending, and those nobody knows."""

    schema: str
    revisions: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether nothing is pending, and nothing unknown."""
        return not self.pending and not self.unknown

    def as_dict(self) -> dict[str, Any]:
        """Return the status, as JSON has it."""
        return {
            "schema": self.schema,
            "revisions": list(self.revisions),
            "pending": list(self.pending),
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Where all schemas stand, and the newest revisions."""

    heads: tuple[str, ...]
    schemas: tuple[SchemaStatus, ...]

    @property
    def is_current(self) -> bool:
        """Whether no schema has anything pending or unknown."""
        return all(schema.is_current for schema in self.schemas)

    def as_dict(self) -> dict[str, Any]:
        """Return the status, as JSON has it."""
        return {
            "heads": list(self.heads),
            "schemas": [schema.as_dict() for schema in self.schemas],
        }


class Migrations:
    """The migrations of a fleet.

    :param folder: of the Alembic environment.
    :param manager_path: where the manager can be imported from, such as ``app.db:mgr``: needed
        where revisions have to be run by Alembic in several processes, and the manager's engine
        was configured with more than plain data.

    Raises `MigrationError` where something is wrong with the environment or a target, before
    anything is touched.
    """

    def __init__(
        self,
        context: FleetContext,
        folder: str | os.PathLike[str],
        *,
        manager_path: str | None = None,
    ) -> None:
        self.context = context
        self.folder = Path(folder)
        self._manager_path = manager_path

    def status(self, schemas: Iterable[str] | None = None) -> Status:
        """Return where the schemas stand; asks the server once for all versions."""
        standings = read_standings(self.context, schemas)
        quick = self._quick_heads(standings.values())
        if quick is not None:
            heads = tuple(sorted(quick))
            return Status(heads, tuple(SchemaStatus(str(name), heads, ()) for name in standings))
        scripts = self._scripts()
        known: dict[frozenset[str], tuple[tuple[str, ...], tuple[str, ...]]] = {}
        for standing in standings.values():
            if standing.versions not in known:
                unknown = scripts.unknown(standing.versions)
                pending = () if unknown else scripts.pending(standing.versions)
                known[standing.versions] = (pending, unknown)
        return Status(
            scripts.heads,
            tuple(
                SchemaStatus(
                    str(schema), tuple(sorted(standing.versions)), *known[standing.versions]
                )
                for schema, standing in standings.items()
            ),
        )

    def heads(self) -> tuple[str, ...]:
        """Return the newest revisions."""
        return self._scripts().heads

    def history(self) -> list[Any]:
        """Return Alembic's scripts, the newest first."""
        return self._scripts().history()

    def migrate(
        self,
        target: str = "heads",
        *,
        schemas: Iterable[str] | None = None,
        options: RunOptions = DEFAULT_OPTIONS,
        on_result: OnResult | None = None,
        stop: threading.Event | None = None,
        replay: bool = True,
    ) -> Report:
        """Run what is pending in each schema, up to the target: ``heads``, ``+1``, a revision.

        With ``replay=False`` Alembic runs every revision in every schema.
        """
        started = time.monotonic()
        standings = read_standings(self.context, schemas)
        if target == "heads" and self._quick_heads(standings.values()) is not None:
            results = [_skipped(schema, standing) for schema, standing in standings.items()]
            for number, result in enumerate(results, 1):
                if on_result is not None:
                    on_result(result, number, len(results))
            return Report("migrate", tuple(results), time.monotonic() - started)
        job = self._job("migrate", "upgrade", target, replay=replay)
        return job(standings, options, on_result, stop)

    def downgrade(
        self,
        target: str,
        *,
        schemas: Iterable[str] | None = None,
        options: RunOptions = DEFAULT_OPTIONS,
        on_result: OnResult | None = None,
        stop: threading.Event | None = None,
        replay: bool = True,
    ) -> Report:
        """Take revisions back in each schema, down to the target: ``base``, ``-1``, a revision."""
        job = self._job("downgrade", "downgrade", target, replay=replay)
        return job(read_standings(self.context, schemas), options, on_result, stop)

    def stamp(
        self,
        target: str | Sequence[str] = "heads",
        *,
        schemas: Iterable[str] | None = None,
        options: RunOptions = DEFAULT_OPTIONS,
        on_result: OnResult | None = None,
        stop: threading.Event | None = None,
        purge: bool = False,
    ) -> Report:
        """Note in each schema that it is at the target, and run nothing.

        With ``purge=True`` whatever it was at is forgotten, revisions that nobody knows too.
        """
        job = self._job("stamp", "stamp", target, purges=purge)
        return job(read_standings(self.context, schemas), options, on_result, stop)

    def sql(self, target: str, schema: str) -> str:
        """Return what `migrate` would send in a schema, from where it stands by now.

        Raises `MigrationError` for revisions that have to look at the database.
        """
        # Alembic is loaded when it is needed.
        from onegov_orm.fleet._migration_dry import dry_run

        goal = self._goal("upgrade", target)
        [(name, standing)] = read_standings(self.context, [schema]).items()
        return dry_run(self.context, self._scripts(), goal, name, standing)

    def revision(self, message: str, *, schema: str | None = None, **options: Any) -> list[Path]:
        """Write a new revision, by default with what the models have and the migrations lack.

        ``schema`` names a customer to compare the models with; by default all migrations are run
        in a scratch schema for that. Takes the options of Alembic's ``revision``:
        ``autogenerate`` (here True by default), ``head``, ``splice``, ``branch_label``,
        ``rev_id``, ``depends_on``, ``version_path``. Returns the files; raises `MigrationError`.
        """
        # Alembic is loaded when it is needed.
        from onegov_orm.fleet._migration_revision import write_revision

        return write_revision(self.context, self.folder, message, schema, options)

    # -- inside

    def _scripts(self) -> Scripts:
        # Alembic is loaded when it is needed.
        from onegov_orm.fleet._migration_scripts import Scripts

        return Scripts(self.folder)

    def _goal(self, direction: str, target: str | Sequence[str], purges: bool = False) -> Goal:
        # Alembic is loaded when it is needed.
        from onegov_orm.fleet._migration_plans import Goal
        from onegov_orm.fleet._migration_scripts import Direction

        wanted = target if isinstance(target, str) else tuple(target)
        return Goal(Direction(direction), wanted, purges)

    def _job(
        self,
        name: str,
        direction: str,
        target: str | Sequence[str],
        *,
        replay: bool = True,
        purges: bool = False,
    ) -> Callable[..., Report]:
        """Return what runs something in many schemas; the target is checked first."""
        # Alembic is loaded when it is needed.
        from onegov_orm.fleet._migration_run import MigrationRun

        goal = self._goal(direction, target, purges)
        scripts = self._scripts()
        scripts.check_target(goal.direction, goal.target)
        return MigrationRun(name, self.context, scripts, goal, replay, self._manager_path)

    def _quick_heads(self, standings: Iterable[Standing]) -> frozenset[str] | None:
        """Return the newest revisions if all schemas are there, None if that is not certain."""
        heads = quick_heads(self.folder)
        if heads is None or any(standing.versions != heads for standing in standings):
            return None
        return heads


def _skipped(schema: SchemaName, standing: Standing) -> Result:
    detail = f"at {', '.join(sorted(standing.versions)) or 'base'}"
    return Result(str(schema), Outcome.SKIPPED, detail=detail)
