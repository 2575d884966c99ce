"""What models do in the flushes of managers' sessions, and in no others.

Modules such as `observer` and `aggregates` register a hook when they are first used. SQLAlchemy's
own session classes are left alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import event

from onegov_orm.changes import Kind

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper, Session, SessionTransaction


@dataclass
class Flush:
    """One flush, for the hooks to keep what they learn in it."""

    #: The scopes of the manager.
    scopes: frozenset[str]
    #: Whether somebody wants to hear of updates.
    is_heard: bool
    #: What hooks keep from before the flush until after it.
    notes: dict[Any, Any] = field(default_factory=dict)


class FlushHook:
    """Something to be done in flushes; what it is, subclasses say."""

    def before_flush(self, session: Session, flush: Flush) -> None:
        """Do what has to be written by the flush."""

    def after_flush(self, session: Session, flush: Flush, flush_context: Any) -> None:
        """Do what follows from what was written; objects still know what they were."""

    def finish(self, session: Session, flush: Flush) -> list[Any]:
        """Do what comes last; return objects that were changed without being flushed."""
        return []

    def kept_from(self, mapper: Mapper[Any]) -> Iterator[str]:
        """Yield the names of what is kept from rows of a class, which a bulk change would miss."""
        yield from ()

    def after_rollback(self, session: Session) -> None:
        """Correct what objects have of a savepoint that was rolled back."""


#: The hooks of this process, in the order in which they run.
hooks: list[FlushHook] = []


def register(hook: FlushHook, *, is_first: bool = False) -> None:
    """Have a hook run in the flushes of all managers' sessions."""
    if hook not in hooks:
        hooks.insert(0 if is_first else len(hooks), hook)


class ChangeAnnouncer(Protocol):
    """Tells the subscribers of a manager what was changed."""

    def is_heard(self, session: Session, *kinds: Kind) -> bool:
        """Tell whether anybody listens."""
        ...

    def announce(self, session: Session, kind: Kind, objects: list[Any]) -> None:
        """Tell the subscribers."""
        ...


class FlushHookEvents:
    """Listens to the sessions of one manager, and runs the hooks."""

    def __init__(self, scopes: frozenset[str], announcer: ChangeAnnouncer) -> None:
        self._scopes = scopes
        self._announcer = announcer
        self._flushes: weakref.WeakKeyDictionary[Session, Flush] = weakref.WeakKeyDictionary()

    def attach(self, target: Any) -> None:
        """Listen to a session, session class or sessionmaker."""
        # First of all: what hooks change has to be seen by those who listen to changes.
        event.listen(target, "before_flush", self.before_flush, insert=True)
        for name in ("after_flush", "after_flush_postexec", "after_soft_rollback"):
            event.listen(target, name, getattr(self, name))

    def before_flush(self, session: Session, flush_context: Any, instances: Any) -> None:
        """Run the hooks on what is about to be flushed."""
        if hooks:
            flush = self._flushes[session] = Flush(
                self._scopes, self._announcer.is_heard(session, Kind.UPDATE)
            )
            for hook in tuple(hooks):
                hook.before_flush(session, flush)

    def after_flush(self, session: Session, flush_context: Any) -> None:
        """Run the hooks on what was flushed."""
        flush = self._flushes.get(session)
        if flush is not None:
            for hook in tuple(hooks):
                hook.after_flush(session, flush, flush_context)

    def after_flush_postexec(self, session: Session, flush_context: Any) -> None:
        """Let the hooks come to an end, and announce what they changed."""
        flush = self._flushes.pop(session, None)
        if flush is not None:
            objects = [obj for hook in tuple(hooks) for obj in hook.finish(session, flush)]
            if objects:
                self._announcer.announce(session, Kind.UPDATE, objects)

    def after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Tell the hooks that a savepoint or a transaction was rolled back."""
        self._flushes.pop(session, None)
        for hook in tuple(hooks):
            hook.after_rollback(session)
