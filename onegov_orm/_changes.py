"""Announces what a session changes: after each flush, and as a whole after the commit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, inspect

from onegov_orm._bulk import complete
from onegov_orm.changes import Change, ChangeLog, ChangeSet, IdentityKey, Kind

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper, Session, SessionTransaction

    from onegov_orm.context import Current
    from onegov_orm.signals import Signals

#: How often SQLAlchemy flushes before a commit, while listeners go on making changes.
_MOST_FLUSHES: Final = 100


#: The attribute of a session that has its log.
_LOG: Final = "_onegov_orm_log"


class Announcer:
    """Sends the change signals of one manager, and keeps the log of each transaction."""

    def __init__(self, signals: Signals, current: Current) -> None:
        self.signals = signals
        self.current = current
        #: Called when something is written into a session's empty log.
        self.on_first_change: Callable[[Session], None] = lambda _session: None
        #: Called for the bulk_ methods of sessions, which have no events.
        self.on_bulk_change: list[Callable[[Session, Mapper[Any]], None]] = []

    def is_heard(self, session: Session, *kinds: Kind) -> bool:
        """Tell whether anybody listens to these kinds of changes, or to commits."""
        if not self.signals.hears_changes:
            return False
        schema = session.info.get("schema")
        if schema is None or self.current.is_silent.get():
            return False
        signals = (self.signals.on_commit, *(self.signals.of(kind) for kind in kinds))
        return any(signal.has_receivers_for(schema) for signal in signals)

    def log_of(self, session: Session) -> ChangeLog:
        """Return the log of the session's open transaction."""
        log: ChangeLog | None = session.__dict__.get(_LOG)
        if log is None:
            log = session.__dict__[_LOG] = ChangeLog()
            self.on_first_change(session)
        return log

    def note_bulk_change(self, session: Session, mappers: Iterable[Mapper[Any]]) -> None:
        """Tell who wants to know that one of a session's bulk_ methods writes."""
        if self.on_bulk_change:
            for mapper in set(mappers):
                for listener in self.on_bulk_change:
                    listener(session, mapper)

    def begin_savepoint(self, session: Session, savepoint: SessionTransaction) -> None:
        """Note where a savepoint begins."""
        self.log_of(session).begin_savepoint(savepoint)

    def roll_back_savepoint(self, session: Session, savepoint: SessionTransaction) -> None:
        """Forget what the session did since the savepoint began."""
        log = session.__dict__.get(_LOG)
        if log is not None:
            log.roll_back_savepoint(savepoint)

    def take_changes(self, session: Session) -> ChangeSet:
        """Return the net changes of the session's transaction, and start anew."""
        log = session.__dict__.pop(_LOG, None)
        return ChangeSet() if log is None else log.net()

    def record(self, session: Session, changes: Iterable[Change]) -> None:
        """Write changes into the log, if anybody listens to commits."""
        if self.is_heard(session):
            log = self.log_of(session)
            for change in changes:
                log.add(change)

    def send(self, session: Session, kind: Kind, objects: Iterable[Any]) -> None:
        """Send the signal of this kind of change for each object."""
        schema = session.info.get("schema")
        if schema is None or self.current.is_silent.get():
            return
        signal = self.signals.of(kind)
        extra: dict[str, Any] = {"session": session} if kind is Kind.DELETE else {}
        for obj in objects:
            self.signals.send(signal, schema, obj=obj, **extra)

    def announce(self, session: Session, kind: Kind, objects: Iterable[Any]) -> None:
        """Write changes into the log and send their signals."""
        objects = list(objects)
        self.record(session, [Change(kind, identity_key(obj), obj) for obj in objects])
        self.send(session, kind, objects)


class _Flushed:
    """What one flush did, between its events."""

    def __init__(self, session: Session, flush_context: Any) -> None:
        def written(objects: Iterable[Any]) -> list[Any]:
            return [obj for obj in objects if inspect(obj) in flush_context.states]

        self.inserts = written(session.new)
        self.deletes = written(session.deleted)
        #: With the keys that they had before the flush.
        self.updates = [
            (obj, identity_key(obj)) for obj in written(session.dirty) if session.is_modified(obj)
        ]

    def add_orphan(self, orphan: Any) -> None:
        """Note an object that was deleted without being asked for."""
        if not any(obj is orphan for obj in self.deletes):
            self.deletes.append(orphan)
            self.updates = [update for update in self.updates if update[0] is not orphan]

    def changes(self) -> Iterator[Change]:
        """Yield what the log has to know: a changed key is a delete and an insert."""
        moved = [(obj, key) for obj, key in self.updates if identity_key(obj) != key]
        yield from (Change(Kind.DELETE, identity_key(obj), obj) for obj in self.deletes)
        yield from (Change(Kind.DELETE, key, obj) for obj, key in moved)
        for obj in (*self.inserts, *(obj for obj, _key in moved)):
            yield Change(Kind.INSERT, identity_key(obj), obj)
        for obj, key in self.updates:
            if identity_key(obj) == key:
                yield Change(Kind.UPDATE, key, obj)

    def signals(self) -> Iterator[tuple[Kind, list[Any]]]:
        """Yield what has to be sent; a key may be deleted and inserted again in one flush."""
        yield Kind.DELETE, self.deletes
        yield Kind.INSERT, self.inserts
        yield Kind.UPDATE, [obj for obj, _key in self.updates]


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
            "before_flush",
            "after_flush",
            "after_flush_postexec",
            "persistent_to_deleted",
            "before_commit",
            "after_transaction_create",
            "after_soft_rollback",
        ):
            event.listen(target, name, getattr(self, name))

    def before_flush(self, session: Session, flush_context: Any, instances: Any) -> None:
        """Read what has expired of the objects to be deleted, for who hears of them."""
        self._flushed.pop(session, None)
        if self.announcer.is_heard(session, Kind.DELETE):
            complete(session, session.deleted)

    def after_flush(self, session: Session, flush_context: Any) -> None:
        """Note what is being flushed, while the history of the objects is still known."""
        if self.announcer.is_heard(session, *Kind):
            self._flushed[session] = _Flushed(session, flush_context)

    def persistent_to_deleted(self, session: Session, instance: Any) -> None:
        """Note an orphan."""
        flushed = self._flushed.get(session)
        if flushed is not None:
            flushed.add_orphan(instance)

    def after_flush_postexec(self, session: Session, flush_context: Any) -> None:
        """Announce what was flushed."""
        flushed = self._flushed.pop(session, None)
        if flushed is not None:
            self.announcer.record(session, flushed.changes())
            for kind, objects in flushed.signals():
                self.announcer.send(session, kind, objects)

    def before_commit(self, session: Session) -> None:
        """Read what has expired of the changed objects, for the subscribers of commits.

        After the commit, reading it would take another transaction.
        """
        if session.in_nested_transaction() or not self.announcer.is_heard(session):
            return
        for _ in range(_MOST_FLUSHES):
            if not (session.new or session.dirty or session.deleted):
                break
            session.flush()
        complete(session, self.announcer.log_of(session).objects())

    def after_transaction_create(self, session: Session, transaction: SessionTransaction) -> None:
        """Note where a savepoint begins."""
        if transaction.nested:
            self.announcer.begin_savepoint(session, transaction)

    def after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Forget what was rolled back: a savepoint, or the one that a failed flush was in."""
        savepoint: SessionTransaction | None = transaction
        while savepoint is not None and not savepoint.nested:
            savepoint = savepoint.parent
        if savepoint is not None:
            self.announcer.roll_back_savepoint(session, savepoint)


def identity_key(obj: Any) -> IdentityKey:
    """Return the identity key of an object, that of an object to be loaded included."""
    state = inspect(obj)
    key: IdentityKey = state.key or state.mapper.identity_key_from_instance(obj)
    return key
