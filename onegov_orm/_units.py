"""The sessions of one thread, task or unit of work."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from onegov_orm._prelude import Access
from onegov_orm._readonly import refuse_changes
from onegov_orm.errors import ConfigurationError

if TYPE_CHECKING:
    from onegov_orm.names import SchemaName
    from onegov_orm.transactions import Completion

#: How many idle sessions a thread or task keeps at hand, each for another schema.
_MAX_IDLE_SESSIONS: Final = 32

#: The attribute of a session whose transaction has a connection to write with.
HAS_BEGUN: Final = "_onegov_has_begun"

#: A schema, and how it is read if it can't be written.
Key = tuple["SchemaName", Access | None]


def sync_session(session: Any) -> Any:
    """Return the session that an asynchronous one stands for, or the session itself."""
    return getattr(session, "sync_session", session)


class SessionStore:
    """The sessions of one thread, task or unit of work.

    For each schema there is one that writes, and one for each way of reading.

    They may be asynchronous ones; what is done with them here is synchronous in any case.
    """

    #: Whether the sessions leave commit and rollback to the ``transaction`` package.
    joins: bool
    #: What this one is inside of: the unit of work around it, or the thread's or task's own.
    outer: SessionStore | None = None

    def __init__(self, joins: bool) -> None:
        self.joins = joins
        self._sessions: OrderedDict[Key, Any] = OrderedDict()

    def get(self, key: Key, make: Callable[[Key], Any]) -> Any:
        """Return the session for the key; idle ones of other schemas go when many."""
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = make(key)
            self._evict(key)
        else:
            self._sessions.move_to_end(key)
        return session

    def all(self) -> list[Any]:
        """Return the sessions, the synchronous ones."""
        return [sync_session(session) for session in self._sessions.values()]

    def writing(self) -> list[Any]:
        """Return the sessions that can write."""
        return [session for session in self.all() if session.access is None]

    @property
    def is_open(self) -> bool:
        """Whether a session is in a transaction."""
        return any(session.in_transaction() for session in self.all())

    def unfinished(self) -> Iterator[Any]:
        """Yield the sessions that can write and have begun, here and further out."""
        store: SessionStore | None = self
        while store is not None:
            for session in store.writing():
                if session.in_transaction() and getattr(session, HAS_BEGUN, False):
                    yield session
            store = store.outer

    def end(self, verb: str) -> None:
        """Commit or roll back; what only reads is rolled back in the end."""
        writing = self.writing()
        for session in writing:
            getattr(session, verb)()
        for session in self.all():
            if session not in writing:
                session.rollback()

    def mark(self) -> Any:
        """Return where an attempt begins, for `retreat`."""
        return None

    def retreat(self, mark: Any) -> None:
        """Roll back an attempt."""
        self.end("rollback")

    def close(self) -> None:
        """Close and forget the sessions."""
        sessions = self.all()
        self._sessions.clear()
        with ExitStack() as stack:
            # One that fails, or is interrupted, does not keep the others open.
            for session in sessions:
                stack.callback(session.close)

    def drop(self) -> None:
        """Forget the sessions, and close their connections without a word to the server."""
        for session in self.all():
            session.invalidate()
        self._sessions.clear()

    def __del__(self) -> None:
        # The thread or task is over; nothing can use its sessions any more, but their
        # cycles would keep the connections until the next garbage collection.
        if self._sessions and not sys.is_finalizing():
            made = self._sessions.values()
            is_async = any(session is not sync_session(session) for session in made)
            self.drop() if is_async else self.close()

    def _evict(self, newest: Key) -> None:
        surplus = len(self._sessions) - _MAX_IDLE_SESSIONS
        if surplus <= 0:
            return
        idle = [
            key
            for key, session in self._sessions.items()
            if key != newest and not session.in_transaction()
        ]
        for key in idle[:surplus]:
            del self._sessions[key]


class Unit(SessionStore):
    """The sessions of one ``with mgr.schema(...)`` block."""

    def __init__(
        self,
        outer: SessionStore,
        scope: SessionStore,
        joins: bool,
        completion: Completion | None,
        access: Access | None = None,
    ) -> None:
        super().__init__(joins)
        self.outer = outer
        self.scope = scope
        self.completion = completion
        self.access = access

    def mark(self) -> Any:
        """Return where an attempt begins, for `retreat`."""
        return None if self.completion is None else self.completion.mark()

    def retreat(self, mark: Any) -> None:
        """Roll back an attempt, and forget what was to run after it."""
        try:
            super().retreat(mark)
        finally:
            if self.completion is not None:
                self.completion.retreat(mark)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing happened that the server, or a hook, has to hear of."""
        return not (self.has_consequences or any(map(has_work, self.all())))

    @property
    def has_consequences(self) -> bool:
        """Whether there is something to be committed, or a hook to be run."""
        if self.completion is not None and self.completion.has_hooks:
            return True
        return any(map(has_work, self.writing()))

    def finish(self, is_successful: bool) -> None:
        """Commit or roll back, close the sessions, and run the post-processing."""
        is_committed = False
        if self.completion is not None:
            self.completion.is_ending = True
        try:
            if is_successful:
                for session in self.all():
                    refuse_changes(session)
                for session in self.writing():
                    # Committing nothing would begin a transaction, and end it.
                    if has_work(session):
                        session.commit()
                is_committed = True
        finally:
            try:
                self.close()
            finally:
                if self.completion is not None:
                    self.completion.finish(is_committed)


def has_work(session: Any) -> bool:
    """Tell whether there is something that a commit would end or write."""
    return bool(session.in_transaction() or session.new or session.dirty or session.deleted)


def refuse_to_wait_for_oneself(session: Any) -> None:
    """Refuse a deferrable reader that would wait forever for a writer beside it.

    The server lets it begin when all serializable transactions that write are over.
    """
    if getattr(session, "access", None) is not Access.DEFERRABLE:
        return
    store = session.store() if session.store is not None else None
    for writer in store.unfinished() if store is not None else ():
        raise ConfigurationError(
            "a deferrable reader waits until those who write are done, and one of them is the "
            f'session of schema "{writer.info["schema"]}" of the same thread or task: commit it '
            "first, or read before it begins"
        )


@contextmanager
def own_transactions(unit: Unit) -> Iterator[None]:
    """Finish the unit of work at the end of the block."""
    try:
        yield
    except BaseException:
        unit.finish(is_successful=False)
        raise
    unit.finish(is_successful=True)
