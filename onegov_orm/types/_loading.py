"""Makes containers that track changes out of what a driver read: done for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onegov_orm.types.tracking import TrackedDict, TrackedList

__all__ = ["loaded"]

ReadText = Callable[[str], Any]


def loaded(structure: Any, read_text: ReadText) -> Any:
    """Return lists and dictionaries as containers that are nobody's, each marked text read."""
    kind = structure.__class__
    if kind is dict:
        return _loaded_dict(structure, read_text)
    if kind is list:
        return _loaded_list(structure, read_text)
    return read_text(structure) if kind is str else structure


# The two are alike but for their calls: a common function for both takes a quarter longer. They go
# past the methods that adopt values and tell about changes.


def _loaded_dict(structure: dict[str, Any], read_text: ReadText) -> TrackedDict:
    result = TrackedDict.__new__(TrackedDict)
    result._owner = None
    dict.update(result, structure)
    for key, value in structure.items():
        kind = value.__class__
        if kind is str:
            if value[:2] == "__":
                dict.__setitem__(result, key, read_text(value))
        elif kind is dict or kind is list:
            part = (
                _loaded_dict(value, read_text) if kind is dict else _loaded_list(value, read_text)
            )
            part._owner = result
            dict.__setitem__(result, key, part)
    return result


def _loaded_list(structure: list[Any], read_text: ReadText) -> TrackedList:
    result = TrackedList.__new__(TrackedList)
    result._owner = None
    list.extend(result, structure)
    for index, value in enumerate(structure):
        kind = value.__class__
        if kind is str:
            if value[:2] == "__":
                list.__setitem__(result, index, read_text(value))
        elif kind is dict or kind is list:
            part = (
                _loaded_dict(value, read_text) if kind is dict else _loaded_list(value, read_text)
            )
            part._owner = result
            list.__setitem__(result, index, part)
    return result
