"""One new revision in each schema of a fleet, or none: ours, Alembic's recipe, django-tenants.

Each contestant is a process, as in a deployment, and its start is part of its time. All find the
same fleet: what a run did is checked, and undone before the next one. The contestants take turns,
each round in another order.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks import tenants
from benchmarks.databases import with_driver
from benchmarks.fleet_databases import (
    DjangoDatabase,
    FleetDatabase,
    OurDatabase,
    columns_added,
)
from benchmarks.fleet_environments import write_our_environment, write_recipe
from benchmarks.fleet_models import CHANGED_TABLES, REVISIONS, base_of
from benchmarks.fleet_processes import Usage, run_program
from benchmarks.fleet_tenants import Project
from benchmarks.measure import Summary, ratios, summarize
from onegov_orm import SessionManager
from onegov_orm.fleet import Fleet

OURS: Final = "onegov_orm"
LIVE: Final = "onegov_orm, run by Alembic"
LOOP: Final = "a loop in one env.py: Alembic's recipe"
PROCESSES: Final = "alembic upgrade as processes"
TENANTS: Final = "django-tenants, standard executor"
TENANTS_PROCESSES: Final = "django-tenants, multiprocessing executor"

NOTHING: Final = "nothing to do"
NEW: Final = "one new revision"

_MILLISECONDS: Final = 1000
#: How often it is asked whether something is pending.
_QUESTIONS: Final = 5


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    :param sizes: how many schemas the fleet has; it grows from one to the next.
    :param rounds: how often each contestant has its turn; those of Django have theirs in the
        first ``slow_rounds``.
    :param sample: in how many schemas `alembic upgrade` is run as a process.
    """

    sizes: Sequence[int]
    rounds: int
    slow_rounds: int
    sample: int
    workers: int


@dataclass(frozen=True)
class Row:
    """What was measured of one contestant; with ``sampled`` its time was extrapolated.

    ``inside`` are the seconds of the run itself, without the start of the process, where the
    contestant tells them. ``processor`` are the seconds that its processes were at work.
    """

    contestant: str
    seconds: Summary
    milliseconds_per_schema: Summary
    processor: Summary
    ratio: Summary
    largest_mb: float
    all_mb: float
    sampled: int = 0
    inside: Summary | None = None
    inside_ratio: Summary | None = None


@dataclass(frozen=True)
class Result:
    """How long one task took all contestants, in so many schemas."""

    task: str
    schemas: int
    rows: list[Row]


@dataclass(frozen=True)
class Standing:
    """How long it took to say what is pending, and to make a schema of the fleet."""

    schemas: int
    status_milliseconds: Summary
    provision_milliseconds: float


@dataclass(frozen=True)
class Contestant:
    """Someone who migrates a fleet: a function of the number of revisions that are there."""

    name: str
    database: FleetDatabase
    migrate: Callable[[int], Usage]
    is_slow: bool = False
    #: In how many schemas it works; 0 means all.
    sample: int = 0
    #: Whether it prints how long the run itself took.
    tells_seconds: bool = False


def run(dsn: str, django_dsn: str, directory: Path, amount: Amount) -> Iterator[Result | Standing]:
    """Measure both tasks at each size; both databases are empty at first."""
    field = _Field(dsn, django_dsn, directory, amount)
    for size in amount.sizes:
        provisioning = field.grow(size)
        yield Standing(size, field.status(), provisioning * _MILLISECONDS)
        yield field.compete(NOTHING, REVISIONS)
        yield field.compete(NEW, REVISIONS + 1)


class _Field:
    """The contestants with their databases and environments."""

    def __init__(self, dsn: str, django_dsn: str, directory: Path, amount: Amount) -> None:
        self._amount = amount
        self._ours = {
            number: write_our_environment(directory, number)
            for number in (REVISIONS, REVISIONS + 1)
        }
        url = with_driver(dsn, "psycopg2")
        self._recipes = {
            number: write_recipe(directory, number, url) for number in (REVISIONS, REVISIONS + 1)
        }
        self._directory = directory
        self._database = OurDatabase(dsn, self._ours[REVISIONS], amount.workers)
        self._databases: list[FleetDatabase] = [self._database]
        self.contestants = self._alembic()
        if tenants.is_available():
            self.contestants += self._django(django_dsn)

    def grow(self, size: int) -> float:
        """Have so many schemas everywhere; return the seconds of one of the library's."""
        seconds = [database.grow(size) for database in self._databases]
        for database in self._databases:
            database.put_back()
        return seconds[0]

    def status(self) -> Summary:
        """Return how long it takes to say what is pending, in milliseconds."""
        url = with_driver(self._database.dsn, "psycopg2")
        manager = SessionManager(url, base_of())
        fleet = Fleet(manager, migrations=self._ours[REVISIONS])
        fleet.status()
        found = []
        for _ in range(_QUESTIONS):
            started = perf_counter()
            fleet.status()
            found.append((perf_counter() - started) * _MILLISECONDS)
        manager.dispose()
        return summarize(found)

    def compete(self, task: str, revisions: int) -> Result:
        """Let all have their turns, and undo what they did."""
        shuffle = random.Random(revisions).shuffle
        turns: dict[str, list[Usage]] = {each.name: [] for each in self.contestants}
        for number in range(self._amount.rounds):
            chosen = [
                each
                for each in self.contestants
                if number < self._amount.slow_rounds or not each.is_slow
            ]
            shuffle(chosen)
            for contestant in chosen:
                turns[contestant.name].append(_turn(contestant, revisions))
        schemas = len(self._database.schemas)
        rows = [
            _row(contestant, schemas, turns[contestant.name], turns[LOOP])
            for contestant in self.contestants
        ]
        return Result(task, schemas, rows)

    def _alembic(self) -> list[Contestant]:
        database = self._database
        return [
            Contestant(OURS, database, self._ours_by("replay"), tells_seconds=True),
            Contestant(LIVE, database, self._ours_by("live"), tells_seconds=True),
            Contestant(LOOP, database, self._run_recipe, tells_seconds=True),
            Contestant(
                PROCESSES,
                database,
                self._run_processes,
                is_slow=True,
                sample=self._amount.sample,
            ),
        ]

    def _ours_by(self, way: str) -> Callable[[int], Usage]:
        return lambda revisions: self._run_ours(revisions, way)

    def _run_ours(self, revisions: int, way: str) -> Usage:
        folder, workers = self._ours[revisions], self._amount.workers
        module = [sys.executable, "-m", "benchmarks.fleet_worker"]
        command = [*module, self._database.dsn, str(folder), str(workers), way]
        return run_program(command, self._directory)

    def _run_recipe(self, revisions: int, *arguments: str) -> Usage:
        command = [sys.executable, "-m", "alembic", "-c", str(self._recipes[revisions])]
        return run_program([*command, *arguments, "upgrade", "head"], self._directory)

    def _run_processes(self, revisions: int) -> Usage:
        """Run Alembic for some schemas, and multiply by how many there are."""
        schemas = self._database.schemas
        chosen = schemas[: self._amount.sample]
        found = [self._run_recipe(revisions, "-x", f"tenant={schema}") for schema in chosen]
        factor = len(schemas) / len(found)
        return Usage(
            sum(usage.seconds for usage in found) * factor,
            sum(usage.processor_seconds for usage in found) * factor,
            max(usage.largest_mb for usage in found),
            max(usage.all_mb for usage in found),
            "",
        )

    def _django(self, dsn: str) -> list[Contestant]:
        projects = {
            number: Project(
                self._directory / f"django_{number}", dsn, number, self._amount.workers
            )
            for number in (REVISIONS, REVISIONS + 1)
        }
        database = DjangoDatabase(dsn, projects[REVISIONS])
        self._databases.append(database)

        def migrate(executor: str) -> Callable[[int], Usage]:
            arguments = ["migrate_schemas", "--tenant", f"--executor={executor}"]
            return lambda number: projects[number].manage(*arguments)

        return [
            Contestant(TENANTS, database, migrate("standard"), is_slow=True),
            Contestant(TENANTS_PROCESSES, database, migrate("multiprocessing"), is_slow=True),
        ]


def _turn(contestant: Contestant, revisions: int) -> Usage:
    """Run one contestant, make sure that it did its work, and undo that."""
    usage = contestant.migrate(revisions)
    database = contestant.database
    schemas = min(contestant.sample or len(database.schemas), len(database.schemas))
    wanted = schemas * len(CHANGED_TABLES) * (revisions - REVISIONS)
    found = columns_added(database.dsn)
    if found != wanted:
        raise RuntimeError(f"{contestant.name} added {found} columns instead of {wanted}")
    database.put_back()
    return usage


def _row(
    contestant: Contestant, schemas: int, turns: Sequence[Usage], reference: Sequence[Usage]
) -> Row:
    seconds = [usage.seconds for usage in turns]
    row = Row(
        contestant.name,
        summarize(seconds),
        summarize([value * _MILLISECONDS / schemas for value in seconds]),
        summarize([usage.processor_seconds for usage in turns]),
        summarize(ratios(seconds, [usage.seconds for usage in reference[: len(turns)]])),
        max(usage.largest_mb for usage in turns),
        max(usage.all_mb for usage in turns),
        min(contestant.sample, schemas),
    )
    if not contestant.tells_seconds:
        return row
    inside, loop = _inside(turns), _inside(reference)
    return replace(row, inside=summarize(inside), inside_ratio=summarize(ratios(inside, loop)))


def _inside(turns: Sequence[Usage]) -> list[float]:
    """Return the seconds that the programs say they took, in their last lines."""
    return [json.loads(usage.output.splitlines()[-1])["seconds"] for usage in turns]
