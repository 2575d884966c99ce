"""New environments, new revisions, and plain Alembic in one schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey
from sqlalchemy.dialects import postgresql

from onegov_orm.errors import MigrationError
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.migrations import Migrations, init_environment
from onegov_orm.names import hidden_kind
from tests.fleet.migrating import Towns
from tests.provisioning import add_table, base_of

ROOT = Path(__file__).parents[2]

MODELS = """
from sqlalchemy import Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Resident(Base):
    __tablename__ = "residents"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str | None] = mapped_column(Text)
    age: Mapped[int | None]
    mail: Mapped[str | None]
"""

#: What tests of autogenerate have env.py compare with; a module of this name is made.
MODULE = "modelsfortests"


@pytest.fixture
def towns(common_dsn, new_manager, outside, tmp_path):
    return Towns(common_dsn, new_manager, outside(common_dsn), tmp_path / "migrations")


@pytest.fixture
def compare(towns, monkeypatch):
    """Have env.py name a metadata."""

    def use(metadata):
        module = type(sys)(MODULE)
        module.metadata = metadata
        monkeypatch.setitem(sys.modules, MODULE, module)
        towns.environment.configure(
            ", target_metadata=metadata", f"from {MODULE} import metadata\n"
        )

    return use


@pytest.fixture
def application(tmp_path):
    """The folder of an application with models."""
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(MODELS)
    return tmp_path


def alembic(folder, *arguments):
    """Run Alembic's command line."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_environment_is_what_alembic_knows(application):
    written = init_environment(application / "migrations", base="app.models:Base")
    assert {path.relative_to(application).as_posix() for path in written} == {
        "alembic.ini",
        "migrations/README",
        "migrations/env.py",
        "migrations/script.py.mako",
    }
    assert (application / "migrations" / "versions").is_dir()
    assert "from app.models import Base" in (application / "migrations" / "env.py").read_text()
    assert "@{" not in "".join(path.read_text() for path in written)


@pytest.mark.parametrize("taken", ["alembic.ini", "migrations/env.py", "migrations/versions/x.py"])
def test_nothing_is_overwritten(application, taken):
    path = application / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = set(application.rglob("*"))
    with pytest.raises(MigrationError, match="exist already"):
        init_environment(application / "migrations")
    assert set(application.rglob("*")) == before
    assert path.read_text() == "mine"


@pytest.mark.parametrize("base", ["app.models", "Base", "app/models:Base", ""])
def test_a_base_has_to_be_named(application, base):
    with pytest.raises(MigrationError, match=r"app\.models:Base"):
        init_environment(application / "migrations", base=base)
    assert not (application / "migrations").exists()


def test_a_new_environment_works(application, towns, monkeypatch):
    towns.create("towns-a", "towns-b")
    folder = application / "migrations"
    [(folder / name).unlink() for name in ("env.py", "script.py.mako")]
    (folder / "versions").rmdir()
    folder.rmdir()
    init_environment(folder, base="app.models:Base")
    where = ("-x", "schema=towns-a", "-x", f"dsn={towns.dsn}")
    made = alembic(
        application, *where, "revision", "--autogenerate", "-m", "mail", "--rev-id", "m"
    )
    assert made.returncode == 0, made.stderr
    [script] = (folder / "versions").glob("*.py")
    assert "add_column('residents', sa.Column('mail'" in script.read_text()
    assert "alembic_version" not in script.read_text()
    done = alembic(application, *where, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert towns.versions("towns-a") == ["m"]
    assert "mail" in towns.columns("towns-a")
    assert towns.context.customer("towns-a").mark.migrated is not None
    assert alembic(application, *where, "check").returncode == 0
    monkeypatch.syspath_prepend(str(application))
    report = Migrations(towns.context, folder).migrate()
    assert [result.outcome.value for result in report.results] == ["skipped", "done"]


def test_a_revision_has_what_the_migrations_lack(towns, compare):
    base = base_of(
        ("residents", Column("owner", sa.Text), Column("mail", sa.Text)),
        ("dogs", Column("color", sa.Enum("red", "blue", name="color"))),
    )
    compare(base.metadata)
    towns.environment.add(
        "one",
        None,
        'op.create_table("residents", sa.Column("id", sa.Integer,'
        ' primary_key=True), sa.Column("owner", sa.Text))',
    )
    [path] = towns.migrations.revision("more", rev_id="two")
    text = path.read_text()
    assert "down_revision = 'one'" in text
    assert "sa.Column('mail'" in text
    assert "create_table('dogs'" in text
    assert "alembic_version" not in text
    schemas = towns.execute("SELECT nspname::text FROM pg_namespace")
    assert not any(hidden_kind(name) for (name,) in schemas)
    assert towns.migrations.heads() == ("two",)


def test_nothing_is_different_after_all_migrations(towns, compare):
    base = base_of(("dogs", Column("color", sa.Enum("red", "blue", name="color"))))
    compare(base.metadata)
    towns.migrations.revision("first", rev_id="one")
    base.metadata.tables["dogs"].c.color.type.enums.append("green")
    [path] = towns.migrations.revision("second", rev_id="two")
    assert "op." not in path.read_text()


def test_shared_tables_and_tables_of_extensions_are_left_out(
    common_dsn, new_manager, outside, tmp_path, towns, compare
):
    base = base_of(("residents", Column("owner", sa.Text)))
    add_table(base.metadata, "cantons", schema="shared")
    base.metadata.tables["residents"].append_column(
        Column("canton_id", sa.Integer, ForeignKey("shared.cantons.id"))
    )
    manager = new_manager(common_dsn, base)
    manager.ensure_schema_exists("towns-z")
    towns.execute(
        'CREATE TABLE extensions.spatial (id int); CREATE TABLE "towns-z".upgrades (id int)'
    )
    compare(base.metadata)
    migrations = Migrations(FleetContext(manager), towns.environment.folder)
    [path] = migrations.revision("nothing", schema="towns-z")
    assert "op." not in path.read_text()
    [path] = migrations.revision("all", rev_id="all", splice=True, head="base")
    assert "create_table('residents'" in path.read_text()
    assert "'shared.cantons.id'" in path.read_text()
    assert "create_table('cantons'" not in path.read_text()


def test_an_empty_revision_needs_no_database(towns):
    [path] = towns.migrations.revision("by hand", autogenerate=False, branch_label="mine")
    assert "revision = " in path.read_text()


def test_a_customer_that_lags_behind_is_no_reference(towns, compare):
    towns.create("towns-a")
    towns.environment.add("one", None)
    compare(towns.manager.bases[0].metadata)
    with pytest.raises(MigrationError, match="not up to date"):
        towns.migrations.revision("more", schema="towns-a")


def test_a_failing_migration_leaves_no_scratch_schema(towns, compare):
    towns.environment.add("one", None, 'op.drop_table("nothing")')
    compare(towns.manager.bases[0].metadata)
    with pytest.raises(Exception, match="nothing"):
        towns.migrations.revision("more")
    schemas = towns.execute("SELECT nspname::text FROM pg_namespace")
    assert not any(hidden_kind(name) for (name,) in schemas)


def test_types_of_the_models_are_rendered(towns, compare):
    compare(
        base_of(("t", Column("h", postgresql.HSTORE), Column("r", postgresql.TSTZRANGE))).metadata
    )
    [path] = towns.migrations.revision("types")
    assert "HSTORE" in path.read_text()


def test_the_text_of_scripts_tells_what_alembic_tells(towns):
    from onegov_orm._stamp import quick_heads

    add = towns.environment.add
    folder = towns.environment.folder
    assert quick_heads(folder) == frozenset()
    add("one", None)
    add("left", "one", label="leftish")
    add("right", "one")
    add("other", None, depends_on="right")
    assert quick_heads(folder) == set(towns.migrations.heads()) == {"left", "other"}
    add("merge", ("left", "right"), depends_on=("other",))
    assert quick_heads(folder) == set(towns.migrations.heads()) == {"merge"}
    add("more", "merge", depends_on="leftish")
    assert quick_heads(folder) is None
    assert towns.migrations.heads() == ("more",)


def test_what_only_running_a_script_tells(towns):
    from onegov_orm._stamp import quick_heads

    towns.environment.add("one", None)
    path = towns.environment.folder / "versions" / "one.py"
    path.write_text(path.read_text().replace("'one'", "'o' + 'ne'"))
    assert quick_heads(towns.environment.folder) is None
    assert towns.migrations.heads() == ("one",)


def test_new_schemas_get_revisions_that_are_written_later(towns, new_manager):
    towns.environment.add("one", None)
    manager = new_manager(towns.dsn, towns.manager.bases[0], migrations=towns.environment.folder)
    manager.ensure_schema_exists("towns-a")
    towns.environment.add("two", "one")
    manager.ensure_schema_exists("towns-b")
    assert (towns.versions("towns-a"), towns.versions("towns-b")) == (["one"], ["two"])
