"""New schemas: shared tables, something to start with, and what fails leaves nothing."""

from typing import Any

from sqlalchemy import ForeignKey, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer


class Base(DeclarativeBase):
    pass


class Canton(Base):
    """The same rows for all customers."""

    __tablename__ = "cantons"
    __table_args__ = {"schema": "shared"}  # noqa: RUF012

    code: Mapped[str] = mapped_column(primary_key=True)


class Office(Base):
    """Rows of one customer, which refer to the shared ones."""

    __tablename__ = "offices"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    canton_code: Mapped[str] = mapped_column(ForeignKey(Canton.code))
    canton: Mapped[Canton] = relationship()


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    # In the transaction that makes the schema: whoever sees the schema sees this too.
    @mgr.on_schema_init.connect
    def fill(schema: str, connection: Any) -> None:
        if schema == "towns-unlucky":
            raise RuntimeError("this town can't be opened today")
        connection.execute(text("INSERT INTO shared.cantons VALUES ('BE') ON CONFLICT DO NOTHING"))
        connection.execute(
            text("INSERT INTO offices (name, canton_code) VALUES ('Town hall', 'BE')")
        )

    for town in ("towns-bern", "towns-biel"):
        with mgr.schema(town) as session:
            office = session.scalars(select(Office)).one()
            print(town, office.name, office.canton.code)

    try:
        mgr.ensure_schema_exists("towns-unlucky")
    except RuntimeError as error:
        print(error)
    print(mgr.list_schemas())

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
