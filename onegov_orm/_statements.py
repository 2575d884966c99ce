"""What the text of a statement tells about its traces on the connection.

This reads text and guesses on the safe side: a wrong guess costs a message, never more.
"""

from __future__ import annotations

import re
from enum import Flag, auto
from functools import lru_cache

_MAX_CACHED_LENGTH = 20_000


class Effects(Flag):
    """What a statement may leave behind."""

    NONE = 0
    #: The search path or the transaction may be another one afterwards.
    MOVES_PATH = auto()
    #: The connection keeps a setting or a prepared statement beyond the transaction.
    OUTLIVES_TRANSACTION = auto()
    #: The statement is refused by the server inside a transaction.
    OUTSIDE_TRANSACTION = auto()


_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_OPENING = r"(?:^|[;'$(]|\b(?:begin|then|else|loop)\b)\s*"
_MOVES_PATH = re.compile(
    rf"search_path|set_config|\breset\b|\bdiscard\b"
    rf"|{_OPENING}set\s+(?:local\s+|session\s+)?(?:schema|role|session)\b"
    rf"|(?:^|;)\s*(?:rollback|commit|begin|end|abort|start)\b",
    re.IGNORECASE,
)
_OUTLIVES = re.compile(
    rf"{_OPENING}set\s+(?!local\b|constraints\b|transaction\b)"
    r"|\bset_config\s*\((?![^()]*,\s*(?:true|'t'|'true')\s*\))"
    r"|\bprepare\s+(?!transaction\b)|\bdblink_connect|(?:^|;)\s*load\b",
    re.IGNORECASE,
)
_OUTSIDE = re.compile(r"\s*(?:commit|rollback)\s+prepared\b", re.IGNORECASE)

#: One of these words stands in every statement that has an effect at all.
_TRIGGERS = re.compile(
    r"\bset\b|search_path|set_config|reset|discard|rollback|commit|begin|\bend\b|abort|start"
    r"|prepare|dblink|load",
    re.IGNORECASE,
)


def effects_of(statement: str) -> Effects:
    """Return what the statement may leave behind on its connection."""
    if len(statement) > _MAX_CACHED_LENGTH:
        return _analyse(statement)
    return _cached(statement)


def _analyse(statement: str) -> Effects:
    if _TRIGGERS.search(statement) is None:
        return Effects.NONE
    text = _COMMENTS.sub(" ", statement)
    effects = Effects.NONE
    if _MOVES_PATH.search(text):
        effects |= Effects.MOVES_PATH
    if _OUTLIVES.search(text):
        effects |= Effects.OUTLIVES_TRANSACTION
    if _OUTSIDE.match(text):
        effects |= Effects.OUTSIDE_TRANSACTION
    return effects


_cached = lru_cache(maxsize=4096)(_analyse)
