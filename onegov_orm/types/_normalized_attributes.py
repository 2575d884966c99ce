"""Attributes that have, as soon as they are set, the value that the row is going to have."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import event, inspect
from sqlalchemy.orm import InstanceState

from onegov_orm.types._mapped_columns import for_columns_of

__all__ = ["normalize"]


class Normalizing(Protocol):
    """A type that has one form for what may be given in several."""

    def normalized(self, value: Any) -> Any:
        """Return the value in the form that is read from the database."""


class NormalizingEvents:
    """Listens to what is assigned to one attribute of a class.

    The identity of an object is made of its attributes: with the text of a UUID in its primary
    key, a session would take it for another object than the one it reads.
    """

    def __init__(self, sql_type: Normalizing) -> None:
        self._type = sql_type

    def attach(self, class_: type[Any], key: str) -> None:
        """Listen to an attribute of a class, and of those derived from it."""
        event.listen(getattr(class_, key), "set", self.set, raw=True, retval=True, propagate=True)

    def set(self, state: InstanceState[Any], value: Any, old: Any, initiator: Any) -> Any:
        """Bring what is assigned into its form."""
        return self._type.normalized(value)


def normalize(sql_type: type[Normalizing]) -> None:
    """Normalize what is assigned to columns of a type, in all mappings to come."""
    for_columns_of(sql_type, _attach)


def _attach(class_: type[Any], keys: list[str]) -> None:
    attributes = inspect(class_).column_attrs
    for key in keys:
        NormalizingEvents(attributes[key].columns[0].type).attach(class_, key)
