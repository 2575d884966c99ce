"""Finds the configuration files, upwards from the current directory, and reads them."""

from __future__ import annotations

import tomllib
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from onegov_orm.cli._exits import Exit, Problem

_SECTION: Final = "onegov_orm"


@dataclass(frozen=True)
class ConfigFile:
    """What one file says about this library; the higher rank counts."""

    path: Path
    section: str
    values: Any
    rank: int


def find_files(directory: Path, given: Path | None) -> list[ConfigFile]:
    """Return the nearest files with a section of ours: pyproject.toml before setup.cfg.

    Both count if they lie in the same folder. A file that is given has to exist and to have
    the section.
    """
    if given is not None:
        return [_read_given(directory / given)]
    for folder in (directory, *directory.parents):
        files = [_read_toml(folder / "pyproject.toml"), _read_cfg(folder / "setup.cfg")]
        found = [file for file in files if file is not None]
        if found:
            return found
    return []


def _read_given(path: Path) -> ConfigFile:
    if not path.is_file():
        raise Problem(f"there is no configuration file {path}", Exit.NOT_FOUND)
    file = _read_toml(path) if path.suffix == ".toml" else _read_cfg(path)
    if file is None:
        section = f"tool.{_SECTION}" if path.suffix == ".toml" else _SECTION
        raise Problem(f"{path} has no section [{section}]")
    return file


def _read_toml(path: Path) -> ConfigFile | None:
    text = _text(path)
    if text is None or _SECTION not in text:
        return None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise Problem(f"{path} can't be read: {exc}") from exc
    values = document.get("tool", {}).get(_SECTION)
    return None if values is None else ConfigFile(path, f"tool.{_SECTION}", values, 2)


def _read_cfg(path: Path) -> ConfigFile | None:
    text = _text(path)
    if text is None or _SECTION not in text:
        return None
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(text, str(path))
    except ConfigParserError as exc:
        raise Problem(f"{path} can't be read: {exc}") from exc
    if not parser.has_section(_SECTION):
        return None
    return ConfigFile(path, _SECTION, dict(parser[_SECTION]), 1)


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Problem(f"{path} can't be read: {exc}") from exc
