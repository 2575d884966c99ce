"""Transactions: joined, as blocks, tried again, and what runs after them."""

import transaction
from sqlalchemy import func, select

from docs.examples.getting_started import Base, Resident
from onegov_orm import SessionManager
from onegov_orm.embedded import EmbeddedServer

COUNT = select(func.count()).select_from(Resident)


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    mgr.set_current_schema("towns-bern")

    # Sessions join the transaction of the `transaction` package.
    mgr.session().add(Resident(name="Ada"))
    transaction.abort()
    print("after an abort:", mgr.session().scalar(COUNT))

    # A block is a unit of work: it commits, or nothing happened.
    try:
        with mgr.schema("towns-bern") as session:
            session.add(Resident(name="Ada"))
            raise RuntimeError("no")
    except RuntimeError:
        pass
    print("after an error:", mgr.session().scalar(COUNT))
    transaction.abort()

    # Post-processing waits for the end, and is dropped if it is the wrong one.
    with mgr.schema("towns-bern") as session:
        session.add(Resident(name="Ada"))
        mgr.after_commit(lambda: print("committed: send the letter"))
        mgr.after_abort(lambda: print("aborted: nothing to send"))

    # Serialization failures and deadlocks are tried again, and nothing else is.
    for attempt in mgr.attempts(tries=3):
        with attempt as session:
            session.add(Resident(name="Grace"))
    print("in the end:", mgr.session().scalar(COUNT))
    transaction.abort()
    mgr.dispose()

    # Without the `transaction` package, sessions are SQLAlchemy's plain ones.
    plain = SessionManager(dsn, Base, transaction_manager=None)
    plain.set_current_schema("towns-bern")
    plain.session().add(Resident(name="Edsger"))
    plain.session().commit()
    print("and plainly:", plain.session().scalar(COUNT))
    plain.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
