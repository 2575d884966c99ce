"""Sorting by title, and names that are cut to what the server takes."""

from __future__ import annotations

import locale
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm.abstract._bounded import MAX_BYTES, bounded_name
from onegov_orm.abstract._sorting import AsItWas, by_title, is_sorted


def titled(title):
    return SimpleNamespace(title=title)


@given(st.lists(st.one_of(st.text(), st.none(), st.integers())))
def test_any_titles_can_be_sorted_and_the_result_is_always_the_same(titles):
    items = [titled(title) for title in titles]
    found = sorted(items, key=by_title)
    assert is_sorted(map(by_title, found))
    keys = [by_title(item) for item in found]
    items.reverse()
    assert keys == sorted(map(by_title, items))


@given(st.text(), st.text())
def test_only_equal_titles_have_equal_keys(first, second):
    assert (by_title(titled(first)) == by_title(titled(second))) == (first == second)


def test_titles_are_sorted_as_people_do():
    expected = [
        "", "???", "10", "2", "ähre", "Ahorn", "apfel", "éclair", "Eins", "Zebra", "Zürich", "北京"
    ]  # fmt: skip
    shuffled = [titled(title) for title in reversed(expected)]
    assert [item.title for item in sorted(shuffled, key=by_title)] == expected


def test_the_locale_of_the_machine_does_not_matter():
    titles = ["Zebra", "éclair", "Eber", "_x", "ähre", "Ahorn", "İ", "i", "I"]
    before = locale.setlocale(locale.LC_ALL)
    found = []
    try:
        for name in ("C", "C.UTF-8", ""):
            locale.setlocale(locale.LC_ALL, name)
            found.append(sorted(titles, key=lambda title: by_title(titled(title))))
    finally:
        locale.setlocale(locale.LC_ALL, before)
    assert found[0] == found[1] == found[2]


@given(st.lists(st.integers()))
def test_what_is_sorted_is_recognized(numbers):
    assert is_sorted(numbers) == (numbers == sorted(numbers))
    assert is_sorted(sorted(numbers))


def test_an_item_can_be_seen_with_its_former_title():
    item = SimpleNamespace(title="new", lead="lead")
    before = AsItWas(item, "old")
    assert (before.title, before.lead, item.title) == ("old", "lead", "new")


@given(st.text(min_size=1, max_size=200))
def test_long_names_are_cut_and_stay_different(name):
    found = bounded_name(name)
    assert len(found.encode(errors="surrogatepass")) <= MAX_BYTES
    assert bounded_name(found) == found
    if found != name:
        others = {bounded_name(name + more) for more in ("a", "b")}
        assert len({found, *others}) == 3


@pytest.mark.parametrize("length", [MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1])
def test_only_names_that_are_too_long_are_changed(length):
    assert (bounded_name("x" * length) == "x" * length) == (length <= MAX_BYTES)


def test_cuts_do_not_go_through_characters():
    for length in range(55, 70):
        found = bounded_name("x" * length + "ä" * 40)
        assert len(found.encode()) <= MAX_BYTES
