"""Aggregated columns: what they hold after a flush is what a query would find."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier

import pytest
import transaction
from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    Numeric,
    Table,
    and_,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from onegov_orm.aggregates import aggregated
from onegov_orm.errors import BulkChangeNotSupported
from tests.asynchronous import in_loop
from tests.integration.conftest import Listener
from tests.provisioning import statements_of


class Base(DeclarativeBase):
    pass


membership = Table(
    "memberships",
    Base.metadata,
    Column("topic_id", ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id", ondelete="CASCADE"), primary_key=True),
)


class Forum(Base):
    __tablename__ = "forums"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    topics: Mapped[list[Topic]] = relationship(
        back_populates="forum", cascade="all, delete-orphan"
    )

    @aggregated("topics.comments", mapped_column(Integer, default=0))
    def votes(self) -> ColumnElement[int]:
        return func.sum(Comment.votes)

    @aggregated("topics", mapped_column(Integer, default=0))
    def comment_count(self) -> ColumnElement[int]:
        return func.sum(Topic.comment_count)


class Topic(Base):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(primary_key=True)
    forum_id: Mapped[int | None] = mapped_column(ForeignKey("forums.id"))
    name: Mapped[str | None]
    changes: Mapped[int | None] = mapped_column(onupdate=text("coalesce(topics.changes, 0) + 1"))
    forum: Mapped[Forum | None] = relationship(back_populates="topics")
    comments: Mapped[list[Comment]] = relationship(
        back_populates="topic", cascade="all, delete-orphan"
    )
    loved: Mapped[list[Comment]] = relationship(
        primaryjoin=lambda: and_(Comment.topic_id == Topic.id, Comment.votes > 9), viewonly=True
    )
    tags: Mapped[list[Tag]] = relationship(secondary=membership, back_populates="topics")

    @aggregated("comments", mapped_column(Integer))
    def comment_count(self) -> ColumnElement[int]:
        return func.count(text("1"))

    @aggregated("loved", mapped_column(Integer))
    def loved_count(self) -> ColumnElement[int]:
        return func.count()

    @aggregated("tags", mapped_column(Integer))
    def weight(self) -> ColumnElement[int]:
        return func.sum(Tag.weight)

    @aggregated("comments", mapped_column(Numeric(10, 2)))
    def average(self) -> ColumnElement[Decimal]:
        return func.avg(Comment.votes)


class Comment(Base):
    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic_id: Mapped[int | None] = mapped_column(ForeignKey("topics.id"))
    votes: Mapped[int] = mapped_column(default=0)
    note: Mapped[str | None]
    topic: Mapped[Topic | None] = relationship(back_populates="comments")


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    weight: Mapped[int] = mapped_column(default=1)
    topics: Mapped[list[Topic]] = relationship(secondary=membership, back_populates="tags")


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def session(mgr):
    return mgr.session()


@pytest.fixture
def listen():
    return Listener


def saved(session, *objects):
    session.add_all(objects)
    transaction.commit()
    return session


def topic(session, name="a"):
    return session.scalars(select(Topic).filter_by(name=name)).one()


def stored(session, column, **criteria):
    return session.execute(select(column).filter_by(**criteria)).scalar_one()


def test_new_children_are_counted(session):
    saved(session, Topic(name="a", comments=[Comment(votes=1), Comment(votes=2)]))
    assert stored(session, Topic.comment_count, name="a") == 2
    assert stored(session, Topic.average, name="a") == Decimal("1.50")


def test_no_children_are_counted_too(session):
    saved(session, Topic(name="a"), Forum(name="f"))
    assert stored(session, Topic.comment_count, name="a") == 0
    assert stored(session, Forum.votes, name="f") == 0
    assert stored(session, Topic.average, name="a") is None


def test_a_loaded_owner_has_the_new_value_and_is_not_dirty(session):
    saved(session, Topic(name="a"))
    found = topic(session)
    assert found.comment_count == 0
    session.add(Comment(topic_id=found.id))
    session.flush()
    assert found.__dict__["comment_count"] == 1
    assert (found.changes, len(session.dirty)) == (2, 0)


def test_a_new_owner_has_its_value_after_the_flush(session):
    new = Topic(name="a", comments=[Comment()])
    session.add(new)
    session.flush()
    assert new.__dict__["comment_count"] == 1


@pytest.mark.parametrize("how", ["relationship", "foreign key", "collection"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_child_that_moves_is_counted_where_it_is(session, how, is_loaded):
    saved(session, Topic(id=1, name="a", comments=[Comment(id=1)]), Topic(id=2, name="b"))
    moved, goal = session.get(Comment, 1), session.get(Topic, 2)
    origin = session.get(Topic, 1) if is_loaded else None
    assert origin is None or origin.comment_count == 1
    if how == "relationship":
        moved.topic = goal
    elif how == "foreign key":
        moved.topic_id = 2
    else:
        goal.comments.append(moved)
    session.flush()
    assert goal.comment_count == 1
    assert session.get(Topic, 1).comment_count == 0


def test_a_child_that_moves_without_ever_being_read(session):
    saved(session, Topic(id=1, name="a", comments=[Comment(id=1)]), Topic(id=2, name="b"))
    moved = session.get(Comment, 1)
    session.expire(moved)
    moved.topic_id = 2
    session.flush()
    counts = session.execute(select(Topic.id, Topic.comment_count).order_by(Topic.id)).all()
    assert counts == [(1, 0), (2, 1)]


def test_deleted_children_are_not_counted(session):
    saved(session, Topic(name="a", comments=[Comment(id=1, votes=3), Comment(id=2)]))
    session.delete(session.get(Comment, 1))
    session.flush()
    assert stored(session, Topic.comment_count, name="a") == 1
    assert stored(session, Topic.average, name="a") == 0


def test_a_deleted_child_that_was_never_read(session):
    saved(session, Topic(name="a", comments=[Comment(id=1)]))
    gone = session.get(Comment, 1)
    session.expire(gone)
    session.delete(gone)
    session.flush()
    assert stored(session, Topic.comment_count, name="a") == 0


def test_orphans_are_not_counted(session):
    saved(session, Topic(name="a", comments=[Comment(), Comment()]))
    found = topic(session)
    del found.comments[0]
    session.flush()
    assert found.comment_count == 1


def test_a_condition_of_the_relationship_counts(session):
    saved(session, Topic(name="a", comments=[Comment(id=101, votes=9), Comment(votes=10)]))
    found = topic(session)
    assert found.loved_count == 1
    session.get(Comment, 101).votes = 10
    session.flush()
    assert found.loved_count == 2


def test_many_to_many_from_either_side(session):
    saved(session, Topic(name="a"), Topic(name="b"), Tag(name="x"), Tag(name="y", weight=10))
    a, b = topic(session), topic(session, "b")
    x, y = session.scalars(select(Tag).order_by(Tag.name))
    a.tags.append(x)
    y.topics += [a, b]
    session.flush()
    assert (a.weight, b.weight) == (11, 10)
    y.topics.remove(a)
    x.weight = 100
    session.flush()
    assert (a.weight, b.weight) == (100, 10)
    session.delete(y)
    session.flush()
    assert (a.weight, b.weight) == (100, None)


def test_paths_of_several_steps(session):
    saved(
        session,
        Forum(id=1, topics=[Topic(name="a", comments=[Comment(id=101, votes=5)])]),
        Forum(id=2, topics=[Topic(name="b", comments=[Comment(votes=2)])]),
    )

    def votes():
        return session.scalars(select(Forum.votes).order_by(Forum.id)).all()

    assert votes() == [5, 2]
    session.get(Comment, 101).votes = 6
    assert votes() == [6, 2]
    topic(session, "a").forum_id = 2
    assert votes() == [0, 8]
    session.get(Comment, 101).topic = topic(session, "b")
    session.delete(topic(session, "a"))
    assert votes() == [0, 8]
    session.delete(topic(session, "b"))
    assert votes() == [0, 0]


def test_an_aggregate_of_aggregates(session):
    saved(session, Forum(name="f", topics=[Topic(name="a", comments=[Comment()])]))
    forum = session.scalars(select(Forum)).one()
    assert forum.comment_count == 1
    session.add(Comment(topic=topic(session)))
    session.flush()
    assert forum.comment_count == 2


# -- when, and what else happens


def test_what_does_not_matter_asks_the_server_nothing(mgr, session):
    saved(session, Topic(name="a", comments=[Comment(note="old")]))
    comment, found = session.scalars(select(Comment)).one(), topic(session)
    comment.note = found.name = "new"
    with statements_of(mgr) as statements:
        session.flush()
    assert [each.partition(" ")[0] for each in statements] == ["UPDATE", "UPDATE"]


def test_only_owners_of_what_was_touched_are_looked_at(mgr, session):
    saved(session, *(Topic(name=name, comments=[Comment()]) for name in "abcdefghi"))
    everything = [*session.scalars(select(Topic)), *session.scalars(select(Comment))]
    everything[0].comments.append(Comment())
    with statements_of(mgr) as statements:
        session.flush()
    assert not any("onegov_keys_2" in each for each in statements)


def test_owners_of_one_table_are_corrected_with_one_statement(mgr, session):
    saved(session, *(Topic(name=name) for name in "abc"))
    for each in session.scalars(select(Topic)).all():
        each.comments = [Comment(votes=10), Comment(votes=2)]
    with statements_of(mgr) as statements:
        session.flush()
    assert len([each for each in statements if "UPDATE topics" in each]) == 1


def test_more_owners_than_fit_into_one_statement(session):
    saved(session, Forum(topics=[Topic(comments=[Comment()]) for _ in range(1100)]))
    assert session.scalar(select(func.sum(Topic.comment_count))) == 1100
    assert session.scalars(select(Forum.comment_count)).one() == 1100


def test_a_rolled_back_savepoint_takes_the_aggregate_back(session):
    saved(session, Topic(name="a", comments=[Comment()]))
    found = topic(session)
    with pytest.raises(RuntimeError), session.begin_nested():
        session.add(Comment(topic_id=found.id))
        session.flush()
        assert found.comment_count == 2
        raise RuntimeError
    assert found.comment_count == 1
    with session.begin_nested():
        session.add(Comment(topic_id=found.id))
    assert found.comment_count == stored(session, Topic.comment_count, name="a") == 2


def test_owners_are_announced_once(mgr, session, listen):
    saved(session, Topic(id=101, name="a"), Topic(id=102, name="b"))
    listener = listen(mgr)
    changed = session.get(Topic, 102)
    changed.name = "c"
    session.add_all([Comment(topic_id=101), Comment(topic_id=102)])
    session.flush()
    told = sorted((kind, type(obj).__name__, obj.id) for kind, _schema, obj in listener.told)
    assert [each for each in told if each[1] == "Topic"] == [
        ("update", "Topic", 101),
        ("update", "Topic", 102),
    ]
    transaction.commit()
    [(_schema, changes)] = listener.commits
    found = {obj.id: obj.comment_count for obj in changes.updates.values()}
    assert found == {101: 1, 102: 1}


def test_owners_that_stay_the_same_are_not_announced(mgr, session, listen):
    saved(session, Topic(name="a", comments=[Comment(votes=each) for each in (1, 3, 3)]))
    assert stored(session, Topic.average, name="a") == Decimal("2.33")
    listener = listen(mgr)
    one, other, _last = session.scalars(select(Comment).order_by(Comment.votes))
    one.votes, other.votes = 3, 1
    transaction.commit()
    assert {type(obj) for _kind, _schema, obj in listener.told} == {Comment}


def test_what_a_subscriber_reads_is_fresh(mgr, session):
    counts = []
    mgr.on_insert.connect(
        lambda schema, obj: counts.append(getattr(obj, "comment_count", None)), weak=False
    )
    saved(session, Topic(name="a", comments=[Comment()]))
    assert counts == [1, None] or counts == [None, 1]


def test_sessions_of_others_are_left_alone(shared_dsn, mgr):
    engine = create_engine(shared_dsn).execution_options(
        schema_translate_map={None: mgr.current_schema}
    )
    with Session(engine) as foreign:
        foreign.add(Topic(name="a", comments=[Comment()]))
        foreign.commit()
        assert foreign.scalars(select(Topic.comment_count)).one() is None
    engine.dispose()


def test_importing_aggregates_and_observers_leaves_others_alone():
    code = (
        "import sys, onegov_orm.aggregates, onegov_orm.observer, onegov_orm.translation\n"
        "from sqlalchemy.event import contains\n"
        "from sqlalchemy.orm import Mapper, Session\n"
        "assert 'sqlalchemy_utils' not in sys.modules\n"
        "assert not Session().dispatch.before_flush and not Session().dispatch.after_flush\n"
        "for each in onegov_orm.aggregates.aggregates, onegov_orm.observer.observers:\n"
        "    assert not contains(Mapper, 'mapper_configured', each.mapper_configured)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSED = {
    "an update of the source": lambda session: session.execute(update(Comment).values(votes=1)),
    "a delete of the source": lambda session: session.execute(delete(Comment)),
    "an insert of the source": lambda session: session.execute(insert(Comment), [{"votes": 1}]),
    "a delete in the middle": lambda session: session.query(Topic).delete(),
    "an update of the owner": lambda session: session.execute(update(Topic).values(name="b")),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Comment()]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bulk_change_that_makes_an_aggregate_wrong_is_refused(session, name):
    with pytest.raises(BulkChangeNotSupported, match="wrong, which is aggregated: change the"):
        REFUSED[name](session)


def test_ignored_bulk_changes_go_ahead(mgr, session):
    saved(session, Topic(name="a", comments=[Comment()]))
    with mgr.ignore_bulk_deletes():
        assert session.execute(delete(Comment)).rowcount == 1


@in_loop
async def test_aggregates_under_asyncio(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    told = []

    @mgr.on_update.connect
    async def note(schema, obj):
        told.append(obj)

    async with mgr.schema("towns-bern") as session:
        session.add(Forum(topics=[Topic(name="a", tags=[Tag(name="x", weight=3)])]))
        await session.flush()
        found = (await session.scalars(select(Topic))).one()
        session.add(Comment(topic=found, votes=5))
        await session.flush()
        assert (found.comment_count, found.weight) == (1, 3)
        assert (await session.scalars(select(Forum.votes))).one() == 5
    assert {type(obj) for obj in told} == {Topic, Forum}


each_level = pytest.mark.parametrize(
    "level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
)


def at_the_same_time(mgr, *functions):
    """Run functions in transactions that all began before one of them changes anything."""
    name, barrier = mgr.current_schema, Barrier(len(functions), timeout=30)

    def run(function):
        is_first = True
        mgr.set_current_schema(name)
        for attempt in mgr.attempts(20):
            with attempt as session:
                session.execute(select(1))
                if is_first:
                    is_first = False
                    barrier.wait()
                function(session)

    with ThreadPoolExecutor(len(functions)) as executor:
        for future in [executor.submit(run, each) for each in functions]:
            future.result()


@each_level
def test_two_that_add_at_the_same_time(new_town, level):
    mgr = new_town(Base, transaction_manager=None, isolation_level=level)
    with mgr.schema(mgr.current_schema) as session:
        session.add(Topic(id=101, name="a"))
    at_the_same_time(mgr, *[lambda session: session.add(Comment(topic_id=101, votes=1))] * 2)
    with mgr.schema(mgr.current_schema) as session:
        assert session.scalars(select(Topic.comment_count)).one() == 2


class AuctionBase(DeclarativeBase):
    pass


class Auction(AuctionBase):
    __tablename__ = "auctions"

    id: Mapped[int] = mapped_column(primary_key=True)
    bids: Mapped[list[Bid]] = relationship()

    @aggregated("bids", mapped_column(Integer))
    def best(self) -> ColumnElement[int]:
        return func.max(Bid.price)


class Bid(AuctionBase):
    __tablename__ = "bids"

    id: Mapped[int] = mapped_column(primary_key=True)
    auction_id: Mapped[int] = mapped_column(ForeignKey("auctions.id"))
    price: Mapped[int]


@each_level
def test_one_that_changes_the_aggregate_and_one_that_does_not(new_town, level):
    mgr = new_town(AuctionBase, transaction_manager=None, isolation_level=level)
    with mgr.schema(mgr.current_schema) as session:
        session.add(Auction(id=101, bids=[Bid(id=101, price=5), Bid(id=102, price=3)]))
    at_the_same_time(
        mgr,
        lambda session: session.delete(session.get(Bid, 101)),
        lambda session: session.add(Bid(auction_id=101, price=5)),
    )
    with mgr.schema(mgr.current_schema) as session:
        assert session.scalars(select(Auction.best)).one() == 5
