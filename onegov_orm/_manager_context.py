"""What a manager shows of its context: signals, locales, switches, and which one is active."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from onegov_orm.context import Current, active_manager, switched_on
from onegov_orm.signals import Signals

if TYPE_CHECKING:
    from blinker import Signal

    from onegov_orm.provisioning import Provisioner

SeedT = TypeVar("SeedT", bound=Callable[[Any], Any])


class ManagerContext:
    """The part of a manager that tells and sets what holds for this thread or task."""

    signals: Signals
    provisioner: Provisioner
    _current: Current

    # -- names kept for callers

    @property
    def on_schema_init(self) -> Signal:
        """The signal of a new schema, with its connection, before the commit."""
        return self.signals.on_schema_init

    @property
    def on_transaction_join(self) -> Signal:
        """The signal of a session that begins a transaction."""
        return self.signals.on_transaction_join

    @property
    def on_insert(self) -> Signal:
        """The signal of an object that was inserted."""
        return self.signals.on_insert

    @property
    def on_update(self) -> Signal:
        """The signal of an object that was updated."""
        return self.signals.on_update

    @property
    def on_delete(self) -> Signal:
        """The signal of an object that was deleted."""
        return self.signals.on_delete

    @property
    def on_commit(self) -> Signal:
        """The signal of a committed transaction, with its net changes."""
        return self.signals.on_commit

    @property
    def on_hook_error(self) -> Signal:
        """The signal of post-processing that failed."""
        return self.signals.on_hook_error

    def seed(self, function: SeedT) -> SeedT:
        """Have a function fill each new schema; also as a decorator.

        It gets the connection, in the transaction that makes the schema, before
        ``on_schema_init``. It can't know the name: a spare schema has none yet.
        """
        self.provisioner.seeds.append(function)
        return function

    @property
    def created_schemas(self) -> set[str]:
        """The schemas that this process made, or found complete."""
        return self.provisioner.created_schemas

    @property
    def created_extensions(self) -> set[str]:
        """The extensions that this process made, or found."""
        return self.provisioner.created_extensions

    @property
    def current_schema(self) -> str | None:
        """The schema that is current in this thread or task, None if there is none."""
        return self._current.schema

    @property
    def default_locale(self) -> str | None:
        """The locale that translations fall back to, in this thread or task."""
        return self._current.default_locale.get()

    @default_locale.setter
    def default_locale(self, value: str | None) -> None:
        self._current.default_locale.set(value)

    @property
    def current_locale(self) -> str | None:
        """The locale of this thread or task."""
        return self._current.current_locale.get()

    @current_locale.setter
    def current_locale(self, value: str | None) -> None:
        self._current.current_locale.set(value)

    def set_locale(self, default_locale: str | None, current_locale: str | None) -> None:
        """Set the locales of this thread or task."""
        self.default_locale = default_locale
        self.current_locale = current_locale

    # -- the active manager

    def set_active(self) -> None:
        """Make this the active manager of this thread or task; it is held weakly."""
        active_manager.set(weakref.ref(self))

    @staticmethod
    def get_active() -> Any | None:
        """Return the active manager of this thread or task, None if there is none."""
        reference = active_manager.get()
        return None if reference is None else reference()

    def activate(self) -> None:
        """Make this the active manager; the same as `set_active`."""
        self.set_active()

    def deactivate(self) -> None:
        """Have no active manager any more, if it is this one."""
        if self.get_active() is self:
            active_manager.set(None)

    # -- switches, each for the current thread or task alone

    def ignore_bulk_updates(self) -> AbstractContextManager[None]:
        """Let bulk updates through inside the block, without announcing them."""
        return switched_on(self._current.ignores_bulk_updates)

    def ignore_bulk_deletes(self) -> AbstractContextManager[None]:
        """Let bulk deletes through inside the block, without announcing them."""
        return switched_on(self._current.ignores_bulk_deletes)

    def disable_change_signals(self) -> AbstractContextManager[None]:
        """Announce no changes made inside the block, not in ``on_commit`` either."""
        return switched_on(self._current.is_silent)
