"""The fleets that migrations are measured on: made once, and put back after each run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol

import psycopg2
from sqlalchemy.orm import DeclarativeBase

from benchmarks import fleet_tenants
from benchmarks.databases import run, with_driver
from benchmarks.fleet_models import (
    CHANGED_TABLES,
    NEW_COLUMN,
    REVISIONS,
    base_of,
    revision_name,
    table_name,
)
from benchmarks.fleet_tenants import Project
from onegov_orm import SessionManager

#: How many schemas are put back in one transaction: each takes a dozen locks.
_BATCH: Final = 25

#: The catalogs that DDL leaves dead rows in.
_CATALOGS: Final = "pg_attribute, pg_class, pg_depend, pg_index, pg_description, pg_statistic"

_DONE: Final = """
    SELECT count(*) FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE attname = %s AND NOT attisdropped AND relkind = 'r' AND starts_with(nspname, 'fleet-')"""


class FleetDatabase(Protocol):
    """A database with a fleet in it."""

    dsn: str
    schemas: list[str]

    def grow(self, count: int) -> float:
        """Have so many schemas, and return how many seconds each new one took."""

    def put_back(self) -> None:
        """Undo the new revision wherever it was run."""


class OurDatabase:
    """Schemas that the library has provisioned; Alembic's recipe finds the same ones."""

    def __init__(self, dsn: str, migrations: Path, workers: int) -> None:
        self.dsn = dsn
        self.schemas: list[str] = []
        self._migrations = migrations
        self._workers = workers

    def grow(self, count: int) -> float:
        """Have so many schemas, and return how many seconds each new one took."""
        new = names(len(self.schemas), count)
        seconds = provision(self.dsn, base_of(), new, self._workers, migrations=self._migrations)
        self.schemas += new
        return seconds / max(1, len(new))

    def put_back(self) -> None:
        """Undo the new revision wherever it was run."""
        version = revision_name(REVISIONS)
        _put_back(self, f"UPDATE alembic_version SET version_num = '{version}'")


class DjangoDatabase:
    """Schemas with the same tables, as Django makes them, and its own record of migrations."""

    def __init__(self, dsn: str, project: Project) -> None:
        self.dsn = dsn
        self.schemas: list[str] = []
        project.create_first()
        self._script = project.script()

    def grow(self, count: int) -> float:
        """Have so many schemas, and return how many seconds each new one took."""
        new = names(len(self.schemas), count)
        started = perf_counter()
        fleet_tenants.create_tenants(self.dsn, self._script, new)
        self.schemas += new
        return (perf_counter() - started) / max(1, len(new))

    def put_back(self) -> None:
        """Undo the new revision wherever it was run."""
        version = revision_name(REVISIONS + 1)
        _put_back(self, f"DELETE FROM django_migrations WHERE name = '{version}'")


def names(start: int, stop: int) -> list[str]:
    """Return the names of customers."""
    return [f"fleet-{number:05}" for number in range(start, stop)]


def provision(
    dsn: str,
    base: type[DeclarativeBase],
    schemas: Sequence[str],
    workers: int,
    **options: Any,
) -> float:
    """Have the library make schemas, several at a time, and return how many seconds it took."""
    pool = {"pool_size": workers, "max_overflow": 1}
    manager = SessionManager(with_driver(dsn, "psycopg2"), base, pool_config=pool, **options)
    started = perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(manager.ensure_schema_exists, schemas))
    seconds = perf_counter() - started
    manager.dispose()
    return seconds


def columns_added(dsn: str) -> int:
    """Return how many columns the new revision has added, in all schemas together."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(_DONE, (NEW_COLUMN,))
        return int((cursor.fetchone() or (0,))[0])


def settle(dsn: str) -> None:
    """Let the server tidy up, so that nobody pays for what others have left."""
    run(dsn, f"VACUUM (ANALYZE) {_CATALOGS}", "CHECKPOINT")


def batches(values: Sequence[str], size: int = _BATCH) -> Iterator[Sequence[str]]:
    """Yield the values in groups."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _put_back(database: FleetDatabase, forget: str) -> None:
    if columns_added(database.dsn):
        drop = "; ".join(
            f"ALTER TABLE {table_name(table)} DROP COLUMN IF EXISTS {NEW_COLUMN}"
            for table in CHANGED_TABLES
        )
        undo: Callable[[str], str] = 'SET LOCAL search_path TO "{}"; {}; {}'.format
        for batch in batches(database.schemas):
            run(database.dsn, "; ".join(undo(schema, drop, forget) for schema in batch))
    settle(database.dsn)
