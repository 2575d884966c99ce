"""Reports that are written in SQL, and used like tables."""

from datetime import date
from pathlib import Path

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SelectableError, SessionManager
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.func import unaccent
from onegov_orm.sql import as_selectable, as_selectable_from_path


class Base(DeclarativeBase):
    pass


class Household(Base):
    __tablename__ = "households"

    id: Mapped[int] = mapped_column(primary_key=True)
    street: Mapped[str]


class Resident(Base):
    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    household_id: Mapped[int] = mapped_column(ForeignKey("households.id"))
    name: Mapped[str]
    born: Mapped[date]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    with mgr.schema("towns-bern") as session:
        session.add_all([Household(id=1, street="Länggasse"), Household(id=2, street="Aarweg")])
        session.flush()
        for household, name, born in (
            (1, "Zoë", date(2015, 3, 1)),
            (1, "Élodie", date(1980, 6, 30)),
            (2, "Emil", date(1952, 12, 24)),
        ):
            session.add(Resident(household_id=household, name=name, born=born))

    # The columns have types, and so the rows have what Python expects.
    census = as_selectable_from_path(Path(__file__).with_name("census.sql"))
    with mgr.schema("towns-bern") as session:
        statement = select(census).order_by(census.c.id).params(day=date(2020, 1, 1))
        for row in session.execute(statement):
            print(row.address, row.members, row.first_born.year, row.names)

    # It joins models, and is filtered like a table.
    with mgr.schema("towns-bern") as session:
        joined = (
            select(Household.street, census.c.members)
            .join(census, census.c.id == Household.id)
            .where(census.c.first_born < date(1960, 1, 1))
        )
        print(session.execute(joined.params(day=date(2020, 1, 1))).all())

    # Values can be given at once, instead of with the statement.
    adults = as_selectable(
        """
        SELECT name  -- Text
        FROM residents
        WHERE extract(year FROM age(:today::date, born)) >= 18
        """,
        parameters={"today": date(2024, 1, 1)},
    )
    with mgr.schema("towns-bern") as session:
        print(session.scalars(select(adults.c.name).order_by(unaccent(adults.c.name))).all())

    # What can't be read says why.
    try:
        as_selectable("SELECT\n    name,  -- Text\n    count(*)  -- Integer\nFROM residents")
    except SelectableError as error:
        print(error)

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
