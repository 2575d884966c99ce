"""The search index of the example, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.towns.index import SearchIndex, TownIndex, normalise, words_of
from examples.towns.models import Category, Entry
from onegov_orm import ChangeSet
from onegov_orm.changes import IdentityKey

KEYS = st.integers(1, 5).map(lambda number: (Entry, (number,), None))
TEXTS = st.text("aäbB é-", max_size=12)


def key(number: int) -> IdentityKey:
    return (Entry, (number,), None)


def entry(name: str, *tags: str) -> Entry:
    return Entry(name=name, description="", tags=list(tags))


def index_of(**texts: str) -> TownIndex:
    index = TownIndex()
    for name, text in texts.items():
        index.put(key(int(name[1:])), text)
    return index


@pytest.mark.parametrize(
    ("text", "plain"),
    [("Zürich", "zurich"), ("CHÂTEAU", "chateau"), ("Straße", "strasse"), ("Zoë", "zoe")],
)
def test_normalise(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_words_are_cut_at_everything_else() -> None:
    assert words_of("Müller & Söhne, E-Velos_2") == {"muller", "sohne", "e", "velos", "2"}


def test_search_finds_beginnings_without_accents() -> None:
    index = index_of(n1="Bäckerei Zürcher", n2="Backstube", n3="Gasthof Bären")
    assert index.search("BACK") == {key(1), key(2)}
    assert index.search("bärén") == {key(3)}


def test_search_wants_all_words() -> None:
    index = index_of(n1="Bäckerei Zürcher", n2="Hofladen Zürcher")
    assert index.search("zurch bäck") == {key(1)}


@pytest.mark.parametrize("text", ["", "  ", "&"])
def test_search_for_nothing_finds_nothing(text: str) -> None:
    assert index_of(n1="Bäckerei").search(text) == set()


def test_put_replaces_what_was_there() -> None:
    index = index_of(n1="Bäckerei")
    index.put(key(1), "Brauerei")
    assert index.search("bäckerei") == set()
    assert index.search("brauerei") == {key(1)}


def test_remove_forgets_and_may_be_repeated() -> None:
    index = index_of(n1="Bäckerei")
    index.remove(key(1))
    index.remove(key(1))
    assert index.search("bäckerei") == set()
    assert index.documents == {}


@given(st.lists(st.tuples(KEYS, st.none() | TEXTS)))
def test_whatever_happened_the_index_is_as_if_made_anew(
    steps: list[tuple[IdentityKey, str | None]],
) -> None:
    texts: dict[IdentityKey, str] = {}
    index = TownIndex()
    for changed, text in steps:
        if text is None:
            index.remove(changed)
            texts.pop(changed, None)
        else:
            index.put(changed, text)
            texts[changed] = text
    anew = TownIndex()
    for changed, text in texts.items():
        anew.put(changed, text)
    assert vars(index) == vars(anew)


def test_update_follows_inserts_updates_and_deletes() -> None:
    index = SearchIndex()
    inserts = {key(number): entry(f"Velo {number}") for number in (1, 2, 3)}
    index.update("towns-bern", ChangeSet(inserts=inserts))
    changes = ChangeSet(
        updates={key(2): entry("Auto", "vegan")}, deletes={key(3): inserts[key(3)]}
    )
    index.update("towns-bern", changes)
    assert index.search("towns-bern", "velo", Entry) == [1]
    assert index.search("towns-bern", "vegan", Entry) == [2]


def test_update_leaves_out_what_cannot_be_searched() -> None:
    index = SearchIndex()
    category = {(Category, (1,), None): Category(slug="velo", title="Velo")}
    index.update("towns-bern", ChangeSet(inserts=category))
    assert index.of("towns-bern").documents == {}


def test_towns_do_not_find_each_other() -> None:
    index = SearchIndex()
    index.update("towns-bern", ChangeSet(inserts={key(1): entry("Velo")}))
    assert index.search("towns-zurich", "velo", Entry) == []
