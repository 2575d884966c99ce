"""The example's own proofs: they would notice what must not happen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from examples.towns import app, checks
from examples.towns.__main__ import prepared
from examples.towns.facts import look_at, tables_outside
from examples.towns.models import Entry
from examples.towns.scenario import FIRST_OF_NEWCOMER, Demo
from examples.towns.traffic import OPENING, Request, Tally

TOWN, OTHER = "towns-bern", "towns-govikon"


@pytest.fixture
def demo(plain_dsn: str) -> Iterator[Demo]:
    """The application with one entry in each of two towns."""
    with prepared(plain_dsn, seed=1) as demo:
        for town in (TOWN, OTHER):
            app.handle(demo.mgr, town, app.register, FIRST_OF_NEWCOMER)
        yield demo


def run(demo: Demo, sql: str) -> None:
    with demo.outside.begin() as connection:
        connection.execute(text(sql))


def test_all_is_well(demo: Demo) -> None:
    facts = look_at(demo.outside, [TOWN, OTHER])
    assert checks.check_rows(facts).holds
    assert checks.check_index(facts, demo.index).holds
    assert checks.check_schemas(demo.mgr.list_schemas(), [TOWN, OTHER], []).holds


def test_a_row_of_another_town_is_noticed(demo: Demo) -> None:
    run(demo, f"UPDATE \"{TOWN}\".entries SET town = '{OTHER}'")
    check = checks.check_rows(look_at(demo.outside, [TOWN, OTHER]))
    assert not check.holds
    assert check.evidence.startswith("1 foreign rows")


def test_a_foreign_row_in_an_answer_is_noticed() -> None:
    tally = Tally()
    tally.add(Request(TOWN, app.show, {}), [Entry(town=TOWN), Entry(town=OTHER)])
    assert not checks.check_answers([tally]).holds


def test_an_index_that_missed_something_is_noticed(demo: Demo) -> None:
    run(demo, f"UPDATE \"{OTHER}\".entries SET name = 'Brauerei'")
    check = checks.check_index(look_at(demo.outside, [TOWN, OTHER]), demo.index)
    assert not check.holds
    assert check.evidence.endswith(f"differing: {OTHER}")


def test_a_table_outside_is_noticed(demo: Demo) -> None:
    run(demo, "CREATE TABLE public.entries (id int)")
    outside = tables_outside(demo.outside)
    assert not checks.check_schemas([TOWN, OTHER], [TOWN, OTHER], outside).holds


def test_a_new_town_has_its_categories(demo: Demo) -> None:
    [facts] = look_at(demo.outside, [TOWN])
    assert facts.rows["categories"] == len(app.CATEGORIES)


def test_a_bulk_update_reaches_the_index(demo: Demo) -> None:
    app.handle(demo.mgr, TOWN, app.tag_category, "bakery", "Nachtbus")
    [entry] = app.handle(demo.mgr, TOWN, app.search, demo.index, "nachtbus")
    assert entry.name == FIRST_OF_NEWCOMER["name"]
    assert app.handle(demo.mgr, OTHER, app.search, demo.index, "nachtbus") == []


def test_closing_down_takes_the_bookings_out_of_the_index(demo: Demo) -> None:
    app.handle(demo.mgr, TOWN, app.book, 1, "Saal", "Konzert", [OPENING])
    assert len(demo.index.of(TOWN).search("konzert")) == 1
    app.handle(demo.mgr, TOWN, app.close_down, 1)
    assert demo.index.of(TOWN).documents == {}


def test_a_booking_that_clashes_leaves_nothing(demo: Demo) -> None:
    app.handle(demo.mgr, TOWN, app.book, 1, "Saal", "Konzert", [OPENING])
    before = dict(demo.index.of(TOWN).documents)
    with pytest.raises(IntegrityError):
        app.handle(demo.mgr, TOWN, app.book, 1, "Saal", "Probe", [OPENING])
    assert demo.index.of(TOWN).documents == before
    assert look_at(demo.outside, [TOWN])[0].rows["bookings"] == 1


def test_search_with_signs_of_regular_expressions(demo: Demo) -> None:
    assert app.handle(demo.mgr, TOWN, app.search_database, "bäck (") == []
