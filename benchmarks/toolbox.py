"""The command for the toolbox: `python -m benchmarks.toolbox`.

What a cached property costs beside the query that it saves, and what the library's types cost
beside SQLAlchemy's own when many rows are loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from sqlalchemy import DateTime, MetaData, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.databases import describe_server, new_database, with_driver
from benchmarks.measure import Preparer, Summary, ratios, summarize, take_turns
from benchmarks.report import Grid, markdown_of, show
from benchmarks.surroundings import environment
from onegov_orm import SessionManager
from onegov_orm.cache import OrmCache, memory_region, orm_cached, redis_region
from onegov_orm.types import JSON, UTCDateTime

RESULTS: Final = Path(__file__).parent / "results"
DRIVERS: Final = ("psycopg2", "psycopg")

_SCHEMA: Final = "towns-bench"
_MICROSECONDS: Final = 1_000_000
_WIDTH: Final = 120

#: How often a value is read again in one block, so that the first time is as good as nothing.
_AGAIN: Final = 10_000

#: Each block reads one row besides, as a request does that has a user.
QUERY: Final = "one row, and the query of a hundred"
AGAIN: Final = "the same, again"
ALONE: Final = "one row alone"
INSIDE: Final = "onegov_orm: cached, again in the same block"


class Base(DeclarativeBase):
    metadata = MetaData()


class Bare(Base):
    __tablename__ = "bare"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSONB))


class Ours(Base):
    __tablename__ = "ours"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True)
class Row:
    """What was measured of one way, and the ratio to the first one."""

    contestant: str
    microseconds: Summary
    ratio: Summary


@dataclass
class Report:
    environment: dict[str, str] = field(default_factory=dict)
    loading: dict[str, list[Row]] = field(default_factory=dict)
    caching: list[Row] = field(default_factory=list)


class App:
    """A value of a hundred rows, cached in some ways."""

    def __init__(self, mgr: SessionManager, region: Any, **options: Any) -> None:
        self.mgr = mgr
        self.orm_cache = OrmCache(mgr, region, **options)

    def one(self) -> object:
        return self.mgr.session().scalars(select(Bare.at).limit(1)).one()

    def query(self) -> list[str]:
        found = select(Bare.data["title"].as_string()).order_by(Bare.id).limit(100)
        return list(self.mgr.session().scalars(found))

    @orm_cached("on-table-change:bare")
    def titles(self) -> list[str]:
        return self.query()


def load(dsn: str, rows: int, rounds: int) -> list[Row]:
    """Measure how long it takes to load many objects."""
    with _manager(dsn) as mgr:
        _fill(mgr, rows)

        def loading(model: type[Any]) -> Preparer:
            def batch() -> None:
                with mgr.schema(_SCHEMA, readonly=True) as session:
                    for obj in session.scalars(select(model)):
                        obj.at, obj.data  # noqa: B018

            return lambda: batch

        contestants = {
            "SQLAlchemy's types": loading(Bare),
            "SQLAlchemy's types, again": loading(Bare),
            "onegov_orm's types": loading(Ours),
        }
        return _rows(take_turns(contestants, rounds), dict.fromkeys(contestants, rows))


def cache(dsn: str, rounds: int, batch: int) -> list[Row]:
    """Measure what a cached value costs, in blocks and inside of one."""
    with _manager(dsn) as mgr, _redis() as url:
        _fill(mgr, 100)
        regions: dict[str, tuple[Any, dict[str, Any]]] = {
            "memory": (memory_region(), {}),
            "memory, names trusted": (memory_region(), {"trust_seconds": 3600.0}),
        }
        if url:
            regions["Redis"] = redis_region(url), {}
            regions["Redis, names trusted"] = redis_region(url), {"trust_seconds": 3600.0}
        bare = App(mgr, memory_region())
        contestants = {
            QUERY: _in_blocks(mgr, bare.query, batch),
            AGAIN: _in_blocks(mgr, bare.query, batch),
            ALONE: _in_blocks(mgr, lambda: None, batch),
        }
        for name, (region, options) in regions.items():
            title = f"onegov_orm: one row, and cached in {name}"
            contestants[title] = _in_blocks(mgr, _reader(App(mgr, region, **options)), batch)
        counts = dict.fromkeys(contestants, batch)
        contestants[INSIDE] = _inside(mgr, App(mgr, memory_region()))
        counts[INSIDE] = _AGAIN
        return _rows(take_turns(contestants, rounds, warm_up=2), counts)


def _reader(app: App) -> Callable[[], Any]:
    return lambda: app.titles


def _in_blocks(mgr: SessionManager, read: Callable[[], Any], count: int) -> Preparer:
    row = App(mgr, memory_region())

    def batch() -> None:
        for _ in range(count):
            with mgr.schema(_SCHEMA):
                row.one()
                read()

    return lambda: batch


def _inside(mgr: SessionManager, app: App) -> Preparer:
    def batch() -> None:
        with mgr.schema(_SCHEMA):
            for _ in range(_AGAIN):
                app.titles  # noqa: B018

    return lambda: batch


def _rows(timings: dict[str, Any], counts: Mapping[str, int]) -> list[Row]:
    """Return the times of one row or value each."""
    each = {
        name: [value * _MICROSECONDS / counts[name] for value in timing.elapsed]
        for name, timing in timings.items()
    }
    reference = next(iter(each.values()))
    return [
        Row(name, summarize(values), summarize(ratios(values, reference)))
        for name, values in each.items()
    ]


def _fill(mgr: SessionManager, rows: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    values = [
        {
            "at": start + timedelta(minutes=number),
            "data": {
                "title": f"Title {number}",
                "tags": ["one", "two", "three"],
                "contact": {"name": "Ada", "phone": "+41 31 000 00 00"},
                "count": number,
            },
        }
        for number in range(rows)
    ]
    with mgr.schema(_SCHEMA) as session:
        for model in (Bare, Ours):
            session.execute(text(f"TRUNCATE {model.__tablename__}"))
            session.bulk_insert_mappings(model, values)


@contextmanager
def _manager(dsn: str) -> Iterator[SessionManager]:
    mgr = SessionManager(dsn, Base)
    try:
        yield mgr
    finally:
        mgr.dispose()


@contextmanager
def _redis() -> Iterator[str | None]:
    """Run a Redis of our own, if the machine has one."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as directory:
        socket = Path(directory) / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", ""]
        with subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) as process:
            while not socket.exists():
                time.sleep(0.01)
            yield f"unix://{socket}"
            process.terminate()


def grids(report: Report) -> list[Grid]:
    """Return the tables of a report."""
    found = [
        Grid(
            f"Loading objects with JSON and a date and time, {driver}",
            ["contestant", "µs per row", "ratio"],
            [_cells(row, 2) for row in rows],
        )
        for driver, rows in report.loading.items()
    ]
    if report.caching:
        header = ["contestant", "µs", "ratio to the query"]
        found.append(Grid("Reading a value", header, [_cells(row, 1) for row in report.caching]))
    return found


def _cells(row: Row, digits: int) -> list[str]:
    return [row.contestant, f"{row.microseconds.median:.{digits}f}", str(row.ratio)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks of the toolbox, and return the exit code."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.toolbox",
        description="Measure cached properties, and the library's types.",
    )
    found.add_argument("--dsn", help="a server on which a new database may be created")
    found.add_argument("--quick", action="store_true", help="a first impression, in seconds")
    found.add_argument("--rows", type=int, default=10_000, help="how many rows are loaded")
    found.add_argument("--output", type=Path, default=RESULTS, help="where JSON goes")
    found.add_argument("--markdown", action="store_true", help="print Markdown, and only that")
    options = found.parse_args(arguments)
    rounds = 3 if options.quick else 15
    console = Console(stderr=options.markdown, width=None if sys.stdout.isatty() else _WIDTH)
    report = Report()
    with new_database(options.dsn) as dsn:
        report.environment = environment() | describe_server(dsn)
        for driver in DRIVERS:
            report.loading[driver] = load(with_driver(dsn, driver), options.rows, rounds)
        report.caching = cache(with_driver(dsn, "psycopg2"), rounds, 20 if options.quick else 200)
    for grid in grids(report):
        show(console, grid)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "toolbox.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    if options.markdown:
        print(markdown_of(grids(report), report.environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
