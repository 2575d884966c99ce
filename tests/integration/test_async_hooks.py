"""What runs after a commit or an abort under asyncio, and what is tried again."""

from __future__ import annotations

import asyncio
import logging

import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from onegov_orm import SessionManager
from onegov_orm._attempts import is_retryable
from onegov_orm.errors import ConfigurationError, NoCurrentSchema
from tests.asynchronous import BASEL, BERN, in_loop, out, owners, settle
from tests.models import Base, Document

# -- hooks


def hooks_of(mgr, ran):
    """Add hooks of both kinds for both ends."""
    for number in range(4):

        def plain(number=number):
            ran.append(("commit", number))

        async def waiting(number=number):
            await asyncio.sleep(0)
            ran.append(("commit", number))

        mgr.after_commit(waiting if number % 2 else plain)

    @mgr.after_abort
    async def aborted():
        await asyncio.sleep(0)
        ran.append(("abort", 0))

    @mgr.after_abort
    def aborted_too():
        ran.append(("abort", 1))


IN_ORDER = [("commit", number) for number in range(4)]
ABORTED = [("abort", 0), ("abort", 1)]


@in_loop
async def test_hooks_run_in_order_after_a_block(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    async with mgr.schema(BERN) as session:
        hooks_of(mgr, ran)
        session.add(Document(owner="ada"))
        await session.flush()
        assert ran == []
    assert ran == IN_ORDER


@in_loop
async def test_hooks_run_even_if_nothing_was_sent(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    async with mgr.schema(BERN):
        hooks_of(mgr, ran)
    assert ran == IN_ORDER


@pytest.mark.parametrize("is_used", [True, False])
@in_loop
async def test_hooks_of_an_abort(async_plain_dsn, new_async_manager, is_used):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    with pytest.raises(ZeroDivisionError):
        async with mgr.schema(BERN) as session:
            hooks_of(mgr, ran)
            if is_used:
                await session.execute(text("SELECT 1"))
            raise ZeroDivisionError
    assert ran == ABORTED


@in_loop
async def test_hooks_of_a_session_outside_a_block(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    await mgr.set_current_schema(BERN)
    hooks_of(mgr, ran)
    await mgr.session().execute(text("SELECT 1"))
    await mgr.session().commit()
    assert ran == IN_ORDER
    hooks_of(mgr, ran)
    await mgr.session().execute(text("SELECT 1"))
    await mgr.session().rollback()
    assert ran == IN_ORDER + ABORTED


@in_loop
async def test_a_hook_runs_once(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    await mgr.set_current_schema(BERN)
    mgr.after_commit(lambda: ran.append(1))
    for _ in range(3):
        await mgr.session().execute(text("SELECT 1"))
        await mgr.session().commit()
    assert ran == [1]


@in_loop
async def test_a_hook_of_a_failing_commit_is_dropped(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    with pytest.raises(IntegrityError):
        async with mgr.schema(BERN) as session:
            hooks_of(mgr, ran)
            await session.execute(text("CREATE TABLE parents (id int PRIMARY KEY)"))
            await session.execute(
                text(
                    "CREATE TABLE children"
                    " (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
                )
            )
            await session.execute(text("INSERT INTO children VALUES (1)"))
    assert (ran, out(mgr)) == (ABORTED, 0)


@in_loop
async def test_a_hook_sees_what_is_committed_and_may_work(async_plain_dsn, new_async_manager):
    mgr, found = await settle(new_async_manager(async_plain_dsn, Base)), []
    async with mgr.schema(BERN) as session:
        document = Document(owner="ada")
        session.add(document)

        @mgr.after_commit
        async def look():
            found.append((mgr.current_schema, document.owner, out(mgr)))
            async with mgr.schema(BASEL) as other:
                other.add(Document(owner="by hook"))
            found.append(await owners(mgr, BERN))

    assert found == [(BERN, "ada", 0), [BERN, "ada"]]
    assert await owners(mgr, BASEL) == [BASEL, "by hook"]


@in_loop
async def test_an_error_in_a_hook_reaches_the_log_and_nobody_else(
    async_plain_dsn, new_async_manager, caplog
):
    mgr, ran, errors = await settle(new_async_manager(async_plain_dsn, Base)), [], []

    @mgr.on_hook_error.connect
    def track(schema, error, hook):
        errors.append((schema, type(error)))

    @mgr.on_commit.connect
    async def index(schema, changes):
        raise LookupError

    async with mgr.schema(BERN) as session:
        session.add(Document(owner="ada"))

        @mgr.after_commit
        async def fail():
            await asyncio.sleep(0)
            raise ZeroDivisionError

        mgr.after_commit(lambda: 1 / 0)
        mgr.after_commit(lambda: ran.append("last"))
    assert errors == [(BERN, LookupError), (BERN, ZeroDivisionError), (BERN, ZeroDivisionError)]
    assert (ran, await owners(mgr, BERN)) == (["last"], [BERN, "ada"])
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {record.schema for record in records} == {BERN}


@in_loop
async def test_an_error_tracker_may_be_a_coroutine_function(async_plain_dsn, new_async_manager):
    mgr, errors = await settle(new_async_manager(async_plain_dsn, Base)), []

    @mgr.on_hook_error.connect
    async def track(schema, error, hook):
        await asyncio.sleep(0)
        errors.append((schema, type(error)))

    async with mgr.schema(BERN) as session:
        await session.execute(text("SELECT 1"))
        mgr.after_commit(lambda: 1 / 0)
    assert errors == [(BERN, ZeroDivisionError)]


@in_loop
async def test_hooks_are_the_tasks_own(async_plain_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []

    async def child(number):
        with pytest.raises(ZeroDivisionError):
            async with mgr.schema(BERN):
                mgr.after_commit(lambda: ran.append(("lost", number)))
                raise ZeroDivisionError

    async with mgr.schema(BERN) as session:
        await session.execute(text("SELECT 1"))
        mgr.after_commit(lambda: ran.append("kept"))
        await asyncio.gather(child(1), child(2))
        assert ran == []
    assert ran == ["kept"]


@in_loop
async def test_a_hook_without_a_schema_guesses_none(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    with pytest.raises(NoCurrentSchema):
        mgr.after_commit(lambda: None)


def test_a_synchronous_manager_refuses_coroutine_functions(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base)
    mgr.set_current_schema(BERN)

    async def hook():
        raise AssertionError

    for method in (mgr.after_commit, mgr.after_abort):
        with pytest.raises(ConfigurationError, match="AsyncSessionManager"):
            method(hook)


@pytest.mark.parametrize("signal", ["on_insert", "on_schema_init"])
def test_a_synchronous_manager_refuses_coroutine_subscribers(plain_dsn, new_manager, signal):
    mgr = new_manager(plain_dsn, Base, transaction_manager=None)

    async def hear(schema, **others):
        raise AssertionError

    getattr(mgr, signal).connect(hear)
    with (
        pytest.raises(ConfigurationError, match="AsyncSessionManager"),
        mgr.schema(BERN) as session,
    ):
        session.add(Document(owner=BERN))


def test_a_synchronous_manager_reports_a_coroutine_subscriber_of_commits(
    plain_dsn, new_manager, caplog
):
    mgr: SessionManager = new_manager(plain_dsn, Base, transaction_manager=None)

    @mgr.on_commit.connect
    async def hear(schema, changes):
        raise AssertionError

    with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN))
    assert "AsyncSessionManager" in caplog.text


# -- attempts


@in_loop
async def test_an_attempt_commits_at_its_end(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    await mgr.set_current_schema(BERN)
    numbers = []
    async for attempt in mgr.attempts():
        async with attempt as session:
            numbers.append(attempt.number)
            session.add(Document(owner="ada"))
    assert (numbers, await owners(mgr, BERN)) == ([1], [BERN, "ada"])


@in_loop
async def test_serialization_failures_are_tried_again(async_plain_dsn, new_async_manager):
    """Each task counts up what it read; none of the counts is lost."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base), BERN)
    numbers = []

    async def count():
        async with mgr.schema(BERN):
            async for attempt in mgr.attempts(tries=50):
                async with attempt as session:
                    document = (await session.scalars(sa.select(Document))).one()
                    document.content = {"n": (document.content or {"n": 0})["n"] + 1}
            numbers.append(attempt.number)

    await asyncio.gather(*(count() for _ in range(6)))
    async with mgr.schema(BERN) as session:
        assert (await session.scalars(sa.select(Document.content))).one() == {"n": 6}
    assert (max(numbers) > 1, out(mgr)) == (True, 0)


@in_loop
async def test_deadlocks_are_tried_again(async_plain_dsn, new_async_manager):
    options = {"isolation_level": "READ COMMITTED"}
    mgr = await settle(new_async_manager(async_plain_dsn, Base, **options), BERN)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="other"))
    gate, numbers = asyncio.Barrier(2), []

    async def update(first, second):
        async with mgr.schema(BERN):
            async for attempt in mgr.attempts():
                async with attempt as session:
                    lock = text("UPDATE documents SET title = 'x' WHERE owner = :owner")
                    await session.execute(lock, {"owner": first})
                    if attempt.number == 1:
                        await gate.wait()
                    await session.execute(lock, {"owner": second})
            numbers.append(attempt.number)

    await asyncio.gather(update(BERN, "other"), update("other", BERN))
    assert sorted(numbers) == [1, 2]


@in_loop
async def test_other_errors_are_not_tried_again(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    await mgr.set_current_schema(BERN)
    numbers = []
    with pytest.raises(DBAPIError, match="division"):
        async for attempt in mgr.attempts():
            numbers.append(attempt.number)
            async with attempt as session:
                await session.execute(text("SELECT 1/0"))
    assert (numbers, out(mgr)) == ([1], 0)


async def conflict(session):
    """Raise a serialization failure."""
    raised = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"
    await session.execute(text(raised))


@in_loop
async def test_the_last_error_is_raised(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    await mgr.set_current_schema(BERN)
    numbers = []
    with pytest.raises(DBAPIError) as caught:
        async for attempt in mgr.attempts(tries=3):
            async with attempt as session:
                numbers.append(attempt.number)
                await conflict(session)
    assert is_retryable(caught.value)
    assert (numbers, out(mgr)) == ([1, 2, 3], 0)


@pytest.mark.parametrize("is_block", [False, True])
@in_loop
async def test_hooks_of_failed_attempts_are_dropped(async_plain_dsn, new_async_manager, is_block):
    mgr, ran, heard = await settle(new_async_manager(async_plain_dsn, Base)), [], []

    @mgr.on_commit.connect
    def note(schema, changes):
        heard.append([change.obj.owner for change in changes])

    async def work():
        async for attempt in mgr.attempts():
            async with attempt as session:
                number = attempt.number
                mgr.after_commit(lambda number=number: ran.append(("commit", number)))
                mgr.after_abort(lambda number=number: ran.append(("abort", number)))
                session.add(Document(owner=f"try {number}"))
                await session.flush()
                if number < 3:
                    await conflict(session)

    if is_block:
        async with mgr.schema(BERN):
            await work()
    else:
        await mgr.set_current_schema(BERN)
        await work()
    assert [entry for entry in ran if entry[0] == "commit"] == [("commit", 3)]
    assert heard == [["try 3"]]
    assert await owners(mgr, BERN) == [BERN, "try 3"]


@in_loop
async def test_a_conflict_of_the_commit_is_tried_again(async_plain_dsn, new_async_manager):
    """Under SERIALIZABLE a commit may be what fails."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base), BERN)
    gate, numbers = asyncio.Barrier(2), []

    async def add(owner):
        async with mgr.schema(BERN):
            async for attempt in mgr.attempts():
                async with attempt as session:
                    count = await session.scalar(sa.select(sa.func.count(Document.id)))
                    session.add(Document(owner=f"{owner} {count}"))
                    await session.flush()
                    if attempt.number == 1:
                        await gate.wait()
            numbers.append(attempt.number)

    await asyncio.gather(add("a"), add("b"))
    counts = sorted(owner.split()[1] for owner in (await owners(mgr, BERN))[1:])
    assert (counts, sorted(numbers)) == (["1", "2"], [1, 2])


@in_loop
async def test_a_cancelled_attempt_is_not_tried_again(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    numbers = []

    async def work():
        await mgr.set_current_schema(BERN)
        async for attempt in mgr.attempts():
            async with attempt as session:
                numbers.append(attempt.number)
                await session.execute(text("SELECT 1"))
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await work()
    assert (numbers, out(mgr)) == ([1], 0)


@pytest.mark.parametrize("is_attempt", [True, False])
@in_loop
async def test_hooks_of_what_was_committed_before_the_block_failed(
    async_plain_dsn, new_async_manager, is_attempt
):
    mgr, ran = await settle(new_async_manager(async_plain_dsn, Base)), []
    mgr.on_commit.connect(lambda schema, changes: ran.append("announced"), weak=False)

    def change(session):
        mgr.after_commit(lambda: ran.append("committed"))
        mgr.after_abort(lambda: ran.append("aborted"))
        session.add(Document(owner="ada"))

    with pytest.raises(ZeroDivisionError):
        async with mgr.schema(BERN) as session:
            if is_attempt:
                async for attempt in mgr.attempts():
                    async with attempt as session:
                        change(session)
            else:
                change(session)
                await session.commit()
            raise ZeroDivisionError
    assert await owners(mgr, BERN) == [BERN, "ada"]
    assert ran == ["announced", "committed"]
