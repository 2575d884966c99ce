"""Where caches go wrong: found by somebody who tried to break this one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from onegov_orm import ConfigurationError, SessionManager
from onegov_orm.cache import (
    OrmCache,
    _stampede,
    memory_region,
    on_change,
    on_table_change,
    orm_cached,
)
from onegov_orm.fleet import Fleet
from tests.toolbox.caching import App, Base, Club, Country, Editor, User, add, memberships, names
from tests.toolbox.conftest import NewTowns


@pytest.fixture
def app(new_town: NewTowns) -> App:
    return warm(App(new_town(Base), memory_region()))


@pytest.fixture
def plain(new_town: NewTowns) -> App:
    """One whose sessions commit and roll back by themselves."""
    return warm(App(new_town(Base, transaction_manager=None), memory_region()))


def warm(app: App) -> App:
    add(app, "Ada", "Grace")
    for _ in range(3):
        names(app)
    app.made = 0
    return app


def schema_of(app: App) -> str:
    return str(app.mgr.current_schema)


def test_a_transaction_reads_its_second_write_too(app: App) -> None:
    with app.mgr.schema(schema_of(app)) as session:
        for name in ("Alan", "Bob", "Eve"):
            session.add(User(name=name))
            assert name in app.names
        session.execute(delete(User))
        assert app.names == []


def count_of(model: type[Any]) -> Any:
    @orm_cached(on_table_change(model))
    def count(self: App) -> int:
        return self.mgr.session().scalars(select(func.count()).select_from(model)).one()

    return count


class Counting(App):
    users_count = count_of(User)
    clubs_count = count_of(Club)
    one = orm_cached("on-table-change:users")(lambda self: 1)
    two = orm_cached("on-table-change:users")(lambda self: 2)


def test_properties_made_by_one_function_have_values_of_their_own(app: App) -> None:
    counting = Counting(app.mgr, memory_region())
    for _ in range(3):
        with app.mgr.schema(schema_of(app)):
            assert (counting.users_count, counting.clubs_count) == (2, 0)
            assert (counting.one, counting.two) == (1, 2)


def test_what_changed_under_another_name_counts(app: App) -> None:
    schema, fleet = schema_of(app), Fleet(app.mgr)
    fleet.rename(schema, f"{schema}-away")
    with app.mgr.schema(f"{schema}-away") as session:
        session.add(User(name="Zoe"))
    fleet.rename(f"{schema}-away", schema)
    assert names(app) == ["Ada", "Grace", "Zoe"]


def test_a_deleted_object_outdates_its_associations(app: App) -> None:
    schema = schema_of(app)
    with app.mgr.schema(schema) as session:
        session.add(User(name="Alan", clubs=[Club(name="chess")]))
    with app.mgr.schema(schema):
        assert app.members == 1
    with app.mgr.schema(schema) as session:
        session.delete(session.scalars(select(User).where(User.name == "Alan")).one())
    with app.mgr.schema(schema):
        assert app.members == 0


def test_a_name_that_is_given_away_in_the_middle_of_a_block_is_asked_for_again(
    plain: App,
) -> None:
    schema, fleet = schema_of(plain), Fleet(plain.mgr)
    with plain.mgr.schema(f"{schema}-b") as session:
        session.add(User(name="Secret"))
    with plain.mgr.schema(schema) as session:
        assert plain.names == ["Ada", "Grace"]
        session.commit()
        fleet.rename(schema, f"{schema}-c")
        fleet.rename(f"{schema}-b", schema)
        assert plain.names == ["Secret"]
    with plain.mgr.schema(f"{schema}-c"):
        assert plain.names == ["Ada", "Grace"]


def test_a_block_that_commits_reads_what_others_wrote_meanwhile(plain: App) -> None:
    schema = schema_of(plain)
    with plain.mgr.schema(schema) as session:
        kept = session.scalars(select(User)).all()
        assert plain.names == ["Ada", "Grace"]
        session.commit()
        in_thread(lambda: add(plain, "Alan"), plain)
        assert plain.names == ["Ada", "Alan", "Grace"]
        assert len(kept) == 2
    assert names(plain) == ["Ada", "Alan", "Grace"]


class Attributes(App):
    """Makes a value of objects, which a block does not read again after a commit."""

    @orm_cached("on-table-change:users")
    def shouted(self) -> list[str]:
        return sorted(user.name.upper() for user in self.mgr.session().scalars(select(User)))


def test_what_is_made_of_old_objects_is_not_kept(plain: App) -> None:
    schema = schema_of(plain)
    app = Attributes(plain.mgr, memory_region())
    with app.mgr.schema(schema) as session:
        held = session.scalars(select(User)).all()
        session.commit()
        in_thread(lambda: rename(app), app)
        assert app.shouted == ["ADA", "GRACE"]
        assert held
    with app.mgr.schema(schema):
        assert app.shouted == ["GRACE", "LOVELACE"]


def rename(app: App) -> None:
    with app.mgr.schema(schema_of(app)) as session:
        session.execute(update(User).where(User.name == "Ada").values(name="Lovelace"))


def in_thread(function: Any, app: App) -> None:
    """Run the function in another thread, and wait."""
    schema = schema_of(app)

    def run() -> None:
        app.mgr.set_current_schema(schema)
        function()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class Shared(App):
    @orm_cached(on_change(Country))
    def country_names(self) -> Sequence[str]:
        return self.mgr.session().scalars(select(Country.name)).all()


def test_an_object_that_all_share_outdates_values_of_all(app: App) -> None:
    shared, schema = Shared(app.mgr, memory_region()), schema_of(app)
    with app.mgr.schema(schema) as session:
        session.execute(delete(Country))
    with app.mgr.schema(f"{schema}-b"):
        assert shared.country_names == []
    with app.mgr.schema(schema) as session:
        session.add(Country(name="Sylvania"))
    with app.mgr.schema(f"{schema}-b"):
        assert shared.country_names == ["Sylvania"]
    with app.mgr.schema(schema) as session:
        session.execute(delete(Country))


def test_the_first_of_two_writers_leaves_the_others_mark(app: App) -> None:
    schema = schema_of(app)
    marks = app.orm_cache._generations
    with app.mgr.schema(schema) as session:
        session.add(User(name="Alan"))
        session.flush()
        in_thread(lambda: add(app, "Bob"), app)
        keys = [key for key in app.orm_cache.region.backend._cache if ":table:users" in key]
        assert marks.observe(keys, "nowhere") is None
    assert marks.observe(keys, "nowhere") is not None
    assert names(app) == ["Ada", "Alan", "Bob", "Grace"]


def test_hooks_read_what_was_committed(plain: App) -> None:
    found: list[Any] = []
    with plain.mgr.schema(schema_of(plain)) as session:
        plain.mgr.after_commit(lambda: found.append(names(plain)))
        session.add(User(name="Alan"))
        assert "Alan" in plain.names
    assert found == [["Ada", "Alan", "Grace"]]


def test_hooks_do_not_read_what_was_aborted(plain: App) -> None:
    found: list[Any] = []
    with pytest.raises(ZeroDivisionError), plain.mgr.schema(schema_of(plain)) as session:
        plain.mgr.after_abort(lambda: found.append(names(plain)))
        session.add(User(name="Alan"))
        assert "Alan" in plain.names
        1 / 0
    assert found == [["Ada", "Grace"]]


def test_two_caches_of_one_manager_both_forget_what_is_rolled_back(plain: App) -> None:
    second = App(plain.mgr, memory_region())
    with plain.mgr.schema(schema_of(plain)) as session:
        savepoint = session.begin_nested()
        session.add(User(name="Alan"))
        assert "Alan" in plain.names
        assert "Alan" in second.names
        savepoint.rollback()
        assert plain.names == second.names == ["Ada", "Grace"]


def test_a_cache_that_is_made_late_keeps_nothing_of_an_open_transaction(
    new_town: NewTowns,
) -> None:
    mgr = new_town(Base, transaction_manager=None)
    region = memory_region()
    with pytest.raises(ZeroDivisionError), mgr.schema(str(mgr.current_schema)) as session:
        session.add(User(name="Ghost"))
        session.flush()
        app = App(mgr, region)
        assert app.names == ["Ghost"]
        1 / 0
    assert names(app) == []


def test_an_object_that_no_longer_matters_outdates_the_value(app: App) -> None:
    schema = schema_of(app)
    with app.mgr.schema(schema):
        assert app.names_with_a == ["Ada"]
    with app.mgr.schema(schema) as session:
        session.scalars(select(User).where(User.name == "Ada")).one().name = "Bob"
    with app.mgr.schema(schema):
        assert app.names_with_a == []


def test_a_trusted_name_is_not_remembered_for_ever(new_town: NewTowns) -> None:
    mgr = new_town(Base, transaction_manager=None)
    app = App(mgr, memory_region(), trust_seconds=60.0)
    add(app, "Ada")
    for _ in range(3):
        assert app.names == ["Ada"]
        mgr.session().rollback()
    assert app.names == ["Ada"]
    in_thread(lambda: add(app, "Alan"), app)
    assert app.names == ["Ada", "Alan"]


def test_a_text_that_rolls_back_makes_values_anew(plain: App) -> None:
    with plain.mgr.schema(schema_of(plain)) as session:
        session.execute(text("SAVEPOINT here"))
        session.execute(text("INSERT INTO users (name, kind) VALUES ('Alan', 'user')"))
        assert "Alan" in plain.names
        session.execute(text("ROLLBACK TO SAVEPOINT here"))
        assert "Alan" not in plain.names


def test_what_nobody_saw_being_written_is_not_kept_for_others(plain: App) -> None:
    plain.orm_cache.invalidate()
    with plain.mgr.schema(schema_of(plain)) as session:
        values = {"name": "Ghost", "kind": "user"}
        session.connection().execute(insert(User.__table__), values)
        assert "Ghost" in plain.names
        session.rollback()
    assert names(plain) == ["Ada", "Grace"]


def test_values_that_are_outdated_by_hand_are_made_anew_in_the_same_block(plain: App) -> None:
    with plain.mgr.schema(schema_of(plain)) as session:
        assert plain.names == ["Ada", "Grace"]
        values = {"name": "Alan", "kind": "user"}
        session.connection().execute(insert(User.__table__), values)
        plain.orm_cache.invalidate(schema_of(plain), "users")
        assert "Alan" in plain.names
        in_thread(lambda: names(plain), plain)
    assert "Alan" in names(plain)


@pytest.mark.parametrize(
    "statement",
    [
        text("INSERT INTO USERS (name, kind) VALUES ('Alan', 'user')"),
        text("INSERT INTO users (name, kind) VALUES ('Alan', 'user') RETURNING id").columns(
            User.id
        ),
        select(User).from_statement(insert(User).values(name="Alan", kind="user").returning(User)),
        select(1).add_cte(insert(User).values(name="Alan", kind="user").cte()),
    ],
    ids=["capitals", "typed text", "from_statement", "cte"],
)
def test_unusual_statements_outdate_values(app: App, statement: Any) -> None:
    with app.mgr.schema(schema_of(app)) as session:
        session.execute(statement)
    assert names(app) == ["Ada", "Alan", "Grace"]


def test_a_table_of_a_subclass_counts_for_its_base(app: App) -> None:
    class Texts(App):
        @orm_cached(on_table_change(User))
        def columns(self) -> Sequence[Any]:
            return self.mgr.session().scalars(select(Editor.column)).all()

    texts, schema = Texts(app.mgr, memory_region()), schema_of(app)
    with app.mgr.schema(schema) as session:
        session.add(Editor(name="Eve", column="news"))
    with app.mgr.schema(schema):
        assert texts.columns == ["news"]
    with app.mgr.schema(schema) as session:
        session.execute(update(Editor.__table__.alias()).values(column="sports"))
    with app.mgr.schema(schema):
        assert texts.columns == ["sports"]


def test_a_table_itself_may_be_given(app: App) -> None:
    assert on_table_change(memberships).tables == (memberships,)
    app.orm_cache.invalidate(schema_of(app), memberships)


def test_a_property_that_reads_itself_is_told_so(app: App) -> None:
    class Endless(App):
        @orm_cached("on-table-change:users")
        def value(self) -> Any:
            return self.value

    with pytest.raises(ConfigurationError, match="reads itself"):
        Endless(app.mgr, memory_region()).value


def test_nobody_waits_for_ever_for_somebody_elses_value(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stampede, "WAIT_SECONDS", 0.05)
    go_on, found = threading.Event(), []

    class Slow(App):
        @orm_cached("on-table-change:users")
        def value(self) -> int:
            self.made += 1
            if self.made == 1:
                go_on.wait(10)
            return self.made

    slow, schema = Slow(app.mgr, memory_region()), schema_of(app)

    def read() -> None:
        with app.mgr.schema(schema):
            found.append(slow.value)

    first = threading.Thread(target=read)
    first.start()
    while not slow.made:
        threading.Event().wait(0.001)
    read()
    assert found == [2]
    go_on.set()
    first.join()


def test_a_value_can_not_be_set(app: App) -> None:
    with pytest.raises(AttributeError, match="can't be set"):
        app.names = []  # type: ignore[misc]


def test_a_read_in_the_middle_of_a_flush_flushes_nothing(app: App) -> None:
    with app.mgr.schema(schema_of(app)) as session, session.no_autoflush:
        session.add(User(name="Half"))
        assert app.names == ["Ada", "Grace"]
        assert session.new


def test_readers_of_replicas_are_never_trusted_to_be_up_to_date(replicated: Any) -> None:
    primary = replicated.primary
    name = primary.create()
    mgr = SessionManager(
        primary.server.dsn(name), Base, replicas=[each.dsn(name) for each in replicated.standbys]
    )
    app = App(mgr, memory_region())
    with mgr.schema("towns-bern") as session:
        session.add(User(name="Ada"))
    kept: list[str] = []
    original = app.orm_cache._stampede._make
    app.orm_cache._stampede._make = lambda *args: (kept.append("x"), original(*args))[1]  # type: ignore[method-assign]
    with mgr.schema("towns-bern", readonly=True):
        app.names
    assert kept == []
    mgr.dispose()


def test_an_orm_cache_is_made_for_a_manager(app: App) -> None:
    assert OrmCache(app.mgr, memory_region()) in app.mgr.companions


def test_a_value_by_role_needs_somebody_who_has_one(app: App) -> None:
    class Roles(App):
        identity: Any

        @orm_cached("on-table-change:users", by_role=True)
        def value(self) -> str:
            return str(self.identity.role)

    roles = Roles(app.mgr, memory_region())
    with pytest.raises(ConfigurationError, match="no attribute identity"):
        roles.value
    for role in ("guest", "admin"):
        roles.identity = type("Identity", (), {"role": role})
        assert roles.value == role


def test_a_decorator_without_a_policy_is_noticed() -> None:
    with pytest.raises((ConfigurationError, RuntimeError)) as caught:

        class Forgetful(App):
            @orm_cached
            def value(self) -> bool:
                return True

    assert "needs a policy" in f"{caught.value} {caught.value.__cause__}"
