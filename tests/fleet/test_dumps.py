from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onegov_orm import (
    ConfigurationError,
    CopyFailed,
    DumpDamaged,
    ForeignSchema,
    PermissionDenied,
    PointsBack,
    SchemaExists,
    SchemaNotFound,
    SessionManager,
    TooManyLocks,
)
from onegov_orm.fleet import _sql_cloning, dumps
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.dumps import dump, restore
from onegov_orm.fleet.fingerprints import fingerprints
from tests.conftest import Databases
from tests.fleet.kitchen import (
    ROLES,
    SHARED,
    Execute,
    context_of,
    cook,
    make_customer,
    rows_of,
    schemas_of,
)

NewManager = Callable[..., SessionManager]
Outside = Callable[[str], Execute]


def fingerprint_of(context: FleetContext, schema: str) -> str:
    with context.connected() as connection, connection.begin():
        return fingerprints(connection, [schema])[schema]


@pytest.fixture
def execute(plain_dsn: str, outside: Outside) -> Execute:
    return outside(plain_dsn)


@pytest.fixture
def context(plain_dsn: str, new_manager: NewManager) -> FleetContext:
    return context_of(new_manager, plain_dsn)


def repacked(data: bytes, change: Callable[[dict[str, bytes]], None]) -> io.BytesIO:
    """Return a dump with other contents."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return changed


def dumped(context: FleetContext, schema: str) -> bytes:
    file = io.BytesIO()
    dump(context, schema, file)
    return file.getvalue()


def test_a_restored_schema_equals_the_dumped_one(
    databases: Databases,
    dsn: str,
    driver: str,
    outside: Outside,
    new_manager: NewManager,
    tmp_path: Path,
) -> None:
    execute, context = outside(dsn), context_of(new_manager, dsn)
    cook(execute, "towns-bern")
    rows, original = rows_of(execute, "towns-bern"), fingerprint_of(context, "towns-bern")
    path = tmp_path / "bern.dump"
    dump(context, "towns-bern", path)
    assert restore(context, path, "user") == "user"
    assert fingerprint_of(context, "user") == original
    assert rows_of(execute, "user") == rows

    # Into another database, which lacks the extensions, under its own name.
    name = databases.create("template0")
    try:
        other = databases.server.dsn(name, driver=driver, tcp=False)
        outside(other)(SHARED)
        elsewhere = context_of(new_manager, other)
        assert restore(elsewhere, path) == "towns-bern"
        assert fingerprint_of(elsewhere, "towns-bern") == original
        assert rows_of(outside(other), "towns-bern") == rows
        elsewhere.manager.dispose()
    finally:
        databases.drop(name)


def test_the_mark_tells_where_the_schema_comes_from(
    execute: Execute, context: FleetContext
) -> None:
    make_customer(execute, "a")
    restore(context, io.BytesIO(dumped(context, "a")), "b")
    assert context.customer("b").mark.note.startswith("restored from a dump of a, made 20")


def test_newer_servers_restore_what_older_ones_dumped(
    newest: Databases, older: Databases, outside: Outside, new_manager: NewManager
) -> None:
    names = {server: server.create() for server in (newest, older)}
    try:
        dsns = {server: server.server.dsn(name, tcp=False) for server, name in names.items()}
        contexts = {server: context_of(new_manager, dsn) for server, dsn in dsns.items()}
        cook(outside(dsns[older]), "a")
        rows = rows_of(outside(dsns[older]), "a")
        outside(dsns[newest])(SHARED + ROLES)
        restore(contexts[newest], io.BytesIO(dumped(contexts[older], "a")), "b")
        assert rows_of(outside(dsns[newest]), "b") == rows

        # And the other way round as far as the older one knows all of it.
        make_customer(
            outside(dsns[newest]),
            "plain",
            "CREATE TABLE t (id serial PRIMARY KEY,"
            " n text NOT NULL); INSERT INTO t (n) VALUES ('x')",
        )
        restore(contexts[older], io.BytesIO(dumped(contexts[newest], "plain")))
        assert outside(dsns[older])("SELECT id, n FROM plain.t") == [(1, "x")]
        make_customer(
            outside(dsns[newest]),
            "new",
            "CREATE TABLE t (id integer, twice integer GENERATED ALWAYS AS (id * 2) VIRTUAL)",
        )
        with pytest.raises(CopyFailed, match=r"(?s)table t could .* this server is 1[4-7]"):
            restore(contexts[older], io.BytesIO(dumped(contexts[newest], "new")))
        assert "new" not in schemas_of(outside(dsns[older]))
    finally:
        for context in contexts.values():
            context.manager.dispose()
        for server, name in names.items():
            server.drop(name)


def test_what_can_not_be_dumped(execute: Execute, context: FleetContext, tmp_path: Path) -> None:
    execute("""CREATE SCHEMA "foreign" """)
    for schema, error in (("nobody", SchemaNotFound), ("foreign", ForeignSchema)):
        with pytest.raises(error):
            dump(context, schema, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_an_existing_schema_is_not_touched(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer)")
    data = dumped(context, "a")
    with pytest.raises(SchemaExists):
        restore(context, io.BytesIO(data))


def test_an_interrupted_dump_leaves_the_old_file(
    execute: Execute, context: FleetContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer)")
    path = tmp_path / "a.dump"
    path.write_text("old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dumps, "copy_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dump(context, "a", path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dump"]
    assert path.read_text() == "old"


def test_a_dump_is_for_its_owner_alone(
    execute: Execute, context: FleetContext, tmp_path: Path
) -> None:
    make_customer(execute, "a")
    dump(context, "a", tmp_path / "a.dump")
    assert (tmp_path / "a.dump").stat().st_mode & 0o077 == 0


def test_every_cut_and_every_flipped_byte_is_noticed(
    execute: Execute, context: FleetContext
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (1), (2)")
    data = dumped(context, "a")
    rows, structure = data.index(b"rows/"), data.index(b"structure.json")
    for length in (0, 1, rows + 20, len(data) // 2, len(data) - 1):
        with pytest.raises(DumpDamaged):
            restore(context, io.BytesIO(data[:length]), "b")
    for place in (rows + 20 + len("rows/00000.copy"), structure + 40, len(data) // 2):
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        with pytest.raises(DumpDamaged):
            restore(context, io.BytesIO(flipped), "b")
    assert "b" not in schemas_of(execute)


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.pop("manifest.json"),
        lambda members: members.pop("structure.json"),
        lambda members: members.pop("rows/00000.copy"),
        lambda members: members.update({"rows/00000.copy": b"1\n3\n"}),
        lambda members: members.update({"rows/00000.copy": b"1\n"}),
        lambda members: members.update({"structure.json": b"{}"}),
        lambda members: members.update({"manifest.json": b"[]"}),
        lambda members: members.update({"manifest.json": b'{"kind": "onegov_orm dump"}'}),
        lambda members: members.update({"manifest.json": b'{"kind": "else", "version": 1}'}),
        lambda members: members.update({"manifest.json": b"\xff"}),
    ],
)
def test_foreign_and_changed_files_are_refused(
    execute: Execute, context: FleetContext, change: Callable[[dict[str, bytes]], None]
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (1), (2)")
    with pytest.raises(DumpDamaged):
        restore(context, repacked(dumped(context, "a"), change), "b")
    assert "b" not in schemas_of(execute)


def changing_manifest(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps(manifest | values).encode()

    return change


def test_a_dump_of_a_later_layout_says_what_to_do(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a")
    file = repacked(dumped(context, "a"), changing_manifest(version=2, library="9.9"))
    with pytest.raises(DumpDamaged, match=r"layout 2.*use the version 9\.9"):
        restore(context, file, "b")


def test_another_fingerprint_is_noticed(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer)")
    file = repacked(dumped(context, "a"), changing_manifest(fingerprint="0"))
    with pytest.raises(DumpDamaged, match="fingerprint"):
        restore(context, file, "b")
    assert "b" not in schemas_of(execute)


def test_members_are_never_used_as_paths(
    execute: Execute, context: FleetContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_customer(execute, "a", "CREATE TABLE t (id integer)")
    file = repacked(dumped(context, "a"), lambda members: members.update({"../evil": b"x"}))
    restore(context, file, "b")
    assert not list(tmp_path.iterdir())
    assert not (tmp_path.parent / "evil").exists()


def test_a_stream_can_be_written_and_not_read(execute: Execute, context: FleetContext) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer); INSERT INTO t VALUES (7)")
    read_end, write_end = os.pipe()
    with open(write_end, "wb") as file:
        dump(context, "a", file)
    with open(read_end, "rb") as file:
        with pytest.raises(ConfigurationError):
            restore(context, file, "b")
        data = file.read()
    restore(context, io.BytesIO(data), "b")
    assert execute("SELECT id FROM b.t") == [(7,)]


def test_functions_that_name_the_schema_restore_under_its_name_only(
    execute: Execute, context: FleetContext
) -> None:
    make_customer(
        execute,
        "a",
        "CREATE TABLE t (id integer); CREATE FUNCTION f() RETURNS bigint"
        " LANGUAGE sql AS 'SELECT count(*) FROM a.t'",
    )
    data = dumped(context, "a")
    with pytest.raises(PointsBack, match=r"function f\(\)"):
        restore(context, io.BytesIO(data), "b")
    execute("DROP SCHEMA a CASCADE")
    assert restore(context, io.BytesIO(data)) == "a"
    assert execute("SELECT a.f()") == [(0,)]


def test_a_missing_shared_table_is_named(
    newest: Databases, execute: Execute, context: FleetContext, new_manager: NewManager
) -> None:
    execute(SHARED)
    make_customer(execute, "a", "CREATE TABLE t (c text REFERENCES shared.countries)")
    data = dumped(context, "a")
    execute("DROP SCHEMA shared CASCADE; DROP SCHEMA a CASCADE")
    with pytest.raises(CopyFailed, match=r'constraint t\.t_c_fkey .* "shared" does not exist'):
        restore(context, io.BytesIO(data))
    assert "a" not in schemas_of(execute)


def test_roles_that_do_not_exist_get_no_privileges(
    execute: Execute, context: FleetContext, caplog: pytest.LogCaptureFixture
) -> None:
    execute("CREATE ROLE passing")
    make_customer(
        execute,
        "a",
        "CREATE TABLE t (id integer); GRANT SELECT ON t TO passing, PUBLIC;"
        "ALTER TABLE t OWNER TO passing",
    )
    data = dumped(context, "a")
    execute("DROP SCHEMA a CASCADE; DROP ROLE passing")
    with caplog.at_level("WARNING"):
        restore(context, io.BytesIO(data))
    assert "passing" in caplog.text
    assert execute("SELECT has_table_privilege('public', 'a.t', 'SELECT')") == [(True,)]


def test_hidden_rows_are_never_left_out(
    execute: Execute, plain_dsn: str, outside: Outside, new_manager: NewManager, tmp_path: Path
) -> None:
    database = execute("SELECT current_database()")[0][0]
    execute(
        "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL;"
        f" END $$; GRANT CREATE ON DATABASE {database} TO plain"
    )
    url = plain_dsn.replace("postgres@", "plain@")
    make_customer(
        outside(url),
        "a",
        "CREATE TABLE t (id integer); INSERT INTO t VALUES (1);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
    )
    with pytest.raises(PermissionDenied, match="BYPASSRLS"):
        dump(context_of(new_manager, url), "a", tmp_path / "a.dump")
    assert not list(tmp_path.iterdir())


def test_too_many_locks_are_refused_beforehand(
    execute: Execute, context: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_customer(execute, "a", "CREATE TABLE t (id integer PRIMARY KEY, t text)")
    data = dumped(context, "a")
    monkeypatch.setattr(_sql_cloning, "LOCK_ROOM", "SELECT 1, 1")
    with pytest.raises(TooManyLocks):
        dump(context, "a", io.BytesIO())
    with pytest.raises(TooManyLocks):
        restore(context, io.BytesIO(data), "b")


def peak_kilobytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_memory_stays_flat(
    dsn: str, outside: Outside, new_manager: NewManager, tmp_path: Path
) -> None:
    execute, context = outside(dsn), context_of(new_manager, dsn)
    make_customer(
        execute,
        "a",
        "CREATE TABLE t (id integer, t text); INSERT INTO t"
        " SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, 30000) AS n",
    )
    path = tmp_path / "a.dump"
    dump(context, "a", io.BytesIO())
    # Resets the peak, which would otherwise be that of some test before.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kilobytes()
    dump(context, "a", path)
    restore(context, path, "b")
    assert peak_kilobytes() - before < 10_000
    checked = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {}.t AS t"
    assert execute(checked.format("a")) == execute(checked.format("b"))
