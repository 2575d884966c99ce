"""What of a text the server takes for comments and literals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm._lexer import read, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", "SELECT 1"),
        ("SELECT/* x */1", "SELECT 1"),
        ("SELECT /* /* x */ y */ 1", "SELECT   1"),
        ("SELECT 1 -- x\n, 2", "SELECT 1  \n, 2"),
        ("SELECT '/* x */'", "SELECT '/* x */'"),
        ("SELECT '--'", "SELECT '--'"),
        ('SELECT "--"', 'SELECT "--"'),
        ("SELECT $$--$$", "SELECT $$--$$"),
        ("SELECT 1 /* open", "SELECT 1  "),
    ],
)
def test_comments_become_a_space(text: str, expected: str) -> None:
    assert read(text).text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a; b", ("a", "b")),
        ("a;", ("a", "")),
        ("'a; b'", ("''",)),
        ("'it''s; b'", ("''",)),
        ('"a; b"', ("''",)),
        ("$$a; b$$", ("''",)),
        ("$x$a; $$; b$x$", ("''",)),
        ("a$$b; c$$d", ("a$$b", "c$$d")),
        ("$1; $2", ("$1", "$2")),
        ("E'\\'; b'", ("''",)),
        ("e'a' 'b'; c", ("''", "c")),
        ("'\\'; b'", ("''", "b''")),
        ("'open; b", ("''",)),
        ("$$open; b", ("''",)),
    ],
)
def test_statements_end_outside_of_literals(text: str, expected: tuple[str, ...]) -> None:
    assert read(text).statements == expected


def test_a_backslash_may_escape() -> None:
    assert read("'\\'; b'", backslashes_escape=True).statements == ("''",)


@given(st.text("ab';\"$-/*\\\n eE1", max_size=40), st.booleans())
def test_any_text_can_be_read(text: str, backslashes_escape: bool) -> None:
    reading = read(text, backslashes_escape)
    assert len(reading.statements) <= text.count(";") + 1
    assert len(reading.text) <= len(text)


@pytest.mark.parametrize("filling", ["-", "--x ", " ", "\n-- "])
def test_a_literal_before_a_long_comment_is_read_at_once(filling: str) -> None:
    text = f"SELECT 'x' {filling * 10_000}\nFROM y"
    assert read(text).text.split() == ["SELECT", "'x'", "FROM", "y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.B", [("word", "a"), ("sign", "."), ("word", "B")]),
        ('"a.B"', [("name", '"a.B"')]),
        (":a::b", [("sign", ":"), ("word", "a"), ("sign", ":"), ("sign", ":"), ("word", "b")]),
        ("1.5", [("number", "1"), ("sign", "."), ("number", "5")]),
        ("E'\\'' $x$ $x$", [("literal", "E'\\''"), ("literal", "$x$ $x$")]),
        ("'a'\n 'b'", [("literal", "'a'\n 'b'")]),
        ("a--b\nc", [("word", "a"), ("comment", "--b"), ("word", "c")]),
        ("/* /* a */ */b", [("comment", "/* /* a */ */"), ("word", "b")]),
        ("_ü1$", [("word", "_ü1$")]),
    ],
)
def test_a_text_has_parts(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(token.kind, token.text) for token in tokens(text)] == expected


@given(st.text("ab';\"$-/*\\\n eE1:.", max_size=40))
def test_nothing_but_spaces_is_between_the_parts(text: str) -> None:
    position = 0
    for token in tokens(text):
        assert not text[position : token.start].strip()
        assert text[token.start : token.end] == token.text
        position = token.end
    assert not text[position:].strip()
