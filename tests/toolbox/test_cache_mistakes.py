"""What is asked of a cache that can't be, is told."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region

from onegov_orm import ConfigurationError, NoCurrentSchema, NotCacheable, SchemaNotFound
from onegov_orm.cache import OrmCache, memory_region, on_table_change, orm_cached
from tests.toolbox.caching import App, Base, User, add, names
from tests.toolbox.conftest import NewTowns


@pytest.fixture
def app(new_town: NewTowns) -> App:
    return App(new_town(Base), memory_region())


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("dogpile.cache.redis", {}),
        ("dogpile.cache.redis", {"serializer": pickle.dumps, "deserializer": pickle.loads}),
        ("dogpile.cache.dbm", {}),
    ],
)
def test_a_region_that_unpickles_is_refused(
    app: App, tmp_path: Path, backend: str, options: dict[str, Any]
) -> None:
    arguments = {"filename": str(tmp_path / "cache")} if backend.endswith("dbm") else {}
    region = make_region(**options).configure(backend, arguments=arguments)
    with pytest.raises(ConfigurationError, match="run code"):
        OrmCache(app.mgr, region)


def test_a_region_has_to_be_configured(app: App) -> None:
    with pytest.raises(ConfigurationError, match="configure"):
        OrmCache(app.mgr, make_region())


def of(app: App, function: Callable[[Any], Any], policy: Any = "on-table-change:users") -> Any:
    """Return the value of a cached property that is made of the function."""
    kind = type("Other", (App,), {"value": orm_cached(policy)(function)})
    found: Any = kind.__new__(kind)
    found.__dict__.update(app.__dict__)
    return found.value


@pytest.mark.parametrize("hide", [lambda user: user, lambda user: ({"a": [user]},)])
def test_objects_of_the_session_are_refused_however_deep_they_are(app: App, hide: Any) -> None:
    add(app, "Ada")
    with pytest.raises(NotCacheable, match="User"):
        of(app, lambda self: hide(self.mgr.session().query(User).one()))
    with pytest.raises(NotCacheable, match="User"):
        of(app, lambda self: self.mgr.session().query(User))


def test_a_query_becomes_a_tuple_and_rows_become_tuples(app: App) -> None:
    add(app, "Ada")
    assert of(app, lambda self: self.mgr.session().query(User.name)) == (("Ada",),)


@pytest.mark.parametrize(
    "policy", ["on-table-change:", "users", 3, None, User, "on-table-change:a,"]
)
def test_what_is_no_policy_is_refused_when_it_is_given(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a policy"):
        orm_cached(policy)(lambda self: 1)


def test_no_table_is_no_policy() -> None:
    with pytest.raises(ConfigurationError):
        on_table_change()


def test_an_unknown_table_is_named_with_the_one_that_may_be_meant(app: App) -> None:
    with pytest.raises(ConfigurationError, match='"users"'):
        of(app, lambda self: 1, "on-table-change:user")
    with pytest.raises(ConfigurationError, match="not a mapped class"):
        of(app, lambda self: 1, on_table_change(int))


def test_without_a_schema_there_is_no_value(app: App, new_manager: Any) -> None:
    second = App(new_manager(app.mgr.dsn, Base), memory_region())
    with pytest.raises(NoCurrentSchema):
        second.names


def test_a_schema_that_went_away_has_no_values(app: App) -> None:
    schema = str(app.mgr.current_schema)
    assert names(app) == names(app) == []
    with app.mgr.engine.begin() as connection:
        connection.exec_driver_sql(f'DROP SCHEMA "{schema}" CASCADE')
    with pytest.raises(SchemaNotFound):
        names(app)


def test_who_has_no_cache_is_told_so() -> None:
    class Lost:
        @orm_cached("on-table-change:users")
        def names(self) -> list[str]:
            return []

    with pytest.raises(ConfigurationError, match="orm_cache"):
        Lost().names


def test_a_role_has_to_be_plain(app: App) -> None:
    app.role = object()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="role"):
        app.names_for_role


def test_a_policy_that_fails_outdates_the_value_and_breaks_nothing(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    made = []

    class Other(App):
        @orm_cached(policy=lambda obj: obj.no_such_attribute)
        def value(self) -> int:
            made.append(1)
            return len(made)

    second = Other(app.mgr, memory_region())
    schema = str(app.mgr.current_schema)
    for expected in (1, 2, 2):
        with app.mgr.schema(schema):
            assert second.value == expected
    add(app, "Ada")
    with app.mgr.schema(schema):
        assert second.value == 3
    assert "value" in caplog.text
