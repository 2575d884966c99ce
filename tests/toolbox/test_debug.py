"""What is told of the statements of a block, with each driver, in threads and in tasks."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import pytest
from sqlalchemy import LargeBinary, bindparam, create_engine, event, insert, select, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, selectinload

from benchmarks.wire import WireProxy
from onegov_orm import ConfigurationError, OrmError
from onegov_orm.debug import Analysis, analyze_sql_queries
from tests.asynchronous import in_loop
from tests.clients import CLIENTS, Client, driver_of, new_client
from tests.models import Base, Document, Page

BERN, BASEL = "towns-bern", "towns-basel"
HERE = "test_debug.py"


class Report(io.StringIO):
    """A stream that keeps its lines."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


def analyze(report: Any = "summary", stream: Any = None) -> Any:
    return analyze_sql_queries(report, Report() if stream is None else stream)


def fill(session: Session) -> None:
    documents = [Document(owner=f"owner {number}") for number in range(4)]
    for document in documents:
        document.pages = [Page(text="one"), Page(text="two")]
    session.add_all(documents)
    session.flush()


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, newest: Any) -> Iterator[Client]:
    """A manager with each driver, in whose schemas are documents with pages."""
    name = newest.create()
    dsn = newest.server.dsn(name, driver=driver_of(request.param), tcp=False)
    with closing(new_client(request.param, dsn)) as found:
        for schema in (BERN, BASEL):
            found.run(schema, fill)
        yield found
    newest.drop(name)


@pytest.fixture
def mgr(new_town: Any) -> Any:
    """A manager whose current schema has documents with pages."""
    manager = new_town(Base)
    with manager.schema(manager.current_schema) as session:
        fill(session)
    return manager


def ask(session: Session, number: int = 1) -> None:
    session.execute(text("SELECT :number + 0"), {"number": number})


# -- with each driver


def test_statements_of_a_session_are_counted(client):
    def work(session: Session) -> Analysis:
        ask(session)
        with analyze() as analysis:
            ask(session)
            ask(session)
            session.scalars(select(Document)).all()
        ask(session)
        return analysis

    analysis = client.run(BERN, work)
    assert (analysis.count, analysis.redundant_count) == (3, 1)
    assert [query.schema for query in analysis.queries] == [BERN] * 3
    assert all(query.seconds > 0 for query in analysis.queries)
    assert analysis.seconds == sum(query.seconds for query in analysis.queries)


def test_the_first_statement_of_a_transaction_is_counted_once(client):
    def work(session: Session) -> Analysis:
        with analyze() as analysis:
            ask(session)
        return analysis

    assert [each.statement[:6] for each in client.run(BERN, work).queries] == ["SELECT"]


def test_parameters_and_place_are_told(client):
    def work(session: Session) -> Analysis:
        with analyze() as analysis:
            ask(session, 7)
        return analysis

    [query] = client.run(BERN, work).queries
    assert query.parameters in ({"number": 7}, (7,))
    line = ask.__code__.co_firstlineno + 1
    assert query.place.startswith(f"{HERE}:{line} in ask, from {HERE}:")


def test_many_rows_at_once_are_one_statement(client):
    def work(session: Session) -> Analysis:
        rows = [{"key": number, "title": "x"} for number in range(1, 4)]
        with analyze() as analysis:
            statement = update(Document.__table__).where(Document.id == bindparam("key"))
            session.connection().execute(statement.values(title=bindparam("title")), rows)
            session.execute(insert(Page), [{"document_id": 1, "text": "x"} for _ in range(5)])
            pages = [{"document_id": 1, "text": "x"} for _ in range(6)]
            session.scalars(insert(Page).returning(Page.id), pages).all()
        return analysis

    analysis = client.run(BASEL, work)
    assert [query.rows for query in analysis.queries] == [3, 5, 6]
    assert analysis.redundant_count == 0


def test_a_statement_for_each_object_is_found(client):
    def work(session: Session) -> Analysis:
        with analyze() as analysis:
            for document in session.scalars(select(Document).order_by(Document.id)):
                _ = document.pages
        return analysis

    analysis = client.run(BERN, work)
    [loop] = analysis.loops
    assert loop.count == 4
    assert "FROM pages" in loop.statement
    assert list(loop.places) == [loop.queries[0].place]
    assert analysis.redundant == []


def test_eager_loading_is_no_loop(client):
    def work(session: Session) -> Analysis:
        with analyze() as analysis:
            statement = select(Document).options(selectinload(Document.pages))
            assert [len(each.pages) for each in session.scalars(statement)] == [2] * 4
        return analysis

    analysis = client.run(BERN, work)
    assert (analysis.count, analysis.loops) == (2, [])


def test_a_statement_that_fails_is_told_and_its_error_is_raised(client):
    report = Report()

    def work(session: Session) -> Analysis:
        ask(session)
        savepoint = session.begin_nested()
        with pytest.raises(DBAPIError), analyze("all", report) as analysis:
            session.execute(text("SELECT nothing"))
        savepoint.rollback()
        return analysis

    savepoint, query = client.run(BERN, work).queries
    assert savepoint.seconds is not None
    assert (query.statement, query.seconds) == ("SELECT nothing", None)
    assert "> SELECT nothing" in report.lines
    assert report.lines[-1].endswith("none of them redundant, 1 failed")


def test_large_parameters_are_shortened(client):
    statement = text("SELECT octet_length(:data), length(:title)").bindparams(
        bindparam("data", type_=LargeBinary)
    )

    def work(session: Session) -> Analysis:
        with analyze() as analysis:
            for last in (b"a", b"a", b"b"):
                row = session.execute(statement, {"data": bytes(9999) + last, "title": "x" * 500})
                assert tuple(row.one()) == (10_000, 500)
        return analysis

    analysis = client.run(BERN, work)
    assert len(str(analysis.queries)) < 3000
    assert "(10000 bytes)" in str(analysis.queries[0].parameters)
    assert "(500 characters)" in str(analysis.queries[0].parameters)
    assert analysis.redundant_count == 1


def test_no_round_trip_is_added(newest, request):
    counts = {}
    for kind in CLIENTS:
        name = newest.create()
        url = newest.server.dsn(name, driver=driver_of(kind), tcp=True)
        with WireProxy("127.0.0.1", newest.server.port) as proxy:
            pool = {"pool_size": 1, "max_overflow": 0}
            with closing(new_client(kind, proxy.dsn(url), pool_config=pool)) as client:
                counts[kind] = [count(client, proxy, each) for each in (nullcontext, analyze)]
        newest.drop(name)
    for plain, analyzed in counts.values():
        assert analyzed == plain


def count(client: Client, proxy: WireProxy, block: Callable[[], Any]) -> int:
    """How often a request goes to the server, when the driver has prepared its statements."""

    def work(session: Session) -> None:
        with block():
            session.scalars(select(Document)).all()
            session.execute(insert(Document), [{"owner": "ada"}] * 3)
            session.execute(update(Document).values(title="x"))

    for _ in range(8):
        client.run(BERN, work)
    proxy.reset()
    client.run(BERN, work)
    return proxy.snapshot().round_trips


# -- what is redundant


def test_the_same_with_other_parameters_is_not_redundant(mgr):
    with analyze() as analysis:
        for number in (1, 2, 1, 1):
            ask(mgr.session(), number)
    assert analysis.redundant_count == 2
    [repetition] = analysis.redundant
    assert repetition.count == 3


def test_the_same_for_another_customer_is_not_redundant(mgr):
    with analyze() as analysis:
        for name in (BERN, BASEL, BERN):
            with mgr.schema(name) as session:
                session.scalars(select(Document)).all()
    selects = [each for each in analysis.redundant if "FROM documents" in each.statement]
    assert [repetition.count for repetition in selects] == [2]


def test_what_writes_more_rows_is_not_redundant(mgr):
    with analyze() as analysis:
        for _ in range(3):
            mgr.session().execute(insert(Document).values(owner="ada"))
    assert (analysis.count, analysis.redundant_count, analysis.loops) == (3, 0, [])


def test_savepoints_are_not_redundant(mgr):
    with analyze() as analysis:
        for _ in range(2):
            with mgr.schema(mgr.current_schema) as session, session.begin_nested():
                session.execute(text("SELECT random()"))
    names = [each.statement for each in analysis.queries if "SAVEPOINT" in each.statement]
    assert len(names) == 4
    assert len(set(names)) == 2
    assert [each.statement for each in analysis.redundant] == ["SELECT random()"]


def test_json_is_compared_by_what_it_says(mgr):
    with analyze() as analysis:
        for content in ({"a": 1}, {"a": 1}, {"a": 2}):
            mgr.session().execute(update(Document).values(content=content))
    assert analysis.redundant_count == 1


def test_the_same_from_different_places_is_no_loop(mgr):
    with analyze() as analysis:
        ask(mgr.session(), 1)
        ask(mgr.session(), 2)
        ask(mgr.session(), 3)
    assert analysis.loops == []


def test_a_few_from_the_same_place_are_no_loop(mgr):
    with analyze() as analysis:
        for number in (1, 2, 2):
            ask(mgr.session(), number)
    assert analysis.loops == []


def test_recursion_is_a_loop(mgr):
    def deeper(depth: int) -> None:
        ask(mgr.session(), depth)
        if depth:
            deeper(depth - 1)

    with analyze() as analysis:
        deeper(6)
    assert [loop.count for loop in analysis.loops] == [6]


# -- reports


def test_a_summary(mgr, capsys):
    with analyze_sql_queries():
        ask(mgr.session())
        ask(mgr.session())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("2 statements in ")
    assert err.endswith(" ms, 1 of them redundant\n")


def test_a_summary_of_nothing():
    report = Report()
    with analyze("summary", report) as analysis:
        pass
    assert report.getvalue() == "no statements\n"
    assert (analysis.count, analysis.seconds, analysis.redundant) == (0, 0, [])


def test_a_summary_of_one(mgr):
    report = Report()
    with analyze("summary", report):
        ask(mgr.session())
    assert report.getvalue().startswith("1 statement in ")
    assert report.getvalue().endswith(", none of them redundant\n")


def test_a_report_of_what_is_redundant(mgr):
    report = Report()
    with analyze("redundant", report):
        for _ in range(2):
            ask(mgr.session(), 5)
        ask(mgr.session(), 5)
    summary, title, *lines = report.lines
    assert summary.endswith("2 of them redundant")
    assert title.startswith(f"3 times with the same parameters in {mgr.current_schema}, ")
    assert lines[:2] == ["  > SELECT %(number)s + 0", "  with {'number': 5}"]
    assert lines[2].startswith(f"  at {HERE}:")
    assert lines[2].endswith("(2 times)")
    assert lines[3].startswith(f"  at {HERE}:")
    assert len(lines) == 4


def test_a_report_of_a_loop_that_reads(mgr):
    report = Report()
    with analyze("redundant", report):
        for document in mgr.session().scalars(select(Document)):
            _ = document.pages
    assert report.lines[0].endswith(", none of them redundant, 4 in loops (n+1)")
    assert "4 times from the same place with other parameters (n+1)" in report.lines[1]
    assert "selectinload() or joinedload()" in report.lines[-1]
    assert "in_()" in report.lines[-1]


def test_a_report_of_a_loop_that_writes(mgr):
    report = Report()
    with analyze("redundant", report):
        for number in range(3):
            mgr.session().execute(insert(Document).values(owner=str(number)))
    assert "give the sets of parameters to a single execute()" in report.lines[-1]


def test_a_report_of_everything_comes_as_it_runs(mgr):
    report = Report()
    with analyze("all", report):
        ask(mgr.session(), 5)
        lines = report.lines
        assert lines[:2] == ["> SELECT %(number)s + 0", "  with {'number': 5}"]
        assert lines[2].startswith(f"  at {HERE}:")
        assert lines[3].startswith("  took ")
        mgr.session().execute(insert(Page), [{"document_id": 1, "text": "x"}] * 2)
        assert report.lines[-1].endswith(" for 2 rows")
    assert report.lines[-1].startswith("2 statements in ")


def test_the_report_appears_in_spite_of_an_error(mgr):
    report = Report()
    with pytest.raises(ZeroDivisionError), analyze("summary", report):
        ask(mgr.session())
        raise ZeroDivisionError
    assert report.getvalue().startswith("1 statement in ")


@pytest.mark.parametrize("report", ["everything", "", None, "ALL"])
def test_another_report_is_refused(report):
    refused = pytest.raises(ConfigurationError, match="use one of summary, redundant, all")
    with refused as caught, analyze_sql_queries(report):
        pytest.fail("the block runs")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, OrmError)
    assert not Engine._has_events


class Terminal(Report):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that knows colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_gets_colours(mgr, colours):
    report = Terminal()
    with analyze("all", report):
        mgr.session().execute(text("SELECT '[red]', 12"))
    assert "\x1b[" in report.getvalue()
    assert "> SELECT '[red]', 12\n" in report.getvalue()


def test_a_file_gets_no_colours(mgr, colours):
    report = Report()
    with analyze("all", report):
        ask(mgr.session())
    assert "\x1b" not in report.getvalue()


def test_without_rich_there_are_no_colours(mgr, colours, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    report = Terminal()
    with analyze("all", report):
        ask(mgr.session())
    assert "\x1b" not in report.getvalue()


def test_it_may_decorate_a_function(mgr, capsys):
    @analyze_sql_queries("summary")
    def view() -> None:
        ask(mgr.session())

    view()
    view()
    assert capsys.readouterr().err.count("1 statement in") == 2


# -- whose statements


def test_blocks_nest(mgr):
    with analyze() as outer:
        ask(mgr.session())
        with analyze() as inner:
            ask(mgr.session())
        ask(mgr.session())
    assert (outer.count, inner.count) == (3, 1)


def test_a_block_that_ends_before_an_inner_one(mgr):
    with ExitStack() as first, ExitStack() as second:
        one = first.enter_context(analyze())
        two = second.enter_context(analyze())
        first.close()
        ask(mgr.session())
    assert (one.count, two.count) == (0, 1)


def test_another_threads_statements_are_not_counted(mgr):
    with analyze() as analysis:
        in_thread(lambda: ask(mgr.session()), mgr)
        ask(mgr.session())
    assert analysis.count == 1


def test_each_thread_has_its_own_block(mgr):
    counts = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(20):
            with analyze() as analysis:
                for _ in range(number):
                    ask(mgr.session())
            counts.append(analysis.count == number)

    threads = [threading.Thread(target=in_schema, args=(mgr, work, each)) for each in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [True] * 80


def in_schema(mgr: Any, work: Callable[..., None], *args: Any) -> None:
    with mgr.schema(BERN):
        work(*args)


def in_thread(work: Callable[..., None], mgr: Any) -> None:
    thread = threading.Thread(target=in_schema, args=(mgr, work))
    thread.start()
    thread.join()


@in_loop
async def test_tasks_have_their_own_blocks(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    await mgr.ensure_schema_exists(BERN)

    async def work(number: int) -> int:
        with analyze() as analysis:
            async with mgr.schema(BERN) as session:
                for _ in range(number):
                    await session.execute(text("SELECT 1"))
        return analysis.count

    assert await asyncio.gather(*map(work, range(1, 6))) == [1, 2, 3, 4, 5]


@in_loop
async def test_tasks_that_a_block_starts_belong_to_it(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    await mgr.ensure_schema_exists(BERN)
    is_over = asyncio.Event()

    async def work(wait: bool) -> None:
        async with mgr.schema(BERN) as session:
            await session.execute(text("SELECT 1"))
            if wait:
                await is_over.wait()
                await session.execute(text("SELECT 2"))

    with analyze() as analysis:
        outliving = asyncio.create_task(work(wait=True))
        await asyncio.gather(work(wait=False), work(wait=False))
    with analyze() as later:
        is_over.set()
        await outliving
    assert {query.statement for query in analysis.queries} == {"SELECT 1"}
    assert later.count == 0


# -- what is left


def listeners() -> list[Any]:
    """Return who listens to all engines."""
    engine = create_engine("postgresql+psycopg2://")
    names = engine.dispatch._event_names
    return [each for name in names for each in getattr(engine.dispatch, name)]


def test_no_listener_is_left(mgr):
    before = listeners()
    with analyze(), analyze():
        ask(mgr.session())
        assert len(listeners()) == len(before) + 2
    assert listeners() == before
    assert not mgr.engine._has_events


def test_listeners_of_others_stay(mgr):
    heard = []

    def hear(*args: Any) -> None:
        heard.append(args)

    with analyze():
        event.listen(Engine, "after_cursor_execute", hear)
    try:
        ask(mgr.session())
        with analyze():
            ask(mgr.session())
        ask(mgr.session())
        assert len(heard) == 3
        assert Engine._has_events
    finally:
        event.remove(Engine, "after_cursor_execute", hear)
        Engine._has_events = False


def test_a_statement_that_runs_meanwhile_is_not_harmed(mgr):
    """SQLAlchemy can't remove a listener while it iterates over them."""
    is_running, may_go_on = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def stop(*_: Any) -> None:
        is_running.set()
        may_go_on.wait(30)

    def work() -> None:
        try:
            ask(mgr.session())
        except RuntimeError as exc:
            errors.append(exc)

    event.listen(Engine, "before_cursor_execute", stop)
    try:
        with analyze():
            thread = threading.Thread(target=in_schema, args=(mgr, work))
            thread.start()
            assert is_running.wait(30)
        may_go_on.set()
        thread.join()
        assert errors == []
    finally:
        event.remove(Engine, "before_cursor_execute", stop)
        Engine._has_events = False
    with analyze():
        pass
    assert listeners() == []
