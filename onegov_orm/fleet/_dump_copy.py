"""Streams the rows of a table through either driver, as the server writes and reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: How much is read from a file at once.
_CHUNK_BYTES: Final = 1 << 16


class Writable(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> Any:
        """Take some."""


class Readable(Protocol):
    """Gives bytes."""

    def read(self, size: int, /) -> bytes:
        """Give some, none at the end."""


class Tally:
    """Passes rows through, and counts and hashes them on the way.

    In the server's text format, each row is a line, and a line break inside a value is not one.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.rows = 0
        #: What went wrong with the file; the drivers put it into errors of their own.
        self.error: Exception | None = None

    @property
    def sha256(self) -> str:
        """The hash of all that has passed."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Take bytes."""
        with self._noting_errors():
            self._count(data)
            self._file.write(data)
        return len(data)

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """Give bytes."""
        with self._noting_errors():
            data: bytes = self._file.read(size)
            self._count(data)
        return data

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self.rows += data.count(b"\n")

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self.error = exc
            raise


def copy_out(connection: Connection, sql: str, tally: Tally) -> None:
    """Write what a ``COPY ... TO STDOUT`` yields."""
    with _copying(connection, sql, tally) as cursor:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(sql, tally, _CHUNK_BYTES)
        else:
            with cursor.copy(sql) as copy:
                for data in copy:
                    tally.write(bytes(data))


def copy_in(connection: Connection, sql: str, tally: Tally) -> None:
    """Read what a ``COPY ... FROM STDIN`` takes."""
    with _copying(connection, sql, tally) as cursor:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(sql, tally, _CHUNK_BYTES)
        else:
            with cursor.copy(sql) as copy:
                while data := tally.read():
                    copy.write(data)


@contextmanager
def _copying(connection: Connection, sql: str, tally: Tally) -> Iterator[Any]:
    """Give the driver's cursor; raises the file's error, or the driver's as SQLAlchemy's."""
    dialect = connection.dialect
    base: Any = dialect.loaded_dbapi.Error
    try:
        with closing(connection.connection.cursor()) as cursor:
            yield cursor
    except base as exc:
        if tally.error is not None:
            raise tally.error from exc
        raise DBAPIError.instance(sql, None, exc, base, dialect=dialect) from exc
