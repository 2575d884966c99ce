"""Aliases, protocols and plain records shared by several modules."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: A declarative base class; SQLAlchemy has no common type for the kinds there are.
DeclarativeBase: TypeAlias = type[Any]

IsolationLevel: TypeAlias = Literal[
    "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "READ UNCOMMITTED"
]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a connection checked out of the pool, and since when."""

    schema: str | None
    owner: str
    since: float = field(default_factory=time.monotonic)

    @property
    def age_seconds(self) -> float:
        """How long the connection has been out, in seconds."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        schema = f'schema "{self.schema}"' if self.schema else "no schema"
        return f"{schema}, {self.owner}, for {self.age_seconds:.1f} s"
