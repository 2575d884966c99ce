"""The doctor: each verdict is provoked on a real server."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from onegov_orm.fleet import doctor
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet._doctor_packages import _numbers
from onegov_orm.fleet.doctor import Level, Verdict, diagnose
from tests.models import Base


def verdicts_of(mgr, **options):
    """Return what the doctor says, by name; the worst where there is more than one."""
    order = [Level.SKIPPED, Level.OK, Level.WARNING, Level.ERROR]
    found = {}
    for verdict in diagnose(FleetContext(mgr), **options):
        known = found.get(verdict.name)
        if known is None or order.index(verdict.level) > order.index(known.level):
            found[verdict.name] = verdict
    return found


@pytest.fixture
def mgr(common_dsn, new_manager):
    manager = new_manager(common_dsn, Base)
    manager.ensure_schema_exists("towns-bern")
    return manager


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


@pytest.fixture
def say(mgr):
    """Return one verdict of the common manager."""

    def say(name):
        return verdicts_of(mgr)[name]

    return say


@pytest.fixture
def limited(newest):
    """The URL of a database without extensions, for a role without any right."""
    name = newest.create("template0")
    newest.run("CREATE ROLE poor LOGIN PASSWORD 'secret'")
    url = make_url(newest.server.dsn(name, tcp=True))
    yield url.set(username="poor", password="secret")
    newest.drop(name)
    newest.run("DROP ROLE poor")


# -- all is well


def test_all_is_well(dsn, new_manager, outside):
    mgr = new_manager(dsn, Base)
    mgr.ensure_schema_exists("towns-bern")
    execute = outside(dsn)
    before = execute("SELECT nspname FROM pg_namespace ORDER BY 1")
    found = verdicts_of(mgr)
    assert list(found) == list(doctor.CHECKS)
    skipped = {"replicas", "migrations"}
    assert {name for name, each in found.items() if each.level is Level.SKIPPED} >= skipped
    wrong = [each for each in found.values() if each.level in (Level.WARNING, Level.ERROR)]
    # PostgreSQL 18 finds itself behind a proxy nowhere here.
    assert not wrong
    assert execute("SELECT nspname FROM pg_namespace ORDER BY 1") == before


def test_an_empty_database(empty_dsn, new_manager):
    found = verdicts_of(new_manager(empty_dsn, Base))
    assert found["rights"].level is Level.OK
    assert found["extensions"].level is Level.OK
    assert found["locks"].level is Level.SKIPPED
    assert not [each for each in found.values() if each.level is Level.ERROR]


def test_as_json():
    verdict = Verdict("clock", Level.WARNING, "late", "be early")
    values = {"name": "clock", "level": "warning", "message": "late", "advice": "be early"}
    assert verdict.as_dict() == values


# -- the server


def test_no_server(new_manager):
    found = verdicts_of(new_manager("postgresql://nobody@127.0.0.1:1/nothing", Base))
    assert found["connection"].level is Level.ERROR
    assert "refused" in found["connection"].message
    assert found["packages"].level is Level.OK
    rest = set(found) - {"connection", "packages"}
    assert {found[name].level for name in rest} == {Level.SKIPPED}


def test_a_role_without_rights(limited, new_manager):
    found = verdicts_of(new_manager(limited, Base))
    assert found["connection"].level is Level.OK
    assert found["rights"].level is Level.ERROR
    assert "GRANT CREATE ON DATABASE" in found["rights"].advice
    assert found["extensions"].level is Level.ERROR
    assert "CREATE EXTENSION" in found["extensions"].advice
    assert "the examination itself failed" not in "".join(
        verdict.message for verdict in found.values()
    )


@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ COMMITTED"])
def test_a_standby(replicated, new_manager, level):
    standby = replicated.standbys[0]
    found = verdicts_of(new_manager(standby.dsn("postgres"), Base, isolation_level=level))
    verdict = found["connection" if level == "SERIALIZABLE" else "primary"]
    assert verdict.level is Level.ERROR
    assert verdict.message.startswith("the server is a standby")
    assert "the examination itself" not in "".join(each.message for each in found.values())


@pytest.mark.parametrize(
    ("setting", "name", "text"),
    [
        ("default_transaction_read_only=on", "primary", "read only"),
        ("statement_timeout=5s", "timeouts", "statement_timeout is 5 seconds"),
        ("lock_timeout=500ms", "timeouts", "lock_timeout is 0.5 seconds"),
        ("idle_session_timeout=1min", "timeouts", "idle_session_timeout is 60 seconds"),
        ("idle_in_transaction_session_timeout=0", "timeouts", "is off: who forgets"),
    ],
)
def test_settings_of_the_connection(common_dsn, new_manager, setting, name, text):
    config = {"connect_args": {"options": f"-c {setting}"}}
    verdict = verdicts_of(new_manager(common_dsn, Base, engine_config=config))[name]
    assert verdict.level in (Level.WARNING, Level.ERROR)
    assert text in verdict.message
    assert verdict.advice


def test_a_pool_that_is_too_large(common_dsn, new_manager):
    config = {"pool_size": 100, "max_overflow": 100}
    verdict = verdicts_of(new_manager(common_dsn, Base, pool_config=config))["connections"]
    assert verdict.level is Level.ERROR
    assert "may open 200 connections, and the server has room for 117" in verdict.message


def test_a_fleet_that_is_too_large_for_the_locks(mgr):
    assert verdicts_of(mgr)["locks"].level is Level.OK
    verdict = verdicts_of(mgr, fleet_size=10_000)["locks"]
    assert verdict.level is Level.WARNING
    assert "pg_dump of the whole database takes 90000 locks" in verdict.message
    assert 'ALTER SYSTEM SET "max_locks_per_transaction" = 643' in verdict.advice


def test_the_locks_that_it_takes_to_drop_a_schema(mgr, execute):
    message = verdicts_of(mgr)["locks"].message
    estimated = int(message.rpartition(" ")[2])
    execute("BEGIN")
    execute('DROP SCHEMA "towns-bern" CASCADE')
    [(taken,)] = execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")
    execute("ROLLBACK")
    assert taken * 0.8 < estimated < taken * 1.5


def test_a_clock_that_is_wrong(say, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._doctor_server._MAX_CLOCK_SECONDS", -1.0)
    assert say("clock").level is Level.WARNING


def test_a_server_that_is_newer_than_the_library(say, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._doctor_server._NEWEST", 17)
    assert say("version").level is Level.WARNING


def test_a_replica_that_is_gone(common_dsn, new_manager):
    replica = "postgresql://nobody@127.0.0.1:1/nothing"
    verdict = verdicts_of(new_manager(common_dsn, Base, replicas=[replica]))["replicas"]
    assert verdict.level is Level.ERROR
    assert "can't be used" in verdict.message


# -- extensions


def test_extensions_that_are_not_on_the_server(mgr):
    mgr.required_extensions.add("postgis")
    verdict = verdicts_of(mgr)["extensions"]
    assert verdict.level is Level.ERROR
    assert "postgresql-18-postgis-3" in verdict.advice


def test_an_extension_in_another_schema(plain_dsn, new_manager, outside):
    outside(plain_dsn)("CREATE EXTENSION citext SCHEMA public")
    mgr = new_manager(plain_dsn, Base)
    mgr.required_extensions.add("citext")
    verdict = verdicts_of(mgr)["extensions"]
    assert verdict.level is Level.ERROR
    assert 'ALTER EXTENSION "citext" SET SCHEMA "extensions"' in verdict.advice


# -- the pooler


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_behind_a_pooler(newest, new_pooler, new_manager, mode, driver):
    name = newest.create()
    pooler = new_pooler(newest, pool_mode=mode)
    mgr = new_manager(pooler.dsn(name, driver=driver), Base, pooler="external")
    verdict = verdicts_of(mgr)["pooler"]
    mgr.dispose()
    newest.drop(name)
    assert verdict.level is Level.OK
    assert verdict.message.startswith(f"there is a pooler in between, in {mode} mode")


def test_behind_a_pooler_with_a_single_connection(newest, new_pooler, new_manager, monkeypatch):
    monkeypatch.setattr("onegov_orm.fleet._doctor_pooler._WAIT_SECONDS", 0.3)
    name = newest.create()
    for mode in ("transaction", "session"):
        pooler = new_pooler(newest, pool_mode=mode, default_pool_size=1)
        mgr = new_manager(pooler.dsn(name), Base, pooler="external")
        assert f"in {mode} mode" in verdicts_of(mgr)["pooler"].message
        mgr.dispose()
    newest.drop(name)


def test_behind_a_pooler_that_the_manager_does_not_know_of(newest, new_pooler, new_manager):
    name = newest.create()
    mgr = new_manager(new_pooler(newest).dsn(name), Base)
    found = verdicts_of(mgr)
    newest.drop(name)
    assert found["connection"].level is Level.ERROR
    assert "pooler='external'" in found["connection"].message


def test_a_pooler_that_is_not_there(common_dsn, new_manager):
    verdict = verdicts_of(new_manager(common_dsn, Base, pooler="external"))["pooler"]
    assert verdict.level is Level.WARNING
    assert "no pooler" in verdict.message


def test_whether_the_search_path_is_reported(dsn, new_manager, databases):
    message = verdicts_of(new_manager(dsn, Base))["search path"].message
    is_reported = "each statement is verified" in message
    assert is_reported is (databases.server.version >= 18)


# -- the schemas


def test_a_public_schema_that_everybody_writes_to(say, execute):
    execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    verdict = say("public")
    execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert verdict.level is Level.WARNING
    assert verdict.advice.endswith("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def test_tables_of_the_models_in_public(say, execute):
    execute("CREATE TABLE public.documents (id integer)")
    verdict = say("public")
    assert verdict.level is Level.WARNING
    assert "documents" in verdict.message


def test_no_public_schema(plain_dsn, new_manager, outside):
    outside(plain_dsn)("DROP SCHEMA public")
    assert verdicts_of(new_manager(plain_dsn, Base))["public"].level is Level.OK


def test_schemas_that_look_like_customers(say, execute):
    execute('COMMENT ON SCHEMA "towns-bern" IS NULL; CREATE SCHEMA other')
    verdict = say("unmarked")
    assert verdict.level is Level.WARNING
    assert "towns-bern" in verdict.message
    assert "other" not in verdict.message
    assert verdict.advice.endswith("onegov-orm adopt towns-bern")


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("COMMENT ON SCHEMA \"towns-bern\" IS 'onegov_orm {\"state\": \"x\"}'",
         "towns-bern (can't be read)"),
        ("COMMENT ON SCHEMA \"towns-bern\" IS 'onegov_orm {\"state\": \"trashed\"}'",
         "towns-bern (is that of a trashed one)"),
        ('ALTER SCHEMA "towns-bern" RENAME TO "trash:1"', "trash:1 (says active)"),
        ('CREATE SCHEMA "spare:1"', "spare:1 (is missing)"),
    ],
)  # fmt: skip
def test_odd_states(say, execute, sql, text):
    execute(sql)
    verdict = say("states")
    assert verdict.level is Level.WARNING
    assert text in verdict.message


def test_leftovers(say, execute):
    execute('CREATE SCHEMA "scratch:1"')
    verdict = say("leftovers")
    assert verdict.level is Level.WARNING
    assert verdict.advice.endswith('DROP SCHEMA "scratch:1" CASCADE')


def test_invalid_indexes(say, execute):
    index = '"towns-bern".ix_documents_owner'
    execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass")
    verdict = say("indexes")
    assert verdict.level is Level.WARNING
    assert "towns-bern.ix_documents_owner" in verdict.message
    assert 'DROP INDEX CONCURRENTLY "towns-bern"."ix_documents_owner"' in verdict.advice


# -- migrations and packages


def write_environment(folder):
    (folder / "versions").mkdir()
    (folder / "env.py").write_text("")
    (folder / "versions" / "a.py").write_text(
        "revision = 'a1'\ndown_revision = None\ndef upgrade(): ...\ndef downgrade(): ...\n"
    )


def test_migrations(common_dsn, new_manager, execute, tmp_path):
    write_environment(tmp_path)
    mgr = new_manager(common_dsn, Base, migrations=tmp_path)
    mgr.ensure_schema_exists("towns-bern")
    verdict = verdicts_of(mgr)["migrations"]
    assert verdict.message == "1 revisions, the newest: a1"
    execute("UPDATE \"towns-bern\".alembic_version SET version_num = 'b2'")
    verdict = verdicts_of(mgr)["migrations"]
    assert verdict.level is Level.ERROR
    assert "towns-bern (b2)" in verdict.message


def test_migrations_that_are_not_there(common_dsn, new_manager, tmp_path):
    mgr = new_manager(common_dsn, Base, migrations=tmp_path / "nowhere")
    assert verdicts_of(mgr)["migrations"].level is Level.ERROR


def test_outdated_packages(say, monkeypatch):
    monkeypatch.setattr(
        "onegov_orm.fleet._doctor_packages.requires",
        lambda _name: ["SQLAlchemy>=99.1", "nothing>=1", 'rich>=1; extra == "cli"', "blinker"],
    )
    verdict = say("packages")
    assert verdict.level is Level.ERROR
    assert f"SQLAlchemy {sa.__version__}, at least 99.1 is needed" in verdict.message
    assert verdict.advice == "pip install -U SQLAlchemy"


def test_numbers_of_versions():
    assert _numbers("2.1.0b2") == [2, 1, 0]
    assert _numbers("10.0") > _numbers("9.9")
    assert _numbers("x") == []


def test_an_examination_that_fails_itself(mgr, monkeypatch):
    def fail(_examination):
        raise RuntimeError("oh\nno")
        yield

    monkeypatch.setitem(doctor.CHECKS, "clock", fail)
    found = verdicts_of(mgr)
    assert found["clock"].level is Level.ERROR
    assert "RuntimeError: oh" in found["clock"].message
    assert found["migrations"].level is Level.SKIPPED
