"""Shows which SQL statements a block runs, and which of them it could do without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO, get_args

from onegov_orm._analyzing.analysis import Analysis, Query, Repetition
from onegov_orm._analyzing.query_reports import ReportPrinter
from onegov_orm._analyzing.statement_events import watching
from onegov_orm.errors import ConfigurationError

__all__ = ["Analysis", "Query", "Repetition", "analyze_sql_queries"]

Report = Literal["summary", "redundant", "all"]


@contextmanager
def analyze_sql_queries(
    report: Report = "summary", stream: TextIO | None = None
) -> Iterator[Analysis]:
    """Analyze the statements of this thread or task in a block, and print a report at its end.

    ``summary`` tells how many there were; ``redundant`` also which ones ran again with the same
    parameters, and where a loop runs one statement for each object; ``all`` prints each one as it
    runs. The stream is standard error unless another one is given. Yields the `Analysis`; raises
    `ConfigurationError` for another report.
    """
    if report not in get_args(Report):
        raise ConfigurationError(
            f"there is no report {report!r}, use one of {', '.join(get_args(Report))}"
        )
    printer = ReportPrinter(stream or sys.stderr)
    watcher = _Block(printer if report == "all" else None)
    try:
        with watching(watcher):
            yield watcher.analysis
    finally:
        watcher.is_open = False
        printer.summarize(watcher.analysis)
        if report == "redundant":
            printer.list_redundant(watcher.analysis)


class _Block:
    """Collects the statements of a block."""

    def __init__(self, printer: ReportPrinter | None) -> None:
        self.analysis = Analysis()
        #: A task that was started in the block may outlive it.
        self.is_open = True
        self._printer = printer

    def started(self, query: Query) -> None:
        """Collect a statement that is about to be sent."""
        self.analysis.queries.append(query)
        if self._printer is not None:
            self._printer.started(query)

    def ended(self, query: Query) -> None:
        """Print how long it took."""
        if self._printer is not None:
            self._printer.ended(query)
