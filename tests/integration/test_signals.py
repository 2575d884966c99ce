"""What is announced after each flush."""

from __future__ import annotations

import pytest
import transaction
from sqlalchemy import event
from sqlalchemy.orm import make_transient

from tests.models import Document, Page


def add(mgr, owner="ada", **values):
    document = Document(owner=owner, **values)
    mgr.session().add(document)
    mgr.session().flush()
    return document


def statements_of(mgr):
    statements = []

    @event.listens_for(mgr.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, executemany):
        statements.append(statement)

    return statements


def test_an_insert_is_announced_after_the_flush(mgr, listen):
    told = listen(mgr, "on_insert").told
    document = Document(owner="ada")
    mgr.session().add(document)
    assert told == []
    mgr.session().flush()
    assert told == [("insert", mgr.current_schema, document)]
    assert document.id is not None


def test_an_update_and_a_delete_are_announced(mgr, listen):
    document = add(mgr)
    listener = listen(mgr, "on_update", "on_delete")
    document.owner = "bob"
    mgr.session().flush()
    assert listener.kinds() == ["update"]
    mgr.session().delete(document)
    mgr.session().flush()
    assert listener.told == [("delete", mgr.current_schema, document)]


def test_on_delete_gets_the_session(mgr):
    document, sessions = add(mgr), []

    @mgr.on_delete.connect
    def note(schema, session, obj):
        sessions.append(session)

    mgr.session().delete(document)
    mgr.session().flush()
    assert sessions == [mgr.session()]


def test_the_sender_is_the_schema_of_the_session(mgr, listen, new_name):
    told, session, own = listen(mgr, "on_insert").told, mgr.session(), mgr.current_schema
    mgr.set_current_schema(new_name())
    session.add(Document(owner="ada"))
    session.flush()
    assert [schema for _kind, schema, _obj in told] == [own]


def test_connect_via_hears_one_schema(mgr, new_name):
    heard, other = [], new_name()

    @mgr.on_insert.connect_via(other)
    def note(schema, obj):
        heard.append((schema, obj.owner))

    add(mgr, "here")
    mgr.set_current_schema(other)
    add(mgr, "there")
    assert heard == [(other, "there")]


def test_signals_come_once_for_each_object(mgr, listen):
    told = listen(mgr, "on_insert").told
    mgr.session().add_all([Document(owner=str(number)) for number in range(3)])
    transaction.commit()
    assert [obj.owner for _kind, _schema, obj in told] == ["0", "1", "2"]


@pytest.mark.parametrize("values", [["ada"], ["bob", "ada"]], ids=["same", "and back"])
def test_an_object_without_a_net_change_is_not_announced(mgr, listen, values):
    document = add(mgr)
    listener = listen(mgr, "on_update", "on_commit")
    for value in values:
        document.owner = value
    transaction.commit()
    assert listener.told == []
    assert listener.commits == []


def test_a_changed_collection_is_a_net_change(mgr, listen):
    document = add(mgr)
    told = listen(mgr, "on_insert", "on_update").told
    document.pages.append(Page(text="one"))
    mgr.session().flush()
    assert [(kind, type(obj)) for kind, _schema, obj in told] == [
        ("insert", Page),
        ("update", Document),
    ]


def test_a_collection_that_is_as_before_is_no_change(mgr, listen):
    document, page = add(mgr), Page(text="one")
    listener = listen(mgr)
    document.pages.append(page)
    document.pages.remove(page)
    mgr.session().flush()
    assert listener.told == []


def test_a_mutable_column_is_a_net_change(mgr, listen):
    document = add(mgr, tags={"a": "b"})
    listener = listen(mgr, "on_update")
    document.tags["c"] = "d"
    mgr.session().flush()
    assert listener.kinds() == ["update"]


def test_a_change_of_a_subscriber_is_written_by_the_next_flush(mgr, outside, shared_dsn):
    @mgr.on_insert.connect
    def complete(schema, obj):
        obj.title = f"by {obj.owner}"

    schema = mgr.current_schema
    document = add(mgr)
    assert document.title == "by ada"
    assert document in mgr.session().dirty
    transaction.commit()
    assert outside(shared_dsn)(f'SELECT title FROM "{schema}".documents') == [("by ada",)]


def test_an_object_of_a_subscriber_is_written_and_announced(mgr, listen):
    session = mgr.session()

    @mgr.on_insert.connect
    def add_page(schema, obj):
        if isinstance(obj, Document):
            session.add(Page(document=obj, text="first"))

    listener = listen(mgr)
    session.add(Document(owner="ada"))
    transaction.commit()
    assert "Page" in [type(obj).__name__ for _kind, _schema, obj in listener.told]
    assert {type(obj) for obj in listener.commits[0][1].inserts.values()} == {Document, Page}


def test_a_subscriber_may_read(mgr):
    counts, session = [], mgr.session()

    @mgr.on_insert.connect
    def count(schema, obj):
        counts.append(session.query(Document).count())

    add(mgr)
    assert counts == [1]


def test_an_orphan_is_announced_as_a_delete_alone(mgr, listen):
    document = add(mgr, pages=[Page(text="one")])
    page = document.pages[0]
    told = listen(mgr, "on_update", "on_delete").told
    document.pages.remove(page)
    mgr.session().flush()
    kinds = {(kind, obj) for kind, _schema, obj in told}
    assert ("delete", page) in kinds
    assert ("update", page) not in kinds


def test_a_cascade_is_announced_as_deletes(mgr, listen):
    document = add(mgr, pages=[Page(text="one"), Page(text="two")])
    told = listen(mgr, "on_delete").told
    mgr.session().delete(document)
    mgr.session().flush()
    assert sorted(type(obj).__name__ for _kind, _schema, obj in told) == [
        "Document",
        "Page",
        "Page",
    ]


def test_a_deleted_object_that_had_expired_can_be_read(mgr):
    document, owners = add(mgr), []

    @mgr.on_delete.connect
    def note(schema, session, obj):
        owners.append(obj.owner)

    mgr.session().expire(document)
    mgr.session().delete(document)
    mgr.session().flush()
    assert owners == ["ada"]


def test_a_row_that_is_replaced_is_deleted_first(mgr, listen):
    document = add(mgr)
    listener = listen(mgr)
    mgr.session().delete(document)
    mgr.session().add(Document(id=document.id, owner="bob"))
    transaction.commit()
    assert listener.kinds() == ["delete", "insert"]
    assert listener.net() == [("update", "bob")]


def test_flushes_inside_savepoints_are_announced(mgr, listen):
    listener = listen(mgr, "on_insert")
    with mgr.session().begin_nested(), mgr.session().begin_nested():
        add(mgr)
    assert listener.kinds() == ["insert"]


def test_an_error_of_a_subscriber_aborts(mgr, outside, shared_dsn):
    @mgr.on_insert.connect
    def fail(schema, obj):
        raise RuntimeError("no")

    schema = mgr.current_schema
    mgr.session().add(Document(owner="ada"))
    with pytest.raises(RuntimeError, match="no"):
        transaction.commit()
    transaction.abort()
    assert outside(shared_dsn)(f'SELECT * FROM "{schema}".documents') == []


def test_an_error_that_is_swallowed_aborts_nevertheless(mgr, listen):
    def fail(schema, obj):
        raise RuntimeError("no")

    listener = listen(mgr, "on_commit")
    mgr.on_insert.connect(fail)
    with pytest.raises(RuntimeError):
        add(mgr)
    mgr.on_insert.disconnect(fail)
    with pytest.raises(Exception, match="rolled back"):
        transaction.commit()
    transaction.abort()
    assert listener.commits == []


def test_what_a_failed_flush_noted_is_not_announced_later(mgr, listen):
    session = mgr.session()
    listener = listen(mgr, "on_insert")

    def fail(session, flush_context):
        raise RuntimeError("no")

    event.listen(session, "after_flush", fail)
    with pytest.raises(RuntimeError):
        add(mgr)
    event.remove(session, "after_flush", fail)
    transaction.abort()
    with mgr.disable_change_signals():
        add(mgr, "silent")
    assert listener.told == []


def test_nobody_listening_costs_no_statement(mgr, listen):
    def work():
        statements = statements_of(mgr)
        document = add(mgr)
        document.owner = "bob"
        mgr.session().flush()
        mgr.session().delete(document)
        transaction.commit()
        return len(statements)

    deaf = work()
    listener = listen(mgr)
    assert work() == deaf
    assert listener.kinds() == ["insert", "update", "delete"]


def test_silence_is_for_one_thread_alone(mgr, listen, new_name):
    from threading import Thread  # a thread is what this test is about

    listener, schema = listen(mgr, "on_insert"), mgr.current_schema

    def loud():
        with mgr.schema(schema) as session:
            session.add(Document(owner="loud"))

    with mgr.disable_change_signals():
        add(mgr, "silent")
        thread = Thread(target=loud)
        thread.start()
        thread.join()
    assert [obj.owner for _kind, _schema, obj in listener.told] == ["loud"]


def test_silence_is_kept_from_the_commit_too(mgr, listen):
    listener = listen(mgr)
    with mgr.disable_change_signals():
        add(mgr)
    transaction.commit()
    assert listener.told == []
    assert listener.commits == []


def test_silence_ends_with_its_block_whenever_the_flush_comes(mgr, listen):
    listener, session = listen(mgr), mgr.session()
    session.add(Document(owner="before"))
    with mgr.disable_change_signals():
        session.add(Document(owner="inside"))
    session.add(Document(owner="after"))
    transaction.commit()
    assert [obj.owner for _kind, _schema, obj in listener.told] == ["before", "after"]
    assert listener.net() == [("insert", "before"), ("insert", "after")]


def test_a_copy_of_a_transient_object_is_an_insert(mgr, listen):
    document = add(mgr)
    mgr.session().expunge(document)
    make_transient(document)
    document.id = None
    listener = listen(mgr, "on_insert")
    mgr.session().add(document)
    mgr.session().flush()
    assert listener.kinds() == ["insert"]


def test_a_session_of_the_callers_announces_too(mgr, listen):
    from sqlalchemy.orm import Session  # bare SQLAlchemy is what this test is about

    listener, session = listen(mgr), Session()
    mgr.register_session(session)
    mgr.bind_session(session)
    session.add(Document(owner="ada"))
    transaction.commit()
    assert listener.kinds() == ["insert"]
    assert listener.net() == [("insert", "ada")]
