"""Many who make schemas at once: threads of one manager, and processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
import transaction
from sqlalchemy import Column, ForeignKey, Table, event

from tests.models import Base, Document
from tests.processes import create_schema, make_schema, processes
from tests.provisioning import add_table, base_of, relations

PROCESSES = 20
THREADS = 8


@pytest.fixture(scope="module")
def many():
    with processes(PROCESSES) as executor:
        yield executor


@pytest.fixture(params=["newest", "older"])
def fresh_dsn(request):
    """A database without extensions, on each server."""
    databases = request.getfixturevalue(request.param)
    name = databases.create("template0")
    yield databases.server.dsn(name, tcp=False)
    databases.drop(name)


def at_once(function, *arguments):
    """Call the function in threads that start at the same moment."""
    barrier = Barrier(len(arguments))

    def start(argument):
        barrier.wait(10)
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as executor:
        return list(executor.map(start, arguments))


def test_processes_make_the_same_schema_once(many, fresh_dsn, outside):
    results = many.map(make_schema, [fresh_dsn] * PROCESSES, ["a"] * PROCESSES)
    assert sum(results) == 1
    assert "documents" in relations(outside(fresh_dsn))


def test_processes_make_different_schemas(many, fresh_dsn, outside):
    names = [f"towns-{number}" for number in range(PROCESSES)]
    results = many.map(make_schema, [fresh_dsn] * PROCESSES, names)
    assert list(results) == [1] * PROCESSES
    execute = outside(fresh_dsn)
    assert execute("SELECT count(*) FROM pg_class WHERE relname = 'documents'") == [(PROCESSES,)]


def test_processes_create_the_same_empty_schema(many, fresh_dsn):
    results = many.map(create_schema, [fresh_dsn] * PROCESSES, ["a"] * PROCESSES)
    assert sorted(results) == ["SchemaExists"] * (PROCESSES - 1) + ["created"]


def test_threads_make_different_schemas(dsn, new_manager):
    mgr = new_manager(dsn, Base)

    def make(thread):
        for number in range(5):
            name = f"towns-{thread}-{number}"
            mgr.set_current_schema(name)
            mgr.session().add(Document(owner=name))
            transaction.commit()
        transaction.abort()

    at_once(make, *range(THREADS))
    names = mgr.list_schemas("towns")
    assert len(names) == THREADS * 5
    for name in names:
        with mgr.schema(name, create=False) as session:
            assert session.scalars(sa.select(Document.owner)).all() == [name]


@pytest.mark.parametrize("is_live", [False, True], ids=["script", "live"])
def test_threads_make_the_same_schema_once(common_dsn, new_manager, is_live):
    base, heard = base_of(("t", Column("x", sa.Enum("x", name="e")))), []
    if is_live:
        event.listen(base.metadata, "after_create", lambda *_, **__: None)
    mgr = new_manager(common_dsn, base)
    mgr.on_schema_init.connect(lambda schema, **_: heard.append(schema), weak=False)
    at_once(lambda _: mgr.set_current_schema("a"), *range(THREADS))
    assert heard == ["a"]
    assert mgr.created_schemas == {"a"}


def test_shared_tables_are_made_once(common_dsn, new_manager, outside):
    managers = []
    for _ in range(THREADS):
        base = base_of(("t", Column("country", ForeignKey("shared.countries.id"))))
        add_table(base.metadata, "countries", Column("x", sa.Text, index=True), schema="shared")
        managers.append(new_manager(common_dsn, base))
    at_once(lambda index: managers[index].set_current_schema(f"a{index}"), *range(THREADS))
    execute = outside(common_dsn)
    assert execute("SELECT count(*) FROM pg_class WHERE relname = 'countries'") == [(1,)]
    assert execute("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == [(THREADS,)]


def test_a_table_that_comes_while_threads_make_schemas(common_dsn, new_manager, outside):
    base = base_of(("t",))
    mgr = new_manager(common_dsn, base)

    def work(thread):
        if thread == 0:
            Table("u", base.metadata, Column("id", sa.Integer, primary_key=True))
        for number in range(3):
            mgr.set_current_schema(f"a{thread}-{number}")
            mgr.set_current_schema(f"a{thread}-{number}")

    at_once(work, *range(THREADS))
    for name in mgr.list_schemas():
        mgr.set_current_schema(name)
    tables = "SELECT count(*) FROM pg_class WHERE relname = 'u'"
    assert outside(common_dsn)(tables) == [(THREADS * 3,)]
