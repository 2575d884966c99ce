"""Readers beside writers, blocks that only read, and a replica that is none."""

from sqlalchemy import delete, func, select

from docs.examples.getting_started import Base, Resident
from onegov_orm import ReadOnlySession, SchemaNotFound, SessionManager
from onegov_orm.embedded import EmbeddedServer

COUNT = select(func.count()).select_from(Resident)


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    with mgr.schema("towns-bern") as session:
        session.add(Resident(name="Ada"))
        session.flush()

        # A session of its own: it sees what is committed, and not what this block has pending.
        print("pending:", session.scalar(COUNT), "committed:", mgr.reader().scalar(COUNT))

    # A block that can't write.
    with mgr.schema("towns-bern", readonly=True) as session:
        print("residents:", session.scalar(COUNT))
        try:
            session.execute(delete(Resident))
        except ReadOnlySession as error:
            print(error)

    # It makes no schema either.
    try:
        with mgr.schema("towns-nowhere", readonly=True):
            pass
    except SchemaNotFound as error:
        print(error)

    # A long report, which no other transaction can make fail.
    with mgr.schema("towns-bern", deferrable=True) as session:
        print("report:", session.scalar(COUNT))

    mgr.dispose()

    # A server that was promoted, or was never a standby, is left out: the primary answers.
    mgr = SessionManager(dsn, Base, replicas=[dsn])
    for replica in mgr.check_replicas():
        print(replica.is_usable, replica.reason)
    with mgr.schema("towns-bern", readonly=True) as session:
        print("residents:", session.scalar(COUNT))
    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
