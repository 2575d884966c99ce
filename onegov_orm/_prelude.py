"""The prelude: the settings with which each transaction of a schema starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache

from onegov_orm import _sql
from onegov_orm.marks import State, state_prefix
from onegov_orm.names import EXTENSIONS_SCHEMA, SchemaName

#: How the comment of a schema begins whose sessions are refused.
_SUSPENDED = state_prefix(State.SUSPENDED)

_BARE_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


class Access(Enum):
    """How a session reads that can't write."""

    READ_ONLY = "read only"
    #: Serializable, on the primary: it waits for a snapshot that can't fail.
    DEFERRABLE = "deferrable"


@dataclass(frozen=True)
class Prelude:
    """What a transaction has to be told before its first statement.

    All of it is local to the transaction, so that the server itself forgets it at the end.
    ``must_exist`` makes the server refuse a schema that is not there, or is suspended, when a
    connection comes to it and every few seconds. ``settings`` are names and values of more of
    the server's settings.
    ``is_read_only`` makes the server refuse to write; ``is_deferrable`` makes it wait for a
    serializable snapshot that needs no watching, for long reports.
    """

    schema: SchemaName
    extensions_schema: str = EXTENSIONS_SCHEMA
    must_exist: bool = True
    settings: tuple[tuple[str, str], ...] = ()
    is_read_only: bool = False
    is_deferrable: bool = False

    @cached_property
    def search_path(self) -> tuple[str, ...]:
        """The schemas that unqualified names are looked up in.

        The server's own stands before the extensions, and lets nobody create anything: if the
        customer is renamed or dropped meanwhile, nothing of it gets to where all others see it.
        """
        return (self.schema, _sql.NEUTRAL_PATH, self.extensions_schema)

    @cached_property
    def local(self) -> str:
        """The statement that sets the search path until the end of the transaction."""
        return _sql.set_local_search_path(self.search_path)

    @cached_property
    def opening(self) -> tuple[str, ...]:
        """The statements that set all this until the end of the transaction."""
        first = (_sql.SET_DEFERRABLE,) if self.is_deferrable else ()
        return (*first, *self.renewal)

    @cached_property
    def renewal(self) -> tuple[str, ...]:
        """The same for a transaction that has begun, where it may have been lost."""
        first = (_sql.SET_READ_ONLY,) if self.is_read_only else ()
        settings = (_sql.set_local(name, value) for name, value in self.settings)
        return (*first, self.local, *settings)

    @cached_property
    def lasting(self) -> str:
        """The search path of a connection without transactions, until it is reset."""
        return _sql.set_search_path(self.search_path)

    @cached_property
    def admission(self) -> tuple[str, ...]:
        """What a connection that comes from another schema has to pass."""
        return (_sql.require_schema(self.schema, _SUSPENDED),) if self.must_exist else ()

    @cached_property
    def reported(self) -> str:
        """The search path as the server reports it after `local`."""
        return ", ".join(
            name if _BARE_IDENTIFIER.fullmatch(name) else _sql.quote_identifier(name)
            for name in self.search_path
        )

    @cached_property
    def _bare(self) -> str:
        return ", ".join(self.search_path)

    def matches(self, reported: str) -> bool:
        """Tell whether the search path that the server reported is this one.

        Keywords are quoted by the server, hence the second comparison; no schema name
        contains a quote or a comma.
        """
        return reported == self.reported or reported.replace('"', "") == self._bare


@lru_cache(maxsize=4096)
def prelude_of(
    schema: SchemaName, extensions_schema: str, access: Access | None = None
) -> Prelude:
    """Return the prelude of a schema; the most recent ones are kept."""
    return Prelude(
        schema,
        extensions_schema,
        is_read_only=access is not None,
        is_deferrable=access is Access.DEFERRABLE,
    )
