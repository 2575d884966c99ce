"""Models with the library's types, which have to pass mypy strict as they are."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from markupsafe import Markup
from sqlalchemy import select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm.types import (
    HSTORE,
    JSON,
    UUID,
    LowercaseText,
    MarkupText,
    Serializer,
    Serializers,
    TrackedDict,
    TrackedList,
    UTCDateTime,
    default_serializers,
    tracked,
)


@dataclass(frozen=True)
class Money:
    """A type of an application's own."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Self:
        amount, currency = text.split()
        return cls(Decimal(amount), currency)


serializers: Serializers = default_serializers.extended(
    Serializer(Money, "money", encode=str, decode=Money.parse),
    Serializer(complex, "complex", encode=str, decode=complex),
)


class Base(DeclarativeBase):
    """A base of its own."""


class Ticket(Base):
    """Something with a column of each type."""

    __tablename__ = "tickets"

    id: Mapped[uuid.UUID] = mapped_column(UUID, primary_key=True, default=uuid.uuid4)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    closed: Mapped[datetime | None] = mapped_column(UTCDateTime())
    meta: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    prices: Mapped[list[Money]] = mapped_column(JSON(serializers=serializers), default=list)
    texts: Mapped[dict[str, str | None] | None] = mapped_column(HSTORE)
    email: Mapped[str] = mapped_column(LowercaseText)
    body: Mapped[Markup | None] = mapped_column(MarkupText)


def use(session: Session) -> list[Ticket]:
    """Read, write and ask for all of them."""
    ticket = Ticket(at=datetime.now(UTC), email="A@B", body=Markup("<b>"), texts={"a": None})
    ticket.meta["a"] = {"b": [datetime.now(UTC)]}
    ticket.prices.append(Money(Decimal(1), "CHF"))
    session.add(ticket)
    session.execute(update(Ticket).values(closed=Ticket.at + timedelta(hours=1)))
    statement = (
        select(Ticket)
        .where(Ticket.meta["a"]["b"].astext == "x", Ticket.meta.contains({"a": 1}))
        .where(Ticket.email.in_(["A@B"]), Ticket.id == str(ticket.id))
        .where(Ticket.closed.is_(None) | (Ticket.at < datetime.now(UTC) - timedelta(days=1)))
        .order_by(Ticket.meta["n"].as_integer(), Ticket.at.desc())
    )
    return list(session.scalars(statement))


def track() -> tuple[TrackedDict, TrackedList, int]:
    """Make containers that track changes."""

    def attach(names: TrackedList) -> None:
        names.append("x")

    plain: dict[str, Any] = {}
    return tracked(plain), tracked(["a"], attach), tracked(5)
