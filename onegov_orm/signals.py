"""The signals of one manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from blinker import Signal

from onegov_orm.changes import Kind


class Signals:
    """The blinker signals of one manager, each sent with the schema's name as sender.

    ``signal.connect(subscriber)`` hears every schema,
    ``signal.connect_via('towns-bern')`` one. Where the manager is asynchronous, subscribers
    may be coroutine functions: ``wait`` waits for what they return, and ``shell`` turns a
    session or a connection into one that can be awaited.
    """

    def __init__(
        self,
        wait: Callable[[Awaitable[Any]], Any],
        shell: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.wait = wait
        self.shell = shell
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
        # blinker's own send() refuses coroutine functions.
        receivers = () if signal.is_muted else list(signal.receivers_for(schema))
        for receiver in receivers:
            self.call(receiver, schema, **kwargs)

    def call(self, receiver: Callable[..., Any], schema: str | None, **kwargs: Any) -> None:
        """Call a subscriber, and wait for it if it is to be awaited.

        A coroutine function gets the asynchronous shells of sessions and connections.
        """
        if iscoroutinefunction(receiver):
            kwargs = {name: self.shell(value) for name, value in kwargs.items()}
        self._finish(receiver(schema, **kwargs))

    def run(self, function: Callable[[Any], Any], value: Any) -> None:
        """Call a function of one value, in the same way."""
        self._finish(function(self.shell(value) if iscoroutinefunction(function) else value))

    def _finish(self, result: Any) -> None:
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
