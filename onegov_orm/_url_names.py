"""Names for URLs, made of what people write."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

#: The longest name in characters; an index of PostgreSQL's holds them all, whatever the script.
MAX_NAME_LENGTH: Final = 200

#: Latin letters that Unicode takes for letters of their own, as others write them.
_TRANSCRIBED: Final = str.maketrans(
    {
        "ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe",
        "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
    }
)  # fmt: skip
#: Whose marks can go. Elsewhere they make another letter, or are the vowels.
_STRIPPED: Final = ("LATIN ", "GREEK ")
_INVISIBLE: Final = "VARIATION SELECTOR"
_ASCII_REST: Final = re.compile(r"[^a-z0-9]+")
_HYPHENS: Final = re.compile(r"-{2,}")
#: With more digits than this it is no number of ours.
_NUMBERED: Final = re.compile(r"(.*)-([0-9]{1,18})", re.DOTALL)


def normalize_for_url(text: str) -> str:
    """Return the text in lower case, with hyphens for all that is no letter or digit.

    German umlauts are written out, other diacritics are left out. Letters of all scripts stay
    as they are. What is normalized already is returned unchanged; of '???' nothing is left.
    """
    if text.isascii():
        name = _ASCII_REST.sub("-", text.lower())
    else:
        name = _HYPHENS.sub("-", "".join(_kept(_lowered(text))))
    return _trimmed(name.strip("-"), MAX_NAME_LENGTH)


def increment_name(name: str) -> str:
    """Return the next name: of 'page', 'page-1', and of 'page-1', 'page-2'."""
    stem, number = split_number(name)
    suffix = f"-{number + 1}"
    return _trimmed(stem, MAX_NAME_LENGTH - len(suffix)) + suffix


def split_number(name: str) -> tuple[str, int]:
    """Return the name without the number at its end, and that number: 0 if there is none."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


def _lowered(text: str) -> str:
    # Compatibility forms first: what is a letter in a circle or a ligature is plain letters.
    composed = unicodedata.normalize("NFKC", text)
    lowered = unicodedata.normalize("NFKC", composed.lower())
    return lowered.translate(_TRANSCRIBED)


def _kept(text: str) -> Iterator[str]:
    """Yield the letters, digits, and the marks of letters that need theirs; else hyphens."""
    has_marks = False
    for character in text:
        kind = unicodedata.category(character)[0]
        name = unicodedata.name(character, "")
        if kind == "M":
            if has_marks and not name.startswith(_INVISIBLE):
                yield character
            continue
        is_stripped = name.startswith(_STRIPPED)
        has_marks = kind == "L" and not is_stripped
        if kind in "LN":
            yield _without_marks(character) if is_stripped else character
        else:
            yield "-"


def _without_marks(character: str) -> str:
    return unicodedata.normalize("NFKD", character)[0].translate(_TRANSCRIBED)


def _trimmed(name: str, length: int) -> str:
    return name if len(name) <= length else name[:length].rstrip("-")
