"""Chooses schemas by names and patterns, as a shell does with files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from onegov_orm.errors import SchemaNotFound

_PATTERN_CHARACTERS: Final = frozenset("*?[")

Name = TypeVar("Name", bound=str)


def is_pattern(text: str) -> bool:
    """Tell whether a text stands for several names: ``towns-*``."""
    return not _PATTERN_CHARACTERS.isdisjoint(text)


def select(
    names: Sequence[Name], patterns: Iterable[str] = (), *, exclude: Iterable[str] = ()
) -> list[Name]:
    """Return the names that match one of the patterns, in their order; without patterns, all.

    Those that match one of ``exclude`` are left out. Raises `SchemaNotFound` for a name or
    pattern that matches nothing: what was misspelt must not look like nothing to do.
    """
    wanted, unwanted = list(patterns), list(exclude)
    chosen = list(names)
    if wanted:
        for pattern in wanted:
            if not any(_matches(name, pattern) for name in names):
                raise SchemaNotFound(pattern)
        chosen = [name for name in names if any(_matches(name, each) for each in wanted)]
    return [name for name in chosen if not any(_matches(name, each) for each in unwanted)]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (is_pattern(pattern) and fnmatchcase(name, pattern))
