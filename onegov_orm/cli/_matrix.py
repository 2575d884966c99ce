"""Shows what is pending where: a line for each schema, a column for each thing that is pending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from onegov_orm.cli._exits import Exit
from onegov_orm.cli._output import Column, Output, count_text, state_text

FoundOption = Annotated[
    bool,
    typer.Option("--exit-code", help=f"Exit with {Exit.FOUND.value} if something is pending."),
]

#: More than fit on a screen; then schemas that stand at the same point share a line.
_ROWS_SHOWN: Final = 25
_COLUMNS_SHOWN: Final = 8
_NAMES_SHOWN: Final = 3


@dataclass(frozen=True)
class Matrix:
    """Schemas, and what is pending in them.

    Each of the schemas has ``schema``, ``pending`` and ``is_current``, and may know its
    ``revisions`` and those that are ``unknown``. ``titles`` tell what is pending in words.
    """

    noun: str
    schemas: Sequence[Any]
    data: Any
    titles: Mapping[str, str] = field(default_factory=dict)

    def show(self, output: Output, *, list_all: bool, says: bool) -> Exit:
        """Show the schemas that differ, or all; ``says`` tells it by the exit code too."""
        behind = [each for each in self.schemas if not each.is_current]
        output.show(self.data, lambda: self._tell(output, behind, list_all))
        return Exit.FOUND if behind and says else Exit.OK

    def _tell(self, output: Output, behind: Sequence[Any], list_all: bool) -> None:
        shown = self.schemas if list_all else behind
        keys = _ordered(behind)
        if shown:
            _table(output, shown, keys, self.noun, is_grouped=not list_all)
            output.say("")
        for key in keys[-_COLUMNS_SHOWN:]:
            if self.titles.get(key):
                output.say(f"{key}  {self.titles[key]}", "dim")
        output.say(_summary(len(self.schemas), len(behind), keys, self.noun))


def _table(
    output: Output, shown: Sequence[Any], keys: Sequence[str], noun: str, *, is_grouped: bool
) -> None:
    columns = [Column("schema", is_name=True)]
    has_revisions = any(hasattr(each, "revisions") for each in shown)
    if has_revisions:
        columns.append(Column("revision", is_name=True))
    visible = list(keys[-_COLUMNS_SHOWN:])
    earlier = list(keys[: -len(visible)]) if visible else []
    if earlier:
        columns.append(Column(f"{count_text(len(earlier), f'earlier {noun}')}", "right"))
    columns += [Column(key) for key in visible]
    rows = []
    for names, status in _groups(shown, is_grouped):
        pending = set(_keys(status))
        row: list[Any] = [names]
        if has_revisions:
            row.append(", ".join(getattr(status, "revisions", ())) or "-")
        if earlier:
            count = len(pending.intersection(earlier))
            row.append(f"{count} pending" if count else state_text("done"))
        rows.append([*row, *(_cell(status, key in pending) for key in visible)])
    output.table(columns, rows)


def _cell(status: Any, is_pending: bool) -> Any:
    unknown = getattr(status, "unknown", ())
    return state_text("unknown" if unknown else "pending" if is_pending else "done")


def _groups(shown: Sequence[Any], is_grouped: bool) -> list[tuple[str, Any]]:
    """Return names with a status; many schemas that stand at the same point share one."""
    if not is_grouped or len(shown) <= _ROWS_SHOWN:
        return [(str(each.schema), each) for each in shown]
    groups: dict[Any, list[Any]] = {}
    for each in shown:
        standing = (tuple(getattr(each, "revisions", ())), tuple(_keys(each)))
        groups.setdefault(standing, []).append(each)
    return [(_told(members), members[0]) for members in groups.values()]


def _told(members: Sequence[Any]) -> str:
    names = [str(each.schema) for each in members]
    if len(names) <= _NAMES_SHOWN:
        return ", ".join(names)
    return f"{count_text(len(names), 'schema')}: {names[0]} ... {names[-1]}"


def _keys(status: Any) -> list[str]:
    return [str(getattr(each, "key", each)) for each in status.pending]


def _ordered(behind: Sequence[Any]) -> list[str]:
    """Return all that is pending anywhere, in order: who lacks most has the longest list."""
    keys: dict[str, None] = {}
    for each in sorted(behind, key=lambda status: -len(status.pending)):
        keys.update(dict.fromkeys(_keys(each)))
    return list(keys)


def _summary(total: int, behind: int, keys: Sequence[str], noun: str) -> str:
    if not total:
        return "The fleet is empty."
    if not behind:
        return f"{count_text(total, 'schema')}, nothing is pending."
    pending = count_text(len(keys), noun)
    return f"{behind:,} of {count_text(total, 'schema')} lack something; pending: {pending}"
