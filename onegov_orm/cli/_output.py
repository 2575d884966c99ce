"""Shows results: tables for people, JSON for programs, and messages on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from onegov_orm.cli._settings import mask

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from onegov_orm.fleet.registry import Overview

_NAMES_TOLD: Final = 10

#: Wide enough that nothing is cut where no terminal sets a limit.
_UNLIMITED: Final = 10_000

STYLES: Final = {
    "done": "green",
    "ok": "green",
    "active": "green",
    "current": "green",
    "suspended": "yellow",
    "pending": "yellow",
    "warning": "yellow",
    "skipped": "dim",
    "trashed": "dim",
    "failed": "bold red",
    "error": "bold red",
}


@dataclass(frozen=True)
class Column:
    """A column of a table; names are shown in full, texts may be broken into lines."""

    header: str
    justify: Literal["left", "right"] = "left"
    is_name: bool = False
    style: str | None = None


class Output:
    """Where everything is printed."""

    def __init__(self, wants_json: bool) -> None:
        self.wants_json = wants_json

    @cached_property
    def out(self) -> Console:
        """Results."""
        return _console(is_error=False)

    @cached_property
    def err(self) -> Console:
        """Messages, progress and questions."""
        return _console(is_error=True)

    def show(self, data: Any, tell: Callable[[], None]) -> None:
        """Show a result: the data as JSON if that is wanted, otherwise what tells of it."""
        if self.wants_json:
            self.json(data)
        else:
            tell()

    def json(self, data: Any) -> None:
        """Print data as JSON."""
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        text = json.dumps(data, indent=2, ensure_ascii=not is_unicode, default=str)
        _write(f"{text}\n")

    def say(self, text: str, style: str | None = None) -> None:
        """Print a sentence among the results, on stderr beside JSON."""
        console = self.err if self.wants_json else self.out
        console.print(_text(text, style), soft_wrap=True)

    def note(self, text: str, style: str | None = None) -> None:
        """Print a sentence on stderr."""
        self.err.print(_text(mask(text), style), soft_wrap=True)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table; without a terminal nothing of it is cut, and no line ends in spaces."""
        # Each takes some time to load, which the help does without.
        from rich import box
        from rich.table import Table

        table = Table(
            box=box.SIMPLE_HEAD if self.out.is_terminal else None,
            pad_edge=False,
            header_style="bold",
            show_edge=False,
        )
        for column in columns:
            table.add_column(
                column.header,
                justify=column.justify,
                no_wrap=column.is_name,
                overflow="fold",
                style=column.style,
            )
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        if self.out.is_terminal:
            self.out.print(table)
            return
        with self.out.capture() as captured:
            self.out.print(table)
        _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def state_text(state: str) -> Text:
    """Return a word in the colour of what it says."""
    return _text(state, STYLES.get(state))


def size_text(size_bytes: int) -> str:
    """Return a size as people read it."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def moment_text(moment: datetime | None) -> str:
    """Return a moment to the minute, in UTC; a dash if there is none."""
    return moment.strftime("%Y-%m-%d %H:%M") if moment else "-"


def shown_path(path: Path) -> str:
    """Return a path as seen from the current directory, if it is in there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 schema``, ``2 schemas``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def told_overviews(overviews: Sequence[Overview]) -> str:
    """Return what will be lost, in words: names, sizes, tables and rows."""
    told = [
        f"{each.schema} ({size_text(each.size_bytes)}, {count_text(each.tables, 'table')}, "
        f"about {count_text(each.rows_estimate, 'row')})"
        for each in overviews[:_NAMES_TOLD]
    ]
    if len(overviews) > _NAMES_TOLD:
        size = size_text(sum(each.size_bytes for each in overviews))
        told.append(f"and {len(overviews) - _NAMES_TOLD:,} more ({size} in all)")
    return ", ".join(told)


def _console(*, is_error: bool) -> Console:
    # It takes some time to load, which the help does without.
    from rich.console import Console

    console = Console(stderr=is_error, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(
            stderr=is_error, highlight=False, emoji=False, markup=False, width=_UNLIMITED
        )
    return console


def _text(text: str, style: str | None = None) -> Text:
    # It takes some time to load, which the help does without.
    from rich.text import Text

    return Text(text, style or "")


def _cell(value: Any) -> Any:
    return (
        _text(value)
        if isinstance(value, str)
        else _text(str(value))
        if _is_plain(value)
        else value
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def prepare_streams() -> None:
    """Make sure that there is something to print to, and that no letter is a reason to fail."""
    # They stay open as long as the process lives.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_quietly() -> None:
    """Let the interpreter end without a word about a reader that has gone (``| head``)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
