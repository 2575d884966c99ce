"""Making the schema of a new customer: sixty tables with enums, keys and indexes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg2
from sqlalchemy import Engine, MetaData, create_engine, text

from benchmarks.databases import run as run_sql
from benchmarks.databases import with_driver
from benchmarks.measure import Batch, Preparer, Summary, ratios, summarize, take_turns
from benchmarks.models import SIXTY, provisioned_base, script_of
from onegov_orm import SessionManager

BY_HAND: Final = "the same script, sent by hand"
BY_HAND_AGAIN: Final = "the same script, again"
CREATE_ALL: Final = "create_all in a schema made by hand"
OURS: Final = "onegov_orm"

_MILLISECONDS: Final = 1000
#: How many schemas at the start and at the end of a long row are compared.
_ENDS: Final = 100

Make = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """What was measured of one way to make a schema."""

    contestant: str
    milliseconds: Summary
    ratio: Summary


@dataclass(frozen=True)
class LongRow:
    """What was measured of many schemas, made one after another."""

    schemas: int
    first: Summary
    last: Summary
    ratio: float
    milliseconds: list[float]


def run(dsn: str, rounds: int, tables: int = SIXTY) -> list[Row]:
    """Measure the ways to make a schema, side by side."""
    with _contestants(dsn, tables) as makers:
        preparers = {name: _preparer(dsn, name, make) for name, make in makers.items()}
        timings = take_turns(preparers, rounds)
    return [
        Row(
            name,
            summarize([value * _MILLISECONDS for value in timing.elapsed]),
            summarize(ratios(timing.elapsed, timings[BY_HAND].elapsed)),
        )
        for name, timing in timings.items()
    ]


def run_long(dsn: str, schemas: int, tables: int = SIXTY) -> LongRow:
    """Make many schemas one after another, and keep them."""
    names = iter(f"long-{number}" for number in range(schemas))
    with _manager(dsn, tables) as manager:
        manager.ensure_schema_exists("long-warm-up")
        found = take_turns(
            {OURS: lambda: _making(manager.ensure_schema_exists, next(names))},
            schemas,
            warm_up=0,
        )
    milliseconds = [value * _MILLISECONDS for value in found[OURS].elapsed]
    ends = min(_ENDS, max(1, schemas // 2))
    first, last = summarize(milliseconds[:ends]), summarize(milliseconds[-ends:])
    return LongRow(schemas, first, last, last.median / first.median, milliseconds)


@contextmanager
def _contestants(dsn: str, tables: int) -> Iterator[dict[str, Make]]:
    metadata = provisioned_base(tables).metadata
    engine = create_engine(with_driver(dsn, "psycopg2"))
    with (
        _manager(dsn, tables) as manager,
        _by_hand(dsn, metadata) as by_hand,
        _by_hand(dsn, metadata) as by_hand_again,
    ):
        yield {
            BY_HAND: by_hand,
            BY_HAND_AGAIN: by_hand_again,
            CREATE_ALL: _create_all(engine, metadata),
            OURS: manager.ensure_schema_exists,
        }
    engine.dispose()


@contextmanager
def _manager(dsn: str, tables: int) -> Iterator[SessionManager]:
    manager = SessionManager(with_driver(dsn, "psycopg2"), provisioned_base(tables))
    try:
        yield manager
    finally:
        manager.dispose()


@contextmanager
def _by_hand(dsn: str, metadata: MetaData) -> Iterator[Make]:
    script = script_of(metadata)
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True

        def make(schema: str) -> None:
            with connection.cursor() as cursor:
                cursor.execute(
                    f'BEGIN; CREATE SCHEMA "{schema}"; SET LOCAL search_path TO "{schema}";'
                    f"{script}; COMMIT"
                )

        yield make


def _create_all(engine: Engine, metadata: MetaData) -> Make:
    def make(schema: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
            connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
            metadata.create_all(connection)

    return make


def _preparer(dsn: str, name: str, make: Make) -> Preparer:
    """Return what drops the schema of the last round, and prepares the next one."""
    slug = re.sub("[^a-z]+", "-", name.lower())
    numbers = itertools.count()

    def prepare() -> Batch:
        number = next(numbers)
        run_sql(dsn, f'DROP SCHEMA IF EXISTS "{slug}-{number - 1}" CASCADE')
        return _making(make, f"{slug}-{number}")

    return prepare


def _making(make: Make, schema: str) -> Batch:
    return lambda: make(schema)
