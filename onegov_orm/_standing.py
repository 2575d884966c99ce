"""Which customers a connection has served, and whether the present one may still be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from onegov_orm.errors import SchemaNotFound, SchemaSuspended
from onegov_orm.marks import State, state_prefix

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName

#: After how many customers a connection is closed. The server's process keeps some 0.4 MB for
#: each, which only its end frees.
DEFAULT_MAX_SCHEMAS: Final = 200

#: How long a customer is served before the server is asked again whether it still may be.
ADMISSION_SECONDS: Final = 5.0

#: ``invalid_schema_name``.
_NO_SCHEMA: Final = "3F000"

_QUOTATION_MARKS: Final = dict.fromkeys(map(ord, "«»“”„"), '"')

#: What the server's error is about, see `Prelude.admission`.
_SUSPENDED: Final = state_prefix(State.SUSPENDED)


class Standing:
    """Counts the customers of one connection, and knows until when the last one is admitted.

    ``forget`` is called for a schema that is not there any more.
    """

    __slots__ = ("_admitted_until", "_forget", "_max_schemas", "_served")

    def __init__(
        self, max_schemas: int = DEFAULT_MAX_SCHEMAS, forget: Callable[[str], None] | None = None
    ) -> None:
        self._max_schemas = max_schemas
        self._forget = forget
        self._served: set[int] = set()
        self._admitted_until = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether the customer that was admitted last needs not be asked for again."""
        return time.monotonic() < self._admitted_until

    def admit(self, schema: SchemaName) -> bool:
        """Note that the customer is admitted; tell whether the connection has served enough."""
        self._admitted_until = time.monotonic() + ADMISSION_SECONDS
        self._served.add(hash(schema))
        return len(self._served) >= self._max_schemas

    def refuse(self, schema: str, error: BaseException) -> None:
        """Raise `SchemaSuspended` or `SchemaNotFound` if that is why the server refused."""
        if _SUSPENDED in str(error):
            raise SchemaSuspended(schema) from error
        if _state_of(error) == _NO_SCHEMA and f'{schema}"' in _message_of(error):
            if self._forget is not None:
                self._forget(schema)
            raise SchemaNotFound(schema) from error


def _state_of(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _message_of(error: BaseException) -> str:
    """Return what the server said, without the statement that drivers add to it."""
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    # Other languages have other marks.
    return message.translate(_QUOTATION_MARKS)
