"""Names for URLs, of whatever people write."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onegov_orm._url_names import MAX_NAME_LENGTH
from onegov_orm.utils import increment_name, normalize_for_url

NAMES = {
    "Hello World": "hello-world",
    "  A -- b_c.d/e  ": "a-b-c-d-e",
    "Über Größe, Ähre & Öl": "ueber-groesse-aehre-oel",
    "ẞ ß": "ss-ss",
    "u\N{COMBINING DIAERESIS}ber": "ueber",
    "Élan Çédille Ñandú": "elan-cedille-nandu",
    "Łódź Ørsted Æsop Þór Đorđe": "lodz-orsted-aesop-thor-dorde",
    "İstanbul": "istanbul",
    "Москва й": "москва-й",
    "Ελλάδα ΟΔΟΣ": "ελλαδα-οδος",
    "北京 2024": "北京-2024",
    "हिन्दी भाषा": "हिन्दी-भाषा",
    "が ガ": "が-ガ",
    "한국어": "한국어",
    "مرحبا": "مرحبا",
    "٣": "٣",
    "Ａ① ﬁ ²": "a1-fi-2",
    "½": "1-2",
    "1️⃣ 🎉": "1",
    "": "",
    "???": "",
    "🎉": "",
    "\0\n\ud800": "",
}


@pytest.mark.parametrize(("text", "name"), NAMES.items(), ids=range(len(NAMES)))
def test_a_text_becomes_a_name(text, name):
    assert normalize_for_url(text) == unicodedata.normalize("NFC", name)


@given(st.text())
def test_a_name_is_normalized_already(text):
    name = normalize_for_url(text)
    assert normalize_for_url(name) == name


@given(st.text())
def test_a_name_has_hyphens_only_between_others(text):
    name = normalize_for_url(text)
    assert name.strip("-") == name
    assert "--" not in name
    assert all(unicodedata.category(each)[0] in "LNM" for each in name.replace("-", ""))


@given(st.text(min_size=150), st.sampled_from(["x", "-", "ä", "北", "ß"]))
def test_a_name_has_a_bounded_length(text, more):
    name = normalize_for_url(text + more * 500)
    assert len(name) <= MAX_NAME_LENGTH
    assert normalize_for_url(name) == name


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_text_takes_a_short_cut_to_the_same_name(text):
    assert normalize_for_url(text) == normalize_for_url(text + "\N{COMBINING ACUTE ACCENT}?")


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("foo", "foo-1"),
        ("foo-2", "foo-3"),
        ("foo-99", "foo-100"),
        ("foo-007", "foo-8"),
        ("2024", "2024-1"),
        ("foo-٣", "foo-٣-1"),
        ("foo-" + "9" * 40, "foo-" + "9" * 40 + "-1"),
    ],
)
def test_a_name_is_counted_up(name, following):
    assert increment_name(name) == following


@given(st.text().map(normalize_for_url).filter(bool))
def test_names_that_are_counted_up_stay_normalized_and_differ(name):
    name = (name * MAX_NAME_LENGTH)[:MAX_NAME_LENGTH].rstrip("-")
    found = [normalize_for_url(name)]
    for _number in range(20):
        found.append(increment_name(found[-1]))
    assert len(set(found)) == 21
    assert [normalize_for_url(each) for each in found] == found
