"""Commands that write a schema to a file, and read it from there: ``dump``, ``restore``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from onegov_orm.cli._command import command
from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._invocation import Invocation
from onegov_orm.cli._options import SchemaArgument, YesOption
from onegov_orm.cli._output import size_text, told_overviews
from onegov_orm.cli._panels import COPIES
from onegov_orm.cli._running import attend

if TYPE_CHECKING:
    from onegov_orm.fleet import Fleet

_STANDARD = Path("-")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "dump",
        COPIES,
        examples=("towns-bern", "towns-bern bern.dump --force", "towns-bern - | ssh backup ..."),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.EXISTS),
    )(dump)
    command(
        app,
        "restore",
        COPIES,
        examples=(
            "towns-bern.dump",
            "towns-bern.dump --to towns-test",
            "towns-bern.dump --replace",
        ),
        exits=(Exit.OK, Exit.FAILED, Exit.NOT_FOUND, Exit.EXISTS),
    )(restore)


def dump(
    invocation: Invocation,
    schema: SchemaArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="By default SCHEMA.dump; - is stdout.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a customer to a file: as a backup, or to take it to another database.

    The file is of one moment, whatever is written meanwhile. A file that exists is left alone,
    unless --force is given. A file that could not be written to its end is removed.
    """
    fleet = invocation.fleet()
    path = Path(f"{schema}.dump") if file is None else file
    if path == _STANDARD:
        if sys.stdout.isatty():
            raise Problem("a dump is not for terminals", hint="Name a file, or use a pipe.")
        attend(invocation, f"Dumping {schema}", lambda: fleet.dump(schema, sys.stdout.buffer))
        return
    if path.exists() and not force:
        raise Problem(f"{path} exists already", Exit.EXISTS, hint="--force overwrites it.")
    attend(invocation, f"Dumping {schema}", lambda: fleet.dump(schema, path))
    size = path.stat().st_size
    output = invocation.output
    output.show(
        {"schema": schema, "file": str(path), "size_bytes": size},
        lambda: output.say(f"Dumped {schema} to {path}, {size_text(size)}"),
    )


def restore(
    invocation: Invocation,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A dump; - is stdin.", show_default=False)
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="NEW", show_default=False, help="Restore it under this name."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the schema of that name into the trash first.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Make a customer from a file, under its own or another name, also in another database.

    All of it is made in one transaction, or nothing. A schema that exists is never written
    over: --replace asks, and puts it into the trash.
    """
    if file != _STANDARD and not file.is_file():
        raise Problem(f"there is no file {file}", Exit.NOT_FOUND)
    fleet = invocation.fleet()
    with _source(file) as source:
        replaced = _replace(invocation, fleet, source, to, yes) if replace else None
        try:
            schema = attend(invocation, f"Restoring {file}", lambda: fleet.restore(source, to))
        except BaseException:
            if replaced is not None:
                fleet.undo(replaced)
            raise
    output = invocation.output
    data = {"schema": str(schema), "file": str(file), "replaced": replaced}
    output.show(data, lambda: output.say(f"Restored {schema} from {file}"))


@contextmanager
def _source(file: Path) -> Iterator[Path | IO[bytes]]:
    """Give what is read; a stream is written down first, as a dump is not read in one go."""
    if file != _STANDARD:
        yield file
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        yield spool


def _replace(
    invocation: Invocation, fleet: Fleet, source: Any, to: str | None, assume_yes: bool
) -> str | None:
    """Put the schema that is in the way into the trash, and return its name there."""
    # It is loaded already, with the fleet.
    from onegov_orm.fleet._dump_archive import reading

    name = to
    if name is None:
        with reading(source) as reader:
            name = reader.manifest.schema
    if not fleet.manager.is_schema_found_on_database(name):
        return None
    told = told_overviews(fleet.overview(names=[name]))
    invocation.confirm(f"Replace {told}? It is put into the trash.", assume_yes)
    return attend(invocation, f"Dropping {name}", lambda: fleet.drop(name))
