"""What the tests of upgrade tasks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from types import ModuleType
from typing import Any

from onegov_orm.upgrade import upgrade_task

_numbers = count()


def module_of(name: str, *functions: Any) -> ModuleType:
    """Return a module that has these functions."""
    module = ModuleType(name)
    for function in functions:
        setattr(module, f"{function.__name__}_{next(_numbers)}", function)
    return module


def source_module(name: str, source: str) -> ModuleType:
    """Return a module of this source, as an import would make it."""
    module = ModuleType(name)
    module.__file__ = f"{name}.py"
    code = "from onegov_orm.upgrade import upgrade_task\n" + source
    exec(compile(code, module.__file__, "exec"), vars(module))
    return module


def task(
    name: str,
    requires: str | Iterable[str] | None = None,
    does: Callable[..., Any] | None = None,
    **options: Any,
) -> Any:
    """Return a task that does this, or nothing."""

    def plain(context: Any) -> Any:
        return None if does is None else does(context)

    def raw(connection: Any, schemas: list[str]) -> Any:
        return None if does is None else does(connection, schemas)

    function = raw if options.get("raw") else plain
    return upgrade_task(name, requires=requires, **options)(function)
