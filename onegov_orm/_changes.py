"""Announces what a session changes: after each flush, and as a whole after the commit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect

from onegov_orm.changes import Change, ChangeLog, ChangeSet, Kind

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from onegov_orm.context import Current
    from onegov_orm.signals import Signals


class Announcer:
    """Sends the change signals of one manager, and keeps the log of each transaction."""

    def __init__(self, signals: Signals, current: Current) -> None:
        self.signals = signals
        self.current = current
        self._logs: weakref.WeakKeyDictionary[Session, ChangeLog] = weakref.WeakKeyDictionary()

    def is_heard(self, kind: Kind) -> bool:
        """Tell whether anybody listens to this kind of change here and now."""
        signal = {
            Kind.INSERT: self.signals.on_insert,
            Kind.UPDATE: self.signals.on_update,
            Kind.DELETE: self.signals.on_delete,
        }[kind]
        heard = signal.receivers or self.signals.on_commit.receivers
        return bool(heard) and not self.current.is_silent.get()

    def log_of(self, session: Session) -> ChangeLog:
        """Return the log of the session's open transaction."""
        log = self._logs.get(session)
        if log is None:
            log = self._logs[session] = ChangeLog()
        return log

    def roll_back_savepoint(self, session: Session, savepoint: SessionTransaction) -> None:
        """Forget what the session did since the savepoint began."""
        log = self._logs.get(session)
        if log is not None:
            log.roll_back_savepoint(savepoint)

    def take_changes(self, session: Session) -> ChangeSet:
        """Return the net changes of the session's transaction, and start anew."""
        log = self._logs.pop(session, None)
        return ChangeSet() if log is None else log.net()

    def record(self, session: Session, kind: Kind, objects: Iterable[Any]) -> None:
        """Write changes into the log, if anybody listens to commits."""
        if not self.signals.on_commit.receivers or self.current.is_silent.get():
            return
        log = self.log_of(session)
        for obj in objects:
            log.add(Change(kind, identity_key(obj), obj))

    def send(self, session: Session, kind: Kind, objects: Iterable[Any]) -> None:
        """Send the signal of this kind of change for each object."""
        if self.current.is_silent.get():
            return
        schema = session.info["schema"]
        for obj in objects:
            if kind is Kind.INSERT:
                self.signals.on_insert.send(schema, obj=obj)
            elif kind is Kind.UPDATE:
                self.signals.on_update.send(schema, obj=obj)
            else:
                self.signals.on_delete.send(schema, session=session, obj=obj)

    def announce(self, session: Session, kind: Kind, objects: Iterable[Any]) -> None:
        """Write changes into the log and send their signals."""
        objects = list(objects)
        self.record(session, kind, objects)
        self.send(session, kind, objects)


class _Flushed:
    """What one flush did, between its events."""

    def __init__(self, inserts: list[Any], updates: list[Any], deletes: list[Any]) -> None:
        self.changes = {Kind.INSERT: inserts, Kind.UPDATE: updates, Kind.DELETE: deletes}


class FlushEvents:
    """Listens to flushes and savepoints of sessions.

    The signals go out when the flush is complete: what a subscriber sets on an object then
    is a new change, and the next flush writes it.
    """

    def __init__(self, announcer: Announcer) -> None:
        self.announcer = announcer
        self._flushed: weakref.WeakKeyDictionary[Session, _Flushed] = weakref.WeakKeyDictionary()

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        for name in (
            "after_flush",
            "after_flush_postexec",
            "persistent_to_deleted",
            "after_transaction_create",
            "after_soft_rollback",
        ):
            event.listen(target, name, getattr(self, name))

    def after_flush(self, session: Session, flush_context: Any) -> None:
        """Note what is being flushed, while the history of the objects is still known."""
        if not self.announcer.signals.hears_changes or self.announcer.current.is_silent.get():
            return
        changed = [obj for obj in session.dirty if session.is_modified(obj)]
        self._flushed[session] = _Flushed(list(session.new), changed, list(session.deleted))

    def persistent_to_deleted(self, session: Session, instance: Any) -> None:
        """Note an object that was deleted without being asked for: an orphan."""
        flushed = self._flushed.get(session)
        if flushed is not None:
            deletes = flushed.changes[Kind.DELETE]
            if not any(obj is instance for obj in deletes):
                deletes.append(instance)

    def after_flush_postexec(self, session: Session, flush_context: Any) -> None:
        """Announce what was flushed."""
        flushed = self._flushed.pop(session, None)
        if flushed is None:
            return
        for kind, objects in flushed.changes.items():
            self.announcer.record(session, kind, objects)
        for kind, objects in flushed.changes.items():
            self.announcer.send(session, kind, objects)

    def after_transaction_create(self, session: Session, transaction: SessionTransaction) -> None:
        """Note where a savepoint begins."""
        if transaction.nested and self.announcer.signals.on_commit.receivers:
            self.announcer.log_of(session).begin_savepoint(transaction)

    def after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget what was rolled back."""
        if transaction.nested:
            self.announcer.roll_back_savepoint(session, transaction)


def identity_key(obj: Any) -> Any:
    """Return the identity key of an object, that of an object to be loaded included."""
    state = inspect(obj)
    if state.key is not None:
        return state.key
    return state.mapper.identity_key_from_instance(obj)
