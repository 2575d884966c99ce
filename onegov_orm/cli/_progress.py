"""Tells how far a run is: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from onegov_orm.cli._output import Output

if TYPE_CHECKING:
    from onegov_orm.fleet.runner import Result

_SECONDS_BETWEEN_LINES: Final = 5.0
_SECONDS_BEFORE_FIRST: Final = 1.0


class Progress(Protocol):
    """Follows a run."""

    def __call__(self, result: Result | None, number: int, total: int) -> None:
        """Take note of one more result."""

    def close(self) -> None:
        """Clear away what is drawn."""


def new_progress(output: Output, name: str) -> Progress:
    """Return what suits stderr."""
    return Bar(output, name) if output.err.is_terminal else Lines(output, name)


class Bar:
    """A progress bar with the number of failures."""

    def __init__(self, output: Output, name: str) -> None:
        # It takes some time to load, which the help does without.
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._failures = 0
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failures]}", style="red", markup=False),
            console=output.err,
            transient=True,
        )
        self._task = self._progress.add_task(name, total=None, failures="")
        self._progress.start()

    def __call__(self, result: Result | None, number: int, total: int) -> None:
        """Move the bar."""
        self._failures += result is not None and bool(result.error)
        failures = f"{self._failures} failed" if self._failures else ""
        self._progress.update(self._task, completed=number, total=total, failures=failures)

    def close(self) -> None:
        """Clear the bar away."""
        self._progress.stop()


class Lines:
    """A line after a second, and then every few seconds; each failure at once."""

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name
        self._failures = 0
        self._due = time.monotonic() + _SECONDS_BEFORE_FIRST

    def __call__(self, result: Result | None, number: int, total: int) -> None:
        """Print a line if it is time."""
        self._failures += result is not None and bool(result.error)
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _SECONDS_BETWEEN_LINES
        failures = f", {self._failures} failed" if self._failures else ""
        self._output.note(f"{self._name}: {number} of {total} schemas{failures}")

    def close(self) -> None:
        """Print nothing more."""
