"""Raw SQL that is selected from: types, parameters, joins, schemas and files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ForeignKey, MetaData, func, insert, select, union_all
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship

from onegov_orm import OrmError, SelectableError
from onegov_orm.sql import as_selectable, as_selectable_from_path
from tests.asynchronous import in_loop
from tests.clients import CLIENTS, Client, driver_of, new_client
from tests.models import Base as DocumentBase
from tests.models import Color, Document

BERN, BASEL = "towns-bern", "towns-basel"


class Base(DeclarativeBase):
    """A base of its own."""

    metadata = MetaData()


class Town(Base):
    """What residents live in."""

    __tablename__ = "towns"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    residents: Mapped[list[Resident]] = relationship(back_populates="town")


class Resident(Base):
    """Who lives in a town."""

    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    town_id: Mapped[int] = mapped_column(ForeignKey("towns.id"))
    name: Mapped[str]
    born: Mapped[date]
    town: Mapped[Town] = relationship(back_populates="residents")


CENSUS = """
    SELECT
        towns.id AS town_id,       -- Integer
        count(*) AS number,        -- Integer
        min(born) AS first         -- Date
    FROM towns JOIN residents ON residents.town_id = towns.id
    WHERE residents.name LIKE '%a%' AND born >= :since
    GROUP BY towns.id
"""


@pytest.fixture
def session(new_town: Any) -> Iterator[Session]:
    """A session in a schema with two towns."""
    mgr = new_town(Base)
    with mgr.schema(mgr.current_schema) as session:
        bern, basel = Town(name="Bern"), Town(name="Basel")
        born = date(1815, 12, 10)
        session.add_all(
            [
                Resident(town=bern, name="Ada", born=born),
                Resident(town=bern, name="Barbara", born=born.replace(year=1939)),
                Resident(town=basel, name="Grace", born=born.replace(year=1906)),
            ]
        )
        session.flush()
        yield session


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, newest: Any) -> Iterator[Client]:
    """A manager with each driver."""
    name = newest.create()
    dsn = newest.server.dsn(name, driver=driver_of(request.param), tcp=False)
    with closing(new_client(request.param, dsn)) as found:
        yield found
    newest.drop(name)


def rows(client: Client, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    statement = select(as_selectable(query).c).params(**parameters)
    return client.run(BERN, lambda session: [tuple(row) for row in session.execute(statement)])


def refusal(query: str, **options: Any) -> SelectableError:
    with pytest.raises(SelectableError) as caught:
        as_selectable(query, **options)
    return caught.value


# -- types, with each driver


def test_columns_have_their_types(client):
    query = """
        SELECT
            'x' AS text,                                    -- Text
            1.50 AS number,                                 -- Numeric(10, 2)
            timestamptz '2024-07-01 12:00+02' AS moment,    -- UTCDateTime
            '{"a": [1]}'::jsonb AS content,                 -- JSON
            'a=>b'::extensions.hstore AS tags,              -- HSTORE
            '<b>'::text AS markup,                          -- MarkupText
            '8d8ac610-566d-4ef0-9c22-186b2a5ed793'::uuid AS id, -- UUID
            NULL AS nothing                                 -- Integer
    """
    [found] = rows(client, query)
    moment = datetime(2024, 7, 1, 10, tzinfo=UTC)
    uuid = UUID("8d8ac610-566d-4ef0-9c22-186b2a5ed793")
    assert found == ("x", Decimal("1.50"), moment, {"a": [1]}, {"a": "b"}, "<b>", uuid, None)
    assert found[2].utcoffset().total_seconds() == 0
    assert type(found[5]).__name__ == "Markup"


def test_arrays(client):
    query = """
        SELECT
            ARRAY['a', 'b'] AS words,           -- ARRAY(Text)
            ARRAY[ARRAY[1, 2], ARRAY[3, 4]] AS numbers, -- ARRAY(Integer)
            ARRAY[ARRAY[1.5]] AS decimals,      -- ARRAY(ARRAY(Numeric(5, 1)))
            ARRAY[timestamptz '2024-07-01 12:00+02'] AS moments -- ARRAY(UTCDateTime)
    """
    [found] = rows(client, query)
    moment = datetime(2024, 7, 1, 10, tzinfo=UTC)
    assert found == (["a", "b"], [[1, 2], [3, 4]], [[Decimal("1.5")]], [moment])


def test_enums(client):
    client.run(BERN, lambda session: session.add(Document(owner="ada", color=Color.RED)))
    query = """
        SELECT
            color,                              -- tests.models.Color
            color AS label,                     -- Enum(RED, GREEN, name=color)
            color::text AS word,                -- Enum(RED, GREEN)
            ARRAY[color] AS colors              -- ARRAY(tests.models.Color)
        FROM documents
    """
    q = as_selectable(query)
    statement = select(q.c).where(
        q.c.color == Color.RED,
        q.c.label == "RED",
        q.c.word == "RED",
        q.c.colors.contains([Color.RED]),
    )
    [found] = client.run(BERN, lambda session: [tuple(row) for row in session.execute(statement)])
    assert found == (Color.RED, "RED", "RED", [Color.RED])


def test_columns_are_compared_by_their_types(client):
    q = as_selectable("""
        SELECT
            '{"a": {"b": "x"}}'::jsonb AS content,  -- JSONB
            ARRAY['a', 'b'] AS words,               -- ARRAY(Text)
            current_date AS today                   -- Date
    """)
    statement = select(q.c.words).where(
        q.c.content["a"]["b"].astext == "x",
        q.c.words.contains(["b"]),
        q.c.today > date(2024, 1, 1),
    )
    assert client.run(BERN, lambda session: session.scalars(statement).all()) == [["a", "b"]]


def test_parameters_are_bound(client):
    query = """
        SELECT
            n,                        -- Integer
            ':no it''s 12:30 %s' AS t -- Text: and no :parameter
        FROM generate_series(1, :last) AS n /* :no */
        WHERE n > :first AND n::text LIKE '%' AND (ARRAY[1, 2])[1:2] IS NOT NULL
    """
    found = rows(client, query, first=1, last=3)
    assert found == [(2, ":no it's 12:30 %s"), (3, ":no it's 12:30 %s")]


def test_a_parameter_may_be_cast(client):
    assert rows(client, "SELECT :a::integer + 1 AS b -- Integer", a=1) == [(2,)]


def test_parameters_may_be_given_at_once(client):
    q = as_selectable(
        "SELECT n -- Integer\n FROM generate_series(1, :alias) AS n WHERE n = ANY(:numbers)",
        parameters={"alias": 3, "numbers": [2, 3, 4]},
    )
    assert client.run(BERN, lambda session: session.scalars(select(q.c.n)).all()) == [2, 3]


def test_it_runs_in_the_customers_schema(client):
    q = as_selectable("SELECT owner, -- Text\n current_schema() AS s -- Text\n FROM documents d")
    statement = select(q.c).where(q.c.owner.like("of %"))
    for name in (BERN, BASEL):
        client.run(name, lambda session, name=name: session.add(Document(owner=f"of {name}")))
    for name in (BERN, BASEL, BERN):
        found = client.run(name, lambda session: session.execute(statement).one())
        assert tuple(found) == (f"of {name}", name)


@in_loop
async def test_a_session_of_a_task_selects_from_it(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, DocumentBase)
    q = as_selectable("SELECT owner -- Text\n FROM documents")
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="ada"))
        await session.flush()
        assert (await session.scalars(select(q.c.owner))).all() == ["ada"]


# -- in statements


def test_joined_with_mapped_classes(session):
    q = as_selectable(CENSUS)
    statement = (
        select(Town, q.c.number, q.c.first)
        .join(q, q.c.town_id == Town.id)
        .order_by(Town.name)
        .params(since=date(1800, 1, 1))
    )
    found = [(town.name, number, first.year) for town, number, first in session.execute(statement)]
    assert found == [("Basel", 1, 1906), ("Bern", 2, 1815)]


def test_as_a_common_table_expression_and_in_a_subquery(session):
    q = as_selectable(CENSUS, parameters={"since": date(1900, 1, 1)})
    counted = select(q).where(q.c.number > 0).cte("counted")
    towns = select(Town.name).where(Town.id.in_(select(counted.c.town_id)))
    assert sorted(session.scalars(towns)) == ["Basel", "Bern"]


def test_objects_are_loaded_from_it(session):
    q = as_selectable("SELECT id, -- Integer\n name -- Text\n FROM towns WHERE name = :name")
    town = aliased(Town, q, adapt_on_names=True)
    found = session.scalars(select(town), {"name": "Bern"}).one()
    assert found is session.scalars(select(Town).where(Town.name == "Bern")).one()


def test_the_same_text_is_two_tables(session):
    query = "SELECT id, -- Integer\n town_id -- Integer\n FROM residents"
    one, other = as_selectable(query), as_selectable(query)
    pairs = select(func.count()).join_from(one, other, one.c.town_id == other.c.town_id)
    assert session.scalar(pairs) == 5


def test_the_second_alias_of_one(session):
    one = as_selectable("SELECT id -- Integer\n FROM residents", alias="one")
    other = one.alias("other")
    pairs = select(func.count()).select_from(one).join(other, one.c.id < other.c.id)
    assert session.scalar(pairs) == 3


def test_in_a_union_and_an_insert(session):
    q = as_selectable("SELECT name -- Text\n FROM towns")
    both = union_all(select(q.c.name), select(Resident.name)).subquery()
    assert session.scalar(select(func.count()).select_from(both)) == 5
    session.execute(insert(Town).from_select(["name"], select(q.c.name)))
    assert session.scalar(select(func.count()).select_from(Town)) == 4


def test_a_value_for_a_parameter_is_required(session):
    with pytest.raises(StatementError, match="bind parameter 'since'"):
        session.execute(select(as_selectable(CENSUS).c))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS foo -- Integer",
        "SELECT 1 AS foo -- Integer\n;",
        "SELECT 1 AS foo -- Integer\n; -- the end\n",
        "/* :a it's */ SELECT 1 AS foo /* Integer */ /* it's */",
        "SELECT DISTINCT ON (n) n AS foo -- Integer\n FROM (VALUES (1)) AS v (n) ORDER BY n",
        "WITH a AS (SELECT 1 AS n -- Text\n) SELECT n foo -- Integer\n FROM a",
        "(SELECT 1 AS foo -- Integer\n) UNION SELECT 1",
        "SELECT 1 AS foo -- Integer\n INTERSECT SELECT 1",
        "SELECT a.Foo -- Integer\n FROM (SELECT 1 AS FOO) AS a",
    ],
)
def test_kinds_of_select(session, query):
    q = as_selectable(query)
    assert session.execute(select(q.c.foo)).scalars().all() == [1]


@pytest.mark.parametrize(
    "name",
    ["order", "Order", "a b", 'it\'s "q"', "%", "%(a)s", "ä", ":a", "a.b", "keys", "x" * 63],
)
def test_any_name(session, name):
    quoted = '"' + name.replace('"', '""') + '"'
    q = as_selectable(f"SELECT 1 AS {quoted} -- Integer")
    statement = select(q).where(q.c[name] == 1)
    assert session.execute(statement).mappings().one() == {name: 1}


# -- the cache of compiled statements


def test_equal_texts_have_equal_cache_keys():
    keys = [select(as_selectable(CENSUS).c)._generate_cache_key() for _ in range(2)]
    assert keys[0] is not None
    assert keys[0].key == keys[1].key


def test_other_texts_and_aliases_have_other_cache_keys():
    queries = [
        as_selectable(CENSUS),
        as_selectable(CENSUS, "census"),
        as_selectable(CENSUS.replace(">=", ">")),
        as_selectable(CENSUS.replace("-- Date", "-- Text")),
    ]
    keys = {select(each.c)._generate_cache_key().key for each in queries}
    assert len(keys) == len(queries)


def test_a_statement_is_compiled_once_for_all_values(session):
    cache = session.get_bind()._compiled_cache
    numbers, sizes = [], set()
    for year in (1800, 1900, 1910):
        q = as_selectable(CENSUS, parameters={"since": date(year, 1, 1)})
        numbers.append(session.scalar(select(func.sum(q.c.number))))
        sizes.add(len(cache))
    assert numbers == [3, 2, 1]
    assert len(sizes) == 1


def test_comments_are_not_sent():
    assert "--" not in str(select(as_selectable(CENSUS).c))


# -- what is refused


def test_errors_are_of_the_tree():
    error = refusal("SELECT\n foo, -- Text\n bar -- Txet\nFROM x")
    assert isinstance(error, OrmError)
    assert isinstance(error, ValueError)
    assert (error.column, error.line, error.path) == ("bar", 3, None)
    assert str(error).startswith("line 3, column 'bar': there is no type Txet: is it Text")


def test_a_parameter_that_is_not_in_the_query_is_refused():
    error = refusal("SELECT :a AS b, -- Text\n :c AS d -- Text", parameters={"a": 1, "x": 2})
    assert "no parameter called x" in str(error)
    assert "there are: a, c" in str(error)


# -- files


def test_a_file_is_read(tmp_path, session):
    path = tmp_path / "town-names.sql"
    path.write_text("SELECT name, -- Text\n 'ä' AS \"ö\" -- Text\nFROM towns;\n", "utf-8")
    for each in (path, str(path)):
        q = as_selectable_from_path(each)
        assert q.name == "town-names"
        assert session.execute(select(q.c).order_by(q.c.name)).all() == [
            ("Basel", "ä"),
            ("Bern", "ä"),
        ]


def test_a_file_may_have_a_byte_order_mark(tmp_path, session):
    path = tmp_path / "one.sql"
    path.write_text("SELECT 1 AS n -- Integer", "utf-8-sig")
    assert session.scalar(select(as_selectable_from_path(path).c.n)) == 1


def test_a_file_is_read_once(tmp_path):
    path = tmp_path / "one.sql"
    path.write_text("SELECT 1 AS n -- Integer")
    assert as_selectable_from_path(path) is as_selectable_from_path(str(path))


def test_a_file_is_read_again_when_it_changed(tmp_path, session):
    path = tmp_path / "one.sql"
    for number in (1, 2, 3):
        path.write_text(f"SELECT {number} AS n -- Integer")
        # Its size and its time of change are as they were.
        os.utime(path, (0, 0))
        assert session.scalar(select(as_selectable_from_path(path).c.n)) == number


def test_a_file_that_is_put_in_the_place_of_another_is_read(tmp_path, session):
    path, other = tmp_path / "one.sql", tmp_path / "other.sql"
    for number in (1, 2):
        other.write_text(f"SELECT {number} AS n -- Integer")
        other.replace(path)
        assert session.scalar(select(as_selectable_from_path(path).c.n)) == number


def test_a_relative_path_is_of_the_current_directory(tmp_path, session, monkeypatch):
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "one.sql").write_text(f"SELECT {number} AS n -- Integer")
        monkeypatch.chdir(directory)
        assert session.scalar(select(as_selectable_from_path("one.sql").c.n)) == number


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        as_selectable_from_path(tmp_path / "none.sql")


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "one.sql"
    path.write_text("\nSELECT 1 -- Integer")
    with pytest.raises(SelectableError) as caught:
        as_selectable_from_path(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}, line 2, column '1': ")
