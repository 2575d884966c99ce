"""Columns that give back what was put into them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import NaiveDatetime, SessionManager
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.types import (
    JSON,
    UUID,
    LowercaseText,
    MarkupText,
    Serializer,
    UTCDateTime,
    default_serializers,
)


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Self:
        amount, currency = text.split()
        return cls(Decimal(amount), currency)


serializers = default_serializers.extended(
    Serializer(Money, "money", encode=str, decode=Money.parse)
)


class Base(DeclarativeBase):
    pass


class Permit(Base):
    __tablename__ = "permits"

    id: Mapped[uuid.UUID] = mapped_column(UUID, primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(LowercaseText)
    issued: Mapped[datetime] = mapped_column(UTCDateTime)
    note: Mapped[Markup] = mapped_column(MarkupText)
    details: Mapped[dict[str, Any]] = mapped_column(JSON(serializers=serializers))


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    noon = datetime(2024, 7, 1, 12, tzinfo=UTC)

    with mgr.schema("towns-bern") as session:
        permit = Permit(
            email="Ada@Example.org",
            issued=noon,
            note=Markup("<b>{}</b>").format("Food & drinks"),
            details={"days": [date(2024, 8, 1)], "fee": Money(Decimal("9.50"), "CHF")},
        )
        session.add(permit)

    # A change is noticed wherever it is.
    with mgr.schema("towns-bern") as session:
        permit = session.scalars(select(Permit)).one()
        permit.details["days"].append(date(2024, 8, 2))

    with mgr.schema("towns-bern") as session:
        permit = session.scalars(select(Permit)).one()
        print(permit.details["days"], permit.details["fee"])
        print(permit.email, permit.issued.isoformat(), permit.note)

    # In filters too, values are what they are in Python.
    with mgr.schema("towns-bern") as session:
        for criterion in (
            Permit.email == "ADA@EXAMPLE.ORG",
            Permit.issued + timedelta(hours=1) > noon,
            Permit.note.contains("Food & drinks"),
            Permit.details["days"].contains([date(2024, 8, 2)]),
            Permit.details["fee"] == Money(Decimal("9.50"), "CHF"),
            Permit.id == str(permit.id),
        ):
            print(session.scalar(select(Permit.email).where(criterion)))

    try:
        with mgr.schema("towns-bern") as session:
            session.scalars(select(Permit).where(Permit.issued > noon.replace(tzinfo=None))).all()
    except NaiveDatetime as exc:
        print(exc)

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
