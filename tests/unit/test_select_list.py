"""Which columns a text selects, and what the comments behind them say."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onegov_orm import SelectableError
from onegov_orm._selecting.listed_columns import Column, columns_of
from onegov_orm._selecting.select_list import statement_of


def columns(query: str) -> list[Column]:
    return columns_of(query, statement_of(query))


def read(query: str) -> list[tuple[str, str]]:
    return [(column.name, column.comment) for column in columns(query)]


def refusal(query: str) -> SelectableError:
    with pytest.raises(SelectableError) as caught:
        columns(query)
    return caught.value


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("foo", "foo"),
        ("Foo", "foo"),
        ('"Foo"', "Foo"),
        ('"a ""b"", FROM c"', 'a "b", FROM c'),
        ("t.foo", "foo"),
        ("s.t.foo", "foo"),
        ('"s"."t" . "Foo"', "Foo"),
        ("t.end", "end"),
        ("t.case", "case"),
        ("t.from", "from"),
        ("1 AS foo", "foo"),
        ("1 as Foo", "foo"),
        ('1 AS "group"', "group"),
        ("1 AS order", "order"),
        ("1 AS end", "end"),
        ("foo AS from", "from"),
        ("count(*) AS c", "c"),
        ("count(*) total", "total"),
        ('count(*) "Total"', "Total"),
        ("foo bar", "bar"),
        ("'x' foo", "foo"),
        ("items[1] first", "first"),
        ("coalesce(a, b, 'x, y') AS foo", "foo"),
        ("CASE WHEN a THEN b, ELSE c END AS foo", "foo"),
        ("CASE a WHEN 1 THEN 'FROM' ELSE CASE WHEN b THEN 1 END END foo", "foo"),
        ("a IS DISTINCT FROM b AS foo", "foo"),
        ("a IS NOT DISTINCT FROM b AS foo", "foo"),
        ("extract(year FROM age(a)) AS foo", "foo"),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY a) AS foo", "foo"),
        ("sum(a) FILTER (WHERE b) OVER (PARTITION BY c ORDER BY d) AS foo", "foo"),
        ("ARRAY[ARRAY[a, b], ARRAY[c, d]] AS foo", "foo"),
        ("ARRAY(SELECT x, -- Integer\n y FROM z ORDER BY x) AS foo", "foo"),
        ("(SELECT a FROM b WHERE c IN (1, 2)) AS foo", "foo"),
        ("content->'a'->>'b' AS foo", "foo"),
        ("'it''s, FROM -- x' AS foo", "foo"),
        ("E'it\\'s, FROM' AS foo", "foo"),
        ("$$it's, FROM$$ AS foo", "foo"),
        ("$x$ $$, FROM $x$ AS foo", "foo"),
        ("(a).b AS foo", "foo"),
        ("a::text AS foo", "foo"),
        ("a::numeric(10, 2) foo", "foo"),
        ("a AT TIME ZONE 'UTC' AS foo", "foo"),
        ("foo /* , FROM ' */", "foo"),
        ('/* , FROM " /* ; */ */ foo', "foo"),
        ("-- , FROM ' it: is\n foo", "foo"),
    ],
)
def test_the_name_of_a_column(written: str, name: str) -> None:
    expected = [("one", "Text"), (name, "Integer"), ("two", "Date")]
    assert read(f"SELECT one, -- Text\n {written}, -- Integer\n two -- Date\n FROM x") == expected


@pytest.mark.parametrize(
    "written",
    [
        "count(*)",
        "1",
        "'foo'",
        "a + b",
        "a::text",
        "a::double precision",
        "a::timestamp with time zone",
        "a::character varying",
        "a COLLATE b",
        'a COLLATE "C"',
        "a AND b",
        "NOT a",
        "a AT TIME ZONE b",
        "row_number() OVER w",
        "a IS NULL",
        "a IS NOT true",
        "NULL",
        "items[1]",
        "(a).b",
        "CASE WHEN a THEN b END",
        "interval '1' year",
        "-a",
        "1e5",
    ],
)
def test_an_expression_has_no_name(written: str) -> None:
    error = refusal(f"SELECT one, -- Text\n\n {written} -- Integer\nFROM x")
    assert (error.column, error.line) == (written, 3)
    assert f"write {written} AS name" in str(error)


@pytest.mark.parametrize("written", ["*", "t.*", "count(*) AS c, -- Integer\n *"])
def test_a_star_has_no_name(written: str) -> None:
    assert "write the columns out" in str(refusal(f"SELECT {written} -- Text\n FROM t"))


@pytest.mark.parametrize(
    "beginning",
    [
        "SELECT",
        "select",
        "-- SELECT wrong -- Text\nSELECT",
        "/* SELECT wrong, -- Text */ SELECT",
        "SELECT ALL",
        "SELECT DISTINCT",
        "SELECT DISTINCT ON (a, (b, c), 'FROM')",
        "; SELECT",
        "( (SELECT",
        "WITH a AS (SELECT wrong -- Text\n FROM b) SELECT",
        "WITH RECURSIVE a (b, c) AS NOT MATERIALIZED (SELECT 1, 2), d AS (TABLE a) SELECT",
        "WITH a AS (WITH b AS (SELECT 1) SELECT 2) (SELECT",
        "(WITH a AS (SELECT 1) SELECT",
        "WITH a AS (SELECT 1) (WITH b AS (SELECT 2) SELECT",
        "WITH a AS (SELECT 1) SEARCH DEPTH FIRST BY b SET c SELECT",
        "WITH a AS (SELECT 1) CYCLE b SET c TO 1 DEFAULT 2 USING d SELECT",
    ],
)
def test_the_list_of_the_outermost_select(beginning: str) -> None:
    query = f"{beginning} foo, -- Text\n bar -- Integer\n FROM x, (SELECT y -- Date\n FROM z)"
    assert read(query) == [("foo", "Text"), ("bar", "Integer")]


@pytest.mark.parametrize(
    "ending",
    [
        "",
        ";",
        "; -- Date",
        ") UNION SELECT a, b FROM c",
        "UNION SELECT a, -- Date\n b -- Date\n FROM c",
        "EXCEPT SELECT a, b",
        "INTERSECT SELECT a, b",
        "FROM a, b",
        "WHERE a",
        "GROUP BY a, b",
        "HAVING a",
        "WINDOW w AS (ORDER BY a)",
        "ORDER BY a, b",
        "LIMIT 1",
        "OFFSET 1",
        "FETCH FIRST 1 ROW ONLY",
        "FOR UPDATE OF a, b",
    ],
)
def test_the_end_of_the_list(ending: str) -> None:
    query = f"SELECT foo, -- Text\n bar -- Integer\n {ending}"
    assert read(query) == [("foo", "Text"), ("bar", "Integer")]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT foo -- Text\n, bar -- Integer\n FROM x",
        "SELECT foo, -- Text\n\n -- about bar: it's, FROM there\n bar -- Integer\n FROM x",
        "SELECT\n -- a head line, FROM me\n foo, -- Text\n bar -- Integer\n FROM x",
        "SELECT foo,-- Text\nbar--Integer",
        "SELECT foo, --Text\r\n bar -- Integer \r\n FROM x",
        "SELECT foo\n , -- Text\n bar -- Integer",
        "SELECT foo /* Text */, bar /* Integer */ FROM x",
        "SELECT foo, /* Text */ bar /* Integer */ FROM x",
        "SELECT foo /* why */, -- Text\n bar /* what, */ -- Integer\n FROM x",
        "SELECT foo, -- Text\n -- about bar\n bar -- Integer\n -- about x\n FROM x",
        "SELECT a -- why\n + b -- what\n AS foo, -- Text\n bar -- Integer\n FROM x",
        "SELECT f(a, -- why, FROM\n b) AS foo, -- Text\n bar -- Integer\n FROM x",
    ],
)
def test_the_comment_on_the_last_line_of_a_column(query: str) -> None:
    assert read(query) == [("foo", "Text"), ("bar", "Integer")]


@pytest.mark.parametrize(
    "comment", ["Enum(a, b, name=c)", 'Text: it\'s FROM "x", y', "ARRAY(Numeric(10, 2))", "-- x"]
)
def test_a_comment_may_contain_anything(comment: str) -> None:
    assert read(f"SELECT foo, -- {comment}\n bar -- {comment}") == [
        ("foo", comment),
        ("bar", comment),
    ]


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("SELECT foo,\n bar -- Text", 1),
        ("SELECT\n foo, -- Text\n bar\n FROM x -- Text", 3),
        ("SELECT\n foo\n -- Text\n FROM x", 2),
        ("SELECT\n foo,\n -- Text\n bar -- Text", 2),
        ("SELECT foo FROM x", 1),
        ("SELECT foo --\n FROM x", 1),
        ("SELECT foo /**/ FROM x", 1),
        ("SELECT a, -- Text\n foo -- Text FROM x\n, 'x' -- Text\n 'y' AS bar", 3),
    ],
)
def test_a_column_without_a_comment_is_refused(query: str, line: int) -> None:
    error = refusal(query)
    assert "no comment tells the type of this column" in str(error)
    assert error.line == line


def test_what_is_wrong_is_shown_with_its_line():
    error = refusal("SELECT\n foo, -- Text\n coalesce(a,\n   b) -- Text\n FROM x")
    assert str(error).startswith("line 3, column 'coalesce(a, b)': the column has no name: ")


def test_two_columns_of_the_same_name_are_refused():
    error = refusal("SELECT foo, -- Text\n t.Foo -- Text\n FROM t")
    assert (error.column, error.line) == ("t.Foo", 2)
    assert 'another column is called "foo" too' in str(error)


@pytest.mark.parametrize("query", ["SELECT FROM x", "SELECT foo, -- Text\n FROM x", "SELECT"])
def test_a_missing_column_is_refused(query: str) -> None:
    assert "a column is missing" in str(refusal(query))


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO a SELECT b -- Text\n FROM c",
        "WITH a AS (SELECT 1) INSERT INTO b SELECT c -- Text\n FROM a",
        "UPDATE a SET b = 1 RETURNING c -- Text",
        "VALUES (1)",
        "TABLE a",
        "WITH a AS (SELECT 1)",
        "(",
    ],
)
def test_what_is_no_select_is_refused(query: str) -> None:
    assert "this is no SELECT" in str(refusal(query))


@pytest.mark.parametrize(
    ("query", "number"), [("", "no"), ("; -- x\n", "no"), ("SET a; SELECT b", "2")]
)
def test_there_is_one_statement(query: str, number: str) -> None:
    assert f"this text has {number} statements" in str(refusal(query))


NAMES = st.text("abcxyz_\"', -/*$;()", min_size=1, max_size=8).filter(str.strip)
COMMENTS = st.text("abcTFROM,:;'\"()*/$ ", min_size=1, max_size=12).filter(str.strip)
EXPRESSIONS = st.sampled_from(
    [
        "t",
        "f(a, b)",
        "'FROM, '",
        "(SELECT a, b FROM c)",
        "CASE WHEN a THEN 1 END",
        "$$ , $$",
        "a[1]",
    ]
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(EXPRESSIONS, NAMES, COMMENTS), min_size=1, max_size=5, unique_by=lambda c: c[1]
    ),
    st.booleans(),
)
def test_any_names_and_comments(
    parts: list[tuple[str, str, str]], comma_comes_first: bool
) -> None:
    *others, (last, last_comment) = [
        (f"{expression} AS {quoted(name)}", comment) for expression, name, comment in parts
    ]
    form = "{} -- {}\n, " if comma_comes_first else "{}, -- {}\n"
    written = "".join(form.format(*each) for each in others) + f"{last} -- {last_comment}"
    assert read(f"SELECT {written}\nFROM x") == [
        (name, comment.strip()) for _, name, comment in parts
    ]


@given(st.text("sSelctFROM ab,.'\"$-/*\\\n:;()[]1", max_size=60))
def test_any_text_is_read_or_refused(query: str) -> None:
    with suppress(SelectableError):
        columns("SELECT a, -- Text\n" + query)
