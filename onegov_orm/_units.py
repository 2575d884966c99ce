"""The sessions of one thread, task or unit of work."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName
    from onegov_orm.transactions import Completion

#: How many idle sessions a thread or task keeps at hand, each for another schema.
_MAX_IDLE_SESSIONS: Final = 32


class SessionStore:
    """The sessions of one thread, task or unit of work, one for each schema."""

    #: Whether the sessions leave commit and rollback to the ``transaction`` package.
    joins: bool

    def __init__(self, joins: bool) -> None:
        self.joins = joins
        self._sessions: OrderedDict[str, Any] = OrderedDict()

    def get(self, schema: SchemaName, make: Callable[[SchemaName], Any]) -> Any:
        """Return the session of the schema; idle ones of other schemas go when many."""
        session = self._sessions.get(schema)
        if session is None:
            session = self._sessions[schema] = make(schema)
            self._evict(schema)
        else:
            self._sessions.move_to_end(schema)
        return session

    def all(self) -> list[Any]:
        """Return the sessions."""
        return list(self._sessions.values())

    def close(self) -> None:
        """Close and forget the sessions."""
        for session in self.all():
            session.close()
        self._sessions.clear()

    def __del__(self) -> None:
        # The thread or task is over; nothing can use its sessions any more, but their
        # cycles would keep the connections until the next garbage collection.
        if self._sessions and not sys.is_finalizing():
            self.close()

    def _evict(self, newest: str) -> None:
        surplus = len(self._sessions) - _MAX_IDLE_SESSIONS
        if surplus <= 0:
            return
        idle = [
            name
            for name, session in self._sessions.items()
            if name != newest and not session.in_transaction()
        ]
        for name in idle[:surplus]:
            del self._sessions[name]


class Unit(SessionStore):
    """The sessions of one ``with mgr.schema(...)`` block."""

    def __init__(self, scope: SessionStore, joins: bool, completion: Completion | None) -> None:
        super().__init__(joins)
        self.scope = scope
        self.completion = completion
