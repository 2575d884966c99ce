"""What the text of a statement tells about its traces on the connection.

This reads text and guesses on the safe side: a wrong guess costs a message, never more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Flag, auto
from functools import lru_cache

from onegov_orm._lexer import read

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
    #: The driver may receive messages that are meant for this customer, at any time.
    LISTENS = auto()
    #: It returns to a savepoint, whatever the path was there, and goes on in the same text.
    REVIVES_PATH = auto()
    #: It ends the transaction and goes on in the same text, or asks for one that may write.
    ESCAPES = auto()
    #: It leaves a lock, a temporary table or a cursor that outlives the transaction.
    NEEDS_SESSION = auto()
    #: It prepares a transaction to be committed in two phases, or ends one that was prepared.
    TWO_PHASES = auto()


#: Where a statement may begin inside a longer text, with the comments that may come first.
_OPENING = r"(?:^|[;'$(]|>>|\*/|\b(?:begin|then|else|loop)\b)(?:\s|/\*.*?\*/|--[^\n]*(?:\n|$))*"
_GAP = r"(?:\s|/\*.*?\*/|--[^\n]*\n)"
_FLAGS = re.IGNORECASE | re.DOTALL
_MOVES_PATH = re.compile(
    r"search_path|set_config|pg_settings|\breset\b|\bdiscard\b"
    rf"|{_OPENING}set\s+(?!constraints\b|transaction\b)"
    # SQLAlchemy's own savepoints are messages of their own, with the path as it has to be.
    rf"|{_OPENING}rollback\b(?!\s+to\s+savepoint\s+sa_savepoint_\d+\s*$)"
    rf"|{_OPENING}(?:commit|begin|end|abort|start)\b",
    _FLAGS,
)
_ARGUMENTS = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"
_OUTLIVES = re.compile(
    rf"{_OPENING}set\s+(?!local\b|constraints\b|transaction\b)"
    rf"|\bset_config\s*\((?!{_ARGUMENTS},\s*(?:true|'t'|'true')\s*\))"
    rf"|pg_settings|{_OPENING}prepare\b(?!\s+transaction\b)|\bdblink_connect|{_OPENING}load\b",
    _FLAGS,
)
_OUTSIDE = re.compile(r"\s*(?:commit|rollback)\s+prepared\b", _FLAGS)
_REVIVES = re.compile(rf"{_OPENING}rollback\b[^;]*\bto\b[^;]*;\s*\S", _FLAGS)
_LISTENS = re.compile(rf"{_OPENING}listen{_GAP}+[\w\"'%]", _FLAGS)
_LASTS = r"(?![^;]*\bon\s+commit\s+drop\b)"
# INSERT INTO may be about a table of that name.
_INTO = rf"(?<!insert\s)(?<!merge\s)\binto{_GAP}+"
_NEEDS_SESSION = re.compile(
    rf'advisory_lock(?:_shared)?"?{_GAP}*\('
    rf"|\bcursor{_GAP}+with{_GAP}+hold\b"
    rf"|\bcreate{_GAP}+(?:or{_GAP}+replace{_GAP}+)?(?:(?:local|global){_GAP}+)?"
    rf"temp(?:orary)?{_GAP}+(?:recursive{_GAP}+)?(?:table|view|sequence)\b{_LASTS}"
    rf'|\bcreate\b[^;(]*?\bpg_temp"?{_GAP}*\.{_LASTS}|{_INTO}"?pg_temp"?{_GAP}*\.'
    rf"|{_INTO}(?:(?:local|global){_GAP}+)?temp(?:orary)?{_GAP}+(?!from\b)[\w\"]",
    _FLAGS,
)

#: One of these words stands in every statement that has an effect at all.
_TRIGGERS = re.compile(
    r"\bset\b|search_path|set_config|pg_settings|reset|discard|rollback|commit|begin|\bend\b"
    r"|abort|start|prepare|dblink|load|listen|\bwrite\b|transaction_read_only|advisory_lock"
    r"|\btemp|pg_temp|\bhold\b",
    re.IGNORECASE,
)

#: What a statement begins with that ends the transaction, literals left out.
_ENDS = re.compile(
    r"(?:(?:commit|rollback)\b(?!\s+prepared\b)(?!\s+(?:work\s+|transaction\s+)?to\b)"
    r"|(?:end|abort|prepare\s+transaction)\b)",
    _FLAGS,
)
_WRITES = re.compile(
    r"(?:set|begin|start)\b.*\bread\s+write\b"
    r"|(?:set|reset)\b.*\b(?:default_)?transaction_read_only\b"
    r"(?!\s*(?:=|to\b)\s*(?:on|true)$)",
    _FLAGS,
)
_TWO_PHASES = re.compile(r"(?:(?:commit|rollback)\s+prepared|prepare\s+transaction)\b", _FLAGS)
_ATOMIC = re.compile(r"create\b.*\b(?:function|procedure)\b.*\bbegin\s+atomic\b", _FLAGS)
_END = re.compile(r"end$", _FLAGS)


_PATTERNS = (
    (_MOVES_PATH.search, Effects.MOVES_PATH),
    (_OUTLIVES.search, Effects.OUTLIVES_TRANSACTION),
    (_OUTSIDE.match, Effects.OUTSIDE_TRANSACTION),
    (_LISTENS.search, Effects.LISTENS),
    (_REVIVES.search, Effects.REVIVES_PATH),
    (_NEEDS_SESSION.search, Effects.NEEDS_SESSION),
)


class HarmlessText(str):
    """A text that was found to have no effects, or was put together from such: not read again."""

    __slots__ = ()


def effects_of(statement: str) -> Effects:
    """Return what the statement may leave behind on its connection."""
    if type(statement) is HarmlessText:
        return Effects.NONE
    if len(statement) > _MAX_CACHED_LENGTH:
        return _analyse(statement)
    return _cached(statement)


def _analyse(statement: str) -> Effects:
    effects = Effects.NONE
    if _TRIGGERS.search(statement) is not None:
        readings = [read(statement)]
        if "\\" in statement:
            readings.append(read(statement, backslashes_escape=True))
        for text in {statement, *(reading.text for reading in readings)}:
            for find, effect in _PATTERNS:
                if find(text):
                    effects |= effect
        for reading in readings:
            effects |= _effects_on_transaction(reading.statements)
    return effects


def _effects_on_transaction(statements: Sequence[str]) -> Effects:
    effects = Effects.NONE
    is_body = False
    for number, statement in enumerate(statements):
        if is_body and _END.match(statement) is not None:
            is_body = False
            continue
        # The body of an SQL function has statements of its own, up to its END.
        is_body = is_body or _ATOMIC.match(statement) is not None
        if _WRITES.match(statement) is not None or (
            _ENDS.match(statement) is not None and any(statements[number + 1 :])
        ):
            effects |= Effects.ESCAPES
        if _TWO_PHASES.match(statement) is not None:
            effects |= Effects.TWO_PHASES
    return effects


_cached = lru_cache(maxsize=4096)(_analyse)
