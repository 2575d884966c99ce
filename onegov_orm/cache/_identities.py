"""Who is behind a name: which database, and which schema of it.

A customer's name can be given to another one, by a rename or when a schema is dropped and made
again. The number that the server has for a schema stays with it.
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
    from sqlalchemy.orm import Session

_PREFIX: Final = "onegov_orm"

#: How many schemas' numbers a process remembers, if it trusts names for a while.
_REMEMBERED: Final = 10_000


class Identities:
    """Asks the server, once in each transaction unless names are trusted for longer."""

    def __init__(self, trust_seconds: float) -> None:
        self._trust_seconds = trust_seconds
        self._trusted = RecentEntries(_REMEMBERED)
        self._database: str | None = None

    def database(self, connect: Callable[[], Connection]) -> str:
        """Return what keys begin with: the server's own number, and the database's name."""
        if self._database is None:
            row = connect().execute(text(_sql.DATABASE_IDENTITY)).one()
            self._database = f"{_PREFIX}:{row.system_identifier}:{row.database}"
        return self._database

    def schema(self, session: Session, name: str, known: dict[str, int]) -> int:
        """Return the schema's number; ``known`` are those of the transaction."""
        number = known.get(name)
        if number is None:
            number = known[name] = self._trusted_number(name) or self._ask(session, name)
        return number

    def _trusted_number(self, name: str) -> int | None:
        number, until = self._trusted.get(name, (None, 0.0))
        return number if time.monotonic() < until else None

    def _ask(self, session: Session, name: str) -> int:
        found = session.connection().execute(text(_sql.SCHEMA_IDENTITY), {"schema": name})
        number = found.scalar_one_or_none()
        if number is None:
            raise SchemaNotFound(name)
        if self._trust_seconds:
            self._trusted[name] = number, time.monotonic() + self._trust_seconds
        return int(number)
