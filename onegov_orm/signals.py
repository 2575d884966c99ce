"""The signals of one manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from blinker import Signal

from onegov_orm.changes import Kind


class Signals:
    """The blinker signals of one manager, each sent with the schema's name as sender.

    ``signal.connect(subscriber)`` hears every schema,
    ``signal.connect_via('towns-bern')`` one. Where the manager is asynchronous, subscribers
    may be coroutine functions; ``wait`` waits for what they return.
    """

    def __init__(self, wait: Callable[[Awaitable[Any]], Any]) -> None:
        self.wait = wait
        self.on_schema_init = Signal(
            doc="A schema was made and is about to be committed: (schema, connection)"
        )
        self.on_transaction_join = Signal(
            doc="A session of the schema began a transaction: (schema, session)"
        )
        self.on_insert = Signal(doc="An object was inserted: (schema, obj)")
        self.on_update = Signal(doc="An object with a net change was updated: (schema, obj)")
        self.on_delete = Signal(doc="An object was deleted: (schema, session, obj)")
        self.on_commit = Signal(
            doc="A transaction was committed, with its net changes: (schema, changes)"
        )
        self.on_hook_error = Signal(
            doc="Post-processing or an on_commit subscriber failed: (schema, error, hook)"
        )

    def send(self, signal: Signal, schema: str | None, **kwargs: Any) -> None:
        """Call the subscribers of one of the signals, and wait for those to be awaited."""
        for _receiver, result in signal.send(schema, **kwargs):
            if isawaitable(result):
                self.wait(result)

    def of(self, kind: Kind) -> Signal:
        """Return the signal of this kind of change."""
        return {
            Kind.INSERT: self.on_insert,
            Kind.UPDATE: self.on_update,
            Kind.DELETE: self.on_delete,
        }[kind]

    @property
    def hears_changes(self) -> bool:
        """Whether anybody listens to changes of any schema."""
        return bool(
            self.on_commit.receivers
            or self.on_insert.receivers
            or self.on_update.receivers
            or self.on_delete.receivers
        )
