"""Cached properties: kept for all, outdated by commits, never another customer's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import delete, insert, text, update
from sqlalchemy.orm import Session

from onegov_orm import SessionManager
from onegov_orm.cache import memory_region, redis_region
from onegov_orm.fleet import Fleet
from tests.conftest import skip_or_fail
from tests.redis_server import RedisServer, find_redis
from tests.toolbox.caching import App, Base, Club, Country, Editor, User, add, memberships, names
from tests.toolbox.conftest import NewTowns

NewApp = Callable[..., App]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    if find_redis() is None:
        skip_or_fail("no Redis on this machine: apt-get install redis-server")
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def new_region(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Make regions: those in memory are one, as for the threads of one process."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        return lambda: redis_region(server.url)
    region = memory_region()
    return lambda: region


@pytest.fixture
def new_app(new_town: NewTowns, new_region: Callable[[], Any]) -> NewApp:
    """Make applications; those of the same manager are like two processes with one database."""

    def make(mgr: SessionManager | None = None, **options: Any) -> App:
        return App(mgr or new_town(Base), new_region(), **options)

    return make


@pytest.fixture
def app(new_app: NewApp) -> App:
    """One with three users that is warm: what it reads now is kept."""
    found = new_app()
    add(found, "Ada", "Grace")
    for _ in range(2):
        assert names(found) == ["Ada", "Grace"]
    found.made = 0
    return found


def other(app: App, new_app: NewApp, new_manager: Any) -> App:
    """Return the same application in another process, as far as the cache can tell."""
    mgr = new_manager(app.mgr.dsn, Base)
    mgr.set_current_schema(app.mgr.current_schema)
    return new_app(mgr)


def test_a_value_is_made_once(app: App) -> None:
    assert [names(app) for _ in range(3)] == [["Ada", "Grace"]] * 3
    assert app.made == 0


def test_a_value_is_the_same_object_within_a_block_and_another_one_in_the_next(app: App) -> None:
    with app.mgr.schema(str(app.mgr.current_schema)):
        first = app.names
        first.append("Eve")  # type: ignore[attr-defined]
        assert app.names is first
    assert names(app) == ["Ada", "Grace"]


def test_a_process_finds_what_another_one_made(
    app: App, new_app: NewApp, new_manager: Any
) -> None:
    second = other(app, new_app, new_manager)
    assert names(second) == ["Ada", "Grace"]
    assert second.made == 0


def by_flush(session: Session) -> None:
    session.add(User(name="Alan"))


def by_bulk_insert(session: Session) -> None:
    session.execute(insert(User), [{"name": "Alan"}])


def by_core(session: Session) -> None:
    session.execute(User.__table__.insert(), {"name": "Alan", "kind": "user"})


def by_text(session: Session) -> None:
    session.execute(text("INSERT INTO users (name, kind) VALUES ('Alan', 'user')"))


def by_mappings(session: Session) -> None:
    session.bulk_insert_mappings(User, [{"name": "Alan"}])


def by_bulk_objects(session: Session) -> None:
    session.bulk_save_objects([User(name="Alan")])


def by_subclass(session: Session) -> None:
    session.add(Editor(name="Alan"))


@pytest.mark.parametrize(
    "change",
    [by_flush, by_bulk_insert, by_core, by_text, by_mappings, by_bulk_objects, by_subclass],
)
def test_a_commit_outdates_a_value_in_every_process(
    app: App, new_app: NewApp, new_manager: Any, change: Callable[[Session], None]
) -> None:
    second = other(app, new_app, new_manager)
    assert names(second) == ["Ada", "Grace"]
    with app.mgr.schema(str(app.mgr.current_schema)) as session:
        change(session)
    assert names(second) == ["Ada", "Alan", "Grace"] == names(app)


def test_updates_and_deletes_outdate_a_value(app: App) -> None:
    for statement in (update(User).values(name="Bob"), delete(User)):
        before = names(app)
        with app.mgr.schema(str(app.mgr.current_schema)) as session:
            session.execute(statement)
        assert names(app) != before


def test_silent_changes_outdate_a_value_too(app: App) -> None:
    with app.mgr.schema(str(app.mgr.current_schema)) as session, app.mgr.disable_change_signals():
        session.add(User(name="Alan"))
    assert "Alan" in names(app)


def test_a_transaction_reads_what_it_wrote_and_nobody_else_does(
    app: App, new_app: NewApp, new_manager: Any
) -> None:
    second = other(app, new_app, new_manager)
    with app.mgr.schema(str(app.mgr.current_schema)) as session:
        session.add(User(name="Alan"))
        assert app.names == ["Ada", "Alan", "Grace"]
        assert names(second) == ["Ada", "Grace"]
    assert names(second) == ["Ada", "Alan", "Grace"]


def test_what_is_aborted_leaves_no_trace(app: App) -> None:
    with pytest.raises(ZeroDivisionError), app.mgr.schema(str(app.mgr.current_schema)) as session:
        session.add(User(name="Alan"))
        assert "Alan" in app.names
        1 / 0
    assert names(app) == ["Ada", "Grace"]


def test_what_a_savepoint_rolls_back_leaves_no_trace(app: App) -> None:
    with app.mgr.schema(str(app.mgr.current_schema)) as session:
        savepoint = session.begin_nested()
        session.add(User(name="Alan"))
        assert "Alan" in app.names
        savepoint.rollback()
        assert app.names == ["Ada", "Grace"]
    assert names(app) == ["Ada", "Grace"]


def test_a_joined_session_outdates_a_value_with_the_threads_transaction(app: App) -> None:
    app.mgr.session().add(User(name="Alan"))
    assert "Alan" in app.names
    transaction.commit()
    assert "Alan" in names(app)
    app.mgr.session().add(User(name="Eve"))
    assert "Eve" in app.names
    transaction.abort()
    assert "Eve" not in app.names


def test_an_attempt_that_fails_does_not_hide_the_next_one(app: App) -> None:
    tries = []
    for attempt in app.mgr.attempts():
        with attempt as session:
            session.add(User(name="Alan"))
            session.flush()
            tries.append(1)
            if len(tries) == 1:
                session.execute(
                    text("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")
                )
    assert names(app) == ["Ada", "Alan", "Grace"]


def test_an_old_transaction_keeps_nothing_for_others(
    app: App, new_app: NewApp, new_manager: Any
) -> None:
    second = other(app, new_app, new_manager)
    schema = str(app.mgr.current_schema)
    with second.mgr.schema(schema) as session:
        session.execute(text("SELECT count(*) FROM users"))
        add(app, "Alan")
        # It sees the users as they were, after the change was announced.
        assert second.names == ["Ada", "Grace"]
    assert names(app) == names(second) == ["Ada", "Alan", "Grace"]


def test_roles_have_values_of_their_own_which_are_all_outdated(
    app: App, new_app: NewApp, new_manager: Any
) -> None:
    second = other(app, new_app, new_manager)
    for role in ("admin", "1", 1, None):
        second.role = role  # type: ignore[assignment]
        with second.mgr.schema(str(app.mgr.current_schema)):
            assert second.names_for_role[-1] == str(role)
            assert second.made <= 4
    add(app, "Alan")
    second.role = "admin"
    with second.mgr.schema(str(app.mgr.current_schema)):
        assert second.names_for_role == ["Ada", "Alan", "Grace", "admin"]


def test_schemas_have_values_of_their_own(app: App) -> None:
    schema = str(app.mgr.current_schema)
    with app.mgr.schema(f"{schema}-b") as session:
        assert app.names == []
        session.add(User(name="Bob"))
    with app.mgr.schema(f"{schema}-b"):
        assert app.names == ["Bob"]
    assert names(app) == ["Ada", "Grace"]
    assert app.made == 2


def test_the_threads_transaction_over_two_schemas_keeps_them_apart(app: App) -> None:
    schema = str(app.mgr.current_schema)
    assert (app.names, len(app.users)) == (["Ada", "Grace"], 2)
    app.mgr.set_current_schema(f"{schema}-b")
    assert (app.names, len(app.users)) == ([], 0)


def test_who_gets_the_name_of_another_customer_sees_nothing_of_it(app: App) -> None:
    schema = str(app.mgr.current_schema)
    fleet = Fleet(app.mgr)
    fleet.create(f"{schema}-b")
    fleet.rename(schema, f"{schema}-c")
    fleet.rename(f"{schema}-b", schema)
    assert names(app) == []
    with app.mgr.schema(f"{schema}-c"):
        assert app.names == ["Ada", "Grace"]


def test_who_is_made_again_starts_with_nothing(app: App) -> None:
    schema = str(app.mgr.current_schema)
    fleet = Fleet(app.mgr)
    fleet.drop(schema)
    fleet.create(schema)
    assert names(app) == []


def test_an_object_outdates_what_asks_for_it(app: App) -> None:
    schema = str(app.mgr.current_schema)

    def read() -> tuple[list[str], int]:
        with app.mgr.schema(schema):
            return list(app.names_with_a), app.made

    read()
    made = read()[1]
    add(app, "Bob")
    assert read() == (["Ada"], made)
    add(app, "Alan")
    assert set(read()[0]) == {"Ada", "Alan"}
    with app.mgr.schema(schema) as session:
        session.execute(delete(User))
    assert read()[0] == []


def test_association_tables_and_tables_of_subclasses_outdate_a_value(app: App) -> None:
    schema = str(app.mgr.current_schema)
    with app.mgr.schema(schema) as session:
        session.add(User(name="Alan", clubs=[Club(name="chess"), Club(name="go")]))
    with app.mgr.schema(schema):
        assert app.members == 2
    with app.mgr.schema(schema) as session:
        user = session.query(User).filter_by(name="Alan").one()
        user.clubs.pop()
    with app.mgr.schema(schema):
        assert app.members == 1
    with app.mgr.schema(schema) as session:
        session.execute(memberships.delete())
    with app.mgr.schema(schema):
        assert app.members == 0


def test_a_shared_table_outdates_the_values_of_all_customers(app: App) -> None:
    schema = str(app.mgr.current_schema)
    with app.mgr.schema(schema) as session:
        session.execute(delete(Country))
    for name in (schema, f"{schema}-b"):
        with app.mgr.schema(name):
            assert app.countries == []
    with app.mgr.schema(schema) as session:
        session.add(Country(name="Freedonia"))
    with app.mgr.schema(f"{schema}-b"):
        assert app.countries == ["Freedonia"]
    with app.mgr.schema(schema) as session:
        session.execute(delete(Country))


@pytest.mark.parametrize("way", ["all", "schema", "table", "model"])
def test_values_are_outdated_by_hand(app: App, way: str) -> None:
    schema = str(app.mgr.current_schema)
    arguments = {"all": (), "schema": (schema,), "table": (schema, "users"), "model": (None, User)}
    app.orm_cache.invalidate(*arguments[way])  # type: ignore[arg-type]
    names(app)
    assert app.made == 1


def test_another_version_of_the_application_starts_anew(
    app: App, new_app: NewApp, new_manager: Any
) -> None:
    mgr = new_manager(app.mgr.dsn, Base)
    mgr.set_current_schema(app.mgr.current_schema)
    second = new_app(mgr, version="2")
    names(second)
    assert second.made == 1


def test_threads_wait_for_the_one_that_makes_a_value(app: App) -> None:
    schema = str(app.mgr.current_schema)
    app.orm_cache.invalidate(schema)
    barrier = threading.Barrier(8)
    found = []

    def read() -> None:
        barrier.wait()
        with app.mgr.schema(schema):
            found.append(list(app.names))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["Ada", "Grace"]] * 8
    assert app.made == 1


def test_an_error_of_the_function_is_its_own(app: App, monkeypatch: Any) -> None:
    app.orm_cache.invalidate()
    monkeypatch.setattr(App, "_made", lambda self, statement: 1 / 0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            names(app)
