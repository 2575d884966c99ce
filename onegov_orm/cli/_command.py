"""Turns a function into a command: options in groups, help with examples, exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import typer

from onegov_orm.cli._exits import Exit, Interrupted
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import Common

Function = TypeVar("Function", bound=Callable[..., Any])


def command(
    app: typer.Typer,
    name: str,
    panel: str,
    *,
    examples: Sequence[str],
    exits: Sequence[Exit] = (Exit.OK, Exit.FAILED, Exit.NOT_FOUND),
) -> Callable[[Function], Function]:
    """Register a function as a command.

    Its first parameter is the `Invocation`. A parameter whose type is a dataclass of options
    becomes these options. What it returns is the exit code. Its docstring is the help.
    """

    def register(function: Function) -> Function:
        groups, parameters = _parameters(function)

        def run(context: typer.Context, **values: Any) -> None:
            invocation = context.find_object(Invocation) or Invocation()
            invocation.take({field.name: values.pop(field.name) for field in fields(Common)})
            for group_name, group in groups.items():
                own = {field.name: values.pop(field.name) for field in fields(group)}
                values[group_name] = group(**own)
            try:
                exit_code = function(invocation, **values) or Exit.OK
            except KeyboardInterrupt:
                # Typer's versions do not agree about its exit code.
                raise Interrupted(Exit.INTERRUPTED) from None
            raise typer.Exit(int(exit_code))

        set_parameters(run, [*parameters, *options_of(Common)])
        text = _help(function, name, examples, exits)
        app.command(name, help=text, rich_help_panel=panel)(run)
        return function

    return register


def set_parameters(function: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Have Typer see these parameters, behind the context, in place of the function's own."""
    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    signature = inspect.Signature([context, *parameters])
    function.__signature__ = signature
    function.__annotations__ = {
        name: each.annotation for name, each in signature.parameters.items()
    }


def options_of(group: Any) -> list[inspect.Parameter]:
    """Return the options that a dataclass holds, as parameters."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


def _parameters(
    function: Callable[..., Any],
) -> tuple[Mapping[str, Any], list[inspect.Parameter]]:
    """Return the groups of options, and all parameters with those of the groups spelt out."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        annotation = hints[parameter.name]
        if is_dataclass(annotation):
            groups[parameter.name] = annotation
            parameters += options_of(annotation)
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=annotation, kind=keyword))
    return groups, parameters


def _help(
    function: Callable[..., Any], name: str, examples: Sequence[str], exits: Sequence[Exit]
) -> str:
    """Return the docstring with examples and exit codes, as Typer lays it out."""
    text = inspect.getdoc(function) or ""
    # Each paragraph on one line: a terminal breaks it where it has to.
    told = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    shown = "\n".join(f"  $ onegov-orm {name} {example}".rstrip() for example in examples)
    codes = "\n".join(
        f"  {code.value:>3}  {code.meaning}" for code in sorted({*exits, Exit.USAGE})
    )
    paragraphs = [*told, f"\b\nExamples:\n{shown}", f"\b\nExit codes:\n{codes}"]
    return "\n\n".join(paragraphs).replace("[", "\\[")
