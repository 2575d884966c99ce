"""Which manager a model's object belongs to."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import object_session

from onegov_orm.context import active_manager


def manager_of(instance: object) -> Any | None:
    """Return the manager of the object's session, or else the active one; None without any."""
    session = object_session(instance)
    reference = getattr(session, "manager", None) or active_manager.get()
    return None if reference is None else reference()
