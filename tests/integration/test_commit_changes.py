"""What is announced when a transaction is over: the net changes, and the hooks."""

from __future__ import annotations

import logging

import pytest
import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import DateTime, MetaData, event, func, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.models import Base, Document, Page


def add(mgr, owner="ada", **values):
    document = Document(owner=owner, **values)
    mgr.session().add(document)
    mgr.session().flush()
    return document


def saved(mgr, *owners):
    """Commit documents, and return the keys to find them with."""
    with mgr.schema(mgr.current_schema) as session:
        documents = [Document(owner=owner) for owner in owners or ("ada",)]
        session.add_all(documents)
        session.flush()
        return [document.id for document in documents]


def failing_at_commit(mgr):
    """Make the next commit fail, and no statement before it."""
    mgr.session().execute(
        text(
            "CREATE TABLE parents (id int PRIMARY KEY);"
            "CREATE TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO children VALUES (1)"
        )
    )


# -- once, with the net changes


def test_a_commit_is_announced_once_for_all_flushes(mgr, listen):
    listener = listen(mgr, "on_commit")
    document = add(mgr, "ada")
    add(mgr, "bob")
    document.title = "new"
    assert listener.commits == []
    transaction.commit()
    assert listener.net() == [("insert", "ada"), ("insert", "bob")]
    assert listener.commits[0][0] == mgr.current_schema
    transaction.commit()
    assert len(listener.commits) == 1


def test_a_change_set_leads_from_identity_keys_to_objects(mgr, listen):
    listener = listen(mgr, "on_commit")
    document = add(mgr)
    transaction.commit()
    [(_schema, changes)] = listener.commits
    assert dict(changes.inserts) == {(Document, (document.id,), None): document}
    assert (len(changes), bool(changes), dict(changes.updates)) == (1, True, {})
    with pytest.raises(TypeError):
        changes.inserts[1] = document


def test_nothing_changed_is_not_announced(mgr, listen):
    listener = listen(mgr, "on_commit")
    mgr.session().execute(text("SELECT 1"))
    transaction.commit()
    assert listener.commits == []


def test_raw_sql_alone_is_not_announced(mgr, listen):
    listener = listen(mgr, "on_commit")
    mgr.session().execute(text("INSERT INTO documents (owner) VALUES ('ada')"))
    transaction.commit()
    assert listener.commits == []


def insert_and_delete(session, key):
    document = Document(owner="new")
    session.add(document)
    session.flush()
    session.delete(document)


def insert_and_update(session, key):
    document = Document(owner="new")
    session.add(document)
    session.flush()
    document.owner = "newer"


def delete_and_insert(session, key):
    session.delete(session.get(Document, key))
    session.flush()
    session.add(Document(id=key, owner="again"))


def update_and_delete(session, key):
    document = session.get(Document, key)
    document.owner = "bob"
    session.flush()
    session.delete(document)


def delete_insert_and_delete(session, key):
    delete_and_insert(session, key)
    session.flush()
    session.delete(session.get(Document, key))


def change_the_key(session, key):
    session.get(Document, key).id = key + 100


def replace_in_one_flush(session, key):
    session.delete(session.get(Document, key))
    session.add(Document(id=key, owner="again"))


NET = {
    insert_and_delete: [],
    insert_and_update: [("insert", "newer")],
    delete_and_insert: [("update", "again")],
    update_and_delete: [("delete", "bob")],
    delete_insert_and_delete: [("delete", "again")],
    change_the_key: [("insert", "ada"), ("delete", "ada")],
    replace_in_one_flush: [("update", "again")],
}


@pytest.mark.parametrize("change", NET, ids=lambda change: change.__name__)
def test_changes_of_one_object_are_taken_together(mgr, listen, change):
    [key] = saved(mgr)
    listener = listen(mgr, "on_commit")
    change(mgr.session(), key)
    transaction.commit()
    assert ([] if not listener.commits else listener.net()) == NET[change]


def test_a_changed_key_leaves_the_old_one(mgr, listen):
    [key] = saved(mgr)
    listener = listen(mgr, "on_commit")
    change_the_key(mgr.session(), key)
    transaction.commit()
    [(_schema, changes)] = listener.commits
    assert [found[1] for found in changes.deletes] == [(key,)]
    assert [found[1] for found in changes.inserts] == [(key + 100,)]


def test_orphans_are_deletes(mgr, listen):
    document = add(mgr, pages=[Page(text="one")])
    transaction.commit()
    listener = listen(mgr, "on_commit")
    document = mgr.session().merge(document)
    document.pages.clear()
    transaction.commit()
    [(_schema, changes)] = listener.commits
    assert [obj.text for obj in changes.deletes.values()] == ["one"]


# -- savepoints


def test_a_released_savepoint_counts(mgr, listen):
    listener = listen(mgr, "on_commit")
    with mgr.session().begin_nested():
        add(mgr)
    assert listener.commits == []
    transaction.commit()
    assert listener.net() == [("insert", "ada")]


def test_a_savepoint_that_is_rolled_back_does_not(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr, "before")
    savepoint = mgr.session().begin_nested()
    add(mgr, "inside")
    savepoint.rollback()
    add(mgr, "after")
    transaction.commit()
    assert listener.net() == [("insert", "before"), ("insert", "after")]


def test_an_outer_savepoint_takes_the_inner_one_along(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr, "before")
    outer = mgr.session().begin_nested()
    with mgr.session().begin_nested():
        add(mgr, "released")
    mgr.session().begin_nested()
    add(mgr, "open")
    outer.rollback()
    transaction.commit()
    assert listener.net() == [("insert", "before")]


def test_an_error_in_a_savepoint_forgets_what_it_did(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr, "before")
    with pytest.raises(DBAPIError), mgr.session().begin_nested():
        add(mgr, "inside")
        add(mgr, None)
    transaction.commit()
    assert listener.net() == [("insert", "before")]


def test_a_savepoint_of_the_transaction_package(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr, "before")
    savepoint = transaction.savepoint()
    add(mgr, "inside")
    savepoint.rollback()
    transaction.commit()
    assert listener.net() == [("insert", "before")]


def test_a_savepoint_from_before_the_session_joined(mgr, listen):
    listener = listen(mgr, "on_commit")
    savepoint = transaction.savepoint()
    add(mgr, "inside")
    savepoint.rollback()
    add(mgr, "after")
    transaction.commit()
    assert listener.net() == [("insert", "after")]


def test_who_connects_inside_a_savepoint_hears_nothing_of_it_if_rolled_back(mgr, listen):
    savepoint = mgr.session().begin_nested()
    listener = listen(mgr, "on_commit")
    add(mgr)
    savepoint.rollback()
    transaction.commit()
    assert listener.commits == []


def test_many_savepoints_are_not_kept(mgr, listen):
    listen(mgr, "on_commit")
    session = mgr.session()
    for _ in range(20):
        with session.begin_nested():
            pass
    log = mgr._announcer.log_of(session)
    assert len(log._savepoints) <= 1


class Model:
    """The net changes by keys, computed from the rows before and after."""

    def __init__(self):
        self.rows, self.before, self.saved, self.touched = {}, {}, [], set()

    def net(self):
        kept = self.before.keys() & self.rows.keys()
        changed = {key for key in kept if self.rows[key] != self.before[key]}
        return (
            self.rows.keys() - self.before.keys(),
            changed,
            self.before.keys() - self.rows.keys(),
        )


KEYS = (1, 2, 3)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["add", "change", "delete"]), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["flush", "savepoint", "release", "rollback"]), st.just(0)),
)


def run_step(session, model, kind, key, number):
    """Do one step with the session and in the model, as far as it makes sense."""
    if kind == "add" and key not in model.rows:
        session.add(Document(id=key, owner=str(number)))
        model.rows[key] = number
    elif kind in ("change", "delete") and key in model.rows:
        session.flush()
        document = session.get(Document, key)
        if kind == "change":
            document.owner = str(number)
            model.rows[key] = number
        else:
            session.delete(document)
            del model.rows[key]
    elif kind == "flush":
        session.flush()
    elif kind == "savepoint":
        model.saved.append((session.begin_nested(), dict(model.rows)))
    elif kind in ("release", "rollback") and model.saved:
        savepoint, rows = model.saved.pop()
        if kind == "release":
            savepoint.commit()
        else:
            savepoint.rollback()
            model.rows = rows


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(transactions=st.lists(st.lists(STEPS, max_size=12), min_size=2, max_size=3))
def test_the_net_changes_are_those_of_the_database(mgr, listen, transactions):
    with mgr.schema(mgr.current_schema) as session:
        session.execute(text("DELETE FROM documents"))
    listener, model, number = listen(mgr, "on_commit"), Model(), 0
    for steps in transactions:
        model.before, model.saved = dict(model.rows), []
        listener.commits.clear()
        with mgr.schema(mgr.current_schema) as session:
            for kind, key in steps:
                number += 1
                run_step(session, model, kind, key, number)
        found = [changes for _schema, changes in listener.commits]
        told = [set(), set(), set()]
        for changes in found:
            for keys, part in zip(
                told, (changes.inserts, changes.updates, changes.deletes), strict=True
            ):
                keys.update(key[1][0] for key in part)
        assert tuple(told) == model.net()
        assert len(found) == bool(any(model.net()))
    mgr.on_commit.disconnect(listener.on_commit)


# -- never for what is not committed


def test_an_abort_is_not_announced(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr, "aborted")
    transaction.abort()
    add(mgr, "committed")
    transaction.commit()
    assert listener.net() == [("insert", "committed")]


def test_an_exception_in_a_block_is_not_announced(mgr, listen):
    listener = listen(mgr, "on_commit")
    with pytest.raises(ZeroDivisionError), mgr.schema(mgr.current_schema):
        add(mgr)
        _ = 1 / 0
    transaction.commit()
    assert listener.commits == []


def test_a_doomed_transaction_is_not_announced(mgr, listen):
    listener = listen(mgr, "on_commit")
    add(mgr)
    transaction.doom()
    with pytest.raises(transaction.interfaces.DoomedTransaction):
        transaction.commit()
    transaction.abort()
    with mgr.schema(mgr.current_schema):
        add(mgr)
        transaction.doom()
    assert listener.commits == []


def test_a_commit_that_fails_is_not_announced(mgr, listen, caplog):
    listener, ran = listen(mgr, "on_commit"), []
    add(mgr)
    mgr.after_commit(lambda: ran.append("commit"))
    mgr.after_abort(lambda: ran.append("abort"))
    failing_at_commit(mgr)
    with pytest.raises(DBAPIError, match="children"):
        transaction.commit()
    transaction.abort()
    assert (listener.commits, ran) == ([], ["abort"])
    add(mgr, "next")
    transaction.commit()
    assert listener.net() == [("insert", "next")]


def test_a_serialization_failure_is_not_announced(mgr, listen):
    [key] = saved(mgr)
    listener = listen(mgr, "on_commit")
    mgr.session().get(Document, key).owner = "slow"
    with mgr.schema(mgr.current_schema) as session:
        session.get(Document, key).owner = "fast"
    with pytest.raises(DBAPIError, match="serialize"):
        transaction.commit()
    transaction.abort()
    assert listener.net() == [("update", "fast")]


def test_a_failed_statement_that_was_swallowed_is_not_announced(dsn, new_manager, listen):
    mgr = new_manager(dsn, Base)
    mgr.set_current_schema("towns-bern")
    listener = listen(mgr, "on_commit")
    add(mgr)
    with pytest.raises(DBAPIError):
        mgr.session().execute(text("SELECT 1 / 0"))
    with pytest.raises(DBAPIError):
        transaction.commit()
    transaction.abort()
    assert listener.commits == []


# -- readable objects


class StampedBase(DeclarativeBase):
    metadata = MetaData()


class Stamped(StampedBase):
    __tablename__ = "stamped"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    changed: Mapped[str | None] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )


def in_transaction(mgr, work):
    work(mgr.session())
    transaction.commit()


def in_block(mgr, work):
    with mgr.schema(mgr.current_schema) as session:
        work(session)


def by_session(mgr, work):
    session = mgr.session()
    work(session)
    session.commit()
    assert not session.in_transaction()


def by_begin(mgr, work):
    session = mgr.session()
    with session.begin():
        work(session)
    assert not session.in_transaction()


JOINED, ALONE = {}, {"transaction_manager": None}
MODES = {
    "joined": (in_transaction, JOINED, {}),
    "joined, expiring": (in_transaction, JOINED, {"expire_on_commit": True}),
    "joined, kept": (in_transaction, {"keep_session": True}, {}),
    "joined, two phases": (in_transaction, JOINED, {"twophase": True}),
    "joined block": (in_block, JOINED, {}),
    "joined block, kept": (in_block, {"keep_session": True}, {}),
    "joined block, expiring": (in_block, JOINED, {"expire_on_commit": True}),
    "plain": (by_session, ALONE, {}),
    "plain, not expiring": (by_session, ALONE, {"expire_on_commit": False}),
    "plain, two phases": (by_session, ALONE, {"twophase": True}),
    "plain begin": (by_begin, ALONE, {}),
    "plain block": (in_block, ALONE, {}),
    "plain block, expiring": (in_block, ALONE, {"expire_on_commit": True}),
}

each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def stamped(shared_dsn, new_manager, new_name, mode):
    work, options, session_config = MODES[mode]
    mgr = new_manager(shared_dsn, StampedBase, None, session_config, **options)
    mgr.set_current_schema(new_name())
    return mgr, lambda function: work(mgr, function)


@each_mode
def test_objects_can_be_read_after_the_commit(stamped):
    mgr, run = stamped
    found = []

    @mgr.on_commit.connect
    def read(schema, changes):
        found.extend((c.kind.value, c.obj.name, c.obj.changed is not None) for c in changes)

    run(lambda session: session.add_all([Stamped(id=1, name="a"), Stamped(id=2, name="b")]))
    assert found == [("insert", "a", True), ("insert", "b", True)]
    found.clear()

    def change(session):
        first, second = session.get(Stamped, 1), session.get(Stamped, 2)
        session.expire(second)
        first.name = "new"
        session.delete(second)

    run(change)
    assert found == [("update", "new", True), ("delete", "b", True)]


@each_mode
def test_a_subscriber_may_use_sessions(stamped, new_name):
    mgr, run = stamped
    counts, schema, other = [], mgr.current_schema, new_name()
    mgr.ensure_schema_exists(other)

    @mgr.on_commit.connect_via(schema)
    def use(sender, changes):
        with mgr.schema(other) as session:
            session.add(Stamped(name="index"))
        with mgr.schema(schema) as session:
            counts.append(session.query(Stamped).count())
        counts.append(mgr.session().query(Stamped).count())

    errors = []

    @mgr.on_hook_error.connect
    def note(sender, error, hook):
        errors.append(error)

    run(lambda session: session.add(Stamped(name="a")))
    assert (errors, counts) == ([], [1, 1])
    mgr.set_current_schema(other)
    assert mgr.session().query(Stamped).count() == 1


@each_mode
def test_what_a_subscriber_leaves_open_is_dropped(stamped):
    mgr, run = stamped

    @mgr.on_commit.connect
    def forget(schema, changes):
        mgr.session().add(Stamped(name="forgotten"))
        mgr.session().flush()

    run(lambda session: session.add(Stamped(name="a")))
    with mgr.schema(mgr.current_schema) as session:
        assert session.scalars(select(Stamped.name)).all() == ["a"]


@each_mode
def test_hooks_run_once_and_in_order_after_the_commit(stamped):
    mgr, run = stamped
    ran = []

    def work(session):
        session.add(Stamped(name="a"))
        mgr.after_commit(lambda: ran.append(1))
        mgr.after_abort(lambda: ran.append("abort"))
        mgr.after_commit(lambda: ran.append(2))
        session.flush()
        assert ran == []

    run(work)
    run(lambda session: session.add(Stamped(name="b")))
    assert ran == [1, 2]


@each_mode
def test_hooks_of_an_abort(stamped):
    mgr, run = stamped
    ran = []

    def work(session):
        session.add(Stamped(name="a"))
        session.flush()
        mgr.after_commit(lambda: ran.append("commit"))
        mgr.after_abort(lambda: ran.append("abort"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(work)
    transaction.abort()
    if mgr.transaction_manager is None:
        mgr.session().rollback()
    run(lambda session: session.add(Stamped(name="b")))
    assert ran == ["abort"]
    with mgr.schema(mgr.current_schema) as session:
        assert session.scalars(select(Stamped.name)).all() == ["b"]


# -- subscribers that fail


def test_a_subscriber_that_fails_harms_nobody(mgr, listen, caplog, outside, shared_dsn):
    errors, schema = [], mgr.current_schema

    @mgr.on_commit.connect
    def fail(sender, changes):
        raise RuntimeError("index is down")

    @mgr.on_hook_error.connect
    def note(sender, error, hook):
        errors.append((sender, str(error), hook))

    listener = listen(mgr, "on_commit")
    add(mgr)
    transaction.commit()
    assert errors == [(schema, "index is down", fail)]
    assert listener.net() == [("insert", "ada")]
    [record] = [found for found in caplog.records if "post-processing" in found.message]
    assert record.schema == schema
    assert outside(shared_dsn)(f'SELECT owner FROM "{schema}".documents') == [("ada",)]


@pytest.mark.parametrize("name", ["after_commit", "after_abort"])
def test_a_hook_that_fails_stops_nobody(mgr, name, caplog):
    ran, errors = [], []

    @getattr(mgr, name)
    def fail():
        raise RuntimeError("no")

    @getattr(mgr, name)
    def succeed():
        ran.append(1)

    @mgr.on_hook_error.connect
    def fail_too(sender, error, hook):
        errors.append(hook)
        raise RuntimeError("tracker is down")

    (transaction.commit if name == "after_commit" else transaction.abort)()
    assert (ran, errors) == ([1], [fail])
    assert "tracker" in caplog.text


def test_a_hook_knows_the_schema_it_was_made_in(mgr, caplog, new_name):
    schema = mgr.current_schema
    mgr.after_commit(lambda: 1 / 0)
    mgr.set_current_schema(new_name())
    transaction.commit()
    assert [r.schema for r in caplog.records if r.levelno == logging.ERROR] == [schema]


# -- several schemas, nested blocks, plain sessions


def test_each_schema_of_a_transaction_is_announced(mgr, listen, new_name):
    names = [new_name(), new_name()]
    listener = listen(mgr, "on_commit")
    for name in names:
        mgr.set_current_schema(name)
        add(mgr, name)
    transaction.commit()
    assert [(s, [c.obj.owner for c in changes]) for s, changes in listener.commits] == [
        (name, [name]) for name in names
    ]


def test_an_inner_block_is_announced_alone(mgr, listen, new_name):
    listener = listen(mgr, "on_commit")
    with pytest.raises(ZeroDivisionError), mgr.schema(mgr.current_schema):
        add(mgr, "outer")
        with mgr.schema(new_name()):
            add(mgr, "inner")
        assert listener.net() == [("insert", "inner")]
        _ = 1 / 0
    assert len(listener.commits) == 1


def test_hooks_of_a_nested_block_run_at_its_own_end(mgr, new_name):
    ran = []
    with mgr.schema(mgr.current_schema):
        mgr.after_commit(lambda: ran.append("outer"))
        with mgr.schema(new_name()):
            mgr.after_commit(lambda: ran.append("inner"))
        assert ran == ["inner"]
    assert ran == ["inner", "outer"]


def test_a_plain_rollback_is_not_announced(plain, listen):
    listener = listen(plain, "on_commit")
    add(plain, "rolled back")
    plain.session().rollback()
    add(plain, "closed")
    plain.session().close()
    with pytest.raises(ZeroDivisionError), plain.session().begin():
        add(plain, "failed")
        _ = 1 / 0
    add(plain, "committed")
    plain.session().commit()
    assert listener.net() == [("insert", "committed")]


def test_objects_of_a_plain_session_expire_as_usual(plain, listen):
    listen(plain, "on_commit")
    document = add(plain)
    plain.session().commit()
    with plain.schema(plain.current_schema) as session:
        session.execute(update(Document).values(owner="bob"))
    assert document.owner == "bob"
    assert plain.session().expire_on_commit


def test_hooks_of_a_plain_session_without_a_transaction_are_dropped(plain):
    ran = []
    plain.after_commit(lambda: ran.append("commit"))
    plain.after_abort(lambda: ran.append("abort"))
    plain.session().rollback()
    add(plain)
    plain.session().commit()
    assert ran == ["abort"]


def test_a_transaction_that_touched_nothing_does_not_count_as_committed(plain):
    ran = []
    add(plain)
    plain.session().commit()
    with pytest.raises(ZeroDivisionError), plain.session().begin():
        plain.after_commit(lambda: ran.append("commit"))
        _ = 1 / 0
    assert ran == []


def test_a_commit_inside_a_plain_block_is_announced_whatever_follows(plain, listen):
    listener = listen(plain, "on_commit")
    with pytest.raises(ZeroDivisionError), plain.schema(plain.current_schema) as session:
        add(plain, "kept")
        session.commit()
        add(plain, "lost")
        _ = 1 / 0
    assert listener.net() == [("insert", "kept")]


def test_each_commit_of_a_plain_session_is_announced(plain, listen):
    listener = listen(plain, "on_commit")
    for owner in ("ada", "bob"):
        add(plain, owner)
        plain.session().commit()
    assert [[c.obj.owner for c in changes] for _s, changes in listener.commits] == [
        ["ada"],
        ["bob"],
    ]


def test_savepoints_of_a_plain_session(plain, listen):
    listener = listen(plain, "on_commit")
    with plain.session().begin():
        add(plain, "before")
        with plain.session().begin_nested():
            add(plain, "released")
        with pytest.raises(ZeroDivisionError), plain.session().begin_nested():
            add(plain, "rolled back")
            _ = 1 / 0
    assert listener.net() == [("insert", "before"), ("insert", "released")]


# -- two phases


@pytest.mark.parametrize("outcome", ["commit", "vote fails"])
def test_two_phases_with_another_participant(dsn, new_manager, listen, outcome):
    mgr = new_manager(dsn, Base, None, {"twophase": True})
    mgr.set_current_schema("towns-bern")
    listener = listen(mgr, "on_commit")
    add(mgr)
    if outcome == "vote fails":
        transaction.get().join(Participant("~~~after"))
        with pytest.raises(ZeroDivisionError):
            transaction.commit()
        transaction.abort()
        assert mgr.session().query(Document).count() == 0
        assert listener.commits == []
    else:
        transaction.commit()
        assert listener.net() == [("insert", "ada")]
        assert mgr.session().query(Document).count() == 1


class Participant:
    """A data manager that fails when it is asked for its vote."""

    transaction_manager = transaction.manager

    def __init__(self, key):
        self.key = key

    def sortKey(self):  # noqa: N802 the name is the transaction package's
        return self.key

    def tpc_vote(self, trans):
        raise ZeroDivisionError

    def nothing(self, trans):
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = nothing


def test_two_sessions_of_two_phases_commit_together(plain_dsn, new_manager, listen):
    mgr = new_manager(plain_dsn, Base, None, {"twophase": True})
    mgr.set_current_schema("towns-basel")
    listener = listen(mgr, "on_commit")
    for name in ("towns-bern", "towns-basel"):
        mgr.set_current_schema(name)
        add(mgr, name)
    failing_at_commit(mgr)
    # SQLAlchemy before 2.0.41 hides the server's error behind one of its own.
    with pytest.raises(SQLAlchemyError):
        transaction.commit()
    transaction.abort()
    assert listener.commits == []
    for name in ("towns-bern", "towns-basel"):
        mgr.set_current_schema(name)
        assert mgr.session().query(Document).count() == 0


def test_nobody_listening_costs_no_statement_at_the_commit(mgr, listen):
    def work():
        statements = []

        def note(connection, cursor, statement, parameters, context, executemany):
            statements.append(statement)

        event.listen(mgr.engine, "before_cursor_execute", note)
        add(mgr).title = "new"
        transaction.commit()
        event.remove(mgr.engine, "before_cursor_execute", note)
        return len(statements)

    deaf = work()
    listen(mgr, "on_commit")
    assert work() == deaf
