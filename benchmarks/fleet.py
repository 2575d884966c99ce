"""The command for whole fleets: `python -m benchmarks.fleet`.

The server is as durable as one in production: what was committed is on the disk, for every
contestant. Its settings are part of the report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import fleet_check, fleet_migrations, fleet_serving, fleet_spares, plots
from benchmarks.databases import describe_server, new_database
from benchmarks.fleet_migrations import Amount, Standing
from benchmarks.fleet_report import FleetReport, grids
from benchmarks.models import SIXTY
from benchmarks.report import markdown_of, show
from benchmarks.surroundings import FLEET_PACKAGES, environment

RESULTS: Final = Path(__file__).parent / "results"
PARTS: Final = ("migrations", "serving", "spares", "check")

#: Durable, and no larger than the machine of somebody who tries this.
SETTINGS: Final = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
}
#: What is reported besides what all benchmarks do.
_MORE_SETTINGS: Final = ("full_page_writes", "max_wal_size", "max_locks_per_transaction")

#: How wide tables are in a file.
_WIDTH: Final = 140

#: What each size is by default, and with --quick.
_FULL: Final[dict[str, object]] = {
    "sizes": [300, 1000], "rounds": 3, "slow_rounds": 1, "sample": 15, "serve": 10_000,
    "serve_tables": 5, "spare_rounds": 15, "spare_tables": SIXTY, "check": 500,
}  # fmt: skip
_QUICK: Final[dict[str, object]] = {
    "sizes": [20], "rounds": 1, "slow_rounds": 1, "sample": 2, "serve": 200,
    "serve_tables": 5, "spare_rounds": 3, "spare_tables": SIXTY, "check": 20,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet",
        description="Measure what onegov_orm does to whole fleets of schemas, beside Alembic's "
        "recipe and django-tenants.",
        epilog="Without a dsn, an embedded server is started, with fsync. Figures are medians, "
        "with the quartiles in brackets; ratios are to the loop in one env.py. Processes of "
        "`alembic upgrade` are run for a sample of the schemas, and their mean is multiplied by "
        "the number of schemas. The full run takes hours.",
    )
    add = found.add_argument
    add("--dsn", help="a server on which new databases may be created")
    add("--quick", action="store_true", help="a first impression, in a minute")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="leave out the other parts")
    add("--sizes", nargs="+", type=int, help="how many schemas are migrated (300 1000)")
    add("--rounds", type=int, help="turns of each contestant (3)")
    add("--slow-rounds", type=int, help="turns of django-tenants and of processes (1)")
    add("--sample", type=int, help="schemas of `alembic upgrade` as a process (15)")
    add("--workers", type=int, default=4, help="how many schemas at a time (4)")
    add("--serve", type=int, help="how many small schemas are served (10000)")
    add("--serve-tables", type=int, help="how many tables each of them has (5)")
    add("--spare-rounds", type=int, help="how many customers get a spare (15)")
    add("--spare-tables", type=int, help="how many tables each of them has (60)")
    add("--check", type=int, help="how many schemas are checked (500)")
    add("--output", type=Path, default=RESULTS, help="where JSON and plots go")
    add("--markdown", action="store_true", help="print the figures as Markdown, and only them")
    add("--no-plots", action="store_true", help="write no plots")
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with the sizes of a full or a quick run where none is given."""
    options = parser().parse_args(arguments)
    for name, value in (_QUICK if options.quick else _FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


class Bench:
    """One run: measures part by part, each in a database of its own, and shows the results."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options = options
        self.console = console
        self.report = FleetReport()
        self._shown: set[str] = set()

    def run(self) -> FleetReport:
        """Measure what was asked for."""
        parts: dict[str, Callable[[str], None]] = {
            "migrations": self._migrations,
            "serving": self._serving,
            "spares": self._spares,
            "check": self._check,
        }
        with new_database(self.options.dsn, SETTINGS) as dsn:
            self.report.environment = environment(FLEET_PACKAGES) | describe_server(
                dsn, _MORE_SETTINGS
            )
            self.report.environment["workers"] = str(self.options.workers)
            for name, measure in parts.items():
                if name in self.options.only:
                    measure(dsn)
                    self._show()
        return self.report

    def _migrations(self, dsn: str) -> None:
        options = self.options
        amount = Amount(
            options.sizes, options.rounds, options.slow_rounds, options.sample, options.workers
        )
        with _place(dsn) as (first, directory), new_database(dsn) as second:
            for result in fleet_migrations.run(first, second, directory, amount):
                if isinstance(result, Standing):
                    self.report.standings.append(result)
                else:
                    self.report.migrations.append(result)
                    self._show()

    def _serving(self, dsn: str) -> None:
        options = self.options
        with _place(dsn) as (own, directory):
            self.report.serving = fleet_serving.run(
                own, directory, options.serve, options.serve_tables, options.workers
            )

    def _spares(self, dsn: str) -> None:
        with new_database(dsn) as own:
            self.report.spares = fleet_spares.run(
                own, self.options.spare_rounds, self.options.spare_tables
            )

    def _check(self, dsn: str) -> None:
        with _place(dsn) as (own, directory):
            self.report.check = fleet_check.run(
                own, directory, self.options.check, self.options.workers
            )

    def _show(self) -> None:
        """Show the tables that are new."""
        for grid in grids(self.report):
            if grid.title not in self._shown:
                show(self.console, grid)
                self._shown.add(grid.title)


@contextmanager
def _place(dsn: str) -> Iterator[tuple[str, Path]]:
    """Yield a new database, and a new directory."""
    with new_database(dsn) as own, tempfile.TemporaryDirectory() as directory:
        yield own, Path(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks of fleets, and return the exit code."""
    options = parse(arguments)
    # Tables go where they don't disturb Markdown that is redirected into a file.
    console = Console(stderr=options.markdown, width=None if sys.stdout.isatty() else _WIDTH)
    report = Bench(options, console).run()
    options.output.mkdir(parents=True, exist_ok=True)
    report.write_json(options.output / "fleet.json")
    console.print(f"all figures: {options.output / 'fleet.json'}", highlight=False)
    if report.migrations and not options.no_plots and plots.is_available():
        written = plots.write_fleet_plots(report, options.output)
        console.print(f"plots: {len(written)} in {options.output}", highlight=False)
    if options.markdown:
        print(markdown_of(grids(report), report.environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
