"""Keeps the parameters of statements in little memory: short to look at, and still comparable."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

#: How much is kept of a text and the like, and how many items of a list.
_MOST_CHARACTERS: Final = 80
_MOST_BYTES: Final = 32
_MOST_ITEMS: Final = 10
_MOST_KEYS: Final = 20

_BYTES: Final = (bytes, bytearray, memoryview)


def shortened(value: Any) -> Any:
    """Return the value, or something of the same kind that tells what it begins with."""
    value = _unwrapped(value)
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]}... ({len(value)} characters)"
    if isinstance(value, _BYTES):
        content = bytes(value)
        if len(content) > _MOST_BYTES:
            return f"{content[:_MOST_BYTES]!r}... ({len(content)} bytes)"
        return content
    if isinstance(value, Mapping):
        return _shortened_mapping(value)
    if isinstance(value, (list, tuple)):
        kept = [shortened(each) for each in value[:_MOST_ITEMS]]
        if len(value) > _MOST_ITEMS:
            kept.append(f"... ({len(value)} items)")
        return kept if isinstance(value, list) else tuple(kept)
    return value


def _shortened_mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    kept = {key: shortened(each) for key, each in islice(value.items(), _MOST_KEYS)}
    if len(value) > _MOST_KEYS:
        kept["..."] = f"({len(value)} items)"
    return kept


def digest(value: Any) -> bytes:
    """Return what equal parameters have in common, and others have not."""
    plain = repr(_plain(value))
    return blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _plain(value: Any) -> Any:
    """Return what has a representation that tells all of it."""
    value = _unwrapped(value)
    if isinstance(value, _BYTES):
        return blake2b(bytes(value)).hexdigest()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _unwrapped(value: Any) -> Any:
    """Return what a driver's own class for JSON or binary data is around."""
    if type(value).__module__.partition(".")[0] not in ("psycopg", "psycopg2"):
        return value
    return getattr(value, "adapted", getattr(value, "obj", value))
