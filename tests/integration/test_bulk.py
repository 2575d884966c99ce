"""What bulk statements announce."""

from __future__ import annotations

from threading import Thread

import pytest
import transaction
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    bindparam,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import orm as sa_orm
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy_utils import aggregated

from onegov_orm.errors import BulkChangeNotSupported
from tests.models import Document, Item, Page, Party, Person, SpecialItem

KINDS_OF_SYNCHRONIZATION = [False, "auto", "fetch", "evaluate"]

each_synchronization = pytest.mark.parametrize("synchronize", KINDS_OF_SYNCHRONIZATION)


def three_documents(mgr):
    documents = [Document(owner="ada", title=str(number)) for number in (1, 2, 3)]
    return save(mgr, *documents)


def save(mgr, *objects):
    """Commit objects; the next statement finds an empty session."""
    mgr.session().add_all(objects)
    transaction.commit()
    return mgr.session()


def told_of(listener, attribute="title"):
    return sorted((kind, getattr(obj, attribute)) for kind, _schema, obj in listener.told)


# -- updates


@each_synchronization
def test_an_update_announces_each_object_as_it_is_now(mgr, listen, synchronize):
    session = three_documents(mgr)
    kept, listener = session.get(Document, 1), listen(mgr)
    statement = update(Document).where(Document.id < 3).values(title="new")
    result = session.execute(statement, execution_options={"synchronize_session": synchronize})
    assert result.rowcount == 2
    assert told_of(listener) == [("update", "new")] * 2
    assert kept.title == "new"
    assert {schema for _kind, schema, _obj in listener.told} == {mgr.current_schema}


@each_synchronization
def test_a_delete_announces_each_object_detached_and_whole(mgr, listen, synchronize):
    session = three_documents(mgr)
    kept, listener = session.get(Document, 1), listen(mgr)
    statement = delete(Document).where(Document.id < 3)
    result = session.execute(statement, execution_options={"synchronize_session": synchronize})
    assert result.rowcount == 2
    assert told_of(listener) == [("delete", "1"), ("delete", "2")]
    for _kind, _schema, obj in listener.told:
        assert sa_orm.object_session(obj) is None
        assert (obj.owner, obj.color, obj.content, obj.tags) == ("ada", None, None, None)
    assert kept not in session


@each_synchronization
def test_query_update_and_delete(mgr, listen, synchronize):
    session, listener = three_documents(mgr), listen(mgr)
    query = session.query(Document).filter(Document.id < 3)
    assert query.update({"title": "new"}, synchronize_session=synchronize) == 2
    assert query.delete(synchronize_session=synchronize) == 2
    assert listener.kinds() == ["update", "update", "delete", "delete"]
    transaction.commit()
    assert listener.net("title") == [("delete", "new"), ("delete", "new")]


def test_returning_columns(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    statement = update(Document).where(Document.id < 3).values(title="new")
    result = session.execute(statement.returning(Document.id, Document.title))
    assert sorted(result.all()) == [(1, "new"), (2, "new")]
    assert result.rowcount == 2
    assert listener.kinds() == ["update", "update"]


def test_returning_an_expression_by_its_name(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    statement = update(Document).where(Document.id == 1).values(title="new")
    row = session.execute(statement.returning(func.length(Document.title).label("size"))).one()
    assert row.size == 3
    assert row._mapping["size"] == 3


def test_returning_the_entity(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    statement = update(Document).where(Document.id < 3).values(title="new").returning(Document)
    found = session.scalars(statement).all()
    assert {obj.id for obj in found} == {1, 2}
    assert set(found) == {obj for _kind, _schema, obj in listener.told}


def test_returning_the_entity_of_a_delete(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    found = session.scalars(delete(Document).returning(Document)).all()
    assert {obj.title for obj in found} == {"1", "2", "3"}
    assert len(listener.told) == 3


def test_nothing_touched_is_nothing_announced(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    result = session.execute(update(Document).where(Document.id > 9).values(title="new"))
    assert result.rowcount == 0
    transaction.commit()
    assert (listener.told, listener.commits) == ([], [])


def test_criteria_over_another_table(mgr, listen):
    page = Page(text="one", document=Document(owner="ada"))
    session = save(mgr, page, Document(owner="bob", pages=[Page(text="two")]))
    listener = listen(mgr)
    joined = (Page.document_id == Document.id) & (Document.owner == "ada")
    session.execute(update(Page).where(joined).values(text="new"))
    session.execute(delete(Page).where(joined))
    assert told_of(listener, "text") == [("delete", "new"), ("update", "new")]


def test_what_is_not_flushed_yet_is_not_lost(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    document = session.get(Document, 1)
    with session.no_autoflush:
        document.owner = "bob"
        session.execute(update(Document).values(title="new"))
        assert (document.owner, document.title) == ("bob", "new")
    transaction.commit()
    assert mgr.session().get(Document, 1).owner == "bob"


def test_what_is_not_flushed_yet_survives_an_upsert(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    document = session.get(Document, 1)
    document.owner = "bob"
    rows = [{"id": 1, "owner": "eve", "title": "new"}]
    statement = upsert(Document).on_conflict_do_update(
        index_elements=["id"], set_={"title": "new"}
    )
    session.execute(statement, rows)
    assert (document.owner, document.title) == ("bob", "new")
    transaction.commit()
    assert mgr.session().get(Document, 1).owner == "bob"


def test_a_row_updated_in_bulk_and_then_rolled_back(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    savepoint = transaction.savepoint()
    session.execute(update(Document).values(title="new"))
    savepoint.rollback()
    transaction.commit()
    assert listener.commits == []


# -- classes that inherit


def items(mgr):
    return save(mgr, Item(name="plain"), SpecialItem(name="special", extra="more"))


def test_an_update_of_a_single_table_base(mgr, listen):
    session, listener = items(mgr), listen(mgr)
    session.execute(update(Item).values(name="new"))
    assert sorted(type(obj).__name__ for _k, _s, obj in listener.told) == ["Item", "SpecialItem"]
    transaction.commit()
    special = [c.obj for c in listener.commits[0][1] if isinstance(c.obj, SpecialItem)]
    assert (special[0].name, special[0].extra) == ("new", "more")


@pytest.mark.parametrize("returning", [[], [Item], [Item.name]], ids=["", "entity", "column"])
def test_a_delete_of_a_single_table_base_has_all_columns(mgr, listen, returning):
    session, listener = items(mgr), listen(mgr)
    statement = delete(Item)
    session.execute(statement.returning(*returning) if returning else statement)
    found = {type(obj): obj for _kind, _schema, obj in listener.told}
    assert found[SpecialItem].extra == "more"
    assert found[Item].name == "plain"


def test_a_single_table_subclass(mgr, listen):
    session, listener = items(mgr), listen(mgr)
    assert session.execute(update(SpecialItem).values(extra="new")).rowcount == 1
    assert session.execute(delete(SpecialItem)).rowcount == 1
    assert told_of(listener, "extra") == [("delete", "new"), ("update", "new")]


def people(mgr):
    return save(mgr, Party(name="company"), Person(name="ada", email="a@example.org"))


def test_an_update_of_a_joined_subclass(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    result = session.execute(update(Person).where(Person.email.is_not(None)).values(email="new"))
    assert result.rowcount == 1
    assert told_of(listener, "email") == [("update", "new")]
    assert told_of(listener, "name") == [("update", "ada")]


def test_an_update_of_a_joined_base(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    assert session.execute(update(Party).values(name="new")).rowcount == 2
    transaction.commit()
    [(_schema, changes)] = listener.commits
    found = {type(change.obj): change.obj for change in changes}
    assert found[Party].name == found[Person].name == "new"
    assert found[Person].email == "a@example.org"


def test_a_delete_of_a_joined_base_has_all_columns(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    assert session.execute(delete(Party)).rowcount == 2
    found = {type(obj): obj for _kind, _schema, obj in listener.told}
    assert found[Party].name == "company"
    assert (found[Person].name, found[Person].email) == ("ada", "a@example.org")
    assert sa_orm.object_session(found[Person]) is None


def test_a_delete_of_a_joined_subclass(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    result = session.execute(delete(Person).returning(Person.email))
    assert result.scalars().all() == ["a@example.org"]
    assert told_of(listener, "name") == [("delete", "ada")]


def test_a_joined_delete_with_bound_parameters(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    session.execute(delete(Party).where(Party.name == bindparam("who")), {"who": "company"})
    assert told_of(listener, "name") == [("delete", "company")]


def test_joined_rows_are_inserted(mgr, listen):
    listener = listen(mgr)
    rows = [{"name": "ada", "email": "a"}, {"name": "bob", "email": "b"}]
    mgr.session().execute(insert(Person), rows)
    assert told_of(listener, "email") == [("insert", "a"), ("insert", "b")]


# -- inserts


ROWS = [{"owner": "ada", "title": "1"}, {"owner": "bob", "title": "2"}]


def test_inserted_rows(mgr, listen):
    listener = listen(mgr)
    mgr.session().execute(insert(Document), ROWS)
    assert told_of(listener) == [("insert", "1"), ("insert", "2")]
    transaction.commit()
    assert listener.net() == [("insert", "ada"), ("insert", "bob")]


def test_inserted_rows_with_different_columns(mgr, listen):
    listener = listen(mgr)
    mgr.session().execute(insert(Document), [{"owner": "ada"}, *ROWS])
    assert listener.kinds() == ["insert"] * 3


def test_inserted_values(mgr, listen):
    listener = listen(mgr)
    result = mgr.session().execute(insert(Document).values(owner="ada", title="1"))
    assert result.rowcount == 1
    assert told_of(listener) == [("insert", "1")]
    assert result.inserted_primary_key == (listener.told[0][2].id,)


def test_scalars_of_inserted_rows(mgr, listen):
    listener = listen(mgr)
    found = mgr.session().scalars(insert(Document).returning(Document), ROWS).all()
    assert [obj.title for obj in found] == ["1", "2"]
    assert [obj for _kind, _schema, obj in listener.told] == found


def test_an_upsert_that_does_nothing(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    rows = [{"id": 1, "owner": "eve"}, {"id": 9, "owner": "eve", "title": "9"}]
    session.execute(upsert(Document).on_conflict_do_nothing(), rows)
    assert told_of(listener) == [("insert", "9")]


@pytest.mark.parametrize("name", ["on_insert", "on_update", "on_commit"])
def test_an_upsert_tells_inserts_from_updates(mgr, listen, name):
    session, listener = three_documents(mgr), listen(mgr, name)
    statement = upsert(Document).values(
        [{"id": 1, "owner": "eve", "title": "1"}, {"id": 9, "owner": "eve", "title": "9"}]
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={"title": statement.excluded.title + "!"}
        )
    )
    transaction.commit()
    expected = {"on_insert": [("insert", "9")], "on_update": [("update", "1!")], "on_commit": []}
    assert told_of(listener) == expected[name]
    if name == "on_commit":
        assert listener.net("title") == [("insert", "9"), ("update", "1!")]


def test_rows_inserted_from_a_select(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    source = select(Document.owner, Document.title + "!").where(Document.id < 3)
    session.execute(insert(Document).from_select(["owner", "title"], source))
    assert told_of(listener) == [("insert", "1!"), ("insert", "2!")]


def test_bulk_insert_mappings(mgr, listen):
    listener, rows = listen(mgr), [dict(row) for row in ROWS]
    mgr.session().bulk_insert_mappings(Document, rows, return_defaults=True)
    assert told_of(listener) == [("insert", "1"), ("insert", "2")]
    assert [row["id"] for row in rows] == [obj.id for _kind, _schema, obj in listener.told]


def test_bulk_update_mappings(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    session.bulk_update_mappings(Document, [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}])
    assert told_of(listener) == [("update", "a"), ("update", "b")]


def test_bulk_save_objects(mgr, listen):
    session = three_documents(mgr)
    old, same = session.get(Document, 1), session.get(Document, 2)
    session.expunge_all()
    listener, new = listen(mgr), Document(owner="ada", title="new")
    old.title, same.owner = "old", "ada"
    session.bulk_save_objects([old, same, new])
    assert told_of(listener) == [("insert", "new"), ("update", "old")]
    transaction.commit()
    assert listener.net("title") == [("insert", "new"), ("update", "old")]


def test_an_update_by_primary_keys(mgr, listen):
    session = three_documents(mgr)
    kept, listener = session.get(Document, 1), listen(mgr)
    session.execute(update(Document), [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}])
    assert told_of(listener) == [("update", "a"), ("update", "b")]
    assert kept.title == "a"


def test_an_update_by_primary_keys_of_a_joined_class(mgr, listen):
    session, listener = people(mgr), listen(mgr)
    person = session.scalars(select(Person)).one()
    session.execute(update(Person), [{"id": person.id, "name": "eve", "email": "e"}])
    assert [(obj.name, obj.email) for _k, _s, obj in listener.told] == [("eve", "e")]


# -- what can't be announced


def many_with_criteria():
    statement = (
        update(Document)
        .where(Document.id == bindparam("key"))
        .values(title=bindparam("new_title"))
    )
    return statement, [{"key": 1, "new_title": "a"}, {"key": 2, "new_title": "b"}]


OPTIONS = {"synchronize_session": None}


def test_criteria_with_several_parameters_are_refused(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    statement, parameters = many_with_criteria()
    with pytest.raises(BulkChangeNotSupported, match="ignore_bulk_updates"):
        session.connection()
        session.execute(statement, parameters, execution_options=OPTIONS)


def test_a_bulk_update_of_primary_keys_is_refused(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    with pytest.raises(BulkChangeNotSupported, match="primary keys"):
        session.execute(update(Document).values(id=Document.id + 100))


def test_an_alias_is_refused(mgr, listen):
    session, _listener = three_documents(mgr), listen(mgr)
    alias = sa_orm.aliased(Document)
    with pytest.raises(BulkChangeNotSupported, match="alias"):
        session.execute(update(alias).values(title="new"))


def test_ignored_updates_go_ahead_in_silence(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    with mgr.ignore_bulk_updates():
        session.execute(update(Document).values(id=Document.id + 100))
        session.execute(delete(Document).where(Document.id == 101))
    assert told_of(listener) == [("delete", "1")]


def test_ignored_deletes_go_ahead_in_silence(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    with mgr.ignore_bulk_deletes():
        assert session.execute(delete(Document)).rowcount == 3
    transaction.commit()
    assert (listener.told, listener.commits) == ([], [])


def test_ignoring_is_for_one_thread_alone(mgr, listen):
    three_documents(mgr)
    listener, schema = listen(mgr), mgr.current_schema

    def work():
        with mgr.schema(schema) as session:
            session.execute(update(Document).values(title="new"))

    with mgr.ignore_bulk_updates():
        thread = Thread(target=work)
        thread.start()
        thread.join()
    assert listener.kinds() == ["update"] * 3


def test_silence_covers_bulk_changes(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    with mgr.disable_change_signals():
        session.execute(update(Document).values(title="new"))
        session.execute(insert(Document), ROWS)
        session.bulk_insert_mappings(Document, ROWS)
    transaction.commit()
    assert (listener.told, listener.commits) == ([], [])


def test_statements_on_tables_are_not_announced(mgr, listen):
    session, listener = three_documents(mgr), listen(mgr)
    table = Document.__table__
    session.execute(update(table).values(title="new"))
    session.execute(insert(table), ROWS)
    session.execute(delete(table))
    transaction.commit()
    assert (listener.told, listener.commits) == ([], [])


@pytest.mark.parametrize("connects", [False, True], ids=["nobody", "of another schema"])
def test_nobody_listening_adds_nothing(mgr, connects):
    session, statements = three_documents(mgr), []

    @event.listens_for(mgr.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, executemany):
        statements.append(statement)

    def heard(schema, changes):
        raise AssertionError

    if connects:
        mgr.on_commit.connect(heard, sender="towns-other")
    session.execute(update(Document).values(title="new"))
    session.execute(update(Document), [{"id": 1, "title": "a"}])
    session.execute(delete(Document), execution_options={"synchronize_session": False})
    session.execute(insert(Document).values(id=7, owner="ada"))
    assert len(statements) == 4
    assert not [statement for statement in statements if "RETURNING" in statement]


# -- aggregates


class AggregatingBase(sa_orm.DeclarativeBase):
    metadata = MetaData()


class Topic(AggregatingBase):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]

    @aggregated("comments", Column(Integer, default=0))
    def comment_count(self):
        return func.count("1")

    comments: Mapped[list[Comment]] = relationship(back_populates="topic")


class Comment(AggregatingBase):
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic_id: Mapped[int | None] = mapped_column(ForeignKey("topics.id"))
    topic: Mapped[Topic] = relationship(back_populates="comments")


@pytest.fixture
def aggregating(shared_dsn, new_manager, new_name):
    manager = new_manager(shared_dsn, AggregatingBase)
    manager.set_current_schema(new_name())
    return manager


REFUSED = {
    "update of the source": lambda session: session.execute(update(Comment).values(topic_id=None)),
    "delete of the source": lambda session: session.execute(delete(Comment)),
    "insert of the source": lambda session: session.execute(insert(Comment), [{"topic_id": 1}]),
    "update of the target": lambda session: session.execute(update(Topic).values(name="new")),
    "query": lambda session: session.query(Comment).delete(),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Comment()]),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Comment, [{}]),
    "bulk_update_mappings": lambda session: session.bulk_update_mappings(Topic, [{"id": 1}]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bulk_change_that_makes_an_aggregate_wrong_is_refused(aggregating, name):
    with pytest.raises(BulkChangeNotSupported, match="comment_count"):
        REFUSED[name](aggregating.session())


def test_an_aggregate_is_right_when_objects_change_one_by_one(aggregating):
    aggregating.session().add(Topic(name="a", comments=[Comment(), Comment()]))
    transaction.commit()
    assert aggregating.session().query(Topic).one().comment_count == 2
    with aggregating.ignore_bulk_deletes():
        assert aggregating.session().execute(delete(Comment)).rowcount == 2
