"""Upgrade tasks: declared by functions in modules, checked, and put in order.

A task is known by its module and its name, ``towns.upgrade:Add the column``: that is what is
recorded, so neither should change once a task has run anywhere.
"""

from __future__ import annotations

import heapq
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, Final, TypeVar

from onegov_orm.errors import ConfigurationError

#: The group of the entry points whose modules have upgrade tasks.
ENTRY_POINTS: Final = "onegov_upgrades"

#: What a module is called that is run as a program.
_PROGRAM: Final = "__main__"

#: What a function carries that is a task, and what its module carries.
_DECLARATION: Final = "__upgrade_task__"
_DECLARATIONS: Final = "__upgrade_tasks__"

Function = TypeVar("Function", bound=Callable[..., Any])

#: Modules with upgrade tasks, or their names; None for those of the entry points.
Modules = Iterable[str | ModuleType] | None


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """What the decorator was told about a function."""

    name: str
    function: Callable[..., Any]
    always_run: bool
    requires: tuple[str, ...]
    raw: bool

    @property
    def place(self) -> str:
        """The file and line where the function is written."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        if code is None:
            return repr(self.function)
        return f"{code.co_filename}:{code.co_firstlineno}"


@dataclass(frozen=True, slots=True)
class UpgradeTask:
    """A task of a module that was loaded.

    ``requires`` are the keys of the tasks that have to run before it.
    """

    module: str
    name: str
    function: Callable[..., Any] = field(repr=False)
    always_run: bool = False
    requires: tuple[str, ...] = ()
    raw: bool = False
    place: str = ""

    @property
    def key(self) -> str:
        """What the task is known by, in all modules."""
        return f"{self.module}:{self.name}"

    def as_dict(self) -> dict[str, Any]:
        """Return the task, as JSON has it."""
        return {
            "task": self.key,
            "always_run": self.always_run,
            "requires": list(self.requires),
            "raw": self.raw,
        }


def upgrade_task(
    name: str,
    always_run: bool = False,
    requires: str | Iterable[str] | None = None,
    raw: bool = False,
) -> Callable[[Function], Function]:
    """Declare that a function is an upgrade task; it stays an ordinary function.

    :param name: says what the task does, and is recorded: it has to stay.
    :param always_run: run the task each time, not only once.
    :param requires: the tasks that have to run before this one, as ``module:name``, or as the
        name alone for those of the same module.
    :param raw: give the function a connection and a list with the schema, and no ORM.

    Raises `ConfigurationError` if the name is no text of one line.
    """
    given: object = name
    if not isinstance(given, str) or not given.strip() or len(given.splitlines()) > 1:
        raise ConfigurationError(
            f"@upgrade_task takes the name of the task, a text of one line, not {name!r}"
        )
    required = (requires,) if isinstance(requires, str) else tuple(requires or ())

    def declare(function: Function) -> Function:
        declaration = Declaration(name, function, always_run, required, raw)
        setattr(function, _DECLARATION, declaration)
        _note_in_module(declaration)
        return function

    return declare


def load_tasks(modules: Modules = None) -> tuple[UpgradeTask, ...]:
    """Return the tasks of these modules in the order in which they run.

    Raises `ConfigurationError` for a module that can't be loaded, and for tasks that
    contradict each other.
    """
    return ordered(_resolved(list(_collected(_load_modules(modules)))))


def ordered(tasks: Sequence[UpgradeTask]) -> tuple[UpgradeTask, ...]:
    """Put each task behind those that it requires; raw ones first, else as they are given.

    Raises `ConfigurationError` for tasks that require each other.
    """
    positions = {task.key: (not task.raw, number) for number, task in enumerate(tasks)}
    found = {task.key: task for task in tasks}
    sorter = TopologicalSorter({task.key: task.requires for task in tasks})
    try:
        sorter.prepare()
    except CycleError as exc:
        # The cycle comes with each task in front of the one that requires it.
        cycle = [found[key] for key in reversed(exc.args[1])]
        shown = ", which requires\n".join(f"  {task.key} ({task.place})" for task in cycle)
        raise ConfigurationError(f"upgrade tasks require each other:\n{shown}") from None
    ready: list[tuple[tuple[bool, int], str]] = []
    result = []
    while sorter.is_active():
        for key in sorter.get_ready():
            heapq.heappush(ready, (positions[key], key))
        _position, key = heapq.heappop(ready)
        result.append(found[key])
        sorter.done(key)
    return tuple(result)


def find_task(tasks: Iterable[UpgradeTask], name: str) -> UpgradeTask:
    """Return the task with this key, or with this name if only one has it.

    Raises `ConfigurationError`.
    """
    tasks = list(tasks)
    found = [task for task in tasks if task.key == name]
    found = found or [task for task in tasks if task.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(task.key for task in found)
        raise ConfigurationError(f'several upgrade tasks are called "{name}": {keys}')
    raise ConfigurationError(f'there is no upgrade task "{name}"{_similar(name, tasks)}')


def _note_in_module(declaration: Declaration) -> None:
    """Note the function in its own module, where another of its name might replace it."""
    function = declaration.function
    variables = getattr(function, "__globals__", None)
    if variables is None or "." in getattr(function, "__qualname__", "."):
        return
    # A module that is loaded again gets another specification, and starts anew.
    spec = variables.get("__spec__")
    known_spec, declarations = variables.get(_DECLARATIONS, (None, []))
    if known_spec is not spec:
        declarations = []
    variables[_DECLARATIONS] = (spec, [*declarations, declaration])


def _load_modules(modules: Modules) -> list[ModuleType]:
    """Return the modules, each once, in the order given or that of the entry points' names."""
    if isinstance(modules, (str, ModuleType)):
        raise ConfigurationError(f"upgrades takes a list of modules, not {modules!r}")
    given = _entry_point_modules() if modules is None else modules
    found: dict[str, ModuleType] = {}
    for each in given:
        module = each if isinstance(each, ModuleType) else _import(each)
        name = _name_of(module)
        if found.setdefault(name, module) is not module:
            raise ConfigurationError(
                f"two modules with upgrade tasks are called {name}: "
                f"{_file_of(found[name])} and {_file_of(module)}"
            )
    return list(found.values())


def _entry_point_modules() -> list[str]:
    # Reading the metadata of all distributions takes a while, and few programs need it.
    from importlib.metadata import entry_points

    points = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
    return [point.value for point in points]


def _import(name: str) -> ModuleType:
    if not isinstance(name, str):
        raise ConfigurationError(f"upgrades takes modules or their names, not {name!r}")
    try:
        return import_module(name)
    except (ImportError, TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"the module {name!r} with upgrade tasks can't be imported: {exc}"
        ) from exc


def _name_of(module: ModuleType) -> str:
    """Return the name by which others import the module, also while it is run as a program."""
    name = module.__name__
    if name == _PROGRAM:
        spec = getattr(module, "__spec__", None)
        name = name if spec is None else spec.name.removesuffix(f".{_PROGRAM}")
    if name == _PROGRAM:
        raise ConfigurationError(
            "upgrade tasks are recorded with the name of their module, and a program that is "
            f"run as a file has none ({_file_of(module)}): move them into a module"
        )
    return name


def _file_of(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"


def _collected(modules: Sequence[ModuleType]) -> Iterator[UpgradeTask]:
    """Yield the tasks of all modules, each with the module that it belongs to.

    A task that one module imports from another belongs to the one that defines it, if that
    is among them.
    """
    owners: dict[Declaration, ModuleType] = {}
    for module in modules:
        for declaration in _declarations_in(module):
            home = getattr(declaration.function, "__module__", None)
            owner = owners.setdefault(declaration, module)
            if home == module.__name__:
                owners[declaration] = module
            elif owner is not module and owner.__name__ != home:
                raise ConfigurationError(
                    f'the upgrade task "{declaration.name}" ({declaration.place}) is in '
                    f"{owner.__name__} and in {module.__name__}: load {home}, which defines it"
                )
    for module in modules:
        for declaration, function in _declarations_in(module).items():
            if owners[declaration] is module:
                yield _task(_name_of(module), declaration, function)


def _declarations_in(module: ModuleType) -> dict[Declaration, FunctionType]:
    """Return what a module declares, and the functions as other decorators left them.

    Raises `ConfigurationError` for a function that was replaced by something else.
    """
    # Asking objects of any other type may do anything.
    functions = {
        name: value for name, value in vars(module).items() if type(value) is FunctionType
    }
    declared = {name: getattr(value, _DECLARATION, None) for name, value in functions.items()}
    found = {
        each: functions[name] for name, each in declared.items() if isinstance(each, Declaration)
    }
    _spec, noted = vars(module).get(_DECLARATIONS, (None, []))
    for declaration in noted:
        name = declaration.function.__name__
        if declaration not in found and name in vars(module):
            other = declared.get(name)
            by = f"by the task at {other.place}" if isinstance(other, Declaration) else "later on"
            raise ConfigurationError(
                f'the upgrade task "{declaration.name}" ({declaration.place}) would never run: '
                f"its function {name} is replaced {by}"
            )
    return found


def _task(module: str, declaration: Declaration, function: FunctionType) -> UpgradeTask:
    task = UpgradeTask(
        module,
        declaration.name,
        function,
        declaration.always_run,
        declaration.requires,
        declaration.raw,
        declaration.place,
    )
    _check_function(task)
    return task


def _check_function(task: UpgradeTask) -> None:
    """Raise unless the function can be called with what it will get."""
    function = task.function
    wanted = ("connection", "schemas") if task.raw else ("context",)
    reason = ""
    try:
        inspect.signature(function).bind(*wanted)
    except TypeError:
        reason = f"its function has to take ({', '.join(wanted)})"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        reason = "it is asynchronous, and tasks are ordinary functions or generators"
    if reason:
        raise ConfigurationError(f'the upgrade task "{task.key}" ({task.place}): {reason}')


def _resolved(tasks: Sequence[UpgradeTask]) -> list[UpgradeTask]:
    """Return the tasks with the keys of what they require."""
    found: dict[str, UpgradeTask] = {}
    for task in tasks:
        other = found.setdefault(task.key, task)
        if other is not task:
            raise ConfigurationError(
                f'two upgrade tasks are called "{task.key}": {other.place} and {task.place}'
            )
    return [_with_keys(task, found) for task in tasks]


def _with_keys(task: UpgradeTask, found: dict[str, UpgradeTask]) -> UpgradeTask:
    keys = []
    for text in task.requires:
        key = next((key for key in (f"{task.module}:{text}", text) if key in found), None)
        if key is None:
            raise ConfigurationError(
                f'the upgrade task "{task.key}" ({task.place}) requires "{text}", which is not '
                f"among the tasks{_similar(text, found.values())}"
            )
        other = found[key]
        if other.raw is not task.raw:
            raw, plain = (task, other) if task.raw else (other, task)
            raise ConfigurationError(
                f'raw upgrade tasks run before all others: "{raw.key}" ({raw.place}) and '
                f'"{plain.key}" ({plain.place}) can\'t require each other'
            )
        keys.append(key)
    return replace(task, requires=tuple(keys))


def _similar(name: str, tasks: Iterable[UpgradeTask]) -> str:
    """Return what may have been meant, as the end of a message."""
    keys = {text: task.key for task in tasks for text in (task.name, task.key)}
    close = dict.fromkeys(keys[text] for text in get_close_matches(name, keys, n=3))
    return f": did you mean {' or '.join(close)}?" if close else ""
