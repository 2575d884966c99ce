"""Schema names: parsed once, and then known to be safe."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, Self

from onegov_orm.errors import InvalidSchemaName

#: The server cuts longer names without a word (``NAMEDATALEN - 1``).
MAX_BYTES: Final = 63

EXTENSIONS_SCHEMA: Final = "extensions"
SHARED_SCHEMA: Final = "shared"

#: Names that no customer can have.
RESERVED: Final = frozenset({"information_schema", "public", EXTENSIONS_SCHEMA, SHARED_SCHEMA})

_CHARACTERS = re.compile(r"[a-z0-9_-]+")


class SchemaName(str):
    """The name of a customer's schema, valid by construction.

    Raises `InvalidSchemaName` for anything else, of any type. As a `str` it can be
    used wherever a name is wanted.
    """

    __slots__ = ()

    def __new__(cls, name: object, reserved: Collection[str] = RESERVED) -> Self:
        """Return the name; raises `InvalidSchemaName`."""
        if type(name) is cls:
            if name in reserved:
                raise InvalidSchemaName(name, "it is reserved")
            return name
        rule = broken_rule(name, reserved)
        if rule is not None:
            raise InvalidSchemaName(name, rule)
        return super().__new__(cls, _plain(name))

    @property
    def namespace(self) -> str:
        """The part before the first ``-``: ``towns`` of ``towns-bern``."""
        return self.partition("-")[0]

    def __getnewargs__(self) -> tuple[str, frozenset[str]]:  # type: ignore[override]
        return str(self), frozenset()


def broken_rule(name: object, reserved: Collection[str] = RESERVED) -> str | None:
    """Return the first rule that a schema name breaks, or None if it is valid."""
    if not isinstance(name, str):
        return f"it is not a text but a {type(name).__name__}"
    name = _plain(name)
    if not name:
        return "it is empty"
    if _CHARACTERS.fullmatch(name) is None:
        return "only the characters a-z, 0-9, _ and - are allowed"
    if len(name) > MAX_BYTES:
        return f"it is longer than {MAX_BYTES} bytes ({len(name)}), the server would cut it"
    if name[0].isdigit():
        return "it starts with a digit"
    if name.startswith("pg_"):
        return "names that start with pg_ belong to PostgreSQL"
    if "--" in name:
        return "-- starts a comment in SQL"
    if name in reserved:
        return "it is reserved"
    return None


def _plain(text: Any) -> str:
    """Return the characters of a text; a subclass, such as an enum, may show others."""
    return str.__str__(text)


@lru_cache(maxsize=4096)
def parsed(name: str, reserved: frozenset[str]) -> SchemaName:
    """Return a name that may have been parsed before; raises `InvalidSchemaName`."""
    return SchemaName(name, reserved)
