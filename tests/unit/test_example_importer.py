"""The importer of the example, without a server, and the files that ship with it."""

from __future__ import annotations

import pytest

from examples.towns.app import CATEGORIES
from examples.towns.importer import DATA, opening_hours, read_records
from examples.towns.scenario import TOWNS

ALL_DAY, MORNING = ["08:00-18:00"], ["08:00-12:00"]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("", {}),
        ("sat 08:00-12:00", {"sat": MORNING}),
        ("thu-fri 08:00-18:00; sat 08:00-12:00", {"thu": ALL_DAY, "fri": ALL_DAY, "sat": MORNING}),
        ("sun 08:00-12:00 13:00-17:00", {"sun": ["08:00-12:00", "13:00-17:00"]}),
    ],
)
def test_opening_hours(text: str, hours: dict[str, list[str]]) -> None:
    assert opening_hours(text) == hours


def test_a_day_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        opening_hours("someday 08:00-12:00")


@pytest.mark.parametrize("town", TOWNS)
def test_records_are_complete(town: str) -> None:
    records = list(read_records(DATA / f"{town}.csv"))
    assert len(records) > 300
    assert {record["category"] for record in records} == set(CATEGORIES)
    assert len({record["name"] for record in records}) == len(records)
    assert all(opening_hours(record["opening_hours"]) for record in records)
