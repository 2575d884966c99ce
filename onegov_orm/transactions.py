"""What runs after transactions.

What is to run after a commit or an abort is kept in a `Completion`: one for each transaction
of the ``transaction`` package, or for each transaction of a session that stands alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy import event
from transaction import ThreadTransactionManager, TransactionManager
from transaction._transaction import Status

from onegov_orm._attempts import Attempt, attempts
from onegov_orm._joining import JoiningEvents, joins_transaction
from onegov_orm._readonly import reads_only
from onegov_orm._units import HAS_BEGUN as _HAS_BEGUN
from onegov_orm._units import refuse_to_wait_for_oneself
from onegov_orm.changes import ChangeSet

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from onegov_orm._changes import Announcer
    from onegov_orm.signals import Signals

__all__ = [
    "Attempt",
    "Call",
    "Completion",
    "CompletionEvents",
    "DeferredCompletion",
    "Hook",
    "JoiningEvents",
    "attempts",
    "can_swap",
    "fresh_transaction",
    "joins_transaction",
    "report",
]

logger = logging.getLogger("onegov_orm.transactions")

Hook = Callable[[], Any]

#: Attributes of sessions: is the transaction that ended committed, are its objects to expire.
_IS_COMMITTED: Final = "_onegov_is_committed"
_EXPIRES: Final = "_onegov_expires"


@dataclass(frozen=True, slots=True)
class Call:
    """One piece of post-processing, ready to be run."""

    schema: str | None
    hook: Callable[..., Any]
    run: Callable[[], Any]


class Completion:
    """What is to be done when one transaction ended, and was not done yet."""

    #: Whether it is finished by a unit of work, and not by the end of a transaction.
    is_deferred: ClassVar[bool] = False

    def __init__(self, signals: Signals, announcer: Announcer) -> None:
        self._signals = signals
        self._announcer = announcer
        self._sessions: list[Session] = []
        self._changes: list[tuple[str, ChangeSet]] = []
        self._after_commit: list[tuple[str | None, Hook]] = []
        self._after_abort: list[tuple[str | None, Hook]] = []
        #: Hooks of what is committed already, however the rest ends.
        self._due: list[tuple[str | None, Hook]] = []
        #: Whether the unit of work is at its end, and commits all that it has.
        self.is_ending = False

    def join(self, session: Session) -> None:
        """Include the changes of this session."""
        if not any(joined is session for joined in self._sessions):
            self._sessions.append(session)

    def collect(self, session: Session) -> None:
        """Take over what the session changed in the transaction that it just committed."""
        changes = self._announcer.take_changes(session)
        if changes:
            self._changes.append((session.info["schema"], changes))

    def after_commit(self, schema: str | None, hook: Hook) -> None:
        """Run the hook if the transaction is committed."""
        self._after_commit.append((schema, hook))

    def after_abort(self, schema: str | None, hook: Hook) -> None:
        """Run the hook if the transaction is aborted."""
        self._after_abort.append((schema, hook))

    def mark(self) -> tuple[int, int]:
        """Return where the hooks of an attempt begin."""
        return len(self._after_commit), len(self._after_abort)

    def retreat(self, mark: tuple[int, int]) -> None:
        """Finish an attempt that failed: what was to run since the mark is done or dropped."""
        commits, aborts = mark
        failed = Completion(self._signals, self._announcer)
        failed._after_abort = self._after_abort[aborts:]
        del self._after_commit[commits:], self._after_abort[aborts:]
        failed.finish(is_committed=False)

    def settle(self) -> None:
        """Note that something was committed before the end: its hooks are due at the end."""
        if not self.is_ending:
            self._due.extend(self._after_commit)
            self._after_commit, self._after_abort = [], []

    @property
    def has_hooks(self) -> bool:
        """Whether something is to be run, however the transaction ends."""
        return bool(self._after_commit or self._after_abort or self._due)

    def calls(self, is_committed: bool) -> list[Call]:
        """Return what is to be run now; it is not returned a second time."""
        for session in self._sessions:
            if is_committed:
                self.collect(session)
            else:
                self._drop(session)
        hooks = [*self._due, *(self._after_commit if is_committed else self._after_abort)]
        calls = self._announcements(self._changes)
        calls.extend(Call(schema, hook, hook) for schema, hook in hooks)
        self._sessions, self._changes = [], []
        self._after_commit, self._after_abort, self._due = [], [], []
        return calls

    def finish(self, is_committed: bool) -> None:
        """Run what is to be run; an error is reported, and stops nobody."""
        for call in self.calls(is_committed):
            try:
                result = call.run()
                if isawaitable(result):
                    self._signals.wait(result)
            except Exception as error:  # whatever a hook may raise
                report(self._signals, call, error)

    def _drop(self, session: Session) -> None:
        """Forget what the session changed, in a transaction that failed as a whole."""
        if self._announcer.take_changes(session) and getattr(session, _IS_COMMITTED, False):
            schema = session.info.get("schema")
            logger.error(
                "changes of schema %s are committed but not announced: another participant of "
                "the transaction failed afterwards; sessions with twophase=True are rolled back",
                schema,
                extra={"schema": schema},
            )

    def _announcements(self, changes: list[tuple[str, ChangeSet]]) -> list[Call]:
        return [
            Call(schema, receiver, _Announcement(receiver, schema, net))
            for schema, net in changes
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
            signals.call(receiver, call.schema, error=error, hook=call.hook)
        except Exception:  # an error tracker must not break what it watches
            logger.exception("a subscriber of on_hook_error failed")


class CompletionEvents:
    """Listens to sessions, and finishes the completions of those that stand alone."""

    def __init__(
        self,
        signals: Signals,
        announcer: Announcer,
        transaction_manager: Any | None,
    ) -> None:
        self._signals = signals
        self._announcer = announcer
        self._transaction_manager = transaction_manager
        #: Called after each commit of a session that can write, if anybody wants to know.
        self.on_write: Callable[[], None] | None = None
        announcer.on_first_change = self._join

    def _join(self, session: Session) -> None:
        self.completion_of(session).join(session)

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        for name in (
            "after_transaction_create",
            "after_begin",
            "after_commit",
            "after_transaction_end",
        ):
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
            _self, completion = current.data(self)
        except KeyError:
            completion = self._new_completion()
            # The transaction knows this listener by a weak reference alone.
            current.set_data(self, (self, completion))
            transaction_manager.registerSynch(self)
        return completion  # type: ignore[no-any-return]

    def newTransaction(self, trans: Any) -> None:  # noqa: N802 zope's name
        """Do nothing when a transaction of the ``transaction`` package begins."""

    def beforeCompletion(self, trans: Any) -> None:  # noqa: N802 zope's name
        """Do nothing before a transaction of the ``transaction`` package ends."""

    def afterCompletion(self, trans: Any) -> None:  # noqa: N802 zope's name
        """Finish the transaction of the ``transaction`` package.

        Its after-commit hooks would not do: where there is one, the package calls ``abort``
        of each data manager after the commit, those of others included.
        """
        try:
            _self, completion = trans.data(self)
        except KeyError:
            return
        with fresh_transaction(self._transaction_manager):
            completion.finish(trans.status is Status.COMMITTED)

    def after_transaction_create(self, session: Session, transaction: SessionTransaction) -> None:
        """Note that nothing is committed yet."""
        if transaction.parent is None:
            setattr(session, _IS_COMMITTED, False)
            setattr(session, _HAS_BEGUN, False)

    def after_begin(
        self, session: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        """Announce that the session began a transaction."""
        if transaction.nested:
            return
        setattr(session, _HAS_BEGUN, not reads_only(session))
        refuse_to_wait_for_oneself(session)
        if self._signals.on_transaction_join.receivers:
            schema = session.info.get("schema")
            self._signals.send(self._signals.on_transaction_join, schema, session=session)

    def after_commit(self, session: Session) -> None:
        """Note that the transaction is committed, unless it was but a savepoint.

        The objects expire later, if somebody wants to read them after the commit.
        """
        if session.in_nested_transaction():
            return
        setattr(session, _IS_COMMITTED, True)
        if self.on_write is not None and getattr(session, _HAS_BEGUN, False):
            self.on_write()
        if session.expire_on_commit and self._announcer.is_heard(session):
            session.expire_on_commit = False
            setattr(session, _EXPIRES, True)

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Finish the transaction of a session that stands alone."""
        if transaction.parent is not None:
            return
        is_committed: bool = getattr(session, _IS_COMMITTED, False)
        if not is_committed:
            self._announcer.take_changes(session)
        expires = session.__dict__.pop(_EXPIRES, False)
        session.expire_on_commit = session.expire_on_commit or expires
        if self._transaction_manager is None or not joins_transaction(session):
            completion: Completion | None = getattr(session, "completion", None)
            if completion is not None:
                self._finish(session, completion, is_committed, expires)

    def _finish(
        self, session: Session, completion: Completion, is_committed: bool, expires: bool
    ) -> None:
        if is_committed:
            completion.collect(session)
        if completion.is_deferred:
            if is_committed:
                completion.settle()
            return
        session.completion = None  # type: ignore[attr-defined]
        try:
            with usable(session):
                completion.finish(is_committed)
        finally:
            if expires:
                session.expire_all()

    def deferred_completion(self) -> DeferredCompletion:
        """Return a completion for a unit of work."""
        return DeferredCompletion(self._signals, self._announcer)

    def _new_completion(self) -> Completion:
        return Completion(self._signals, self._announcer)


class DeferredCompletion(Completion):
    """The completion of a unit of work, which finishes it when its sessions are closed."""

    is_deferred = True


def can_swap(transaction_manager: Any) -> bool:
    """Tell whether a block can have a transaction of its own in this manager."""
    return isinstance(transaction_manager, ThreadTransactionManager)


@contextmanager
def fresh_transaction(transaction_manager: Any) -> Iterator[None]:
    """Have a transaction manager of the block's own in the place of the thread's.

    What is left open at the end is aborted.
    """
    holder, name = transaction_manager, "_txn"
    inner: Any = None
    if can_swap(transaction_manager):
        name, inner = "manager", TransactionManager()
    outer = getattr(holder, name)
    setattr(holder, name, inner)
    is_explicit = transaction_manager.explicit
    transaction_manager.explicit = False
    try:
        yield
    finally:
        try:
            transaction_manager.abort()
        finally:
            transaction_manager.explicit = is_explicit
            setattr(holder, name, outer)


@contextmanager
def usable(session: Session) -> Iterator[None]:
    """Let the block use a session whose transaction ended just now.

    SQLAlchemy would refuse that as long as a ``with session.begin():`` around it is not over.
    What is left open at the end is rolled back.
    """
    around = session._trans_context_manager
    session._trans_context_manager = None
    try:
        yield
    finally:
        if session.in_transaction():
            session.rollback()
        session._trans_context_manager = around
