"""The benchmarks of fleets as a process, in tiny; and that they compare what is equal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import tenants
from benchmarks.databases import new_database
from benchmarks.databases import run as run_sql
from benchmarks.fleet_databases import DjangoDatabase, OurDatabase, columns_added
from benchmarks.fleet_environments import write_our_environment, write_recipe
from benchmarks.fleet_migrations import LOOP, OURS
from benchmarks.fleet_models import REVISIONS
from benchmarks.fleet_processes import run_program
from benchmarks.fleet_tenants import Project, tables_and_indexes
from tests.conftest import skip_or_fail

needs_django = pytest.mark.usefixtures("django")

WORKERS = 2


@pytest.fixture
def django():
    if not tenants.is_available():
        skip_or_fail("Django comes with the extra bench")


@pytest.fixture
def database(tcp_dsn):
    with new_database(tcp_dsn) as dsn:
        yield dsn


@pytest.fixture
def ours(database, tmp_path):
    folder = write_our_environment(tmp_path, REVISIONS)
    found = OurDatabase(database, folder, WORKERS)
    found.grow(3)
    return found


def alembic(dsn, directory, revisions, *arguments):
    directory.mkdir(exist_ok=True)
    ini = write_recipe(directory, revisions, dsn)
    command = [sys.executable, "-m", "alembic", "-c", str(ini), *arguments, "upgrade", "head"]
    run_program(command, directory)


@pytest.mark.slow
def test_revisions_make_the_tables_that_the_models_have(ours, tmp_path):
    run_sql(ours.dsn, "CREATE SCHEMA empty")
    alembic(ours.dsn, tmp_path, REVISIONS, "-x", "tenant=empty")
    found = tables_and_indexes(ours.dsn, "empty")
    assert len(found) == REVISIONS
    assert found == tables_and_indexes(ours.dsn, ours.schemas[0])


@pytest.mark.slow
def test_a_fleet_is_put_back_to_where_it_was(ours, tmp_path):
    before = tables_and_indexes(ours.dsn, ours.schemas[1])
    for turn in ("first", "second"):
        alembic(ours.dsn, tmp_path / turn, REVISIONS + 1)
        assert columns_added(ours.dsn) == 2 * len(ours.schemas)
        ours.put_back()
        assert columns_added(ours.dsn) == 0
    # A dropped column stays in the catalog, an index does not.
    after = tables_and_indexes(ours.dsn, ours.schemas[1])
    assert {(name, indexes) for name, _, indexes in after} == {
        (name, indexes) for name, _, indexes in before
    }


@needs_django
@pytest.mark.slow
def test_django_makes_the_same_tables_and_finds_nothing_to_change(ours, tcp_dsn, tmp_path):
    with new_database(tcp_dsn) as dsn:
        project = Project(tmp_path / "django", dsn, REVISIONS, WORKERS)
        assert "No changes" in project.manage("makemigrations", "--check", "records").output
        database = DjangoDatabase(dsn, project)
        database.grow(2)
        found = tables_and_indexes(dsn, database.schemas[1])
        assert len(found) == REVISIONS
        assert found == tables_and_indexes(ours.dsn, ours.schemas[0])
        said = project.manage("migrate_schemas", "--tenant").output
        assert said.count("No migrations to apply") == 2


@needs_django
@pytest.mark.slow
def test_a_fleet_of_django_grows_after_it_was_put_back(tcp_dsn, tmp_path):
    projects = [
        Project(tmp_path / str(number), tcp_dsn, number, WORKERS)
        for number in (REVISIONS, REVISIONS + 1)
    ]
    database = DjangoDatabase(tcp_dsn, projects[0])
    for size in (1, 2):
        database.grow(size)
        projects[1].manage("migrate_schemas", "--tenant", "--executor=multiprocessing")
        assert columns_added(tcp_dsn) == 2 * size
        database.put_back()


@pytest.mark.slow
def test_every_part_is_measured(tcp_dsn, tmp_path):
    sizes = "--sizes 3 --rounds 1 --sample 1 --workers 2 --serve 30 --serve-tables 2"
    more = "--spare-rounds 1 --spare-tables 3 --check 4 --markdown --no-plots"
    command = [sys.executable, "-m", "benchmarks.fleet", "--dsn", tcp_dsn, "--output"]
    command += [str(tmp_path), *sizes.split(), *more.split()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "fleet.json").read_text())
    assert [(each["schemas"], each["task"]) for each in found["migrations"]] == [
        (3, "nothing to do"),
        (3, "one new revision"),
    ]
    for result in found["migrations"]:
        rows = {row["contestant"]: row for row in result["rows"]}
        assert rows[LOOP]["ratio"]["median"] == 1
        for name in (OURS, LOOP):
            assert 0 < rows[name]["inside"]["median"] < rows[name]["seconds"]["median"]
        assert any(name.startswith("django") for name in rows) == tenants.is_available()
    assert [each["connections"] for each in found["serving"]["served"]] == [1, 1]
    assert found["check"]["found"] == [found["check"]["altered"]]
    assert found["spares"]["rows"][1]["milliseconds"]["median"] > 0
    assert "| **onegov_orm** |" in done.stdout
    assert "━" not in done.stdout
