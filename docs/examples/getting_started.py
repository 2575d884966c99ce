"""Two towns in one database, and neither sees the other's residents."""

import transaction
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer


class Base(DeclarativeBase):
    pass


class Resident(Base):
    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    # One request: the town is new, so that its schema and tables are made first.
    mgr.set_current_schema("towns-bern")
    mgr.session().add(Resident(name="Ada"))
    transaction.commit()

    # The same as a block, which commits at its end.
    with mgr.schema("towns-zurich") as session:
        session.add(Resident(name="Grace"))

    for town in mgr.list_schemas(namespace="towns"):
        with mgr.schema(town) as session:
            print(town, session.scalars(select(Resident.name)).all())

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
