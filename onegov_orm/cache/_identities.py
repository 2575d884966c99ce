"""Who is behind a name: which database, and which schema of it.

A customer's name can be given to another one, by a rename or when a schema is dropped and made
again. The number that the server has for a schema stays with it, and all keys are made of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from onegov_orm import _sql
from onegov_orm.cache.regions import RecentEntries
from onegov_orm.errors import SchemaNotFound

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_PREFIX: Final = "onegov_orm"

#: How many schemas' numbers a process remembers.
_REMEMBERED: Final = 10_000

Connect = Callable[[], "Connection"]

# Made once: SQLAlchemy knows a statement again by what it is made of.
_DATABASE: Final = text(_sql.DATABASE_IDENTITY)
_SCHEMA: Final = text(_sql.SCHEMA_IDENTITY)


class Identities:
    """Asks the server, once in each transaction unless names are trusted for longer."""

    def __init__(self, trust_seconds: float) -> None:
        self._trust_seconds = trust_seconds
        #: The numbers, and until when each is trusted.
        self._known = RecentEntries(_REMEMBERED)
        self._server: str | None = None

    def server(self, connect: Connect) -> str:
        """Return what all keys begin with: the server's own number, and the database's name."""
        if self._server is None:
            row = connect().execute(_DATABASE).one()
            self._server = f"{_PREFIX}:{row.system_identifier}:{row.database}"
        return self._server

    def schema(self, connect: Connect, name: str, known: dict[str, str]) -> str:
        """Return the number of a schema; ``known`` are those of the transaction."""
        number = known.get(name)
        if number is None:
            number = known[name] = self._trusted_number(name) or self._ask(connect, name)
        return number

    def last_known(self, name: str) -> str | None:
        """Return the number that a schema had when it was asked for last, by anybody here."""
        number: str | None = self._known.get(name, (None, 0.0))[0]
        return number

    def is_unchanged(self, connect: Connect, name: str, number: str) -> tuple[bool, bool]:
        """Tell whether the schema still has the number, and whether nothing was written."""
        row = connect().execute(_SCHEMA, {"schema": name}).one()
        return row.number == number, row.has_written_nothing

    def _trusted_number(self, name: str) -> str | None:
        number, until = self._known.get(name, (None, 0.0))
        return number if time.monotonic() < until else None

    def _ask(self, connect: Connect, name: str) -> str:
        number = connect().execute(_SCHEMA, {"schema": name}).one().number
        if number is None:
            raise SchemaNotFound(name)
        self._known[name] = str(number), time.monotonic() + self._trust_seconds
        return str(number)
