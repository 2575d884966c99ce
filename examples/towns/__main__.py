"""The demo: ``python -m examples.towns``, or ``make demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from time import perf_counter

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, OperationalError

from onegov_orm.embedded import EmbeddedServerError, EmbeddedUnavailable

from . import app
from .checks import (
    Check,
    check_answers,
    check_costs,
    check_failure,
    check_findings,
    check_index,
    check_rows,
    check_schemas,
)
from .facts import look_at, tables_outside, version_of
from .index import SearchIndex
from .meter import Meter, counted
from .report import Report
from .scenario import NEWCOMER, TOWNS, Demo
from .server import embedded_database, new_database

SHOWN_SEARCH = "kagi"
MORE_SEARCHES = ("käse", "MÜLLER", "notdienst", "bäck brot")
FEWEST_REQUESTS = 30
MISSPELT = "Bekerei Zurcher"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ends the program if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.towns",
        description="Several towns in one database, one schema for each: see what happens.",
    )
    parser.add_argument(
        "--dsn",
        metavar="URL",
        help="use this PostgreSQL server, in a new database, instead of the embedded one",
    )
    parser.add_argument("--keep", action="store_true", help="keep the database made with --dsn")
    parser.add_argument("--requests", type=int, default=400, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="for other requests (%(default)s)")
    options = parser.parse_args(arguments)
    if options.requests < FEWEST_REQUESTS:
        parser.error(f"--requests must be at least {FEWEST_REQUESTS}")
    if options.keep and not options.dsn:
        parser.error("--keep needs --dsn: the embedded server goes away with its data")
    return options


@contextmanager
def prepared(dsn: str, seed: int) -> Iterator[Demo]:
    """Yield the application on a database, its wire being counted."""
    index = SearchIndex()
    with counted(dsn) as (counted_dsn, proxy):
        mgr = app.make_manager(counted_dsn, index)
        outside = create_engine(mgr.url)
        try:
            yield Demo(mgr, index, Meter(mgr.engine, proxy), outside, seed)
        finally:
            outside.dispose()
            mgr.dispose()


def run(demo: Demo, report: Report, requests: int) -> bool:
    """Go through the scenario, show it, and return whether all checks hold."""
    report.imports([demo.import_town(town) for town in TOWNS])
    hopping = demo.hop(requests)
    report.costs(hopping, demo.meter)
    start = perf_counter()
    rushing = demo.rush(requests)
    report.rush(rushing, perf_counter() - start)
    findings = demo.search(SHOWN_SEARCH)
    report.findings(findings)
    failure = demo.fail(TOWNS[-1])
    report.failure(failure)
    report.newcomer(demo.welcome(NEWCOMER, MISSPELT))
    more = chain.from_iterable(demo.search(words) for words in MORE_SEARCHES)
    facts = look_at(demo.outside, [*TOWNS, NEWCOMER])
    report.facts(facts, demo.index)
    checks = [
        check_rows(facts),
        check_answers([hopping, rushing]),
        check_index(facts, demo.index),
        check_findings([*findings, *more]),
        check_failure(failure),
        check_schemas(demo.mgr.list_schemas(), [*TOWNS, NEWCOMER], tables_outside(demo.outside)),
        *costs_checked(demo.meter),
    ]
    report.checks(checks)
    report.read_next()
    return all(check.holds for check in checks)


def costs_checked(meter: Meter) -> list[Check]:
    """Return the check of the round trips, where they are counted and known beforehand."""
    return [check_costs(meter)] if meter.counts_round_trips and meter.folds_begin else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if all checks hold, 1 if not, 2 if there is no server."""
    options = parse_arguments(arguments)
    report = Report()
    start = perf_counter()
    with ExitStack() as stack:
        try:
            dsn = stack.enter_context(database(options))
        except (
            ArgumentError,
            EmbeddedServerError,
            EmbeddedUnavailable,
            OperationalError,
        ) as error:
            report.no_server(error)
            return 2
        demo = stack.enter_context(prepared(dsn, options.seed))
        report.server(version_of(demo.outside), demo.mgr.url, perf_counter() - start)
        holds = run(demo, report, options.requests)
    report.end(holds, perf_counter() - start)
    return 0 if holds else 1


def database(options: argparse.Namespace) -> AbstractContextManager[str]:
    """Return the context of an empty database, which yields its URL."""
    return new_database(options.dsn, options.keep) if options.dsn else embedded_database()


if __name__ == "__main__":
    sys.exit(main())
