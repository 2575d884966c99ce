"""The models of the benchmarks: two tables for requests, and sixty to be provisioned."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Uuid,
    create_mock_engine,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SIXTY: Final = 60

#: How many tables share one enum, and how far apart a table and its parent are.
_TABLES_PER_ENUM: Final = 6
_PARENT_DISTANCE: Final = 3


class RequestBase(DeclarativeBase):
    metadata = MetaData()


class Account(RequestBase):
    """What a request reads and changes."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    balance: Mapped[int] = mapped_column(default=0)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)


class Entry(RequestBase):
    """What a writing request adds."""

    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    text: Mapped[str]
    amount: Mapped[Decimal]
    created: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), deferred=True
    )


def provisioned_base(tables: int = SIXTY) -> type[DeclarativeBase]:
    """Return a base with tables such as applications have: keys, enums and indexes."""
    metadata = MetaData()
    states = [
        Enum("open", "pending", "closed", name=f"state_{number}", metadata=metadata)
        for number in range(max(1, tables // _TABLES_PER_ENUM))
    ]
    for number in range(tables):
        _add_table(metadata, number, states[number % len(states)])
    return type("ProvisionedBase", (DeclarativeBase,), {"metadata": metadata})


def _add_table(metadata: MetaData, number: int, state: Enum) -> None:
    name = f"records_{number:02}"
    table = Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("uuid", Uuid, nullable=False, unique=True),
        Column("title", Text, nullable=False),
        Column("slug", String(200), nullable=False),
        Column("state", state, nullable=False),
        Column("price", Numeric(10, 2)),
        Column("is_public", Boolean, nullable=False, server_default="false"),
        Column("content", JSONB, nullable=False, server_default="{}"),
        Column("created", DateTime(timezone=True), server_default=func.now()),
        Column("modified", DateTime(timezone=True)),
        CheckConstraint("price >= 0", name=f"ck_{name}_price"),
    )
    Index(f"ix_{name}_slug", table.c.slug, unique=True)
    Index(f"ix_{name}_state_created", table.c.state, table.c.created)
    if number >= _PARENT_DISTANCE:
        parent = f"records_{number - _PARENT_DISTANCE:02}"
        column: Column[int] = Column("parent_id", ForeignKey(f"{parent}.id", ondelete="CASCADE"))
        table.append_column(column)
        Index(f"ix_{name}_parent_id", column)
    if not number % _TABLES_PER_ENUM:
        Index(f"ix_{name}_content", table.c.content, postgresql_using="gin")


def script_of(metadata: MetaData) -> str:
    """Return the statements that make all of it, as one text."""
    statements: list[str] = []

    def note(element: Any, *_args: Any, **_kwargs: Any) -> None:
        statements.append(str(element.compile(dialect=engine.dialect)).strip())

    engine = create_mock_engine("postgresql+psycopg2://", note)
    metadata.create_all(engine, checkfirst=False)
    return ";\n".join(statements)
