"""Commit in two phases, in SQL, for connections that begin transactions themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onegov_orm import _sql
from onegov_orm._connection import SchemaState


class TwoPhase(SchemaState):
    """The DBAPI's ``tpc_`` methods on top of `send`, `commit` and `rollback`.

    The transaction itself starts like any other: with its first statement.
    """

    if TYPE_CHECKING:
        # What the driver's connection has; real methods here would hide the driver's.
        def send(self, sql: str) -> str: ...

        def commit(self) -> None: ...

        def rollback(self) -> None: ...

    def tpc_begin(self, xid: Any) -> None:
        """Name the transaction that the next statement begins."""
        self._xid = str(xid)

    def tpc_prepare(self) -> None:
        """Prepare the transaction; it survives this connection from now on."""
        sql = _sql.prepare_transaction(self._known_xid())
        self.send(self.preamble(sql) + sql)
        self._is_prepared = True

    def tpc_commit(self, xid: Any = None) -> None:
        """Commit the transaction, or the prepared one with this id."""
        self._finish(xid, _sql.commit_prepared, self.commit)

    def tpc_rollback(self, xid: Any = None) -> None:
        """Roll the transaction back, or the prepared one with this id."""
        self._finish(xid, _sql.rollback_prepared, self.rollback)

    def _finish(self, xid: Any, prepared: Any, unprepared: Any) -> None:
        try:
            if xid is not None:
                self.send(prepared(str(xid)))
            elif self._is_prepared:
                self.send(prepared(self._known_xid()))
            else:
                unprepared()
        finally:
            self._xid = None
            self._is_prepared = False

    def _known_xid(self) -> str:
        if self._xid is None:
            raise RuntimeError("tpc_begin() was not called")
        return self._xid
