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
    #: Whether the thread or task is over, and forgot to give the connection back.
    is_gone: bool = False
    #: Where in the program it was taken; known with ``trace_connections=True``.
    opened_at: str | None = None

    @property
    def age_seconds(self) -> float:
        """How long the connection has been out, in seconds."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        schema = f'schema "{self.schema}"' if self.schema else "no schema"
        gone = " (which is over)" if self.is_gone else ""
        place = f", taken at {self.opened_at}" if self.opened_at else ""
        return f"{schema}, {self.owner}{gone}, for {self.age_seconds:.1f} s{place}"
