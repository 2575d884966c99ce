"""How long it takes to look at a whole fleet: who is there, how large, and who has drifted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.databases import run as run_sql
from benchmarks.databases import with_driver
from benchmarks.fleet_databases import names, provision
from benchmarks.fleet_environments import write_our_environment
from benchmarks.fleet_models import REVISIONS, base_of, index_name, table_name
from benchmarks.fleet_serving import asked
from benchmarks.measure import Summary, summarize
from onegov_orm import SessionManager
from onegov_orm.fleet import Fleet

_CHECKS: Final = 3
_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class Result:
    """What was asked of so many schemas; all times in milliseconds.

    ``found`` are the schemas that the check named, of which one was altered.
    """

    schemas: int
    tables: int
    check: Summary
    altered: str
    found: list[str]
    listed: Summary
    overview: Summary
    pending: Summary


def run(dsn: str, directory: Path, schemas: int, workers: int) -> Result:
    """Make a fleet in an empty database, alter one schema, and look for it."""
    folder = write_our_environment(directory, REVISIONS)
    everyone = names(0, schemas)
    provision(dsn, base_of(), everyone, workers, migrations=folder)
    altered = everyone[schemas // 2]
    run_sql(dsn, f'DROP INDEX "{altered}".{index_name(table_name(5), "created")}', "ANALYZE")
    manager = SessionManager(with_driver(dsn, "psycopg2"), base_of())
    fleet = Fleet(manager, migrations=folder)
    duration, found = _check(fleet)
    result = Result(
        schemas,
        len(base_of().metadata.tables),
        duration,
        altered,
        found,
        asked(fleet.customers, schemas),
        asked(fleet.overview, schemas),
        asked(lambda: fleet.status().schemas, schemas),
    )
    manager.dispose()
    return result


def _check(fleet: Fleet) -> tuple[Summary, list[str]]:
    durations, found = [], []
    for _ in range(_CHECKS):
        started = perf_counter()
        report = fleet.check()
        durations.append((perf_counter() - started) * _MILLISECONDS)
        found = list(report.drifted)
    return summarize(durations), found
