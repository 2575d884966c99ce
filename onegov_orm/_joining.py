"""How sessions join the transactions of the ``transaction`` package, by zope.sqlalchemy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from zope.sqlalchemy.datamanager import (
    _SESSION_STATE,
    STATUS_CHANGED,
    SessionDataManager,
    TwoPhaseSessionDataManager,
    ZopeTransactionEvents,
)

from onegov_orm._readonly import reads_only


class _AbortingCompletely:
    """Mixed into zope.sqlalchemy's data managers, whose kept sessions were not rolled back."""

    session: Any
    keep_session: bool

    def abort(self, trans: Any) -> None:
        """Roll back, also if the session is kept."""
        if self.session is not None and self.keep_session:
            self.session.rollback()
        super().abort(trans)  # type: ignore[misc]


class _OnePhase(_AbortingCompletely, SessionDataManager):  # type: ignore[misc]
    pass


class _TwoPhases(_AbortingCompletely, TwoPhaseSessionDataManager):  # type: ignore[misc]
    pass


class _Reading(_AbortingCompletely, SessionDataManager):  # type: ignore[misc]
    """Of sessions that only read: whatever becomes of them, the others can commit."""

    def commit(self, trans: Any) -> None:
        """Do what an abort does, before any other session commits."""
        self.abort(trans)


class JoiningEvents(ZopeTransactionEvents):  # type: ignore[misc]
    """zope.sqlalchemy's events, for the sessions that take part.

    Every transaction counts as changed, so that what raw SQL wrote is committed too.
    """

    def __init__(self, transaction_manager: Any, keep_session: bool) -> None:
        super().__init__(STATUS_CHANGED, transaction_manager, keep_session)

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        for name in ("after_begin", "after_attach", "before_commit"):
            event.listen(target, name, getattr(self, name))

    def after_begin(self, session: Any, transaction: Any, connection: Any) -> None:
        """Join when the session begins to use a connection."""
        self.join_transaction(session)

    def after_attach(self, session: Any, instance: Any) -> None:
        """Join when the session is given something to write."""
        self.join_transaction(session)

    def before_commit(self, session: Any) -> None:
        """Refuse a commit past the transaction manager."""
        if joins_transaction(session):
            super().before_commit(session)

    def join_transaction(self, session: Any) -> None:
        """Join, unless the session has joined already or stands alone."""
        if joins_transaction(session) and _SESSION_STATE.get(session) is None:
            data_manager = _TwoPhases if session.twophase else _OnePhase
            if reads_only(session):
                data_manager = _Reading
            data_manager(session, STATUS_CHANGED, self.transaction_manager, self.keep_session)


def joins_transaction(session: Any) -> bool:
    """Tell whether the session leaves commit and rollback to the ``transaction`` package."""
    return bool(getattr(session, "joins_transaction", True))
