"""A search index that follows the database, and never runs ahead of it."""

from typing import Any

from sqlalchemy import select, update

from docs.examples.getting_started import Base, Resident
from onegov_orm import ChangeSet, SessionManager
from onegov_orm.embedded import EmbeddedServer

Index = dict[tuple[str, Any], str]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    index: Index = {}

    # Once for each transaction that was committed, with what it changed in the end.
    @mgr.on_commit.connect
    def follow(schema: str, changes: ChangeSet) -> None:
        for key, resident in {**changes.inserts, **changes.updates}.items():
            index[schema, key] = resident.name
        for key in changes.deletes:
            index.pop((schema, key), None)

    # After each flush, and for one schema alone.
    @mgr.on_insert.connect_via("towns-bern")
    def greet(schema: str, obj: Any) -> None:
        print(f"{schema} welcomes {obj.name}")

    with mgr.schema("towns-bern") as session:
        session.add_all([Resident(name="Ada"), Resident(name="Grace")])
    print(sorted(index.values()))

    # Bulk statements are announced too: the server says which rows they touched.
    with mgr.schema("towns-bern") as session:
        session.execute(update(Resident).values(name=Resident.name + " of Bern"))
    print(sorted(index.values()))

    # What is aborted is never announced.
    try:
        with mgr.schema("towns-bern") as session:
            session.delete(session.scalars(select(Resident)).first())
            session.flush()
            raise RuntimeError("no")
    except RuntimeError:
        print(len(index), "are still in the index")

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
