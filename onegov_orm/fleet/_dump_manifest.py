"""What a dump tells about itself, and the structure in it, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from onegov_orm.errors import DumpDamaged
from onegov_orm.fleet.blueprint import (
    Blueprint,
    DefaultPrivilege,
    Piece,
    Privilege,
    TableRows,
)

#: What the file is, in its own words, and how it is laid out.
KIND: Final = "onegov_orm dump"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class DumpedTable:
    """A table in a dump: where its rows are, how many, and their hash."""

    name: str
    member: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a dump tells about itself.

    ``server_version`` is the server's number, such as 180001. The mark, the moment and the
    library's version are for people. ``locks`` is about how many it takes to restore it.
    """

    schema: str
    created: str
    library: str
    server_version: int
    mark: dict[str, Any]
    fingerprint: str
    structure_sha256: str
    locks: int
    tables: tuple[DumpedTable, ...]
    sequences: tuple[tuple[str, int, bool], ...]

    def as_json(self) -> bytes:
        """Return the manifest as the file has it."""
        values = {"kind": KIND, "version": VERSION, **asdict(self)}
        return json.dumps(values, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a manifest; raises `DumpDamaged`."""
        with _reading():
            values = json.loads(data)
            if values.pop("kind") != KIND:
                raise DumpDamaged
            version = values.pop("version")
            if version != VERSION:
                raise DumpDamaged(
                    f"the dump has the layout {version}, this version of onegov_orm reads "
                    f"layout {VERSION}: use the version {values.get('library')} that wrote it"
                )
            values["tables"] = tuple(DumpedTable(**each) for each in values["tables"])
            sequences = (
                (str(name), int(at), bool(called)) for name, at, called in values["sequences"]
            )
            values["sequences"] = tuple(sequences)
            return cls(**values)


def blueprint_as_json(blueprint: Blueprint) -> bytes:
    """Return a structure as the file has it."""
    return json.dumps(asdict(blueprint), ensure_ascii=False, indent=1).encode()


def blueprint_from_json(data: bytes) -> Blueprint:
    """Read a structure; raises `DumpDamaged`."""
    with _reading():
        values = json.loads(data)
        return Blueprint(
            schema=str(values["schema"]),
            before=_pieces(values["before"]),
            after=_pieces(values["after"]),
            tables=tuple(_table(each) for each in values["tables"]),
            sequences=tuple(values["sequences"]),
            extensions=tuple((name, home) for name, home in values["extensions"]),
            privileges=tuple(Privilege(**each) for each in values["privileges"]),
            default_privileges=tuple(
                DefaultPrivilege(**each) for each in values["default_privileges"]
            ),
            owners=tuple((target, owner) for target, owner in values["owners"]),
        )


def _pieces(values: list[dict[str, Any]]) -> tuple[Piece, ...]:
    return tuple(Piece(each["kind"], each["name"], tuple(each["statements"])) for each in values)


def _table(values: dict[str, Any]) -> TableRows:
    columns = tuple((name, own_type) for name, own_type in values["columns"])
    return TableRows(values["name"], columns, values["into"])


@contextmanager
def _reading() -> Iterator[None]:
    """Raise `DumpDamaged` for what is not laid out as it should be."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DumpDamaged from exc
