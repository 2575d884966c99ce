"""The file of a dump: a zip with a manifest, the structure, and the rows of each table.

The manifest is written last, since it holds the hashes of the rest. Names in the archive are
never used as paths, and only those are read that the manifest names.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from onegov_orm.errors import ConfigurationError, DumpDamaged
from onegov_orm.fleet._dump_copy import Tally
from onegov_orm.fleet._dump_manifest import (
    DumpedTable,
    Manifest,
    blueprint_as_json,
    blueprint_from_json,
)
from onegov_orm.fleet.blueprint import Blueprint

File = str | os.PathLike[str] | IO[bytes]

_MANIFEST: Final = "manifest.json"
_STRUCTURE: Final = "structure.json"

#: Text compresses nearly as well as it can at a third of the time.
_COMPRESS_LEVEL: Final = 3

_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class DumpWriter:
    """Writes the parts of a dump, one after the other."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write_structure(self, blueprint: Blueprint) -> str:
        """Write the structure, and return its hash."""
        data = blueprint_as_json(blueprint)
        self._archive.writestr(_STRUCTURE, data)
        return hashlib.sha256(data).hexdigest()

    @contextmanager
    def rows(self, number: int) -> Iterator[Tally]:
        """Give what takes the rows of a table."""
        # How long it will be is not known yet, hence the larger headers.
        with self._archive.open(member_of(number), "w", force_zip64=True) as file:
            yield Tally(file)

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest."""
        self._archive.writestr(_MANIFEST, manifest.as_json())


class DumpReader:
    """Reads the parts of a dump; raises `DumpDamaged` for what is not as it was written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.manifest = Manifest.from_json(self._read(_MANIFEST))

    def read_structure(self) -> Blueprint:
        """Read the structure."""
        data = self._read(_STRUCTURE)
        if hashlib.sha256(data).hexdigest() != self.manifest.structure_sha256:
            raise DumpDamaged
        blueprint = blueprint_from_json(data)
        if {table.name for table in blueprint.tables} != {
            each.name for each in self.manifest.tables
        }:
            raise DumpDamaged
        return blueprint

    @contextmanager
    def rows(self, table: DumpedTable) -> Iterator[Tally]:
        """Give the rows of a table, and check at the end that they were these."""
        with _noticing_damage(), self._open(table.member) as file:
            tally = Tally(file)
            yield tally
        if (tally.rows, tally.sha256) != (table.rows, table.sha256):
            raise DumpDamaged(f"the rows of table {table.name} in the dump are damaged")

    def _read(self, member: str) -> bytes:
        with _noticing_damage(), self._open(member) as file:
            return file.read()

    def _open(self, member: str) -> IO[bytes]:
        try:
            return self._archive.open(member)
        except KeyError as exc:
            raise DumpDamaged from exc


def member_of(number: int) -> str:
    """Return the name of a table's rows in the archive."""
    return f"rows/{number:05}.copy"


@contextmanager
def writing(file: File) -> Iterator[DumpWriter]:
    """Write a dump to a path or a binary file; at a path nothing appears before it is whole."""
    with (
        _new_file(file) as opened,
        zipfile.ZipFile(
            opened, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESS_LEVEL
        ) as archive,
    ):
        yield DumpWriter(archive)


@contextmanager
def reading(file: File) -> Iterator[DumpReader]:
    """Read a dump from a path or a binary file that can be read from anywhere."""
    if not isinstance(file, (str, os.PathLike)) and not file.seekable():
        raise ConfigurationError("a dump can't be read from a stream: write it to a file first")
    with _noticing_damage():
        archive = zipfile.ZipFile(file)
    with archive:
        yield DumpReader(archive)


@contextmanager
def _new_file(file: File) -> Iterator[Any]:
    if not isinstance(file, (str, os.PathLike)):
        yield file
        return
    path = Path(file)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        Path(beside).replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(beside).unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make sure that the new name outlives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _noticing_damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as exc:
        raise DumpDamaged from exc
