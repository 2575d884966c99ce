"""How sessions take part in transactions, and how long they live."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import transaction
from psycopg2 import errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from onegov_orm._attempts import is_retryable
from onegov_orm.errors import NoCurrentSchema
from tests.models import Base, Document

OWNERS = "SELECT owner FROM documents ORDER BY id"


def add(mgr, owner="ada", **values):
    document = Document(owner=owner, **values)
    mgr.session().add(document)
    mgr.session().flush()
    return document


def owners(mgr, schema=None):
    """Return what is committed, read in a transaction of its own."""
    with mgr.schema(schema or mgr.current_schema) as session:
        return session.scalars(text(OWNERS)).all()


class Participant:
    """A data manager of somebody else's, which fails in one method."""

    transaction_manager = transaction.manager

    def __init__(self, key, failing=None):
        self.key = key
        self.calls = []
        self.failing = failing

    def sortKey(self):  # noqa: N802 the name is the transaction package's
        return self.key

    def __getattr__(self, name):
        if name not in ("abort", "tpc_begin", "commit", "tpc_vote", "tpc_finish", "tpc_abort"):
            raise AttributeError(name)

        def call(trans):
            self.calls.append(name)
            if name == self.failing:
                raise ZeroDivisionError

        return call


# -- beside others


@pytest.mark.parametrize("key", ["a before", "~~~ after"])
def test_a_participant_that_votes_yes(mgr, listen, key):
    listener, participant = listen(mgr), Participant(key)
    add(mgr)
    transaction.get().join(participant)
    transaction.commit()
    assert participant.calls == ["tpc_begin", "commit", "tpc_vote", "tpc_finish"]
    assert listener.net() == [("insert", "ada")]


@pytest.mark.parametrize("method", ["tpc_begin", "commit", "tpc_vote"])
def test_a_participant_that_fails_before_us(mgr, listen, method):
    listener, ran = listen(mgr), []
    add(mgr)
    mgr.after_commit(lambda: ran.append("commit"))
    mgr.after_abort(lambda: ran.append("abort"))
    transaction.get().join(Participant("a before", method))
    with pytest.raises(ZeroDivisionError):
        transaction.commit()
    transaction.abort()
    assert (listener.commits, ran, owners(mgr)) == ([], ["abort"], [])


def test_a_participant_that_fails_after_our_commit(mgr, listen, caplog):
    listener, ran = listen(mgr), []
    add(mgr)
    mgr.after_commit(lambda: ran.append("commit"))
    transaction.get().join(Participant("~~~ after", "tpc_vote"))
    with pytest.raises(ZeroDivisionError):
        transaction.commit()
    transaction.abort()
    assert (listener.commits, ran) == ([], [])
    assert "committed but not announced" in caplog.text
    assert owners(mgr) == ["ada"]


def test_raw_sql_is_committed(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    mgr.set_current_schema("towns-bern")
    mgr.session().execute(text("INSERT INTO documents (owner) VALUES ('ada')"))
    transaction.commit()
    assert owners(mgr) == ["ada"]


def test_raw_sql_is_aborted(mgr):
    mgr.session().execute(text("INSERT INTO documents (owner) VALUES ('ada')"))
    transaction.abort()
    assert owners(mgr) == []


def test_savepoints_of_the_transaction(mgr):
    mgr.session().execute(text("INSERT INTO documents (owner) VALUES ('before')"))
    savepoint = transaction.savepoint()
    mgr.session().execute(text("INSERT INTO documents (owner) VALUES ('inside')"))
    savepoint.rollback()
    add(mgr, "after")
    transaction.commit()
    assert owners(mgr) == ["before", "after"]


def test_a_commit_past_the_transaction_manager_is_refused(mgr):
    add(mgr)
    with pytest.raises(AssertionError, match="transaction manager"):
        mgr.session().commit()


def test_a_session_announces_that_it_begins(mgr):
    began = []

    @mgr.on_transaction_join.connect
    def note(schema, session):
        began.append((schema, session))

    session = mgr.session()
    assert began == []
    with session.begin_nested():
        add(mgr)
    assert began == [(mgr.current_schema, session)]
    transaction.commit()
    assert len(began) == 1


def test_a_session_takes_no_connection_before_its_first_statement(mgr):
    out = mgr.engine.pool.checkedout()
    session = mgr.session()
    session.add(Document(owner="ada"))
    assert mgr.engine.pool.checkedout() == out
    session.flush()
    assert mgr.engine.pool.checkedout() == out + 1
    transaction.abort()
    assert mgr.engine.pool.checkedout() == out


# -- sessions that are kept


@pytest.fixture
def keeping(shared_dsn, new_manager, new_name):
    manager = new_manager(shared_dsn, Base, keep_session=True)
    manager.set_current_schema(new_name())
    return manager


def test_a_kept_session_keeps_its_objects(keeping):
    document = add(keeping)
    transaction.commit()
    assert document in keeping.session()
    assert document.owner == "ada"


def test_a_kept_session_is_rolled_back_by_an_abort(keeping):
    add(keeping, "aborted")
    transaction.abort()
    add(keeping, "committed")
    transaction.commit()
    assert owners(keeping) == ["committed"]


def test_a_kept_session_gives_its_connection_back(keeping):
    add(keeping)
    transaction.abort()
    assert keeping.engine.pool.checkedout() == 0
    add(keeping)
    transaction.commit()
    assert keeping.engine.pool.checkedout() == 0


def test_a_kept_session_obeys_a_savepoint_from_before_it_joined(keeping):
    savepoint = transaction.savepoint()
    add(keeping, "inside")
    savepoint.rollback()
    add(keeping, "after")
    transaction.commit()
    assert owners(keeping) == ["after"]


def test_a_kept_session_recovers_from_a_failed_commit(keeping):
    keeping.session().add(Document(owner=None))
    with pytest.raises(IntegrityError):
        transaction.commit()
    transaction.abort()
    add(keeping)
    transaction.commit()
    assert owners(keeping) == ["ada"]


# -- attempts


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


numbers = itertools.count()


def fail_to_serialize(mgr, session):
    """Make the session's transaction fail at the end at the latest."""
    session.query(Document).first().owner = f"slow {next(numbers)}"
    with mgr.schema(mgr.current_schema) as fast:
        fast.query(Document).first().owner = f"fast {next(numbers)}"


@pytest.mark.parametrize("mode", ["mgr", "plain"])
def test_a_serialization_failure_is_tried_again(request, mode, waits, listen):
    mgr = request.getfixturevalue(mode)
    with mgr.schema(mgr.current_schema):
        add(mgr)
    listener, ran, numbers = listen(mgr, "on_commit"), [], []
    for attempt in mgr.attempts():
        with attempt as session:
            numbers.append(attempt.number)
            mgr.after_commit(lambda number=attempt.number: ran.append(("commit", number)))
            mgr.after_abort(lambda number=attempt.number: ran.append(("abort", number)))
            if attempt.number == 1:
                fail_to_serialize(mgr, session)
            session.query(Document).one().owner = "again"
    assert numbers == [1, 2]
    assert ran == [("abort", 1), ("commit", 2)]
    assert [changes.updates for _schema, changes in listener.commits][-1]
    assert len(listener.commits) == 2
    assert owners(mgr) == ["again"]


def test_the_original_error_is_raised_when_the_tries_are_used_up(mgr, waits):
    with mgr.schema(mgr.current_schema):
        add(mgr)
    numbers = []
    with pytest.raises(OperationalError, match="serialize"):
        for attempt in mgr.attempts(tries=4):
            with attempt as session:
                numbers.append(attempt.number)
                fail_to_serialize(mgr, session)
    assert numbers == [1, 2, 3, 4]
    assert len(waits) == 3
    assert all(0 <= wait <= 0.02 * 2**number for number, wait in enumerate(waits))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_another_error_is_not_tried_again(mgr, waits, error):
    numbers = []
    with pytest.raises(error):
        for attempt in mgr.attempts():
            with attempt:
                numbers.append(attempt.number)
                add(mgr)
                raise error
    assert (numbers, waits, owners(mgr)) == ([1], [], [])


def test_an_integrity_error_is_not_tried_again(mgr, waits):
    with pytest.raises(IntegrityError):
        for attempt in mgr.attempts():
            with attempt as session:
                session.add(Document(owner=None))
    assert waits == []


def test_no_tries_make_no_sense(mgr):
    with pytest.raises(ValueError, match="at least 1"):
        list(mgr.attempts(tries=0))


def test_attempts_may_stand_in_a_function(mgr):
    def work():
        for attempt in mgr.attempts():
            with attempt:
                return add(mgr).id
        raise AssertionError

    assert work() is not None
    assert owners(mgr) == ["ada"]


def test_attempts_in_a_block(mgr, new_name, waits):
    with mgr.schema(mgr.current_schema):
        add(mgr)
    with mgr.schema(mgr.current_schema):
        for attempt in mgr.attempts():
            with attempt as session:
                if attempt.number == 1:
                    fail_to_serialize(mgr, session)
                add(mgr, "again")
    assert [owner.partition(" ")[0] for owner in owners(mgr)] == ["fast", "again"]


def test_a_deadlock_is_tried_again(dsn, new_manager):
    mgr = new_manager(dsn, Base, isolation_level="READ COMMITTED")
    mgr.set_current_schema("towns-bern")
    with mgr.schema("towns-bern"):
        keys = [add(mgr, "a").id, add(mgr, "b").id]
    barrier, tries = threading.Barrier(2), []

    def work(order):
        mgr.set_current_schema("towns-bern")
        for attempt in mgr.attempts(tries=5):
            with attempt as session:
                tries.append(attempt.number)
                session.get(Document, order[0]).title = "x"
                session.flush()
                if attempt.number == 1:
                    barrier.wait(timeout=10)
                session.get(Document, order[1]).title = "x"

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [keys, keys[::-1]]))
    # The one that is tried again may meet the other, still at work, once more.
    assert tries.count(1) == 2
    assert max(tries) > 1


def test_a_changed_cached_plan_is_tried_again(databases, database, new_manager, waits, outside):
    dsn = databases.server.dsn(database, driver="psycopg", tcp=False)
    mgr = new_manager(dsn, Base, {"connect_args": {"prepare_threshold": 1}})
    mgr.set_current_schema("towns-bern")
    query, numbers = text("SELECT * FROM documents"), []
    for _ in range(3):
        mgr.session().execute(query).all()
        transaction.commit()
    outside(dsn)('ALTER TABLE "towns-bern".documents ADD COLUMN more text')
    for attempt in mgr.attempts():
        with attempt as session:
            numbers.append(attempt.number)
            assert "more" in session.execute(query).keys()  # noqa: SIM118 it is no dictionary
    assert numbers == [1, 2]


class Diagnostics:
    source_function = "RevalidateCachedQuery"


class TranslatedError(Exception):
    sqlstate = "0A000"
    diag = Diagnostics


def test_which_errors_are_retryable():
    def wrapped(original):
        return DBAPIError("SELECT 1", {}, original)

    state = {"pgcode": "40P01"}
    assert is_retryable(wrapped(type("Deadlock", (Exception,), state)()))
    assert is_retryable(wrapped(TranslatedError("Plan darf nicht anders werden")))
    assert not is_retryable(wrapped(type("Other", (Exception,), {"pgcode": "0A000"})()))
    assert not is_retryable(wrapped(errors.UniqueViolation()))
    assert not is_retryable(ValueError())


# -- blocks


def test_a_block_commits_and_restores_what_was_current(mgr, new_name):
    before, other = mgr.current_schema, new_name()
    with mgr.schema(other) as session:
        assert (mgr.current_schema, mgr.session()) == (other, session)
        assert session.info["schema"] == other
        add(mgr)
    assert mgr.current_schema == before
    assert owners(mgr, other) == ["ada"]


def test_a_block_aborts_and_restores_what_was_current(mgr, new_name):
    before, other = mgr.current_schema, new_name()
    with pytest.raises(ZeroDivisionError), mgr.schema(other):
        add(mgr)
        _ = 1 / 0
    assert mgr.current_schema == before
    assert owners(mgr, other) == []


def test_a_block_without_anything_before_it(shared_dsn, new_manager, new_name):
    mgr = new_manager(shared_dsn, Base)
    with mgr.schema(new_name()):
        add(mgr)
    assert mgr.current_schema is None
    with pytest.raises(NoCurrentSchema):
        mgr.session()


def test_a_block_that_fails_to_commit_restores_too(mgr, new_name):
    before = mgr.current_schema
    with pytest.raises(IntegrityError), mgr.schema(new_name()) as session:
        session.add(Document(owner=None))
    assert mgr.current_schema == before
    assert mgr.engine.pool.checkedout() == 0


@pytest.mark.parametrize("mode", ["mgr", "plain"])
def test_a_decorator(request, mode, new_name):
    mgr, schema = request.getfixturevalue(mode), new_name()

    @mgr.schema(schema)
    def work(owner):
        add(mgr, owner)
        return mgr.current_schema

    assert [work("ada"), work("bob")] == [schema, schema]
    assert owners(mgr, schema) == ["ada", "bob"]


@pytest.mark.parametrize("mode", ["mgr", "plain"])
@pytest.mark.parametrize("inner", ["same", "other"])
def test_the_inner_commit_leaves_the_outer_open(request, mode, inner, new_name):
    mgr = request.getfixturevalue(mode)
    outer = mgr.current_schema
    other = outer if inner == "same" else new_name()
    with pytest.raises(ZeroDivisionError), mgr.schema(outer) as session:
        add(mgr, "outer")
        with mgr.schema(other) as inside:
            assert inside is not session
            add(mgr, "inner")
        assert mgr.session() is session
        add(mgr, "outer")
        _ = 1 / 0
    assert owners(mgr, other) == ["inner"]
    assert "outer" not in owners(mgr, outer)


@pytest.mark.parametrize("mode", ["mgr", "plain"])
def test_the_inner_failure_leaves_the_outer_open(request, mode, new_name):
    mgr = request.getfixturevalue(mode)
    with mgr.schema(mgr.current_schema):
        add(mgr, "outer")
        with pytest.raises(ZeroDivisionError), mgr.schema(new_name()):
            add(mgr, "inner")
            _ = 1 / 0
        add(mgr, "after")
    assert owners(mgr) == ["outer", "after"]


def test_a_block_leaves_the_threads_transaction_alone(mgr, new_name):
    add(mgr, "around")
    with mgr.schema(new_name()):
        add(mgr, "inside")
    transaction.abort()
    assert owners(mgr) == []


def test_a_doomed_block_writes_nothing(mgr):
    with mgr.schema(mgr.current_schema):
        add(mgr)
        transaction.doom()
    assert owners(mgr) == []


def test_a_generator_with_a_block(mgr):
    def numbers():
        with mgr.schema(mgr.current_schema):
            add(mgr, "one")
            yield 1
            add(mgr, "two")
            yield 2

    before = mgr.current_schema
    assert list(numbers()) == [1, 2]
    assert mgr.current_schema == before
    assert owners(mgr) == ["one", "two"]


def test_a_generator_that_is_not_finished_aborts(mgr):
    def numbers():
        with mgr.schema(mgr.current_schema):
            add(mgr, "one")
            yield 1

    generator = numbers()
    next(generator)
    generator.close()
    assert owners(mgr) == []
    assert mgr.engine.pool.checkedout() == 0


def test_a_generator_that_another_thread_closes_leaves_that_thread_alone(mgr, new_name):
    def work():
        with mgr.schema(new_name()):
            add(mgr)
            yield

    def begin():
        generator = work()
        next(generator)
        generators.append(generator)

    generators, before = [], (mgr.current_schema, transaction.manager.manager)
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    generators.pop().close()
    assert (mgr.current_schema, transaction.manager.manager) == before
    assert mgr.engine.pool.checkedout() == 0


def test_a_block_closes_its_session(mgr):
    with mgr.schema(mgr.current_schema) as session:
        document = add(mgr)
    assert document not in session
    assert document.owner == "ada"
    assert mgr.engine.pool.checkedout() == 0


def test_both_schemas_of_one_block_are_committed(mgr, new_name):
    first, second = mgr.current_schema, new_name()
    with mgr.schema(first):
        add(mgr, "first")
        mgr.set_current_schema(second)
        add(mgr, "second")
    assert mgr.current_schema == first
    assert (owners(mgr, first), owners(mgr, second)) == (["first"], ["second"])


# -- the scope of sessions


def test_the_same_scope_has_the_same_session(mgr):
    session = mgr.session()
    add(mgr)
    assert mgr.session() is session
    transaction.commit()
    assert mgr.session() is session


def test_two_schemas_side_by_side_in_one_transaction(mgr, new_name):
    first, second = mgr.current_schema, new_name()
    one = mgr.session()
    mgr.set_current_schema(second)
    two = mgr.session()
    one.add(Document(owner="one"))
    two.add(Document(owner="two"))
    one.flush()
    two.flush()
    assert one.query(Document.owner).all() == [("one",)]
    assert two.query(Document.owner).all() == [("two",)]
    transaction.commit()
    assert (owners(mgr, first), owners(mgr, second)) == (["one"], ["two"])


def test_each_thread_has_its_own(mgr):
    found = {}

    def work(number):
        mgr.set_current_schema(schema)
        found[number] = mgr.session()
        add(mgr, str(number))
        transaction.commit()

    schema = mgr.current_schema
    for number in range(3):
        thread = threading.Thread(target=work, args=(number,))
        thread.start()
        thread.join()
    assert len({id(session) for session in [mgr.session(), *found.values()]}) == 4
    assert owners(mgr) == ["0", "1", "2"]


def test_a_new_thread_has_no_schema(mgr):
    found = []

    def work():
        try:
            mgr.session()
        except NoCurrentSchema as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 1


def test_a_finished_thread_releases_what_it_had(mgr):
    sessions, schema = [], mgr.current_schema

    def work():
        mgr.set_current_schema(schema)
        add(mgr)
        sessions.append(weakref.ref(mgr.session()))

    gc.disable()
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert mgr.engine.pool.checkedout() == 0
    finally:
        gc.enable()
    gc.collect()
    assert sessions[0]() is None
    assert owners(mgr) == []


def test_tasks_have_their_own_sessions(plain, new_name):
    names = [new_name(), new_name()]

    async def work(name):
        with plain.schema(name) as session:
            add(plain, name)
            await asyncio.sleep(0.01)
            assert (plain.session(), plain.current_schema) == (session, name)
            add(plain, name)

    async def main():
        await asyncio.gather(*(work(name) for name in names))

    asyncio.run(main())
    for name in names:
        assert owners(plain, name) == [name, name]


def test_blocks_in_tasks_commit_for_themselves(mgr, new_name):
    names = [new_name(), new_name()]
    for name in names:
        mgr.ensure_schema_exists(name)

    async def work(name, fails):
        with mgr.schema(name):
            add(mgr, name)
            await asyncio.sleep(0.01)
            if fails:
                raise ZeroDivisionError

    async def main():
        results = [work(names[0], False), work(names[1], True)]
        return await asyncio.gather(*results, return_exceptions=True)

    results = asyncio.run(main())
    assert [type(result) for result in results] == [type(None), ZeroDivisionError]
    assert (owners(mgr, names[0]), owners(mgr, names[1])) == ([names[0]], [])


def test_finished_tasks_release_what_they_had(plain):
    schema = plain.current_schema

    async def work():
        plain.set_current_schema(schema)
        add(plain)
        return weakref.ref(plain.session())

    async def main():
        return await asyncio.create_task(work())

    reference = asyncio.run(main())
    gc.collect()
    assert reference() is None
    assert plain.engine.pool.checkedout() == 0
    assert owners(plain) == []


def test_a_task_does_not_change_its_parents_schema(plain, new_name):
    async def child():
        plain.set_current_schema(new_name())

    async def main():
        before = plain.current_schema
        await asyncio.create_task(child())
        assert plain.current_schema == before

    asyncio.run(main())


# -- plain sessions


def test_a_plain_session_commits_by_itself(plain):
    add(plain)
    transaction.abort()
    plain.session().commit()
    assert owners(plain) == ["ada"]


def test_a_plain_session_begins_by_itself(plain):
    with plain.session().begin():
        add(plain)
    assert owners(plain) == ["ada"]


def test_the_commit_of_a_failed_transaction_raises(dsn, new_manager, listen):
    mgr = new_manager(dsn, Base, transaction_manager=None)
    mgr.set_current_schema("towns-bern")
    listener, ran = listen(mgr, "on_commit"), []
    add(mgr)
    mgr.after_commit(lambda: ran.append(1))
    with pytest.raises(DBAPIError):
        mgr.session().execute(text("SELECT 1 / 0"))
    with pytest.raises(DBAPIError):
        mgr.session().commit()
    mgr.session().rollback()
    assert (listener.commits, ran, owners(mgr)) == ([], [], [])


# -- transaction managers of the caller's


@pytest.fixture(params=[False, True], ids=["implicit", "explicit"])
def own(request, shared_dsn, new_manager, new_name):
    """A manager with a transaction manager that no other thread knows of."""
    transactions = transaction.TransactionManager(explicit=request.param)
    mgr = new_manager(shared_dsn, Base, transaction_manager=transactions)
    mgr.set_current_schema(new_name())
    yield mgr
    if transactions._txn is not None:
        transactions.abort()


def test_a_transaction_manager_of_the_callers(own, listen):
    listener = listen(own, "on_commit")
    with own.transaction_manager:
        add(own)
        own.after_commit(lambda: counts.append(own.session().query(Document).count()))
        counts = []
    assert (counts, listener.net()) == ([1], [("insert", "ada")])
    assert own.transaction_manager._txn is None
    assert own.engine.pool.checkedout() == 0


def test_an_abort_of_the_callers_transaction_manager(own, listen):
    listener, counts = listen(own, "on_commit"), []
    with pytest.raises(ZeroDivisionError), own.transaction_manager:
        add(own)
        own.after_abort(lambda: counts.append(own.session().query(Document).count()))
        _ = 1 / 0
    assert (counts, listener.commits) == ([0], [])
    assert own.transaction_manager._txn is None
    assert own.engine.pool.checkedout() == 0


def test_a_hook_may_not_end_the_transaction_of_the_thread(mgr, listen):
    listener = listen(mgr, "on_commit")

    @mgr.after_commit
    def work():
        add(mgr, "hook")
        transaction.commit()

    add(mgr)
    transaction.commit()
    assert owners(mgr) == ["ada", "hook"]
    assert len(listener.commits) == 2
