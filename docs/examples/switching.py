"""What keeps a session in its schema, shown by trying to leave it."""

import logging

from sqlalchemy import text

from docs.examples.getting_started import Base, Resident
from onegov_orm import CrossSchemaError, NoCurrentSchema, SchemaNotFound, SessionManager
from onegov_orm.embedded import EmbeddedServer

logging.basicConfig(format="%(levelname)s: %(message)s")

WHERE = text("SELECT current_schema()")


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)

    # Nothing is guessed: without a current schema there is no session.
    try:
        mgr.session()
    except NoCurrentSchema as error:
        print(error)

    # A stranger's name makes no schema, if that is not wanted.
    try:
        mgr.set_current_schema("towns-nowhere", create=False)
    except SchemaNotFound as error:
        print(error)

    with mgr.schema("towns-bern") as bern:
        ada = Resident(name="Ada")
        bern.add(ada)
        bern.flush()

        # Two sessions of two schemas stand side by side.
        with mgr.schema("towns-zurich") as zurich:
            print(bern.scalar(WHERE), zurich.scalar(WHERE))
            try:
                zurich.add(ada)
            except CrossSchemaError as error:
                print(error)

        # Whoever moves the search path by hand is put back, with a warning on the log.
        bern.execute(text("SET search_path TO public"))
        print(bern.scalar(WHERE))

    # A connection straight from the engine is in no customer's schema.
    with mgr.engine.connect() as connection:
        print(connection.scalar(WHERE))

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
