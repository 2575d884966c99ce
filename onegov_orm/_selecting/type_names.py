"""Reads a column's type from a text such as ``ARRAY(Numeric(10, 2))``, and runs none of it."""

from __future__ import annotations

import ast
import enum
import pkgutil
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, TypeGuard

import sqlalchemy.types
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeEngine

import onegov_orm.types

#: The later ones win: the library's own types, then those that know more of PostgreSQL.
_NAMESPACES: Final = (sqlalchemy.types, postgresql, onegov_orm.types)

#: These can't be the type of a column.
_ABSTRACT: Final = frozenset({"TypeDecorator", "TypeEngine", "UserDefinedType", "Variant"})

_HEAD: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
#: Quoted text, and what opens and closes an argument list.
_BRACKET: Final = re.compile(r"'[^']*'|\"[^\"]*\"|(?P<open>\()|(?P<close>\))")
#: What may stand between a type and a remark.
_REMARK: Final = re.compile(r"\s*(?:$|[-,;:.#\u2013\u2014])")


class UnreadableType(ValueError):
    """The text names no type; the message says why."""


def type_from(text: str) -> TypeEngine[Any]:
    """Return the type that a text begins with; raises `UnreadableType`.

    Behind a punctuation mark there may be a remark, which is skipped.
    """
    written = _written_type(text)
    try:
        tree = ast.parse(written, mode="eval")
    except (SyntaxError, ValueError) as exc:
        raise UnreadableType(
            f"the type {written} can't be read: write it like Text, Numeric(10, 2), ARRAY(Text) "
            "or Enum(red, 'dark red', name=color)"
        ) from exc
    return _type(tree.body)


def _written_type(text: str) -> str:
    head = _HEAD.match(text)
    if head is None:
        raise UnreadableType(f'"{text}" begins with no type: write one like Text or app.Money')
    end = _end_of_arguments(text, head.end())
    if _REMARK.match(text, end) is None:
        raise UnreadableType(
            f'"{text}" is no type: if the words behind {text[:end]} are a remark, put a colon '
            "before them"
        )
    return text[:end]


def _end_of_arguments(text: str, position: int) -> int:
    if not text.startswith("(", position):
        return position
    depth = 0
    for match in _BRACKET.finditer(text, position):
        depth += {"open": 1, "close": -1}.get(match.lastgroup or "", 0)
        if depth == 0:
            return match.end()
    raise UnreadableType(f'a bracket is not closed in "{text}"')


def _type(node: ast.expr) -> TypeEngine[Any]:
    """Return the type that a part of the text stands for."""
    if isinstance(node, ast.Call):
        name = _dotted(node.func)
        type_class = _find(name)
        if not _is_type_class(type_class):
            raise UnreadableType(f"{name} takes no arguments: it is no class of types")
        takes_words = issubclass(type_class, sqlalchemy.types.Enum)
        arguments = [_argument(each, takes_words) for each in node.args]
        options = {each.arg: _argument(each.value, takes_words) for each in node.keywords}
        return _new(name, type_class, arguments, options)
    name = _dotted(node)
    found = _find(name)
    if isinstance(found, TypeEngine):
        return found
    if _is_enum(found):
        return sqlalchemy.types.Enum(found)
    return _new(name, found, [], {})


def _argument(node: ast.expr, takes_words: bool) -> Any:
    """Return an argument: a type, a value, or among the labels of an enum a word."""
    if isinstance(node, ast.Constant):
        return node.value
    if takes_words and isinstance(node, ast.Name):
        return node.id
    if takes_words and isinstance(node, ast.Attribute):
        return _find(_dotted(node))
    return _type(node)


def _new(
    name: str, type_class: Any, arguments: list[Any], options: Mapping[str | None, Any]
) -> TypeEngine[Any]:
    given: dict[str, Any] = {str(key): value for key, value in options.items()}
    if issubclass(type_class, sqlalchemy.types.ARRAY):
        arguments = _flattened(arguments, given)
    if type_class is sqlalchemy.types.Enum and not _names_enum(arguments, given):
        # Without a name on the server, it is a text that has some values only.
        given.setdefault("native_enum", False)
    try:
        made: TypeEngine[Any] = type_class(*arguments, **given)
    except (TypeError, ValueError, SQLAlchemyError) as exc:
        raise UnreadableType(f"{name} can't be made with these arguments: {exc}") from exc
    return made


def _flattened(arguments: list[Any], given: dict[str, Any]) -> list[Any]:
    """Return the arguments for an array of arrays, which is one of more dimensions."""
    if arguments and isinstance(arguments[0], sqlalchemy.types.ARRAY):
        inner = arguments[0]
        given.setdefault("dimensions", (inner.dimensions or 1) + 1)
        return [inner.item_type, *arguments[1:]]
    return arguments


def _names_enum(arguments: list[Any], given: Mapping[str, Any]) -> bool:
    return "name" in given or any(_is_enum(each) for each in arguments)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise UnreadableType(f"{ast.unparse(node)} is no type, and no value in quotes")


def _find(name: str) -> Any:
    """Return the class of types, the type or the enum of a name."""
    if "." not in name:
        known = known_types()
        if name in known:
            return known[name]
        raise UnreadableType(f"there is no type {name}{_proposal(name)}")
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise UnreadableType(f"{name} can't be imported: {exc}") from exc
    if not (isinstance(found, TypeEngine) or _is_type_class(found) or _is_enum(found)):
        raise UnreadableType(f"{name} is neither a type nor an enum")
    return found


def _proposal(name: str) -> str:
    spellings: dict[str, list[str]] = {}
    for known in sorted(known_types(), key=str.isupper):
        spellings.setdefault(known.lower(), []).append(known)
    near = get_close_matches(name.lower(), spellings)
    proposed = ", ".join(known for each in near for known in spellings[each])
    return f": is it {proposed}?" if near else ", and none with a similar name"


@cache
def known_types() -> Mapping[str, type[TypeEngine[Any]]]:
    """Return the types that need no module before their names."""
    return {
        name: value
        for module in _NAMESPACES
        # What a module loads when it is asked for it stands in no other list.
        for name in {*dir(module), *getattr(module, "__all__", ())} - _ABSTRACT
        if _is_type_class(value := getattr(module, name)) and not name.startswith("_")
    }


def _is_type_class(value: object) -> TypeGuard[type[TypeEngine[Any]]]:
    return isinstance(value, type) and issubclass(value, TypeEngine)


def _is_enum(value: object) -> TypeGuard[type[enum.Enum]]:
    return isinstance(value, type) and issubclass(value, enum.Enum)
