"""Which customers a connection has served, and whether the present one may still be."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from onegov_orm.errors import SchemaSuspended
from onegov_orm.marks import State, state_prefix

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName

#: After how many customers a connection is closed. The server's process keeps some 0.4 MB for
#: each, which only its end frees.
DEFAULT_MAX_SCHEMAS: Final = 200

#: How long a customer is served before the server is asked again whether it still may be.
ADMISSION_SECONDS: Final = 5.0

#: What the server's error is about, see `Prelude.admission`.
_SUSPENDED: Final = state_prefix(State.SUSPENDED)


class Standing:
    """Counts the customers of one connection, and knows until when the last one is admitted."""

    __slots__ = ("_admitted_until", "_max_schemas", "_served")

    def __init__(self, max_schemas: int = DEFAULT_MAX_SCHEMAS) -> None:
        self._max_schemas = max_schemas
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


def refuse_suspended(schema: str | None, error: BaseException) -> None:
    """Raise `SchemaSuspended` if that is why the server refused a transaction."""
    if schema is not None and _SUSPENDED in str(error):
        raise SchemaSuspended(schema) from error
