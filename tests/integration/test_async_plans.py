"""Prepared statements: never another schema's columns, and renewed after a change of a table."""

from __future__ import annotations

import asyncio
import contextlib
import enum

import pytest
import sqlalchemy as sa
from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm._attempts import is_retryable
from tests.asynchronous import BASEL, BERN, ONE_CONNECTION, in_loop, out, run, settle
from tests.models import Base, Color, Document

ALL = "SELECT * FROM things ORDER BY 1"
TEN = {"pool_size": 10, "max_overflow": 0, "pool_timeout": 60}


class Empty(DeclarativeBase):
    """A base without tables: the tests make their own, different ones."""

    metadata = MetaData()


async def make(mgr, schema, columns, *rows):
    """Make a table of this schema's own kind."""
    async with mgr.schema(schema) as session:
        await session.execute(text(f"CREATE TABLE things ({columns})"))
        for row in rows:
            await session.execute(text(f"INSERT INTO things VALUES ({row})"))


async def rows(mgr, schema, query=ALL, tries=4, **parameters):
    """Return rows as dictionaries, after as many attempts as are needed."""
    found = None
    async with mgr.schema(schema):
        async for attempt in mgr.attempts(tries):
            async with attempt as session:
                result = await session.execute(text(query), parameters)
                found = [dict(row) for row in result.mappings()]
    return found


@pytest.fixture
def two(async_dsn, new_async_manager):
    """Make a manager of one connection, and tables of different kinds in two schemas."""

    async def enter(columns, **options):
        options.setdefault("pool_config", ONE_CONNECTION)
        mgr = new_async_manager(async_dsn, Empty, **options)
        for schema, (definition, *values) in zip((BERN, BASEL), columns, strict=True):
            await make(mgr, schema, definition, *values)
        return mgr

    return enter


# -- schemas at different versions

VERSIONS = {
    "one column more": (("id int", "1"), ("id int, extra text", "2, 'basel'")),
    "another type": (("id int, x int", "1, 1"), ("id int, x text", "2, 'basel'")),
    "same width": (("id int, x int", "1, 1"), ("id int, x real", "2, 0.5")),
    "same type, other names": (
        ("id int, name text, owner text", "1, 'name', 'owner'"),
        ("id int, owner text, name text", "2, 'owner', 'name'"),
    ),
    "another length": (
        ("id int, x varchar(3)", "1, 'abc'"),
        ("id int, x varchar(9)", "2, 'abcdefghi'"),
    ),
    "another array": (("id int, x int[]", "1, '{1,2}'"), ("id int, x text[]", "2, '{a,b}'")),
    "a type of the same name": (
        ("id int, x numeric", "1, 1.5"),
        ("id int, x timestamptz", "2, '2000-01-01 00:00+00'"),
    ),
}


@pytest.mark.parametrize("versions", VERSIONS.values(), ids=VERSIONS)
@in_loop
async def test_all_columns_of_schemas_at_different_versions(two, versions):
    mgr = await two(versions)
    expected = {
        schema: [name.split()[0] for name in definition.split(", ")]
        for schema, (definition, _values) in zip((BERN, BASEL), versions, strict=True)
    }
    seen = {}
    for schema in [BERN, BASEL] * 6:
        [row] = await rows(mgr, schema)
        assert list(row) == expected[schema]
        assert row["id"] == {BERN: 1, BASEL: 2}[schema]
        assert seen.setdefault(schema, row) == row
    assert seen[BERN] != seen[BASEL]


@in_loop
async def test_an_enum_of_the_same_name_is_another_type(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Empty, pool_config=ONE_CONNECTION)
    for schema, values in ((BERN, "'red', 'green'"), (BASEL, "'green', 'red', 'blue'")):
        await run(mgr, schema, f"CREATE TYPE hue AS ENUM ({values})")
        await make(mgr, schema, "id int, hue hue, hues hue[]", "1, 'green', '{red,green}'")
    expected = {"id": 1, "hue": "green", "hues": ["red", "green"]}
    for schema in [BERN, BASEL] * 6:
        [row] = await rows(mgr, schema)
        assert _plain(row) == expected
        assert len(await rows(mgr, schema, "SELECT * FROM things WHERE hue = 'green'")) == 1
        query = "SELECT id FROM things WHERE hue = CAST(:hue AS hue)"
        assert await rows(mgr, schema, query, hue="green") == [{"id": 1}]
        assert await rows(mgr, schema, query, hue="red") == []
    with pytest.raises(DBAPIError, match="blue"):
        await rows(mgr, BERN, query, hue="blue")
    assert await rows(mgr, BASEL, query, hue="blue") == []


def _plain(row):
    """Return the row with arrays of unknown types read, which psycopg 3 leaves to us."""
    return {
        key: value[1:-1].split(",") if isinstance(value, str) and value[:1] == "{" else value
        for key, value in row.items()
    }


@in_loop
async def test_a_parameter_takes_the_type_of_its_schemas_column(two):
    mgr = await two((("id int, x int", "1, 1"), ("id int, x text", "2, '1'")))
    for _ in range(6):
        async with mgr.schema(BERN) as session:
            result = await session.execute(
                sa.text("SELECT id FROM things WHERE x = :x").bindparams(sa.bindparam("x")),
                {"x": 1},
            )
            assert result.scalars().all() == [1]
        async with mgr.schema(BASEL) as session:
            result = await session.execute(text("SELECT id FROM things WHERE x = :x"), {"x": "1"})
            assert result.scalars().all() == [2]


@in_loop
async def test_whole_rows_as_values(two):
    mgr = await two((("id int, x int", "1, 7"), ("id int, x text", "2, 'basel'")))
    for schema in [BERN, BASEL] * 5:
        [row] = await rows(mgr, schema, "SELECT CAST(things AS text) AS row FROM things")
        assert row == {"row": {BERN: "(1,7)", BASEL: "(2,basel)"}[schema]}
        await rows(mgr, schema, "SELECT things FROM things")


@in_loop
async def test_functions_of_the_same_name_that_return_other_types(two):
    mgr = await two((("id int", "1"), ("id int", "2")))
    await run(mgr, BERN, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 7'")
    await run(mgr, BASEL, "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'b' $$")
    for schema in [BERN, BASEL] * 5:
        assert await rows(mgr, schema, "SELECT f() AS f") == [{"f": {BERN: 7, BASEL: "b"}[schema]}]


@in_loop
async def test_operators_see_the_tables_of_their_schema(two):
    """The plan is the same text, and its conditions are planned for another table."""
    mgr = await two((("id int, x int", "1, 10"), ("id int, x text", "2, '9'")))
    query = "SELECT id FROM things WHERE x > '5'"
    for _ in range(6):
        assert await rows(mgr, BERN, query) == [{"id": 1}]
        assert await rows(mgr, BASEL, query) == [{"id": 2}]


@in_loop
async def test_a_table_that_one_schema_lacks(async_dsn, new_async_manager):
    """What comes behind the schema on the path is not taken in its place."""
    mgr = new_async_manager(async_dsn, Empty, pool_config=ONE_CONNECTION)
    await make(mgr, BERN, "id int", "1")
    await mgr.ensure_schema_exists(BASEL)
    for _ in range(6):
        assert await rows(mgr, BERN) == [{"id": 1}]
        with pytest.raises(DBAPIError, match="does not exist"):
            await rows(mgr, BASEL)


@in_loop
async def test_temporary_tables_and_plans(two):
    mgr = await two((("id int", "1"), ("id int", "2")))
    for _ in range(4):
        async with mgr.schema(BERN) as session:
            await session.execute(
                text("CREATE TEMP TABLE things ON COMMIT DROP AS SELECT 9 AS id")
            )
            assert (await session.execute(text(ALL))).scalars().all() == [9]
        assert await rows(mgr, BERN) == [{"id": 1}]
        assert await rows(mgr, BASEL) == [{"id": 2}]


@in_loop
async def test_the_orm_in_two_schemas(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    for schema in [BERN, BASEL] * 8:
        async with mgr.schema(schema) as session:
            query = sa.select(Document).where(Document.owner == schema)
            document = (await session.scalars(query)).one()
            document.color = Color.GREEN
            document.title = (document.title or "") + "x"
            await session.flush()
            found = (await session.scalars(query.where(Document.color == Color.GREEN))).one()
            assert found.owner == schema


@in_loop
async def test_alternating_schemas_on_many_connections(two):
    mgr = await two(VERSIONS["one column more"], pool_config=TEN)

    async def work(schema):
        [row] = await rows(mgr, schema, tries=6)
        return schema, sorted(row)

    found = await asyncio.gather(*(work(schema) for schema in [BERN, BASEL] * 60))
    assert {str(each) for each in found} == {
        str((BERN, ["id"])),
        str((BASEL, ["extra", "id"])),
    }
    assert out(mgr) == 0


# -- a table that is changed between two uses

CHANGES = {
    "adds a column": ("ADD COLUMN extra text DEFAULT 'new'", {"id": 1, "x": 1, "extra": "new"}),
    "drops a column": ("DROP COLUMN x", {"id": 1}),
    "changes a type": ("ALTER COLUMN x TYPE text USING 'text'", {"id": 1, "x": "text"}),
    "renames a column": ("RENAME COLUMN x TO y", {"id": 1, "y": 1}),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
@in_loop
async def test_a_change_between_two_uses(two, outside, async_dsn, change, expected):
    mgr = await two((("id int, x int", "1, 1"), ("id int, x int", "2, 2")))
    for _ in range(8):
        assert await rows(mgr, BERN) == [{"id": 1, "x": 1}]
    outside(async_dsn)(f'ALTER TABLE "{BERN}".things {change}')
    for _ in range(8):
        assert await rows(mgr, BERN, tries=2) == [expected]
        assert await rows(mgr, BASEL) == [{"id": 2, "x": 2}]


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
@in_loop
async def test_whole_rows_after_a_change(two, outside, async_dsn, change, expected):
    """The driver reads a row as one value by what it knows of the table's type."""
    mgr = await two((("id int, x int", "1, 1"), ("id int, x int", "2, 2")))
    query = "SELECT things FROM things"
    for _ in range(8):
        await rows(mgr, BERN, query)
    outside(async_dsn)(f'ALTER TABLE "{BERN}".things {change}')
    for _ in range(3):
        [row] = await rows(mgr, BERN, query, tries=2)
        value = row["things"]
        if not isinstance(value, str):
            assert dict(value) == expected


@in_loop
async def test_the_change_in_the_same_transaction(two):
    mgr = await two((("id int", "1"), ("id int", "2")))
    for _ in range(8):
        await rows(mgr, BERN)
    found = None
    async with mgr.schema(BERN):
        async for attempt in mgr.attempts(2):
            async with attempt as session:
                await session.execute(text("ALTER TABLE things ADD COLUMN x int DEFAULT 5"))
                found = dict((await session.execute(text(ALL))).mappings().one())
    assert found == {"id": 1, "x": 5}
    assert await rows(mgr, BASEL) == [{"id": 2}]


@in_loop
async def test_the_error_of_a_changed_plan_can_be_tried_again(two, outside, async_dsn):
    mgr = await two((("id int", "1"), ("id int", "2")))
    for _ in range(8):
        await rows(mgr, BERN)
    outside(async_dsn)(f'ALTER TABLE "{BERN}".things ADD COLUMN x int')
    errors = []
    try:
        async with mgr.schema(BERN) as session:
            await session.execute(text(ALL))
    except DBAPIError as error:  # psycopg 3 prepares nothing on a connection of two customers
        errors.append(error)
    assert all(is_retryable(error) for error in errors)
    assert await rows(mgr, BERN, tries=1) == [{"id": 1, "x": None}]
    assert out(mgr) == 0


@in_loop
async def test_ten_connections_with_stale_plans(two, outside, async_dsn):
    mgr = await two((("id int", "1"), ("id int", "2")), pool_config=TEN)
    gate = asyncio.Barrier(10)

    async def use():
        async with mgr.schema(BERN) as session:
            for _ in range(8):
                await session.execute(text(ALL))
            await gate.wait()

    await asyncio.gather(*(use() for _ in range(10)))
    outside(async_dsn)(f'ALTER TABLE "{BERN}".things ADD COLUMN x int')
    for _ in range(12):
        assert await rows(mgr, BERN, tries=2) == [{"id": 1, "x": None}]
    found = await asyncio.gather(*(rows(mgr, BERN, tries=2) for _ in range(20)))
    assert found == [[{"id": 1, "x": None}]] * 20


@in_loop
async def test_a_type_that_is_made_anew(two, outside, async_dsn):
    mgr = new = await two((("id int", "1"), ("id int", "2")))
    await run(mgr, BERN, "CREATE TYPE hue AS ENUM ('red')")
    await run(mgr, BERN, "ALTER TABLE things ADD COLUMN hue hue DEFAULT 'red'")
    for _ in range(8):
        assert await rows(new, BERN, "SELECT hue FROM things") == [{"hue": "red"}]
    execute = outside(async_dsn)
    execute(f'SET search_path TO "{BERN}"; ALTER TABLE things DROP COLUMN hue; DROP TYPE hue')
    execute(
        "CREATE TYPE hue AS ENUM ('blue'); ALTER TABLE things ADD COLUMN hue hue DEFAULT 'blue'"
    )
    for _ in range(4):
        assert await rows(new, BERN, "SELECT hue FROM things", tries=2) == [{"hue": "blue"}]
        query = "SELECT id FROM things WHERE hue = CAST(:hue AS hue)"
        assert await rows(new, BERN, query, tries=2, hue="blue") == [{"id": 1}]


@in_loop
async def test_a_schema_that_is_made_anew(two, outside, async_dsn):
    mgr = await two((("id int, x int", "1, 1"), ("id int", "2")))
    for _ in range(8):
        await rows(mgr, BERN)
        await rows(mgr, BASEL)
    execute = outside(async_dsn)
    execute(f'DROP SCHEMA "{BERN}" CASCADE; CREATE SCHEMA "{BERN}"')
    execute(f"""CREATE TABLE "{BERN}".things AS SELECT 'anew' AS x""")
    for _ in range(4):
        assert await rows(mgr, BERN, tries=2) == [{"x": "anew"}]
        assert await rows(mgr, BASEL) == [{"id": 2}]


@in_loop
async def test_the_orm_after_a_change(async_dsn, new_async_manager, outside):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    query = sa.select(Document.title, Document.owner)
    for change in ("TYPE varchar(50)", "TYPE varchar(5) USING 'short'", "TYPE text"):
        for schema in [BERN, BASEL] * 4:
            async with mgr.schema(schema):
                async for attempt in mgr.attempts(2):
                    async with attempt as session:
                        [(_title, owner)] = (await session.execute(query)).all()
                assert owner == schema
        outside(async_dsn)(f'ALTER TABLE "{BERN}".documents ALTER COLUMN title {change}')


# -- how many there are


async def prepared(session):
    """Return how many statements the server has prepared for this connection."""
    return await session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))


@in_loop
async def test_the_number_of_prepared_statements_is_bounded(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    for schema in (BERN, BASEL, BERN):
        async with mgr.schema(schema) as session:
            for number in range(150):
                for _ in range(1 if schema == BASEL else 2):
                    await session.execute(text(f"SELECT {number}, owner FROM documents"))
            assert await prepared(session) <= 101


@in_loop
async def test_many_schemas_prepare_no_more(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION)
    names = [f"towns-{number}" for number in range(5)]
    await settle(mgr, *names)
    sizes = []
    for _ in range(3):
        for name in names:
            async with mgr.schema(name) as session:
                await session.execute(sa.select(Document.owner))
                query = sa.select(Document.id).where(Document.color == Color.RED)
                await session.execute(query)
                sizes.append(await prepared(session))
    assert sizes[-1] == sizes[-6] <= 40


@in_loop
async def test_plans_after_everything_was_discarded(two):
    mgr = await two((("id int", "1"), ("id int", "2")))
    for _ in range(4):
        for schema, number in ((BERN, 1), (BASEL, 2)):
            for _ in range(6):
                assert await rows(mgr, schema, tries=1) == [{"id": number}]
            async with mgr.schema(schema) as session:
                await session.execute(text("SET statement_timeout = '77s'"))


@in_loop
async def test_plans_that_the_application_deallocated(two):
    mgr = await two((("id int", "1"), ("id int", "2")))
    for _ in range(3):
        for _ in range(6):
            assert await rows(mgr, BERN) == [{"id": 1}]
            assert await rows(mgr, BERN, "SELECT id FROM things") == [{"id": 1}]
        await run(mgr, BERN, "DEALLOCATE ALL")
        with contextlib.suppress(DBAPIError):
            await rows(mgr, BERN)


@in_loop
async def test_an_error_of_the_data_keeps_the_connection(two):
    mgr = await two((("id int PRIMARY KEY", "1"), ("id int", "2")))
    for _ in range(6):
        with pytest.raises(DBAPIError, match="duplicate"):
            await rows(mgr, BERN, "INSERT INTO things VALUES (1) RETURNING id")
        with pytest.raises(DBAPIError, match="division"):
            await rows(mgr, BASEL, "SELECT 1 / (id - 2) FROM things")
        assert await rows(mgr, BASEL) == [{"id": 2}]
    assert out(mgr) == 0


# -- rows of models at different versions


class Shade(enum.Enum):
    DARK = "dark"
    LIGHT = "light"


class Old(DeclarativeBase):
    """Models of before."""

    metadata = MetaData()


class OldThing(Old):
    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    shade: Mapped[Shade] = mapped_column(sa.Enum(Shade, name="shade"))


class New(DeclarativeBase):
    """Models of after."""

    metadata = MetaData()


class NewThing(New):
    __tablename__ = "things"

    shade: Mapped[Shade] = mapped_column(sa.Enum(Shade, name="shade"))
    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    more: Mapped[int] = mapped_column(default=7)


@in_loop
async def test_models_of_two_versions_on_one_connection(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Old, pool_config=ONE_CONNECTION)
    async with mgr.schema(BERN) as session:
        session.add(OldThing(owner=BERN, shade=Shade.DARK))
    mgr.bases[:] = [New]
    await mgr.ensure_schema_exists(BASEL)
    async with mgr.schema(BASEL) as session:
        session.add(NewThing(id="one", owner=BASEL, shade=Shade.LIGHT))
    for number in range(8):
        model, schema = ((OldThing, BERN), (NewThing, BASEL))[number % 2]
        async with mgr.schema(schema) as session:
            thing = (await session.scalars(sa.select(model))).one()
            thing.shade = Shade.LIGHT if thing.shade is Shade.DARK else Shade.DARK
            assert (thing.owner, type(thing.id)) == (schema, (int, str)[number % 2])
