"""Values that are read often, kept until a committed change outdates them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from docs.examples.getting_started import Base, Resident
from onegov_orm import SessionManager
from onegov_orm.cache import OrmCache, memory_region, on_change, orm_cached, request_cached
from onegov_orm.embedded import EmbeddedServer


class App:
    role = "guest"

    def __init__(self, mgr: SessionManager) -> None:
        self.mgr = mgr
        # For more than one process: redis_region("redis://localhost:6379/0")
        self.orm_cache = OrmCache(mgr, memory_region())

    # Outdated by any change of the table, by whatever process.
    @orm_cached("on-table-change:residents")
    def names(self) -> Sequence[str]:
        print("  (asking the database)")
        return self.mgr.session().scalars(select(Resident.name).order_by(Resident.name)).all()

    # One value for each role; outdated by the change of certain objects only.
    @orm_cached(on_change(Resident, when=lambda r: r.name == "Ada"), role=lambda app: app.role)
    def greeting(self) -> str:
        found = self.mgr.session().scalars(select(Resident).where(Resident.name == "Ada")).first()
        return f"Ada is {'here' if found else 'away'}, says a {self.role}"

    # Objects may be kept for the transaction or block, and only there.
    @request_cached
    def residents(self) -> Sequence[Resident]:
        return self.mgr.session().scalars(select(Resident)).all()


def main(dsn: str) -> None:
    app = App(SessionManager(dsn, Base))
    with app.mgr.schema("towns-bern") as session:
        session.add(Resident(name="Ada"))

    for _ in range(3):
        with app.mgr.schema("towns-bern"):
            print(app.names)
    with app.mgr.schema("towns-zurich"):
        print(app.names)

    with app.mgr.schema("towns-bern") as session:
        session.add(Resident(name="Grace"))
        print(app.names, "reads the transaction that wrote it")
    with app.mgr.schema("towns-bern"):
        print(app.names, "read all others, from its commit on")
        print(app.greeting)
        print(app.residents is app.residents)

    app.mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
