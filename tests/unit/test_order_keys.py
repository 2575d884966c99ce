"""Order keys: always one more in between, as short as can be."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm.abstract._order import MAX_PLACES, key_between, parsed_key

keys = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40)


def places_of(key):
    return max(-key.as_tuple().exponent, 0)


@pytest.mark.parametrize(
    ("left", "right", "between"),
    [
        ("1", "2", "1.5"),
        ("1", "3", "2"),
        ("-1", "1", "0"),
        ("1", "1.5", "1.2"),
        ("0.99", "1", "0.995"),
        ("-0.5", "-0.4", "-0.45"),
        ("1.00", "1.01", "1.005"),
        ("1e20", "1.00000000000000000001e20", "100000000000000000000.5"),
    ],
)
def test_the_key_between_two_is_short_and_in_the_middle(left, right, between):
    assert key_between(Decimal(left), Decimal(right)) == Decimal(between)


def test_keys_at_the_ends_are_whole_steps_away():
    assert key_between(None, None) == 1
    assert [key_between(None, Decimal(key)) for key in ("1", "1.5", "-7.25")] == [0, 0, -9]
    assert [key_between(Decimal(key), None) for key in ("1", "1.5", "-7.25")] == [2, 2, -7]


@given(keys, keys)
def test_the_key_between_two_is_between_and_none_is_shorter(first, second):
    left, right = sorted([first, second])
    key = key_between(left, right)
    if key is None:
        assert left == right or places_of(right - left) >= MAX_PLACES
        return
    assert left < key < right
    places = places_of(key)
    if places:
        shorter = 10 ** (places - 1)
        with localcontext(prec=500):
            assert int((left * shorter).to_integral_value("ROUND_FLOOR")) + 1 >= right * shorter


@given(st.lists(st.integers(0), min_size=1, max_size=60))
def test_a_list_that_is_put_together_at_random_places_is_sorted(places):
    found: list[Decimal] = []
    for place in places:
        index = place % (len(found) + 1)
        left = found[index - 1] if index else None
        right = found[index] if index < len(found) else None
        key = key_between(left, right)
        assert key is not None
        found.insert(index, key)
    assert found == sorted(set(found))


def test_the_context_of_the_thread_does_not_matter():
    left, right = Decimal("1." + "0" * 50 + "1"), Decimal("1." + "0" * 50 + "2")
    with localcontext(prec=3):
        key = key_between(left, right)
        assert key_between(None, Decimal(10**30 + 1)) == Decimal(10**30)
    assert left < key < right


def test_a_thousand_at_the_front_have_short_keys():
    key = None
    for _number in range(1000):
        key = key_between(None, key)
    assert key == -998


@pytest.mark.parametrize("is_above", [True, False])
def test_hundreds_at_the_same_place_have_room(is_above):
    left, right = Decimal(1), Decimal(2)
    count = 0
    while (key := key_between(left, right)) is not None:
        left, right = (left, key) if is_above else (key, right)
        count += 1
    assert 300 <= count < 500
    assert places_of(right if is_above else left) == MAX_PLACES


def test_there_is_nothing_between_equals():
    assert key_between(Decimal(65536), Decimal("65536.000")) is None
    assert key_between(Decimal(2), Decimal(1)) is None


def test_numbers_are_read_as_they_are_written():
    assert [parsed_key(each) for each in (1, 0.1, "2.50", Decimal("1e-40"))] == [
        1, Decimal("0.1"), Decimal("2.5"), Decimal("1e-40")
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "", "one", None, [], Decimal("sNaN")])
def test_what_has_no_place_is_refused(value):
    with pytest.raises(ValueError, match="no number that has a place"):
        parsed_key(value)
