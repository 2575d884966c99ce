"""A fleet: a step in every schema, a copy, a customer dropped and brought back."""

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SchemaName, SessionManager
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.fleet import Fleet, RunOptions, Skipped


class Base(DeclarativeBase):
    pass


class Resident(Base):
    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def tidy(connection: Connection, schema: SchemaName) -> str:
    """Runs in a transaction of each schema: wholly, or not at all."""
    changed = connection.execute(
        text("UPDATE residents SET name = trim(name) WHERE name <> trim(name)")
    ).rowcount
    if not changed:
        raise Skipped("all names are tidy")
    if schema == "towns-biel":
        raise RuntimeError("the archive is closed today")
    return f"{changed} names"


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    fleet = Fleet(mgr)

    for town, name in (("towns-bern", " Ada"), ("towns-biel", " Emmy"), ("towns-thun", "Max")):
        fleet.create(town)
        with mgr.schema(town) as session:
            session.add(Resident(name=name))

    report = fleet.run(tidy, options=RunOptions(workers=2))
    for result in report.results:
        print(result.schema, result.outcome, result.detail or result.error)

    fleet.clone("towns-bern", "towns-trial")
    fleet.drop("towns-bern")
    print(fleet.select("towns-*", exclude=["towns-t*"]))
    fleet.undo("towns-bern")
    with mgr.schema("towns-bern") as session:
        print(session.query(Resident.name).all())

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
