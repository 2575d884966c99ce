"""Reads fingerprints and structures of many schemas, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm.errors import PermissionDenied
from onegov_orm.fleet.runner import one_line

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext

T = TypeVar("T")

#: How often a batch is read if tables change or go away at the same moment.
_TRIES: Final = 3


class Reader:
    """Reads something of many schemas, in batches.

    Each batch is a transaction of its own, since views are locked until its end; and its
    connection is closed, since the server's process remembers each table that it looked at.
    """

    def __init__(self, context: FleetContext, lock_timeout_seconds: float) -> None:
        self._context = context
        self._lock_timeout = f"{int(lock_timeout_seconds * 1000)}ms"
        #: What could not be read, and why.
        self.failures: dict[str, str] = {}

    def read(
        self,
        schemas: Sequence[str],
        size: int,
        query: Callable[[Connection, Sequence[str]], dict[str, T]],
    ) -> Iterator[dict[str, T]]:
        """Yield what is found, batch by batch; schemas that went away are left out."""
        for start in range(0, len(schemas), size):
            yield self._read(schemas[start : start + size], query)

    def _read(
        self, schemas: Sequence[str], query: Callable[[Connection, Sequence[str]], dict[str, T]]
    ) -> dict[str, T]:
        for attempt in range(_TRIES):
            try:
                with self._connected() as connection:
                    return query(connection, schemas)
            except (DBAPIError, PermissionDenied) as exc:
                is_lost = isinstance(exc, DBAPIError) and exc.connection_invalidated
                if is_lost or (len(schemas) == 1 and attempt == _TRIES - 1):
                    self._give_up(schemas, exc)
                    return {}
                if len(schemas) > 1:
                    break
        found: dict[str, T] = {}
        for schema in schemas:
            found |= self._read([schema], query)
        return found

    def _give_up(self, schemas: Sequence[str], error: Exception) -> None:
        """Note why a schema could not be read; without a server there is nothing to note."""
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise error
        self.failures.update(dict.fromkeys(schemas, one_line(error)))

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._context.connected() as connection:
            try:
                with connection.begin():
                    connection.exec_driver_sql(_sql.set_local("lock_timeout", self._lock_timeout))
                    yield connection
            finally:
                if not connection.invalidated:
                    connection.detach()
