"""Which statements a page runs, and how it does with fewer."""

import io
import re

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from onegov_orm import SessionManager
from onegov_orm.debug import analyze_sql_queries
from onegov_orm.embedded import EmbeddedServer


class Base(DeclarativeBase):
    pass


class Street(Base):
    __tablename__ = "streets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    houses: Mapped[list["House"]] = relationship()


class House(Base):
    __tablename__ = "houses"

    id: Mapped[int] = mapped_column(primary_key=True)
    street_id: Mapped[int] = mapped_column(ForeignKey("streets.id"))


def slow_page(session: Session) -> int:
    number = 0
    for street in session.scalars(select(Street)):
        number += len(street.houses)
    return number


def fast_page(session: Session) -> int:
    streets = session.scalars(select(Street).options(selectinload(Street.houses)))
    return sum(len(street.houses) for street in streets)


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    with mgr.schema("towns-bern") as session:
        for name in ("Aarweg", "Länggasse", "Marktgasse"):
            session.add(Street(name=name, houses=[House(), House()]))

    # A report is printed at the end of the block.
    report = io.StringIO()
    with mgr.schema("towns-bern") as session, analyze_sql_queries("redundant", report):
        slow_page(session)
    print(re.sub(r"[\d.]+ ms", "some ms", report.getvalue()))

    # What was counted can be asked for, as tests do.
    with mgr.schema("towns-bern") as session, analyze_sql_queries(stream=report) as analysis:
        fast_page(session)
    print(analysis.count, analysis.redundant_count, analysis.loops)

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
