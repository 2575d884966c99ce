"""What the doctor says, and what the examinations have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from onegov_orm.fleet import _sql_doctor
from onegov_orm.marks import Mark
from onegov_orm.names import hidden_kind

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    #: It could not be tried, or there is nothing to be tried.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out of one examination, and what to do about it."""

    name: str
    level: Level
    message: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the verdict, as JSON has it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "message": self.message,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """The same before it has a name."""

    level: Level
    message: str
    advice: str = ""


def fine(message: str) -> Finding:
    """Say that all is well."""
    return Finding(Level.OK, message)


def warning(message: str, advice: str) -> Finding:
    """Say what will hurt some day."""
    return Finding(Level.WARNING, message, advice)


def error(message: str, advice: str) -> Finding:
    """Say what does not work."""
    return Finding(Level.ERROR, message, advice)


def skipped(message: str) -> Finding:
    """Say why nothing was tried."""
    return Finding(Level.SKIPPED, message)


@dataclass(frozen=True, slots=True)
class FoundSchema:
    """A schema as the server has it: how many tables of the models are there, and its mark."""

    name: str
    comment: str
    tables: int

    @property
    def mark(self) -> Mark | None:
        """The library's mark, None for a schema of somebody else's."""
        return Mark.parse(self.comment)


class Examination:
    """Gives the doctor's questions a connection; each is one transaction, never committed."""

    def __init__(self, context: FleetContext, fleet_size: int | None) -> None:
        self.context = context
        self.manager = context.manager
        self.fleet_size = fleet_size

    @contextmanager
    def undone(self) -> Iterator[Connection]:
        """Give a connection in a transaction of which nothing stays."""
        with self.context.connected() as connection:
            transaction = connection.begin()
            try:
                yield connection
            finally:
                if not connection.invalidated:
                    transaction.rollback()

    def ask(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return the rows of a query."""
        with self.undone() as connection:
            return connection.execute(text(sql), dict(parameters or {})).all()

    def settings(self, *names: str) -> dict[str, str]:
        """Return the server's settings as they are in our transactions."""
        return dict(map(tuple, self.ask(_sql_doctor.SETTINGS, {"names": list(names)})))

    @property
    def tables(self) -> list[str]:
        """The names of the models' tables in a customer's schema."""
        return sorted(
            table.name
            for base in self.manager.bases
            for table in base.metadata.tables.values()
            if table.schema is None
        )

    @cached_property
    def schemas(self) -> list[FoundSchema]:
        """All schemas but the server's own."""
        rows = self.ask(_sql_doctor.SCHEMAS, {"tables": self.tables})
        return [FoundSchema(name, comment or "", tables) for name, comment, tables in rows]

    @property
    def customers(self) -> list[str]:
        """The names of the marked schemas, suspended and hidden ones too."""
        return [schema.name for schema in self.schemas if schema.mark is not None]

    @property
    def leftovers(self) -> list[str]:
        """The names of schemas that were made for a moment."""
        return [each.name for each in self.schemas if hidden_kind(each.name) == "scratch"]


Check = Callable[[Examination], Iterable[Finding]]


def some(names: Sequence[str], count: int = 5) -> str:
    """Show the first of many names."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" * (len(names) > count))
