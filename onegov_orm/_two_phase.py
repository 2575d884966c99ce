"""Commit in two phases, in SQL, for connections that begin transactions themselves.

The transaction itself starts like any other: with its first statement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onegov_orm import _sql
from onegov_orm._connection import SchemaState


class TwoPhaseState(SchemaState):
    """What is known of a transaction that is committed in two phases."""

    def name_transaction(self, xid: Any) -> None:
        """Name the transaction that the next statement begins."""
        self._xid = str(xid)

    def preparing(self) -> str:
        """Return the SQL that prepares the transaction."""
        sql = _sql.prepare_transaction(self._known_xid())
        return self.preamble(sql) + sql

    def finishing(self, xid: Any, prepared: Callable[[str], str]) -> str | None:
        """Return the SQL that ends a prepared transaction, None if it is not prepared."""
        if xid is not None:
            return prepared(str(xid))
        return prepared(self._known_xid()) if self._is_prepared else None

    def forget_transaction(self) -> None:
        """Forget the transaction, which has ended."""
        self._xid = None
        self._is_prepared = False

    def _known_xid(self) -> str:
        if self._xid is None:
            raise RuntimeError("tpc_begin() was not called")
        return self._xid


class TwoPhase(TwoPhaseState):
    """The DBAPI's ``tpc_`` methods on top of `send`, `commit` and `rollback`."""

    if TYPE_CHECKING:
        # What the driver's connection has; real methods here would hide the driver's.
        def send(self, sql: str) -> str: ...

        def commit(self) -> None: ...

        def rollback(self) -> None: ...

    def tpc_begin(self, xid: Any) -> None:
        """Name the transaction that the next statement begins."""
        self.name_transaction(xid)

    def tpc_prepare(self) -> None:
        """Prepare the transaction; it survives this connection from now on."""
        self.send(self.preparing())
        self._is_prepared = True

    def tpc_commit(self, xid: Any = None) -> None:
        """Commit the transaction, or the prepared one with this id."""
        self._finish(self.finishing(xid, _sql.commit_prepared), self.commit)

    def tpc_rollback(self, xid: Any = None) -> None:
        """Roll the transaction back, or the prepared one with this id."""
        self._finish(self.finishing(xid, _sql.rollback_prepared), self.rollback)

    def _finish(self, sql: str | None, unprepared: Callable[[], None]) -> None:
        try:
            if sql is None:
                unprepared()
            else:
                self.send(sql)
        finally:
            self.forget_transaction()


class AsyncTwoPhase(TwoPhaseState):
    """The same methods, awaited."""

    if TYPE_CHECKING:

        async def send(self, sql: str) -> str: ...

        async def commit(self) -> None: ...

        async def rollback(self) -> None: ...

    async def tpc_begin(self, xid: Any) -> None:
        """Name the transaction that the next statement begins."""
        self.name_transaction(xid)

    async def tpc_prepare(self) -> None:
        """Prepare the transaction; it survives this connection from now on."""
        await self.send(self.preparing())
        self._is_prepared = True

    async def tpc_commit(self, xid: Any = None) -> None:
        """Commit the transaction, or the prepared one with this id."""
        await self._finish(self.finishing(xid, _sql.commit_prepared), self.commit)

    async def tpc_rollback(self, xid: Any = None) -> None:
        """Roll the transaction back, or the prepared one with this id."""
        await self._finish(self.finishing(xid, _sql.rollback_prepared), self.rollback)

    async def _finish(self, sql: str | None, unprepared: Callable[[], Any]) -> None:
        try:
            if sql is None:
                await unprepared()
            else:
                await self.send(sql)
        finally:
            self.forget_transaction()
