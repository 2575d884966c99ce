"""Who holds the connections, when there are none left."""

import threading

from sqlalchemy import func, select

from docs.examples.getting_started import Base, Resident
from onegov_orm import PoolExhausted, SessionManager
from onegov_orm.embedded import EmbeddedServer

COUNT = select(func.count()).select_from(Resident)


def main(dsn: str) -> None:
    mgr = SessionManager(
        dsn,
        Base,
        pool_config={"pool_size": 2, "max_overflow": 0, "pool_timeout": 0.1},
        trace_connections=True,
    )
    mgr.ensure_schema_exists("towns-bern")
    kept = []

    def import_records() -> None:
        # A session of the program's own, which it keeps and forgets to close.
        mgr.set_current_schema("towns-bern")
        session = mgr.session_factory()
        session.scalar(COUNT)
        kept.append(session)

    thread = threading.Thread(target=import_records, name="importer")
    thread.start()
    thread.join()

    with mgr.schema("towns-zurich") as session:
        session.scalar(COUNT)
        try:
            mgr.reader().scalar(COUNT)
        except PoolExhausted as error:
            for holder in error.holders:
                state = "is over" if holder.is_gone else "is at work"
                print(f"{holder.schema}: {holder.owner} {state}, {holder.opened_at}")

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
