"""Which manager a model's object or expression belongs to."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any, TypeAlias

from sqlalchemy.orm import object_session

from onegov_orm.context import active_manager

_Reference: TypeAlias = weakref.ref[Any] | None

#: The manager whose session was the last to execute a statement in this thread or task.
last_manager: ContextVar[_Reference] = ContextVar("last_manager", default=None)


def manager_of(instance: object) -> Any | None:
    """Return the manager of the object's session, or else the active one; None without any.

    Without an active one it is the manager that was last used in this thread or task.
    """
    session = object_session(instance)
    return _first(getattr(session, "manager", None), active_manager.get(), last_manager.get())


def executing_manager() -> Any | None:
    """Return the manager whose session executes a statement; None without any.

    For a connection that has no session it is the manager that was last used, or else the
    active one.
    """
    return _first(last_manager.get(), active_manager.get())


def _first(*references: _Reference) -> Any | None:
    """Return the first manager that is still there."""
    alive = (reference() for reference in references if reference is not None)
    return next((manager for manager in alive if manager is not None), None)
