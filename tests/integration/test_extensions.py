"""Extensions: made when missing, usable at once, and clear words where that can't be."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import ARRAY, HSTORE
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from onegov_orm.errors import ExtensionMisplaced, ExtensionUnavailable, PermissionDenied
from tests.models import Base, Document
from tests.provisioning import base_of, has_schema, relations, statements_of


def extensions(execute):
    sql = (
        "SELECT extname::text, extnamespace::regnamespace::text FROM pg_extension"
        " WHERE extname <> 'plpgsql'"
    )
    return dict(execute(sql))


@pytest.fixture
def fresh_dsn(newest):
    """A database without extensions."""
    name = newest.create("template0")
    yield newest.server.dsn(name, tcp=False)
    newest.drop(name)


@pytest.fixture
def limited(newest, fresh_dsn):
    """The same database for a role without any rights, and for the superuser."""
    newest.run("CREATE ROLE \"li'mi ted\" LOGIN PASSWORD 'secret'")
    url = make_url(newest.server.dsn(make_url(fresh_dsn).database, tcp=True))
    yield url.set(username="li'mi ted", password="secret")
    newest.run(f"DROP DATABASE {url.database} WITH (FORCE)")
    newest.run('DROP ROLE "li\'mi ted"')


def test_missing_ones_are_made_in_their_schema(empty_dsn, new_manager, outside):
    mgr = new_manager(empty_dsn, Base)
    mgr.set_current_schema("a")
    names = ("btree_gist", "hstore", "unaccent")
    assert extensions(outside(empty_dsn)) == dict.fromkeys(names, "extensions")
    assert mgr.created_extensions == set(names)


def test_in_a_schema_of_ones_own(fresh_dsn, new_manager, outside):
    mgr = new_manager(fresh_dsn, Base, extensions_schema="my-ext")
    mgr.set_current_schema("a")
    assert set(extensions(outside(fresh_dsn)).values()) == {'"my-ext"'}
    mgr.session().add(Document(owner="a", tags={"x": "y"}))
    transaction.commit()


def test_on_their_own(fresh_dsn, new_manager, outside):
    mgr = new_manager(fresh_dsn, Base)
    mgr.create_required_extensions()
    assert len(extensions(outside(fresh_dsn))) == 3
    with statements_of(mgr) as sent:
        mgr.create_required_extensions()
    assert sent == []


def test_one_that_is_required_later(fresh_dsn, new_manager, outside):
    mgr = new_manager(fresh_dsn, Base)
    mgr.set_current_schema("a")
    mgr.required_extensions.add("citext")
    mgr.set_current_schema("a")
    assert "citext" in extensions(outside(fresh_dsn))


def test_one_that_lives_in_the_catalog_is_fine(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base)
    mgr.required_extensions.add("plpgsql")
    mgr.set_current_schema("a")


def test_its_types_work_on_connections_opened_before(empty_dsn, new_manager):
    mgr = new_manager(empty_dsn, Base)
    with mgr.engine.connect() as before, mgr.engine.connect() as also_before:
        pids = {c.connection.driver_connection.info.backend_pid for c in (before, also_before)}
    tags = {"a": "b", 'quo"te': "back\\slash", "none": None, "ü": "=>"}
    mgr.set_current_schema("a")
    mgr.session().add(Document(owner="a", tags=tags))
    transaction.commit()
    assert mgr.session().scalar(sa.select(Document.tags)) == tags
    assert mgr.session().scalar(sa.select(Document.tags["a"])) == "b"
    assert mgr.session().connection().connection.driver_connection.info.backend_pid in pids


def test_arrays_of_hstore_need_the_drivers_own_support(dsn, new_manager):
    """Which knows the types that are there while it connects."""
    base = base_of(("t", Column("x", ARRAY(HSTORE))))
    mgr = new_manager(dsn, base, {"use_native_hstore": True})
    mgr.set_current_schema("a")
    table = base.metadata.tables["t"]
    mgr.session().execute(table.insert(), [{"x": [{"a": "b"}, {"c": None}]}])
    assert mgr.session().scalar(sa.select(table.c.x)) == [{"a": "b"}, {"c": None}]


def test_one_that_the_server_does_not_have(dsn, new_manager, outside):
    mgr = new_manager(dsn, Base)
    mgr.required_extensions.add("postgis")
    with pytest.raises(ExtensionUnavailable, match="postgis") as caught:
        mgr.set_current_schema("a")
    version = int(outside(dsn)("SHOW server_version_num")[0][0]) // 10_000
    assert caught.value.server_version == version
    assert caught.value.package == f"postgresql-{version}-postgis-3"
    assert caught.value.package in str(caught.value)
    assert not has_schema(outside(dsn))


def test_one_that_nobody_knows(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base)
    mgr.required_extensions.add('no"such; extension')
    with pytest.raises(ExtensionUnavailable) as caught:
        mgr.set_current_schema("a")
    assert caught.value.extension == 'no"such; extension'


def test_one_in_the_wrong_schema_is_mended_as_advised(fresh_dsn, new_manager, outside):
    execute = outside(fresh_dsn)
    execute("CREATE SCHEMA extensions; CREATE EXTENSION hstore SCHEMA public")
    mgr = new_manager(fresh_dsn, Base)
    with pytest.raises(ExtensionMisplaced, match='lives in the schema "public"') as caught:
        mgr.set_current_schema("a")
    assert (caught.value.extension, caught.value.found_in) == ("hstore", "public")
    assert extensions(execute) == {"hstore": "public"}
    execute(caught.value.sql)
    mgr.set_current_schema("a")


def test_a_failed_attempt_makes_none(fresh_dsn, new_manager, outside):
    mgr = new_manager(fresh_dsn, Base)
    mgr.on_schema_init.connect(lambda schema, **_: 1 / 0, weak=False)
    with pytest.raises(ZeroDivisionError):
        mgr.set_current_schema("a")
    assert extensions(outside(fresh_dsn)) == {}
    assert mgr.created_extensions == set()


# -- rights


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_without_any_right_one_advice_is_enough(limited, fresh_dsn, new_manager, outside, driver):
    mgr = new_manager(limited.set(drivername=f"postgresql+{driver}"), Base)
    with pytest.raises(PermissionDenied, match="An administrator has to run: CREATE") as caught:
        mgr.set_current_schema("a")
    execute = outside(fresh_dsn)
    assert not has_schema(execute)
    execute(caught.value.sql)
    mgr.set_current_schema("a")
    mgr.session().add(Document(owner="a", tags={"a": "b"}))
    transaction.commit()
    assert "documents" in relations(execute)


def test_an_extension_that_only_a_superuser_makes(limited, fresh_dsn, new_manager, outside):
    execute = outside(fresh_dsn)
    execute(f'GRANT CREATE ON DATABASE {limited.database} TO "li\'mi ted"')
    mgr = new_manager(limited, Base)
    mgr.required_extensions.add("pageinspect")
    with pytest.raises(PermissionDenied, match="pageinspect") as caught:
        mgr.set_current_schema("a")
    assert "GRANT CREATE" not in caught.value.sql
    assert extensions(execute) == {}
    execute(caught.value.sql)
    mgr.set_current_schema("a")


def test_no_right_to_create_a_schema(limited, fresh_dsn, new_manager, outside):
    mgr = new_manager(limited, Base)
    mgr.required_extensions.clear()
    with pytest.raises(PermissionDenied) as caught:
        mgr.create_schema("a")
    execute = outside(fresh_dsn)
    execute(caught.value.sql)
    mgr.create_schema("a")
    assert has_schema(execute)


def test_the_advice_names_who_the_driver_says_we_are(
    limited, fresh_dsn, new_manager, outside, monkeypatch
):
    """A URL may leave user and database to the environment."""
    monkeypatch.setenv("PGUSER", limited.username)
    monkeypatch.setenv("PGDATABASE", limited.database)
    mgr = new_manager(limited.set(username=None, database=None), Base)
    with pytest.raises(PermissionDenied) as caught:
        mgr.create_schema("a")
    outside(fresh_dsn)(caught.value.sql)
    mgr.create_schema("a")


def test_no_right_in_somebody_elses_schema(limited, fresh_dsn, new_manager, outside):
    """Without the right to use it, the server would skip it, and take the next on the path."""
    execute = outside(fresh_dsn)
    execute("CREATE SCHEMA a; CREATE SCHEMA extensions; GRANT ALL ON SCHEMA extensions TO PUBLIC")
    mgr = new_manager(limited, base_of(("t",)))
    mgr.required_extensions.clear()
    with pytest.raises(PermissionDenied, match="schema a") as caught:
        mgr.set_current_schema("a")
    assert relations(execute, "extensions") == []
    execute(caught.value.sql)
    mgr.set_current_schema("a")
    assert "t" in relations(execute)


def test_no_right_to_use_the_extensions(limited, fresh_dsn, new_manager, outside):
    new_manager(fresh_dsn, Base).create_required_extensions()
    execute = outside(fresh_dsn)
    execute(f'GRANT CREATE ON DATABASE {limited.database} TO "li\'mi ted"')
    mgr = new_manager(limited, Base)
    with pytest.raises(PermissionDenied, match="schema extensions") as caught:
        mgr.set_current_schema("a")
    execute(caught.value.sql)
    mgr.set_current_schema("a")
    assert "documents" in relations(execute)


def test_a_complete_schema_needs_no_right_to_create(limited, fresh_dsn, new_manager, outside):
    base = base_of(("t",))
    owner = new_manager(fresh_dsn, base)
    owner.required_extensions.clear()
    owner.set_current_schema("a")
    outside(fresh_dsn)(
        "GRANT USAGE ON SCHEMA a TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA a TO PUBLIC"
    )
    mgr = new_manager(limited, base)
    mgr.required_extensions.clear()
    mgr.set_current_schema("a")
    assert mgr.session().scalar(sa.text("SELECT count(*) FROM t")) == 0


def test_a_wrong_password_is_the_drivers_error(limited, new_manager):
    mgr = new_manager(limited.set(password="wrong"), Base)
    with pytest.raises(OperationalError, match="password"):
        mgr.set_current_schema("a")
