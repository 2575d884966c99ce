"""Compares what two schemas hold, and says each thing once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from onegov_orm.fleet.fingerprints import Item

#: What things are called by: their kind and their name.
Key = tuple[str, str]
Items = Mapping[Key, Item]
#: What is expected, and what is found; None where there is none.
Pair = tuple[Item | None, Item | None]

#: These hold other things, which go with them.
_HOLDERS: Final = ("table", "view", "materialized view", "foreign table", "type", "column")
#: These are about another thing, whose kind their name begins with.
_ASPECTS: Final = ("comment", "owner", "privileges")
#: How the names of those begin, and nothing in the end.
_SUBJECTS: Final = (*(f"{kind} " for kind in _HOLDERS), "sequence ", "enum value ", "")


def by_key(items: Iterable[Item]) -> dict[Key, Item]:
    """Return the items by what they are called."""
    return {(item.kind, item.name): item for item in items}


def compare(expected: Items, found: Items) -> dict[Key, Pair]:
    """Return what differs, sorted, without what follows from something else that differs."""
    pairs = {
        key: (expected.get(key), found.get(key))
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    }
    whole = {key for key, pair in pairs.items() if None in pair}
    holders = {(name, pairs[kind, name][0] is None) for kind, name in whole if kind in _HOLDERS}
    return {key: pair for key, pair in pairs.items() if not _follows(key, pair, holders, pairs)}


def _follows(
    key: Key, pair: Pair, holders: Collection[tuple[str, bool]], pairs: Mapping[Key, Pair]
) -> bool:
    """Tell whether a difference is there because of another one."""
    kind, name = key
    if None in pair:
        is_extra = pair[0] is None
        if any((holder, is_extra) in holders for holder in _holders_of(key, pair)):
            return True
    if kind == "index":
        # That of a constraint has its name.
        return _shape(pairs.get(("constraint", name))) == _shape(pair)
    if kind == "type" and None not in pair:
        # The values say it more clearly, unless they are the same in another order.
        prefix = f"{name}."
        return any(other == "enum value" and value.startswith(prefix) for other, value in pairs)
    return False


def _holders_of(key: Key, pair: Pair) -> Iterator[str]:
    """Yield the names of what a thing goes with."""
    kind, name = key
    if kind == "sequence":
        item = pair[0] or pair[1]
        name = item.definition.partition(" OWNED BY ")[2] if item else ""
    elif kind in _ASPECTS:
        subject = next(word for word in _SUBJECTS if name.startswith(word))
        name = name.removeprefix(subject)
    if kind in ("sequence", "default", *_ASPECTS):
        yield name
    yield from _prefixes(name)


def _prefixes(name: str) -> Iterator[str]:
    """Yield what a dotted name begins with; dots in quotes are none."""
    is_quoted = False
    for place, character in enumerate(name):
        if character == '"':
            is_quoted = not is_quoted
        elif character == "." and not is_quoted:
            yield name[:place]


def _shape(pair: Pair | None) -> tuple[bool, bool] | None:
    return None if pair is None else (pair[0] is None, pair[1] is None)
