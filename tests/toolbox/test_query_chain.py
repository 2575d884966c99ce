"""Several queries read as one: the rows of a list, and no query too many."""

from __future__ import annotations

import pytest
import sqlalchemy_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import literal
from sqlalchemy.exc import DataError
from sqlalchemy.orm import DeclarativeBase, Mapped, make_transient_to_detached, mapped_column

from onegov_orm import CrossSchemaError
from onegov_orm.utils import QueryChain, maybe_merge
from tests.toolbox.trees import sent

ROWS = {"posts": 3, "articles": 0, "news": 5, "notes": 2}


class Base(DeclarativeBase):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Post(Base):
    __tablename__ = "posts"


class Article(Base):
    __tablename__ = "articles"


class News(Base):
    __tablename__ = "news"


class Note(Base):
    __tablename__ = "notes"


MODELS = (Post, Article, News, Note)


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def session(mgr):
    session = mgr.session()
    for model in MODELS:
        table = model.__tablename__
        session.add_all([model(name=f"{table} {number}") for number in range(ROWS[table])])
    session.flush()
    return session


@pytest.fixture
def chain(session):
    return QueryChain([session.query(model).order_by(model.id) for model in MODELS])


@pytest.fixture
def expected():
    return [f"{table} {number}" for table, count in ROWS.items() for number in range(count)]


def names(rows):
    return [row.name for row in rows]


def test_a_chain_has_the_rows_of_its_queries(chain, expected):
    assert names(chain) == names(chain.all()) == expected
    assert isinstance(chain.all(), tuple)
    assert chain.count() == len(expected)
    assert chain.first().name == "posts 0"


def test_a_chain_can_be_read_again_and_again(chain, session):
    assert names(chain) == names(chain)
    session.add(Article(name="new"))
    assert chain.count() == 11
    assert names(chain)[3] == "new"


# -- against a list

numbers = st.integers(0, 12)
cuts = st.one_of(
    st.tuples(st.just("slice"), st.none() | numbers, st.none() | numbers),
    st.tuples(st.just("limit"), st.none() | numbers, st.none()),
    st.tuples(st.just("offset"), st.none() | numbers, st.none()),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(cuts, max_size=4))
def test_a_part_of_a_chain_is_a_part_of_the_list(chain, expected, cuts):
    skip, end = 0, None
    for what, first, second in cuts:
        if what == "limit":
            end = None if first is None else skip + first
            chain = chain.limit(first)
        elif what == "offset":
            wanted = None if end is None else max(end - skip, 0)
            skip = first or 0
            end = None if wanted is None else skip + wanted
            chain = chain.offset(first)
        else:
            stop = None if second is None else skip + second
            ends = [each for each in (end, stop) if each is not None]
            skip, end = skip + (first or 0), min(ends, default=None)
            chain = chain[first:second]
    wanted = expected[skip:end] if end is None or end > skip else []
    assert names(chain) == wanted
    assert chain.count() == len(wanted)
    assert bool(chain) == bool(wanted)
    assert (chain.first().name if wanted else chain.first()) == (wanted[0] if wanted else None)


def test_a_row_is_found_by_its_position(chain, expected):
    assert [chain[index].name for index in range(10)] == expected
    assert [chain[2:][index].name for index in range(8)] == expected[2:]


def test_a_position_beyond_the_end_is_an_index_error(chain):
    with pytest.raises(IndexError, match="no row 10"):
        chain[10]
    with pytest.raises(IndexError):
        chain[:3][3]
    with pytest.raises(IndexError):
        QueryChain([])[0]


@pytest.mark.parametrize(
    "use",
    [
        lambda chain: chain[-1],
        lambda chain: chain[-3:],
        lambda chain: chain[:-1],
        lambda chain: chain.slice(-2, None),
        lambda chain: chain.limit(-1),
        lambda chain: chain.offset(-1),
        lambda chain: QueryChain([], limit=-1),
        lambda chain: QueryChain([], offset=-1),
    ],
)
def test_positions_from_the_end_are_refused(chain, use):
    with pytest.raises(IndexError, match="counted from the first"):
        use(chain)


def test_steps_are_refused(chain):
    with pytest.raises(ValueError, match="step"):
        chain[::2]


def test_the_windows_of_the_queries_stay(session):
    posts = session.query(Post).order_by(Post.id)
    news = session.query(News).order_by(News.id)
    chain = QueryChain([posts.limit(2), news.offset(1).limit(3), posts.offset(2)])
    expected = ["posts 0", "posts 1", "news 1", "news 2", "news 3", "posts 2"]
    assert names(chain) == expected
    for start in range(7):
        for stop in range(7):
            assert names(chain[start:stop]) == expected[start:stop]
    assert chain.count() == 6


def test_chains_can_be_chained(session):
    first = QueryChain([session.query(Post).order_by(Post.id), session.query(Article)])[1:]
    second = QueryChain([session.query(Note).order_by(Note.id)]).limit(1)
    chain = QueryChain([first, second])
    assert names(chain) == ["posts 1", "posts 2", "notes 0"]
    assert names(chain[1:]) == ["posts 2", "notes 0"]
    assert chain.count() == 3


def test_queries_of_columns_can_be_chained(session):
    chain = QueryChain([session.query(Post.name), session.query(literal("x"))])
    assert [name for (name,) in chain[2:]] == ["posts 2", "x"]


def test_a_chain_of_nothing_is_empty():
    chain = QueryChain([])
    assert (chain.all(), chain.count(), chain.first(), bool(chain)) == ((), 0, None, False)


def test_an_iterator_of_queries_is_read_once(session):
    chain = QueryChain(session.query(model) for model in MODELS)
    assert len(list(chain)) == len(list(chain)) == 10


def test_a_chain_has_no_length(chain):
    with pytest.raises(TypeError):
        len(chain)


# -- no query too many


def test_nothing_is_asked_before_the_first_row_is(mgr, chain):
    with sent(mgr) as statements:
        rows = iter(chain[1:9].limit(4).offset(2))
        assert not statements
        next(rows)
    assert len(statements) == 1


def test_no_query_is_asked_once_the_limit_is_reached(mgr, chain):
    for use, count in (
        (lambda: chain.limit(3).all(), 1),
        (lambda: chain.limit(4).all(), 3),
        (lambda: chain.first(), 1),
        (lambda: bool(chain), 1),
        (lambda: chain[1], 1),
        (lambda: chain.limit(0).all(), 0),
        (lambda: chain.limit(0).count(), 0),
        (lambda: chain.limit(3).count(), 1),
        (lambda: chain[5:5].first(), 0),
    ):
        with sent(mgr) as statements:
            use()
        assert len(statements) == count


def test_what_is_skipped_is_counted_and_not_loaded(mgr, chain):
    with sent(mgr) as statements:
        assert names(chain[4:6]) == ["news 1", "news 2"]
    assert len(statements) == 5
    assert sum("count(" in statement for statement in statements) == 2


def test_rows_beyond_the_limit_are_not_loaded(mgr, chain, session):
    session.expunge_all()
    rows = chain.limit(4).all()
    assert len(rows) == len(session.identity_map) == 4


def test_the_last_query_is_never_counted(mgr, session):
    chain = QueryChain([session.query(Post).order_by(Post.id)])
    with sent(mgr) as statements:
        assert chain[50:].all() == ()
    assert len(statements) == 1


# -- why it is not the one of SQLAlchemy-Utils


@pytest.mark.parametrize(
    "use",
    [
        lambda chain: chain[4:6],
        lambda chain: chain[1:4],
        lambda chain: chain[2:][1:2],
        lambda chain: chain.limit(0),
    ],
)
def test_the_chain_of_sqlalchemy_utils_has_other_rows(session, chain, use):
    theirs = sqlalchemy_utils.QueryChain(chain.queries)
    expected = names(use(chain))
    try:
        with session.begin_nested():
            found = names(use(theirs))
    except DataError:
        found = "OFFSET must not be negative"
    assert found != expected


def test_the_chain_of_sqlalchemy_utils_asks_and_counts_what_is_not_needed(mgr, chain):
    theirs = sqlalchemy_utils.QueryChain(chain.queries)
    assert (theirs.limit(3).count(), chain.limit(3).count()) == (10, 3)
    with sent(mgr) as statements:
        list(theirs.limit(3))
    assert len(statements) > 1


# -- merging


def test_only_detached_objects_are_merged(mgr, session):
    post = session.query(Post).first()
    assert maybe_merge(session, post) is post
    new = Post(name="new")
    assert maybe_merge(session, new) is new
    for plain in (1, "a", None, [post], {"a": 1}):
        assert maybe_merge(session, plain) is plain
    session.expunge(post)
    with sent(mgr) as statements:
        merged = maybe_merge(session, post)
    assert (merged in session, merged is post, merged.name) == (True, False, "posts 0")
    assert not statements


def test_objects_of_other_customers_are_not_merged(mgr):
    with mgr.schema("towns-bern") as session:
        post = Post(name="bern")
        session.add(post)
        session.flush()
        session.expunge(post)
    with mgr.schema("towns-zurich") as session, pytest.raises(CrossSchemaError):
        maybe_merge(session, post)
    stranger = Post(id=7, name="x")
    make_transient_to_detached(stranger)
    with mgr.schema("towns-zurich") as session:
        assert maybe_merge(session, stranger) in session
