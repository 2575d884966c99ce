"""A search index in the memory of the process, kept up to date by `on_commit`.

Every town has an index of its own, so that towns served by different threads never meet.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from onegov_orm import ChangeSet
from onegov_orm.changes import IdentityKey

from .models import Searchable

WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """Return the text without case and accents: what ``unaccent`` makes of it."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def words_of(text: str) -> frozenset[str]:
    """Return the different words of a text, normalised."""
    return frozenset(WORD.findall(normalise(text)))


class TownIndex:
    """The words of one town, and the objects that each of them stands in."""

    def __init__(self) -> None:
        self.documents: dict[IdentityKey, frozenset[str]] = {}
        self._found_in: dict[str, set[IdentityKey]] = {}

    def put(self, key: IdentityKey, text: str) -> None:
        """Have an object found by this text, and by no other one any more."""
        self.remove(key)
        self.documents[key] = words_of(text)
        for word in self.documents[key]:
            self._found_in.setdefault(word, set()).add(key)

    def remove(self, key: IdentityKey) -> None:
        """Have an object not found any more."""
        for word in self.documents.pop(key, ()):
            self._found_in[word].discard(key)
            if not self._found_in[word]:
                del self._found_in[word]

    def search(self, text: str) -> set[IdentityKey]:
        """Return what holds all words of the text, or words that begin with them."""
        found = [self._beginning_with(word) for word in words_of(text)]
        return set.intersection(*found) if found else set()

    def _beginning_with(self, start: str) -> set[IdentityKey]:
        hits = [keys for word, keys in self._found_in.items() if word.startswith(start)]
        return set().union(*hits)


class SearchIndex:
    """The indexes of all towns: ``mgr.on_commit.connect(index.update)`` and that is all."""

    def __init__(self) -> None:
        self.towns: dict[str, TownIndex] = {}

    def of(self, town: str) -> TownIndex:
        """Return the index of a town, an empty one for a new town."""
        return self.towns.setdefault(town, TownIndex())

    def update(self, town: str, changes: ChangeSet) -> None:
        """Follow what a transaction of the town has changed."""
        index = self.of(town)
        for key, obj in [*changes.inserts.items(), *changes.updates.items()]:
            if isinstance(obj, Searchable):
                index.put(key, obj.search_text)
        for key in changes.deletes:
            index.remove(key)

    def search(self, town: str, text: str, model: type[Any]) -> list[int]:
        """Return the ids of the objects of one model that the text finds in the town."""
        keys = self.of(town).search(text)
        return sorted(identity[0] for found, identity, _ in keys if found is model)
