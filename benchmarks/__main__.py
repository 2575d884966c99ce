"""The command: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import concurrency, imports, memory, plots, provisioning, requests
from benchmarks.asynchronous import ASYNC_DRIVERS
from benchmarks.concurrency import Load
from benchmarks.databases import (
    create_request_schemas,
    describe_server,
    new_database,
    schema_names,
)
from benchmarks.report import Report, grids, markdown, show
from benchmarks.requests import Amount
from benchmarks.surroundings import environment

RESULTS: Final = Path(__file__).parent / "results"

DRIVERS: Final = ("psycopg2", "psycopg", *ASYNC_DRIVERS)
PARTS: Final = ("requests", "concurrency", "provisioning", "memory", "imports")
#: How wide tables are in a file.
_WIDTH: Final = 120


@dataclass(frozen=True)
class Scale:
    """How much of everything is measured."""

    local: Amount
    delayed: Amount
    load: Load
    schemas: int
    provisions: int
    memory_schemas: int
    imports: int


FULL: Final = Scale(Amount(60, 40), Amount(20, 15), Load(1000, 3, 8), 50, 20, 10_000, 15)
QUICK: Final = Scale(Amount(5, 15), Amount(3, 5), Load(300, 1, 2), 50, 3, 300, 3)
TINY: Final = Scale(Amount(2, 2), Amount(2, 1), Load(20, 2, 1), 3, 1, 20, 1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure onegov_orm against bare SQLAlchemy and other ways to switch schemas.",
        epilog="Without a dsn, an embedded server is started. Figures are medians, with the "
        "quartiles in brackets; ratios are taken between batches that ran side by side, those of "
        "contestants with zope to bare SQLAlchemy with zope; engines means one per schema.",
    )
    add = found.add_argument
    add("--dsn", help="a server over TCP, on which a new database may be created")
    add("--quick", action="store_true", help="a first impression, in three minutes")
    add("--long", action="store_true", help="also provision a thousand schemas, and keep them")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="leave out the other parts")
    add("--drivers", nargs="+", choices=DRIVERS, default=DRIVERS, help="drivers of SQLAlchemy")
    add("--delay-ms", type=float, default=1.0, help="milliseconds added to a round trip (1)")
    add("--output", type=Path, default=RESULTS, help="where JSON and plots go")
    add("--markdown", action="store_true", help="print the figures as Markdown, and only them")
    add("--no-plots", action="store_true", help="write no plots")
    add("--batches", type=int, help=argparse.SUPPRESS)
    add("--long-schemas", type=int, default=1000, help=argparse.SUPPRESS)
    return found


def scale_of(options: argparse.Namespace) -> Scale:
    """Return how much is to be measured; a number of batches asks for tiny figures."""
    if options.batches:
        amount = replace(TINY.local, rounds=options.batches)
        return replace(TINY, local=amount, delayed=amount)
    return QUICK if options.quick else FULL


class Bench:
    """One run: measures part by part, and shows each result when it is there."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options = options
        self.scale = scale_of(options)
        self.console = console
        self.report = Report()
        self._shown = 0
        self._has_schemas = False

    def run(self) -> Report:
        """Measure what was asked for."""
        with new_database(self.options.dsn) as dsn:
            self.report.environment = environment() | describe_server(dsn)
            parts: dict[str, Callable[[str], None]] = {
                "requests": self._requests,
                "concurrency": self._concurrency,
                "provisioning": self._provisioning,
                "memory": self._memory,
                "imports": self._imports,
            }
            for name, measure in parts.items():
                if name in self.options.only:
                    measure(dsn)
                    self._show()
        return self.report

    def _request_schemas(self, dsn: str) -> list[str]:
        """Return the schemas that requests are served in, made when first asked for."""
        schemas = schema_names(self.scale.schemas)
        if not self._has_schemas:
            create_request_schemas(dsn, schemas)
            self._has_schemas = True
        return schemas

    def _requests(self, dsn: str) -> None:
        schemas = self._request_schemas(dsn)
        chosen = requests.scenarios(self.options.drivers, len(schemas), self.options.delay_ms)
        for scenario in chosen:
            amount = self.scale.delayed if scenario.delay_ms else self.scale.local
            self.report.requests.append(requests.run(dsn, schemas, scenario, amount))
            self._show()

    def _concurrency(self, dsn: str) -> None:
        schemas, drivers = self._request_schemas(dsn), self.options.drivers
        for result in concurrency.run(dsn, schemas, drivers, self.scale.load):
            self.report.concurrency.append(result)
            self._show()

    def _provisioning(self, dsn: str) -> None:
        self.report.provisioning = provisioning.run(dsn, self.scale.provisions)
        self._show()
        if self.options.long:
            self.report.long = provisioning.run_long(dsn, self.options.long_schemas)

    def _memory(self, dsn: str) -> None:
        self.report.memory = memory.run(dsn, self.scale.memory_schemas)

    def _imports(self, dsn: str) -> None:
        self.report.imports = imports.run(self.scale.imports)

    def _show(self) -> None:
        found = grids(self.report)
        for grid in found[self._shown :]:
            show(self.console, grid)
        self._shown = len(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks, and return the exit code."""
    options = parser().parse_args(arguments)
    # Tables go where they don't disturb Markdown that is redirected into a file.
    console = Console(stderr=options.markdown, width=None if sys.stdout.isatty() else _WIDTH)
    report = Bench(options, console).run()
    options.output.mkdir(parents=True, exist_ok=True)
    report.write_json(options.output / "latest.json")
    console.print(f"all figures: {options.output / 'latest.json'}", highlight=False)
    if not options.no_plots and plots.is_available():
        written = plots.write_plots(report, options.output)
        console.print(f"plots: {len(written)} in {options.output}", highlight=False)
    if options.markdown:
        print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
