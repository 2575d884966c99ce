"""How sessions take part in transactions, what runs after them, and when they are tried again.

Sessions join the transaction of the ``transaction`` package by zope.sqlalchemy. What is to
run after a commit or an abort is kept in a `Completion`: one for each transaction of the
``transaction`` package, or for each transaction of a session that stands alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import tenacity
from sqlalchemy import event
from transaction import ThreadTransactionManager, TransactionManager
from zope.sqlalchemy.datamanager import STATUS_CHANGED, ZopeTransactionEvents

from onegov_orm.changes import ChangeSet

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from onegov_orm._changes import Announcer
    from onegov_orm.signals import Signals

logger = logging.getLogger("onegov_orm.transactions")

Hook = Callable[[], Any]

#: ``serialization_failure`` and ``deadlock_detected``.
_RETRYABLE_STATES: Final = frozenset({"40001", "40P01"})
#: ``feature_not_supported``, which a prepared statement raises after a change of its table.
_NOT_SUPPORTED: Final = "0A000"
_CHANGED_PLAN: Final = "cached plan must not change result type"

_FIRST_WAIT_SECONDS: Final = 0.02
_LONGEST_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """One piece of post-processing, ready to be run."""

    schema: str | None
    hook: Callable[..., Any]
    run: Callable[[], Any]


class Completion:
    """What is to be done when one transaction ended, and was not done yet."""

    def __init__(self, signals: Signals, announcer: Announcer) -> None:
        self._signals = signals
        self._announcer = announcer
        self._sessions: list[Session] = []
        self._changes: list[tuple[str, ChangeSet]] = []
        self._after_commit: list[tuple[str | None, Hook]] = []
        self._after_abort: list[tuple[str | None, Hook]] = []

    def join(self, session: Session) -> None:
        """Include the changes of this session."""
        if not any(joined is session for joined in self._sessions):
            self._sessions.append(session)

    def collect(self, session: Session) -> None:
        """Take over what the session changed in the transaction that it just committed."""
        self._changes.append((session.info["schema"], self._announcer.take_changes(session)))

    def after_commit(self, schema: str | None, hook: Hook) -> None:
        """Run the hook if the transaction is committed."""
        self._after_commit.append((schema, hook))

    def after_abort(self, schema: str | None, hook: Hook) -> None:
        """Run the hook if the transaction is aborted."""
        self._after_abort.append((schema, hook))

    def calls(self, is_committed: bool) -> list[Call]:
        """Return what is to be run now; it is not returned a second time."""
        for session in self._sessions:
            self.collect(session)
        hooks = self._after_commit if is_committed else self._after_abort
        calls = self._announcements(self._changes) if is_committed else []
        calls.extend(Call(schema, hook, hook) for schema, hook in hooks)
        self._sessions, self._changes = [], []
        self._after_commit, self._after_abort = [], []
        return calls

    def finish(self, is_committed: bool) -> None:
        """Run what is to be run; an error is reported, and stops nobody."""
        for call in self.calls(is_committed):
            try:
                call.run()
            except Exception as error:  # whatever a hook may raise
                report(self._signals, call, error)

    def _announcements(self, changes: list[tuple[str, ChangeSet]]) -> list[Call]:
        return [
            Call(schema, receiver, _Announcement(receiver, schema, net))
            for schema, net in changes
            if net
            for receiver in self._signals.on_commit.receivers_for(schema)
        ]


@dataclass(frozen=True, slots=True)
class _Announcement:
    receiver: Callable[..., Any]
    schema: str
    changes: ChangeSet

    def __call__(self) -> Any:
        return self.receiver(self.schema, changes=self.changes)


def report(signals: Signals, call: Call, error: Exception) -> None:
    """Log the error of a hook, and tell the subscribers of ``on_hook_error``."""
    logger.error(
        "post-processing %r of schema %s failed",
        call.hook,
        call.schema,
        exc_info=error,
        extra={"schema": call.schema},
    )
    for receiver in signals.on_hook_error.receivers_for(call.schema):
        try:
            receiver(call.schema, error=error, hook=call.hook)
        except Exception:  # an error tracker must not break what it watches
            logger.exception("a subscriber of on_hook_error failed")


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
        if joins_transaction(session):
            super().after_begin(session, transaction, connection)

    def after_attach(self, session: Any, instance: Any) -> None:
        """Join when the session is given something to write."""
        if joins_transaction(session):
            super().after_attach(session, instance)

    def before_commit(self, session: Any) -> None:
        """Refuse a commit past the transaction manager."""
        if joins_transaction(session):
            super().before_commit(session)


def joins_transaction(session: Any) -> bool:
    """Tell whether the session leaves commit and rollback to the ``transaction`` package."""
    return bool(getattr(session, "joins_transaction", True))


class CompletionEvents:
    """Listens to sessions, and finishes the completions of those that stand alone."""

    def __init__(
        self, signals: Signals, announcer: Announcer, transaction_manager: Any | None
    ) -> None:
        self._signals = signals
        self._announcer = announcer
        self._transaction_manager = transaction_manager

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        for name in ("after_begin", "after_commit", "after_transaction_end"):
            event.listen(target, name, getattr(self, name))

    def completion_of(self, session: Session) -> Completion:
        """Return the completion of the transaction that the session takes part in."""
        if self._transaction_manager is not None and joins_transaction(session):
            return self.joined_completion(self._transaction_manager)
        completion: Completion | None = getattr(session, "completion", None)
        if completion is None:
            completion = self._new_completion()
            session.completion = completion  # type: ignore[attr-defined]
        return completion

    def joined_completion(self, transaction_manager: Any) -> Completion:
        """Return the completion of the current transaction of a transaction manager."""
        current = transaction_manager.get()
        try:
            return current.data(self)  # type: ignore[no-any-return]
        except KeyError:
            completion = self._new_completion()
            current.set_data(self, completion)
            current.addAfterCommitHook(self._ended, (completion,))
            current.addAfterAbortHook(self._ended, (False, completion))
            return completion

    def after_begin(
        self, session: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        """Announce that the session began a transaction."""
        if transaction.nested:
            return
        session._onegov_is_committed = False  # type: ignore[attr-defined]
        self.completion_of(session).join(session)
        self._signals.on_transaction_join.send(session.info["schema"], session=session)

    def after_commit(self, session: Session) -> None:
        """Note that the transaction is committed, unless it was but a savepoint."""
        if not session.in_nested_transaction():
            session._onegov_is_committed = True  # type: ignore[attr-defined]

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Finish the transaction of a session that stands alone."""
        if transaction.parent is not None:
            return
        is_committed = getattr(session, "_onegov_is_committed", False)
        if not is_committed:
            self._announcer.take_changes(session)
        if self._transaction_manager is None or not joins_transaction(session):
            completion: Completion | None = getattr(session, "completion", None)
            if completion is None:
                return
            if is_committed:
                completion.collect(session)
            if not isinstance(completion, DeferredCompletion):
                session.completion = None  # type: ignore[attr-defined]
                completion.finish(is_committed)

    def deferred_completion(self) -> DeferredCompletion:
        """Return a completion for a unit of work."""
        return DeferredCompletion(self._signals, self._announcer)

    def _new_completion(self) -> Completion:
        return Completion(self._signals, self._announcer)

    def _ended(self, is_committed: bool, completion: Completion) -> None:
        with fresh_transaction(self._transaction_manager):
            completion.finish(is_committed)


class DeferredCompletion(Completion):
    """The completion of a unit of work, which finishes it when its sessions are closed."""


def can_swap(transaction_manager: Any) -> bool:
    """Tell whether a block can have a transaction of its own in this manager."""
    return isinstance(transaction_manager, ThreadTransactionManager)


@contextmanager
def fresh_transaction(transaction_manager: Any) -> Iterator[None]:
    """Have a transaction manager of the block's own in the place of the thread's.

    What is left open at the end is aborted.
    """
    if not can_swap(transaction_manager):
        yield
        return
    outer = transaction_manager.manager
    inner = transaction_manager.manager = TransactionManager()
    try:
        yield
    finally:
        try:
            inner.abort()
        finally:
            transaction_manager.manager = outer


def is_retryable(error: BaseException) -> bool:
    """Tell whether a transaction that failed with this error may succeed when tried again.

    That is so for serialization failures, deadlocks, and prepared statements whose table was
    changed; see PostgreSQL's manual, "Serialization Failure Handling".
    """
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state in _RETRYABLE_STATES:
        return True
    return state == _NOT_SUPPORTED and _CHANGED_PLAN in str(original)


def wait_seconds(retry_state: tenacity.RetryCallState) -> float:
    """Return how long to wait: exponential back-off with full jitter.

    The scheme is "full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.
    """
    ceiling = min(
        _LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** (retry_state.attempt_number - 1)
    )
    return random.uniform(0, ceiling)


class Attempt:
    """One try of a block of work, as a context manager that yields the session.

    It commits at the end. A failure that may go away is kept for the next try.
    """

    def __init__(self, attempt: Any, block: Any) -> None:
        self._attempt = attempt
        self._block = block

    @property
    def number(self) -> int:
        """Which try this is, from 1."""
        return int(self._attempt.retry_state.attempt_number)

    def __enter__(self) -> Any:
        self._attempt.__enter__()
        return self._block.__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> bool:
        try:
            self._block.__exit__(kind, value, traceback)
        except BaseException as error:
            kind, value, traceback = type(error), error, error.__traceback__
        if kind is not None and not issubclass(kind, Exception):
            raise value
        return bool(self._attempt.__exit__(kind, value, traceback))


def attempts(tries: int, new_block: Callable[[], Any]) -> Iterator[Attempt]:
    """Yield attempts until one succeeds, at the most ``tries``; the last error is raised."""
    if tries < 1:
        raise ValueError(f"tries must be at least 1, not {tries}")
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(tries),
        wait=wait_seconds,
        retry=tenacity.retry_if_exception(is_retryable),
        reraise=True,
    )
    for attempt in retrying:
        yield Attempt(attempt, new_block())
