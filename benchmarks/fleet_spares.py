"""How long a new customer waits for the first answer: with a spare schema, and without one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from benchmarks.databases import run as run_sql
from benchmarks.databases import with_driver
from benchmarks.measure import Batch, Preparer, Summary, ratios, summarize, take_turns
from benchmarks.models import SIXTY, provisioned_base
from onegov_orm import SessionManager
from onegov_orm.fleet import Fleet

WITHOUT: Final = "onegov_orm, the schema is made when it is asked for"
WITH: Final = "onegov_orm, a spare was ready"

_MILLISECONDS: Final = 1000


@dataclass(frozen=True)
class Row:
    """How long the first statement took, the schema included."""

    contestant: str
    milliseconds: Summary
    ratio: Summary


@dataclass(frozen=True)
class Result:
    """What new customers waited for, whose schema has so many tables."""

    tables: int
    rows: list[Row]


def run(dsn: str, rounds: int, tables: int = SIXTY) -> Result:
    """Measure new customers with and without a spare, in turns."""
    base = provisioned_base(tables)
    manager = SessionManager(with_driver(dsn, "psycopg2"), base)
    fleet = Fleet(manager)
    statement = select(func.count()).select_from(base.metadata.tables["records_00"])

    def first_answer(schema: str) -> None:
        with manager.schema(schema) as session:
            session.execute(statement)

    def preparer(prefix: str, spares: int) -> Preparer:
        numbers = itertools.count()

        def prepare() -> Batch:
            number = next(numbers)
            # The catalogs stay as large as they are.
            run_sql(dsn, f'DROP SCHEMA IF EXISTS "{prefix}-{number - 1}" CASCADE')
            fleet.fill_spares(spares)
            if len(fleet.spares()) != spares:
                raise RuntimeError(f"there are {len(fleet.spares())} spares instead of {spares}")
            return lambda: first_answer(f"{prefix}-{number}")

        return prepare

    timings = take_turns({WITHOUT: preparer("made", 0), WITH: preparer("spared", 1)}, rounds)
    manager.dispose()
    base_line = timings[WITHOUT].elapsed
    return Result(
        tables,
        [
            Row(
                name,
                summarize([value * _MILLISECONDS for value in timing.elapsed]),
                summarize(ratios(timing.elapsed, base_line)),
            )
            for name, timing in timings.items()
        ],
    )
