"""What is current, where: schema, locale and active manager, per thread, task and greenlet."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier

import greenlet
import pytest
import sqlalchemy as sa

from onegov_orm import SessionManager
from onegov_orm.errors import NoCurrentSchema
from tests.models import Base
from tests.provisioning import base_of, statements_of


@pytest.fixture
def mgr(common_dsn, new_manager):
    mgr = new_manager(common_dsn, base_of(("t",)), transaction_manager=None)
    for name in ("a", "b", "c"):
        mgr.ensure_schema_exists(name)
    return mgr


@pytest.fixture
def offline():
    """A manager that needs no server."""
    mgr = SessionManager("postgresql://nobody@127.0.0.1:1/nothing", Base)
    yield mgr
    mgr.deactivate()


def in_thread(function):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


def where(session):
    return session.scalar(sa.text("SELECT current_schema()::text"))


# -- the schema


def test_none_at_first(offline):
    assert offline.current_schema is None
    with pytest.raises(NoCurrentSchema, match="set_current_schema"):
        offline.session()


def test_a_session_belongs_to_its_schema(mgr):
    mgr.set_current_schema("a")
    session = mgr.session()
    assert session is mgr.session()
    assert session.info == {"schema": "a"}
    mgr.set_current_schema("b")
    assert mgr.session() is not session
    assert (where(session), where(mgr.session())) == ("a", "b")


def test_a_session_takes_no_connection_before_its_first_statement(mgr):
    mgr.set_current_schema("a")
    with statements_of(mgr) as sent:
        mgr.session()
    assert sent == []
    assert mgr.engine.pool.checkedout() == 0


def test_a_thread_starts_with_none_and_changes_no_other(mgr):
    mgr.set_current_schema("a")

    def work():
        before = mgr.current_schema
        mgr.set_current_schema("b")
        return before, mgr.current_schema, where(mgr.session())

    assert in_thread(work) == (None, "b", "b")
    assert (mgr.current_schema, where(mgr.session())) == ("a", "a")


def test_a_thread_with_a_copied_context_has_a_session_of_its_own(mgr):
    mgr.set_current_schema("a")
    session, context = mgr.session(), copy_context()
    other = in_thread(lambda: context.run(mgr.session))
    assert other is not session
    assert other.info == {"schema": "a"}


def test_threads_side_by_side(mgr):
    barrier = Barrier(3)

    def work(name):
        mgr.set_current_schema(name)
        barrier.wait(10)
        return mgr.current_schema, where(mgr.session())

    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(work, "abc")) == [("a", "a"), ("b", "b"), ("c", "c")]


def test_tasks_side_by_side(mgr):
    async def work(name):
        before = mgr.current_schema
        mgr.set_current_schema(name)
        await asyncio.sleep(0.01)
        return before, mgr.current_schema, where(mgr.session())

    async def main():
        mgr.set_current_schema("c")
        results = await asyncio.gather(work("a"), work("b"))
        return [*results, mgr.current_schema]

    assert asyncio.run(main()) == [("c", "a", "a"), ("c", "b", "b"), "c"]
    assert mgr.current_schema is None


def test_a_task_has_sessions_of_its_own(mgr):
    async def work():
        return mgr.session()

    async def main():
        mgr.set_current_schema("a")
        return [mgr.session(), *await asyncio.gather(work(), work())]

    sessions = asyncio.run(main())
    assert len({id(session) for session in sessions}) == 3
    assert {session.info["schema"] for session in sessions} == {"a"}


def test_a_greenlet_has_a_schema_of_its_own(mgr):
    mgr.set_current_schema("a")
    found = []

    def work():
        found.append(mgr.current_schema)
        mgr.set_current_schema("b")
        greenlet.getcurrent().parent.switch()
        found.append(mgr.current_schema)

    child = greenlet.greenlet(work)
    child.switch()
    assert mgr.current_schema == "a"
    child.switch()
    assert found == [None, "b"]


def test_two_managers_do_not_share_it(mgr, common_dsn, new_manager):
    other = new_manager(common_dsn, base_of(("t",)))
    mgr.set_current_schema("a")
    assert other.current_schema is None


def test_a_block_restores_what_was_current(mgr):
    mgr.set_current_schema("a")
    with mgr.schema("b") as session:
        assert (mgr.current_schema, where(session)) == ("b", "b")
        with pytest.raises(ZeroDivisionError), mgr.schema("c"):
            assert mgr.current_schema == "c"
            raise ZeroDivisionError
        assert mgr.current_schema == "b"
    assert mgr.current_schema == "a"


def test_a_block_restores_that_there_was_none(mgr):
    with mgr.schema("a"):
        pass
    assert mgr.current_schema is None


def test_a_block_undoes_what_was_made_current_inside(mgr):
    mgr.set_current_schema("a")
    with mgr.schema("b"):
        mgr.set_current_schema("c")
        assert where(mgr.session()) == "c"
    assert mgr.current_schema == "a"


def test_a_decorator_works_more_than_once(mgr):
    @mgr.schema("b")
    def work():
        return mgr.current_schema, where(mgr.session())

    assert work() == work() == ("b", "b")
    assert mgr.current_schema is None


# -- locales


def test_locales_are_the_threads_own(offline):
    offline.set_locale("de_CH", "fr_CH")
    assert in_thread(lambda: (offline.default_locale, offline.current_locale)) == (None, None)
    in_thread(lambda: offline.set_locale("it_CH", "rm_CH"))
    assert (offline.default_locale, offline.current_locale) == ("de_CH", "fr_CH")


def test_locales_are_the_tasks_own(offline):
    async def work(locale):
        offline.current_locale = locale
        await asyncio.sleep(0)
        return offline.default_locale, offline.current_locale

    async def main():
        offline.set_locale("de_CH", "fr_CH")
        results = await asyncio.gather(work("it_CH"), work("rm_CH"))
        return [*results, offline.current_locale]

    expected = [("de_CH", "it_CH"), ("de_CH", "rm_CH"), "fr_CH"]
    assert asyncio.run(main()) == expected


# -- the active manager


def test_the_active_manager(offline):
    assert offline.get_active() is None
    offline.activate()
    assert SessionManager.get_active() is offline
    offline.deactivate()
    assert offline.get_active() is None


def test_another_one_is_not_deactivated(offline):
    other = SessionManager("postgresql://host/db", Base)
    other.set_active()
    offline.deactivate()
    assert offline.get_active() is other
    other.deactivate()


def test_the_active_manager_is_the_threads_own(offline):
    offline.activate()
    assert in_thread(SessionManager.get_active) is None


def test_the_active_manager_is_held_weakly():
    mgr = SessionManager("postgresql://host/db", Base)
    mgr.activate()
    reference = weakref.ref(mgr)
    del mgr
    gc.collect()
    assert reference() is None
    assert SessionManager.get_active() is None


# -- memory


def test_memory_stays_flat_over_ten_thousand_schemas(offline):
    def serve(number):
        schema = f"towns-{number}"
        offline.provisioner.found_schemas.add(schema)
        offline.set_current_schema(schema, create=False)
        offline.session()
        offline.provisioner.found_schemas.clear()

    for number in range(200):
        serve(number)
    gc.collect()
    tracemalloc.start()
    for number in range(200, 10_200):
        serve(number)
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 3_000_000


def test_sessions_of_dead_threads_go(mgr):
    def work():
        mgr.set_current_schema("a")
        where(mgr.session())
        return weakref.ref(mgr.session())

    references = [in_thread(work) for _ in range(3)]
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert mgr.engine.pool.checkedout() == 0


def test_sessions_of_finished_tasks_go(mgr):
    async def work():
        mgr.set_current_schema("a")
        where(mgr.session())
        return weakref.ref(mgr.session())

    references = [asyncio.run(work()) for _ in range(3)]
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert mgr.engine.pool.checkedout() == 0
