"""Shows what happened, in tables that can be read without a terminal too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import URL

from .checks import Check
from .facts import TownFacts
from .index import SearchIndex
from .meter import Cost, Meter
from .scenario import Failure, Finding, Import, Newcomer
from .traffic import Tally

WIDTH_WITHOUT_TERMINAL = 100
NAMES_SHOWN = 2

COUNTED = "Round trips are counted by a proxy on the wire, which the times include."
FOLDED = (
    f"{COUNTED} There is one for each\nstatement and one for COMMIT: BEGIN and the search path "
    "travel with the first statement,\nwhile bare SQLAlchemy sends BEGIN by itself."
)
NOT_FOLDED = (
    f"{COUNTED} There is one for each\nstatement, one for COMMIT, and one for BEGIN, with which "
    "the search path travels. Some more are\nthe driver's, which prepares statements."
)
NOT_COUNTED = "Round trips are counted only on servers of this machine, without TLS."

READ_NEXT = {
    "examples/towns/README.md": "the program on one page",
    "examples/towns/models.py": "the models: nothing in them knows about schemas",
    "examples/towns/app.py": "the manager, the loop of a request, the handlers",
    "examples/towns/index.py": "the search index, a subscriber of on_commit",
    "examples/towns/importer.py": "a unit of work: with mgr.schema(town)",
    "migrations/": "the same models under Alembic",
}


class Report:
    """Prints the steps of the demo."""

    def __init__(self) -> None:
        # What the terminal cannot show is no reason to stop.
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
        self._console = console

    def server(self, version: str, url: URL, seconds: float) -> None:
        """Tell what the demo runs on."""
        self._say(
            f"PostgreSQL {version}, {url.get_driver_name()}: "
            f'the empty database "{url.database}" was there after {seconds:.1f} s'
        )

    def no_server(self, error: Exception) -> None:
        """Tell why there is nothing to tell."""
        self._say(f"There is no server to run on: {error}")

    def end(self, holds: bool, seconds: float) -> None:
        """Tell how it went."""
        verdict = "All checks hold" if holds else "NOT ALL CHECKS HOLD"
        self._console.print(f"\n[bold]{verdict}[/bold], after {seconds:.1f} s.")

    def imports(self, imports: Sequence[Import]) -> None:
        """Tell which towns there are now."""
        self._table(
            "Three towns, made from nothing",
            ["town", ">entries imported", ">schema made in", ">imported in"],
            [
                [
                    i.town,
                    i.entries,
                    _milliseconds(i.seconds_to_make),
                    _milliseconds(i.seconds_to_import),
                ]
                for i in imports
            ],
            "The first one made the extensions, too.",
        )

    def costs(self, tally: Tally, meter: Meter) -> None:
        """Tell what the requests cost, by their kind."""
        kinds = sorted(meter.costs.items(), key=lambda item: -item[1].requests)
        self._table(
            f"{tally.requests} requests, each for another town at random",
            ["request", ">requests", ">statements each", ">round trips each", ">ms each"],
            [_cost_row(kind, cost, meter) for kind, cost in [*kinds, ("all", meter.total())]],
            _about_costs(meter),
        )

    def rush(self, tally: Tally, seconds: float) -> None:
        """Tell how the rush hour went."""
        self._heading("Rush hour: a thread for each town, all on one pool")
        self._say(
            f"  {tally.requests} requests in {seconds:.2f} s, {tally.rows} rows shown, "
            f"{tally.foreign_rows} of them of another town"
        )

    def findings(self, findings: Sequence[Finding]) -> None:
        """Tell what was found in each town."""
        self._table(
            f'A search for "{findings[0].words}" in each town',
            ["town", ">found", ">by unaccent()", "the first ones"],
            [[f.town, len(f.by_index), len(f.by_database), _some(f.by_index)] for f in findings],
        )

    def failure(self, failure: Failure) -> None:
        """Tell what a failed request left."""
        self._table(
            f"A request of {failure.town} that fails: three bookings, the third one clashes",
            ["", ">bookings", ">index entries"],
            [
                ["before", *failure.before],
                ["written, then rolled back", failure.written, failure.commits],
                ["after", *failure.after],
            ],
            failure.error,
        )

    def newcomer(self, newcomer: Newcomer) -> None:
        """Tell about the town that was made when it was needed."""
        self._table(
            f"A fourth town appears on first use: {newcomer.town}",
            ["request", ">took", ""],
            [
                [
                    "register an entry",
                    _milliseconds(newcomer.seconds_of_first),
                    f"schema, tables and {', '.join(newcomer.new_extensions)} included",
                ],
                [
                    "search for a similar name",
                    _milliseconds(newcomer.seconds_of_next),
                    f'"{newcomer.misspelt}": {newcomer.most_similar}',
                ],
            ],
        )

    def facts(self, facts: Sequence[TownFacts], index: SearchIndex) -> None:
        """Tell what stands in the database, and in the index."""
        tables = list(facts[0].rows)
        self._table(
            "What there is in the end",
            ["town", *(f">{table}" for table in tables), ">foreign rows", ">index entries"],
            [
                [
                    fact.town,
                    *fact.rows.values(),
                    fact.foreign_rows,
                    len(index.of(fact.town).documents),
                ]
                for fact in facts
            ],
            "Counted without the library. Index entries are those of entries and bookings.",
        )

    def checks(self, checks: Sequence[Check]) -> None:
        """Tell what holds."""
        self._table(
            "Checked",
            ["", "claim", "evidence"],
            [["ok" if c.holds else "FAILED", c.claim, c.evidence] for c in checks],
        )

    def read_next(self) -> None:
        """Tell where to go from here."""
        self._table("Read next", ["file", ""], [list(item) for item in READ_NEXT.items()])

    def _say(self, text: str) -> None:
        self._console.print(escape(text))

    def _heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def _table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        caption: str = "",
    ) -> None:
        """Print a table; columns that begin with ``>`` hold figures."""
        self._heading(title)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            is_figure = column.startswith(">")
            table.add_column(column.lstrip(">"), justify="right" if is_figure else "left")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self._console.print(table)
        if caption:
            self._console.print(escape(caption), style="dim")


def _cost_row(kind: str, cost: Cost, meter: Meter) -> list[object]:
    round_trips = f"{cost.round_trips / cost.requests:.2f}" if meter.counts_round_trips else "-"
    return [
        kind,
        cost.requests,
        f"{cost.statements / cost.requests:.2f}",
        round_trips,
        f"{cost.seconds / cost.requests * 1000:.1f}",
    ]


def _about_costs(meter: Meter) -> str:
    if not meter.counts_round_trips:
        return NOT_COUNTED
    return FOLDED if meter.folds_begin else NOT_FOLDED


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
