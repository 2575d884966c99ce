"""Migrations of a whole fleet: status, targets, what is refused, what is left alone."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from onegov_orm.errors import MigrationError, SchemaNotFound
from onegov_orm.fleet import _migration_process
from onegov_orm.fleet.migrations import Migrations
from onegov_orm.fleet.runner import Outcome, RunOptions
from onegov_orm.marks import Mark, State
from tests.fleet.migrating import Environment, Towns, names, outcomes

ADD_NOTE = 'op.add_column("residents", sa.Column("note", sa.Text))'
DROP_NOTE = 'op.drop_column("residents", "note")'
ADD_MAIL = 'op.add_column("residents", sa.Column("mail", sa.Text))'


@pytest.fixture
def towns(common_dsn, new_manager, outside, tmp_path):
    return Towns(common_dsn, new_manager, outside(common_dsn), tmp_path / "migrations")


@pytest.fixture
def two(towns):
    """Two schemas, and two revisions in a row."""
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, ADD_NOTE, DROP_NOTE)
    towns.environment.add("two", "one", ADD_MAIL, 'op.drop_column("residents", "mail")')
    return towns


def test_the_status_of_schemas_without_versions(two):
    status = two.migrations.status()
    assert status.heads == ("two",)
    assert [(each.schema, each.pending) for each in status.schemas] == [
        ("towns-a", ("one", "two")),
        ("towns-b", ("one", "two")),
    ]
    assert not status.is_current


def test_all_schemas_get_all_revisions(two):
    report = two.migrations.migrate()
    assert outcomes(report) == {"towns-a": "done", "towns-b": "done"}
    assert two.versions("towns-a") == two.versions("towns-b") == ["two"]
    assert two.columns("towns-a") >= {"note", "mail"}
    assert two.migrations.status().is_current


def test_what_is_done_is_told(two):
    [result, _] = two.migrations.migrate().results
    assert result.detail == "base -> two (2 revisions)"
    [result, _] = two.migrations.migrate().results
    assert (result.outcome, result.detail) == (Outcome.SKIPPED, "at two")


def test_the_mark_tells_when(two):
    two.migrations.migrate(schemas=["towns-a"])
    marks = {customer.schema: customer.mark for customer in two.context.customers()}
    assert marks["towns-a"].migrated is not None
    assert marks["towns-b"].migrated is None


def test_nothing_to_do_needs_neither_alembic_nor_processes(two, monkeypatch):
    two.migrations.migrate()
    monkeypatch.setattr(_migration_process, "ProcessWorker", None)
    monkeypatch.setattr(Migrations, "_scripts", None)
    assert two.migrations.status().heads == ("two",)
    assert outcomes(two.migrations.migrate()) == {"towns-a": "skipped", "towns-b": "skipped"}


def test_the_callback_counts_all(two):
    two.migrations.migrate(schemas=["towns-a"])
    told = []
    two.migrations.migrate(on_result=lambda *each: told.append((each[0].schema, *each[1:])))
    assert told == [("towns-a", 1, 2), ("towns-b", 2, 2)]


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize(
    ("target", "version"),
    [("heads", "two"), ("head", "two"), ("+1", "one"), ("one", "one")],
)
def test_targets(two, target, version, replay):
    assert two.migrations.migrate(target, replay=replay, schemas=["towns-a"]).is_ok
    assert two.versions("towns-a") == [version]


def test_the_start_of_a_revision_is_enough(towns):
    towns.create("towns-a")
    towns.environment.add("3f9a61c2", None, ADD_NOTE)
    assert towns.migrations.migrate("3f9a").is_ok
    assert towns.versions("towns-a") == ["3f9a61c2"]


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize(("target", "versions"), [("-1", ["one"]), ("base", []), ("one", ["one"])])
def test_downgrades(two, target, versions, replay):
    two.migrations.migrate()
    options = RunOptions(workers=1)
    assert two.migrations.downgrade(target, replay=replay, options=options).is_ok
    assert two.versions("towns-a") == two.versions("towns-b") == versions
    assert "mail" not in two.columns("towns-a")


def test_stamps_run_nothing(two):
    assert two.migrations.stamp("heads").is_ok
    assert two.versions("towns-a") == ["two"]
    assert two.columns("towns-a") == {"id", "owner", "age"}
    two.migrations.stamp("base")
    assert two.versions("towns-a") == []


@pytest.mark.parametrize(
    ("method", "target", "message"),
    [
        ("migrate", "three", "three"),
        ("migrate", "+3", "3"),
        ("downgrade", "three", "three"),
        ("downgrade", "-1", "-1"),
        ("stamp", "three", "three"),
        ("stamp", "+1", "relative"),
    ],
)
def test_a_wrong_target_touches_nothing(two, method, target, message):
    with pytest.raises(MigrationError, match=message):
        getattr(two.migrations, method)(target)
    assert two.execute("SELECT 1 FROM pg_class WHERE relname = 'alembic_version'") == []


def test_head_is_ambiguous_with_branches(two):
    two.environment.add("fork", "one")
    with pytest.raises(MigrationError, match="Multiple head"):
        two.migrations.migrate("head")


def test_a_relative_target_where_it_leads_too_far(two):
    two.migrations.migrate(schemas=["towns-a"])
    report = two.migrations.migrate("+1")
    assert outcomes(report) == {"towns-a": "failed", "towns-b": "done"}
    assert "MigrationError" in report.of(Outcome.FAILED)[0].error


def test_branches_labels_and_merges(towns):
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, ADD_NOTE)
    towns.environment.add("left", "one", ADD_MAIL, label="leftish")
    towns.environment.add(
        "right", "one", 'op.add_column("residents", sa.Column("r", sa.Text))', label="rightish"
    )
    towns.migrations.migrate("leftish@head", schemas=["towns-a"])
    assert towns.versions("towns-a") == ["left"]
    assert towns.migrations.migrate("heads").is_ok
    assert towns.versions("towns-a") == towns.versions("towns-b") == ["left", "right"]
    towns.environment.add("merge", ("left", "right"))
    assert [each.pending for each in towns.migrations.status().schemas] == [("merge",)] * 2
    assert towns.migrations.migrate().is_ok
    assert towns.versions("towns-b") == ["merge"]
    with pytest.raises(MigrationError, match="Ambiguous"):
        towns.migrations.downgrade("-1")
    assert towns.migrations.downgrade("left", schemas=["towns-a"]).is_ok
    assert towns.migrations.downgrade("left", schemas=["towns-b"], replay=False).is_ok
    assert towns.versions("towns-a") == towns.versions("towns-b") != ["merge"]


def test_what_depends_on_another_branch(towns):
    towns.create("towns-a", "towns-b")
    towns.environment.add("one", None, ADD_NOTE)
    towns.environment.add("other", None, ADD_MAIL, depends_on="one")
    towns.migrations.migrate(schemas=["towns-a"])
    towns.migrations.migrate(schemas=["towns-b"], replay=False)
    assert towns.versions("towns-a") == towns.versions("towns-b")
    assert towns.migrations.status().is_current
    assert set(towns.versions("towns-a")) == set(towns.migrations.status().heads)


def test_several_heads_are_stamped_at_once(two):
    two.environment.add("fork", "one")
    assert two.migrations.stamp(["two", "fork"]).is_ok
    assert two.versions("towns-a") == ["fork", "two"]


def test_unknown_revisions_are_reported_and_never_guessed(two):
    two.migrations.migrate()
    two.execute("""UPDATE "towns-a".alembic_version SET version_num = 'lost'""")
    [first, second] = two.migrations.status().schemas
    assert (first.revisions, first.unknown, first.pending) == (("lost",), ("lost",), ())
    assert second.is_current
    two.environment.add("three", "two", 'op.add_column("residents", sa.Column("z", sa.Text))')
    report = two.migrations.migrate()
    assert outcomes(report) == {"towns-a": "failed", "towns-b": "done"}
    assert "lost" in report.of(Outcome.FAILED)[0].error
    assert two.migrations.stamp("two", schemas=["towns-a"], purge=True).is_ok
    assert two.migrations.migrate().is_ok


def test_the_start_of_a_name_does_not_make_a_revision_known(two):
    two.migrations.migrate()
    two.execute("""UPDATE "towns-a".alembic_version SET version_num = 'tw'""")
    assert two.migrations.status().schemas[0].unknown == ("tw",)


def test_suspended_customers_are_migrated(two):
    comment = Mark(state=State.SUSPENDED, note="unpaid").comment
    two.execute(f"""COMMENT ON SCHEMA "towns-a" IS '{comment}'""")
    assert two.migrations.migrate().is_ok
    [customer] = two.context.customers(names=["towns-a"])
    assert (customer.mark.state, customer.mark.note) == (State.SUSPENDED, "unpaid")
    assert customer.mark.migrated is not None


def test_foreign_schemas_are_left_alone(two):
    two.execute('CREATE SCHEMA "towns-foreign"; CREATE TABLE "towns-foreign".residents (id int)')
    assert "towns-foreign" not in outcomes(two.migrations.migrate())
    assert two.columns("towns-foreign") == {"id"}


def test_an_unknown_schema_is_refused(two):
    with pytest.raises(SchemaNotFound):
        two.migrations.migrate(schemas=["towns-nowhere"])


@pytest.mark.parametrize("replay", [True, False])
def test_a_failing_schema_stays_as_it_was(towns, replay):
    towns.create(*names(4))
    towns.execute('INSERT INTO "towns-02".residents (owner) VALUES (NULL)')
    towns.environment.add("one", None, ADD_NOTE)
    towns.environment.add("two", "one", 'op.alter_column("residents", "owner", nullable=False)')
    report = towns.migrations.migrate(replay=replay, options=RunOptions(workers=1))
    assert outcomes(report) == dict.fromkeys(names(4), "done") | {"towns-02": "failed"}
    [failed] = report.of(Outcome.FAILED)
    assert failed.error.startswith("NotNullViolation:")
    assert failed.error.endswith("(in revision two)")
    assert "note" not in towns.columns("towns-02")
    towns.execute('DELETE FROM "towns-02".residents WHERE owner IS NULL')
    assert outcomes(towns.migrations.migrate())["towns-02"] == "done"


def test_fail_fast_leaves_the_others(towns):
    towns.create(*names(3))
    towns.environment.add("one", None, 'op.drop_column("residents", "nothing")')
    report = towns.migrations.migrate(options=RunOptions(workers=1, fail_fast=True))
    assert [result.outcome.value for result in report.results] == ["failed", "pending", "pending"]


def test_a_schema_that_others_migrated_meanwhile_is_skipped(two, monkeypatch):
    from onegov_orm.fleet import migrations

    stale = migrations.read_standings(two.context)
    two.migrations.migrate()
    monkeypatch.setattr(migrations, "read_standings", lambda *_: stale)
    monkeypatch.setattr(migrations, "quick_heads", lambda *_: None)
    assert outcomes(two.migrations.migrate()) == {"towns-a": "skipped", "towns-b": "skipped"}


def test_a_schema_that_others_migrated_in_part_gets_the_rest(two, monkeypatch):
    from onegov_orm.fleet import migrations

    stale = migrations.read_standings(two.context)
    two.migrations.migrate("one")
    monkeypatch.setattr(migrations, "read_standings", lambda *_: stale)
    report = two.migrations.migrate()
    assert [result.detail for result in report.results] == ["one -> two"] * 2
    assert two.columns("towns-a") >= {"note", "mail"}


def test_a_note_that_is_written_meanwhile_stays(two, monkeypatch):
    from onegov_orm.fleet import migrations

    stale = migrations.read_standings(two.context)
    two.execute(f"""COMMENT ON SCHEMA "towns-a" IS '{Mark(note="new").comment}'""")
    monkeypatch.setattr(migrations, "read_standings", lambda *_: stale)
    assert two.migrations.migrate().is_ok
    assert two.context.customer("towns-a").mark.note == "new"


def test_a_schema_that_is_gone_meanwhile_fails_alone(two, monkeypatch):
    from onegov_orm.fleet import migrations

    stale = migrations.read_standings(two.context)
    two.execute('ALTER SCHEMA "towns-a" RENAME TO "towns-c"')
    monkeypatch.setattr(migrations, "read_standings", lambda *_: stale)
    report = two.migrations.migrate()
    assert outcomes(report) == {"towns-a": "failed", "towns-b": "done"}
    assert "SchemaNotFound" in report.of(Outcome.FAILED)[0].error
    assert two.columns("towns-c") == {"id", "owner", "age"}


@pytest.mark.parametrize("replay", [True, False])
def test_whoever_holds_the_lock_is_waited_for(two, replay):
    from onegov_orm.provisioning import lock_key

    engine = sa.create_engine(two.dsn, poolclass=sa.NullPool)
    with engine.begin() as connection:
        key = lock_key("schema towns-a")
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        options = RunOptions(lock_timeout_seconds=0.1, tries=2, workers=1)
        report = two.migrations.migrate(options=options, replay=replay)
    assert outcomes(report) == {"towns-a": "failed", "towns-b": "done"}
    [failed] = report.of(Outcome.FAILED)
    assert failed.tries == 2
    assert "LockNotAvailable" in failed.error


def test_a_missing_environment(towns, tmp_path):
    with pytest.raises(MigrationError, match=r"no env\.py"):
        Migrations(towns.context, tmp_path / "nowhere").heads()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "from alembic import context\ncontext.configure(dialect_name='postgresql')",
        "from alembic import context\nfrom os import environ\nenviron['NOTHING']",
        "from alembic import context\ncontext.config.get_section('nothing')['x']",
    ],
)
def test_an_env_that_does_not_call_run(two, text):
    (two.environment.folder / "env.py").write_text(text)
    with pytest.raises(MigrationError, match=r"env\.run"):
        two.migrations.migrate()
    assert two.columns("towns-a") == {"id", "owner", "age"}


@pytest.mark.parametrize("option", ["version_table='v'", "version_table_schema='s'"])
def test_options_that_belong_to_the_library(two, option):
    two.environment.configure(f", {option}")
    with pytest.raises(MigrationError, match="can't be set in env"):
        two.migrations.migrate()


def test_a_broken_script_is_told(two):
    (two.environment.folder / "versions" / "three.py").write_text("revision = 'three'\n1/0")
    with pytest.raises(MigrationError, match="ZeroDivisionError"):
        two.migrations.status()


def test_history_and_heads(two):
    assert [script.revision for script in two.migrations.history()] == ["two", "one"]
    assert two.migrations.heads() == ("two",)


def test_the_environment_is_read_anew_when_scripts_change(two, tmp_path):
    two.migrations.migrate()
    Environment(tmp_path / "other")
    two.environment.add("three", "two", 'op.add_column("residents", sa.Column("z", sa.Text))')
    assert two.migrations.status().heads == ("three",)
    assert two.migrations.migrate().is_ok
    assert two.versions("towns-a") == ["three"]
