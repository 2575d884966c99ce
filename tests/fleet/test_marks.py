"""The marks of schemas: whatever they tell comes back, and comments of others are none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from json import dumps

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onegov_orm._sql import comment_on_schema
from onegov_orm.marks import PREFIX, Mark, State, now, state_prefix

texts = st.text(max_size=60) | st.text("\"'\\%:;{}\n\0\x85\ud800 äß漢🌍", max_size=20)
moments = st.none() | st.datetimes(timezones=st.just(UTC))
marks = st.builds(
    Mark,
    state=st.sampled_from(State),
    created=moments,
    changed=moments,
    migrated=moments,
    note=texts,
    name=texts,
    former=texts,
    made_of=texts,
    steps=st.lists(texts, max_size=4).map(tuple),
)


@pytest.fixture(scope="module")
def cursor(newest):
    name = newest.create()
    connection = psycopg2.connect(newest.server.dsn(name, tcp=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA s")
        yield cursor
    connection.close()
    newest.drop(name)


@given(mark=marks)
@settings(max_examples=150, deadline=None)
def test_a_mark_survives_the_server(cursor, mark):
    cursor.execute(comment_on_schema("s", mark.comment))
    cursor.execute("SELECT obj_description('s'::regnamespace, 'pg_namespace')")
    [comment] = cursor.fetchone()
    assert Mark.parse(comment) == mark
    assert comment.startswith(state_prefix(mark.state))
    others = [state for state in State if state is not mark.state]
    assert not any(comment.startswith(state_prefix(state)) for state in others)


@given(comment=st.text() | st.text().map(lambda text: PREFIX + text))
def test_any_comment_is_a_mark_or_none(comment):
    mark = Mark.parse(comment)
    assert mark is None or Mark.parse(mark.comment) == mark


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    max_leaves=5,
)


@given(values=st.dictionaries(st.sampled_from([*Mark.__dataclass_fields__, "new"]), json))
def test_any_values_are_a_mark_or_none(values):
    mark = Mark.parse(PREFIX + dumps(values))
    assert mark is None or Mark.parse(mark.comment) == mark


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "",
        "the town's schema",
        "onegov_orm",
        "onegov_orm {",
        "onegov_orm []x",
        'onegov_orm ["state"]',
        'onegov_orm "state"',
        "onegov_orm 5",
        "onegov_orm null",
        ' onegov_orm {"state": "active"}',
        'onegov_orm {"state": "unheard of"}',
        'onegov_orm {"state": []}',
        'onegov_orm {"state": "active", "created": "yesterday"}',
        'onegov_orm {"state": "active", "created": 5}',
        'onegov_orm {"state": "active", "created": "0001-01-01T00:00:00+23:00"}',
        'onegov_orm {"state": "active", "steps": 5}',
        "onegov_orm " + "[" * 100_000,
    ],
)
def test_comments_of_others(comment):
    assert Mark.parse(comment) is None


def test_what_a_later_version_adds_is_no_obstacle():
    assert Mark.parse('onegov_orm {"state": "active", "new": {"a": 1}}') == Mark()


def test_moments_are_in_utc():
    mark = Mark.parse('onegov_orm {"state": "active", "created": "2026-01-01T12:00:00+02:00"}')
    assert mark.created == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert mark.created.utcoffset() == timedelta()
    mark = Mark.parse('onegov_orm {"state": "active", "created": "2026-01-01T12:00:00"}')
    assert mark.created == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_change_of_state_has_its_date():
    before = now()
    mark = Mark.new(note="a").changed_to(State.SUSPENDED, name="b")
    assert (mark.state, mark.note, mark.name) == (State.SUSPENDED, "a", "b")
    assert before <= mark.created <= mark.changed <= now()


def test_a_mark_as_json():
    mark = Mark(created=datetime(2026, 1, 1, tzinfo=UTC), steps=("a",))
    assert mark.as_dict()["created"] == "2026-01-01T00:00:00+00:00"
    assert mark.as_dict()["steps"] == ["a"]
    assert mark.as_dict()["state"] == "active"


def test_the_state_stands_first_for_the_server_looks_there():
    assert Mark(state=State.SUSPENDED, note="x").comment.startswith(
        'onegov_orm {"state": "suspended"'
    )
