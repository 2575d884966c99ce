"""Writes about the statements of an analysis: in colours where somebody looks, plain elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TextIO

from onegov_orm._analyzing.analysis import Analysis, Query, Repetition

#: Who wants to see more looks at the analysis.
_MOST_CHARACTERS: Final = 2000

_ADVICE_FOR_READING: Final = (
    "one statement is enough: load what belongs to the objects with selectinload() or "
    "joinedload(), or ask for all of them with in_()"
)
_ADVICE_FOR_WRITING: Final = (
    "one statement is enough: give the sets of parameters to a single execute(), as a list"
)

Write = Callable[[str, str], None]


class ReportPrinter:
    """Prints to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._write = _writer(stream)

    def started(self, query: Query) -> None:
        """Print a statement that is about to be sent."""
        self._write(_indented(_shown(query.statement), "> "), "")
        self._print_details(query)

    def ended(self, query: Query) -> None:
        """Print how long the statement took."""
        rows = "" if query.rows is None else f" for {_counted(query.rows, 'row')}"
        self._write(f"  took {_duration(query.seconds or 0.0)}{rows}", "dim")

    def summarize(self, analysis: Analysis) -> None:
        """Print how many statements there were."""
        if not analysis.count:
            self._write("no statements", "green")
            return
        redundant = analysis.redundant_count
        failed = sum(each.seconds is None for each in analysis.queries)
        line = f"{_counted(analysis.count, 'statement')} in {_duration(analysis.seconds)}"
        line += f", {redundant} of them redundant" if redundant else ", none of them redundant"
        looped = sum(each.count for each in analysis.loops)
        line += f", {looped} in loops (n+1)" if looped else ""
        line += f", {failed} failed" if failed else ""
        self._write(line, "bold yellow" if redundant or looped or failed else "bold green")

    def list_redundant(self, analysis: Analysis) -> None:
        """Print what was redundant, and what looks like a loop."""
        for repetition in analysis.redundant:
            self._print_title(repetition, "with the same parameters")
            self._print_statement(repetition)
            self._print_parameters(repetition.queries[0])
            self._print_places(repetition)
        for repetition in analysis.loops:
            self._print_title(repetition, "from the same place with other parameters (n+1)")
            self._print_statement(repetition)
            self._print_places(repetition)
            reads = repetition.queries[0].is_reading
            self._write(f"  {_ADVICE_FOR_READING if reads else _ADVICE_FOR_WRITING}", "green")

    def _print_title(self, repetition: Repetition, how: str) -> None:
        schema = repetition.queries[0].schema
        where = f" in {schema}" if schema else ""
        self._write(
            f"{repetition.count} times {how}{where}, {_duration(repetition.seconds)}:",
            "bold yellow",
        )

    def _print_statement(self, repetition: Repetition) -> None:
        self._write(_indented(_shown(repetition.statement), "  > "), "")

    def _print_places(self, repetition: Repetition) -> None:
        for place, count in repetition.places.most_common():
            times = f" ({count} times)" if count > 1 and len(repetition.places) > 1 else ""
            self._write(f"  at {place or 'an unknown place'}{times}", "cyan")

    def _print_parameters(self, query: Query) -> None:
        if query.parameters:
            self._write(f"  with {_cut(str(query.parameters))}", "dim")

    def _print_details(self, query: Query) -> None:
        self._print_parameters(query)
        if query.place:
            self._write(f"  at {query.place}", "cyan")


def _writer(stream: TextIO) -> Write:
    """Return what writes a line in a style, if the stream has styles."""
    if stream.isatty():
        try:
            # Not everybody has it, and it loads slowly.
            from rich.console import Console
        except ModuleNotFoundError:
            pass
        else:
            console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
            return lambda line, style: console.print(line, style=style)

    def write(line: str, _style: str) -> None:
        stream.write(f"{line}\n")

    return write


def _shown(statement: str) -> str:
    return _cut("\n".join(line.rstrip() for line in statement.strip().splitlines()))


def _cut(text: str) -> str:
    return f"{text[:_MOST_CHARACTERS]}..." if len(text) > _MOST_CHARACTERS else text


def _indented(text: str, mark: str) -> str:
    return mark + text.replace("\n", "\n" + " " * len(mark))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
