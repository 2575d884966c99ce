"""Schema names: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import copy
import enum
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm import _sql
from onegov_orm.errors import ConfigurationError, InvalidSchemaName, OrmError
from onegov_orm.names import RESERVED, SchemaName, broken_rule

REFUSED = {
    "": "it is empty",
    "Towns": "only the characters",
    "towns bern": "only the characters",
    "towns\n": "only the characters",
    "\ntowns": "only the characters",
    "towns\x00": "only the characters",
    'towns"': "only the characters",
    "towns;": "only the characters",
    "zürich": "only the characters",
    "\uff54owns": "only the characters",
    "towns_\u0661": "only the characters",
    "\ud800": "only the characters",
    "1towns": "it starts with a digit",
    "pg_towns": "pg_",
    "pg_": "pg_",
    "towns--bern": "--",
    "--": "--",
    "public": "reserved",
    "information_schema": "reserved",
    "extensions": "reserved",
    "shared": "reserved",
    "x" * 64: "63 bytes",
}


@pytest.mark.parametrize("name", REFUSED, ids=repr)
def test_a_refused_name_is_told_the_rule(name):
    with pytest.raises(InvalidSchemaName, match=REFUSED[name]) as caught:
        SchemaName(name)
    assert caught.value.name == name
    assert REFUSED[name] in caught.value.rule


@pytest.mark.parametrize("name", ["a", "_", "-", "-a-b", "towns-", "pg", "pgs_x", "x" * 63, "_1"])
def test_accepted(name):
    assert SchemaName(name) == name
    assert type(str(SchemaName(name))) is str


class Unprintable:
    def __repr__(self):
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    "name",
    [None, 1, 1.5, True, b"towns", bytearray(b"towns"), ["towns"], {"towns"}, str, Unprintable()],
    ids=lambda name: type(name).__name__,
)
def test_other_types_are_refused(name):
    with pytest.raises(InvalidSchemaName, match="it is not a text but a"):
        SchemaName(name)


def test_it_is_a_value_error_of_the_librarys():
    assert issubclass(InvalidSchemaName, ValueError)
    assert issubclass(InvalidSchemaName, OrmError)


def test_a_long_name_is_not_shown_in_full():
    with pytest.raises(InvalidSchemaName) as caught:
        SchemaName("x" * 1_000_000)
    assert len(str(caught.value)) < 250


class Town(str, enum.Enum):  # noqa: UP042 - one that shows another text than it is
    BERN = "towns-bern"


class Liar(str):
    """Says that it is something else."""

    __slots__ = ()

    def __str__(self):
        return 'x"; DROP SCHEMA "towns-bern'

    def __len__(self):
        return 1

    def __getitem__(self, key):
        return "a"

    def startswith(self, *args):
        return False

    def __contains__(self, item):
        return False

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return False


def test_the_value_of_an_enum_is_what_counts():
    assert SchemaName(Town.BERN) == "towns-bern"
    assert f"{SchemaName(Town.BERN)}" == "towns-bern"


def test_a_text_can_not_show_another_one():
    assert f"{SchemaName(Liar('towns-basel'))}" == "towns-basel"


@pytest.mark.parametrize("text", ["x" * 64, "1a", "pg_a", "a--b", "public", "A"])
def test_a_text_that_lies_about_itself_is_refused(text):
    assert broken_rule(Liar(text)) is not None


def test_the_namespace_is_what_stands_before_the_first_dash():
    assert SchemaName("towns-bern-west").namespace == "towns"
    assert SchemaName("towns").namespace == "towns"
    assert SchemaName("-a").namespace == ""


def test_the_caller_reserves_names():
    assert broken_rule("admin", {"admin"}) == "it is reserved"
    assert SchemaName("public", reserved=()) == "public"


def test_a_valid_name_can_still_be_reserved_elsewhere():
    with pytest.raises(InvalidSchemaName, match="reserved"):
        SchemaName(SchemaName("admin"), reserved={"admin"})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled(protocol):
    name = SchemaName("shared", reserved=())
    loaded = pickle.loads(pickle.dumps(name, protocol))
    assert (loaded, type(loaded)) == (name, SchemaName)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copied(copied):
    name = SchemaName("shared", reserved=())
    assert (copied(name), type(copied(name))) == (name, SchemaName)


def test_a_name_can_not_be_changed():
    with pytest.raises(AttributeError):
        SchemaName("towns").note = 1


def test_refused_without_assertions():
    code = (
        "from onegov_orm.names import SchemaName\n"
        "from onegov_orm.errors import NoCurrentSchema\n"
        "print(repr(str(NoCurrentSchema()) != ''))\n"
        "try: SchemaName('a;b')\n"
        "except ValueError as exc: print(exc.rule)"
    )
    printed = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "True\nonly the characters a-z, 0-9, _ and - are allowed\n"


@pytest.mark.parametrize("error", [InvalidSchemaName("A", "rule"), ConfigurationError("no")])
def test_errors_travel_between_processes(error):
    loaded = pickle.loads(pickle.dumps(error))
    assert type(loaded) is type(error)
    assert (str(loaded), vars(loaded)) == (str(error), vars(error))


@given(st.text(alphabet=st.sampled_from("abz_-09pg_AZ \n\"';\\.\x00é"), max_size=70))
def test_what_is_accepted_obeys_every_rule(text):
    if broken_rule(text) is not None:
        return
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert 1 <= len(text.encode()) <= 63
    assert not text[0].isdigit()
    assert not text.startswith("pg_")
    assert "--" not in text
    assert text not in RESERVED


@given(st.text())
def test_a_quoted_identifier_ends_at_its_end(text):
    name = text.replace("\x00", "")
    quoted = _sql.quote_identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert '"' not in quoted[1:-1].replace('""', "")


@pytest.mark.parametrize("quote", [_sql.quote_identifier, _sql.quote_literal])
def test_nothing_quotes_a_null_character(quote):
    with pytest.raises(ValueError, match="null character"):
        quote("a\x00b")


@pytest.mark.parametrize("name", ["a b", "a=b", "a;b", "", "a\nb"])
def test_a_startup_setting_has_a_name(name):
    with pytest.raises(ConfigurationError):
        _sql.startup_options({name: "1"})
