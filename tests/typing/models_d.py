"""How an application uses selectables, functions and the analysis of statements."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, Subquery, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm import SelectableError
from onegov_orm.debug import Analysis, Query, Repetition, analyze_sql_queries
from onegov_orm.func import unaccent
from onegov_orm.sql import as_selectable, as_selectable_from_path


class Base(DeclarativeBase):
    """The application's base."""


class Town(Base):
    """A town."""

    __tablename__ = "towns"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    nickname: Mapped[str | None]


CENSUS: Subquery = as_selectable(
    """
    SELECT
        town_id,             -- Integer
        count(*) AS number   -- Integer
    FROM residents
    WHERE born > :since
    GROUP BY town_id
    """,
    alias="census",
)

RECENT = as_selectable("SELECT 1 AS n -- Integer\n WHERE 1 < :last", parameters={"last": 2})


def numbers(session: Session) -> list[tuple[str, int]]:
    """Join a selectable with a model."""
    statement = (
        select(Town.name, CENSUS.c.number)
        .join(CENSUS, CENSUS.c.town_id == Town.id)
        .params(since=date(2000, 1, 1))
    )
    everything: list[Row[Any]] = list(session.execute(select(RECENT)))
    return [(name, number) for name, number in session.execute(statement) if everything]


def report(session: Session, path: Path) -> list[Row[Any]]:
    """Select from a file."""
    found: Subquery = as_selectable_from_path(path)
    same: Subquery = as_selectable_from_path(str(path))
    try:
        return list(session.execute(select(*found.c).where(same.c.number > 1)).all())
    except SelectableError as error:
        reason: str = error.reason
        line: int | None = error.line
        raise RuntimeError(f"{reason} {line} {error.column} {error.path}") from error


def search(term: str) -> Select[Any]:
    """Filter and order without accents."""
    plain = unaccent(Town.name)
    return (
        select(plain)
        .where(plain.ilike(unaccent(term)), unaccent(func.lower(Town.nickname)) == "x")
        .where(unaccent(Town.nickname).startswith("x"))
        .order_by(unaccent(Town.name), plain.desc())
    )


def analyzed(session: Session) -> int:
    """Look at the statements of a block."""
    with analyze_sql_queries("redundant", stream=io.StringIO()) as analysis:
        names: list[str] = list(session.scalars(search("x")))
    found: Analysis = analysis
    query: Query = found.queries[0]
    seconds: float | None = query.seconds
    loops: list[Repetition] = found.loops
    total: float = found.seconds + sum(each.seconds for each in loops) + (seconds or 0)
    return found.count + found.redundant_count + len(names) + int(total)


@analyze_sql_queries()
def view(session: Session, name: str) -> Town | None:
    """Look at the statements of a function."""
    return session.scalars(select(Town).where(Town.name == name)).first()


def decorated(session: Session) -> str | None:
    """Keep the types of a decorated function."""
    town = view(session, "Bern")
    return town.name if town else None
