"""UUIDs that may be given as text."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Dialect, Uuid
from sqlalchemy.types import TypeDecorator

from onegov_orm.errors import InvalidUUID
from onegov_orm.types._normalized_attributes import normalize

__all__ = ["UUID"]


class UUID(TypeDecorator[uuid.UUID]):
    """PostgreSQL's uuid: ``uuid.UUID`` is read, it or its text is written.

    Anything else raises `InvalidUUID` before it is sent.
    """

    impl = Uuid
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(as_uuid=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def process_bind_param(self, value: Any, dialect: Dialect) -> uuid.UUID | None:
        """Return the UUID; raises `InvalidUUID`."""
        value = self.normalized(value)
        if value is None or isinstance(value, uuid.UUID):
            return value
        raise InvalidUUID(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:
        """Return the UUID as the standard library has it; asyncpg has a class of its own."""
        if value is None or value.__class__ is uuid.UUID:
            return value
        return uuid.UUID(int=value.int)

    def normalized(self, value: Any) -> Any:
        """Return the UUID of a text; raises `InvalidUUID`."""
        if not isinstance(value, str):
            return value
        try:
            return uuid.UUID(value)
        except ValueError:
            raise InvalidUUID(value) from None


normalize(UUID)
