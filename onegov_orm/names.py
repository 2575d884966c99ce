"""Schema names: parsed once, and then known to be safe."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, Literal, Self, get_args

from onegov_orm.errors import InvalidSchemaName

#: The server cuts longer names without a word (``NAMEDATALEN - 1``).
MAX_BYTES: Final = 63

EXTENSIONS_SCHEMA: Final = "extensions"
SHARED_SCHEMA: Final = "shared"

#: Names that no customer can have.
RESERVED: Final = frozenset({"information_schema", "public", EXTENSIONS_SCHEMA, SHARED_SCHEMA})

#: What the names of schemas begin with that no customer uses: dropped ones that can come back,
#: ones made ahead for new customers, and ones made for a moment.
HiddenKind = Literal["trash", "spare", "scratch"]

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
            if ":" in name:
                raise InvalidSchemaName(name, "it is the name of a hidden schema")
            return name
        rule = broken_rule(name, reserved)
        if rule is not None:
            raise InvalidSchemaName(name, rule)
        return super().__new__(cls, _plain(name))

    @property
    def namespace(self) -> str:
        """The part before the first ``-``: ``towns`` of ``towns-bern``."""
        return self.partition("-")[0]

    def __reduce__(self) -> Any:
        return found_schema, (str(self),)


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


def hidden_schema(kind: HiddenKind, token: str | None = None) -> SchemaName:
    """Return a name that no customer can have, such as ``trash:3f9a61c2d4e8b705``.

    A new token is made up unless one is given. The colon is what no customer's name has.
    """
    token = secrets.token_hex(8) if token is None else token
    if kind not in get_args(HiddenKind) or _CHARACTERS.fullmatch(token) is None:
        raise InvalidSchemaName(f"{kind}:{token}", "it is not the name of a hidden schema")
    return str.__new__(SchemaName, f"{kind}:{token}")


def hidden_kind(name: str) -> str | None:
    """Return what kind of hidden schema has this name, None if it is no such name."""
    kind, colon, token = name.partition(":")
    is_hidden = colon and kind in get_args(HiddenKind) and _CHARACTERS.fullmatch(token)
    return kind if is_hidden else None


def _plain(text: Any) -> str:
    """Return the characters of a text; a subclass, such as an enum, may show others."""
    return str.__str__(text)


@lru_cache(maxsize=4096)
def parsed(name: str, reserved: frozenset[str]) -> SchemaName:
    """Return a name that may have been parsed before; raises `InvalidSchemaName`."""
    return SchemaName(name, reserved)


def found_schema(name: str) -> SchemaName:
    """Return the name of a schema that was made before: a customer's, or a hidden one.

    Raises `InvalidSchemaName` for a name that this library gives to none.
    """
    if hidden_kind(name):
        return str.__new__(SchemaName, name)
    return SchemaName(name, reserved=())
