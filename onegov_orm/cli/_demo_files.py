"""The files of the demo's little project, before and after its models have changed."""

from __future__ import annotations

from typing import Final

PROJECT: Final = """\
[tool.onegov_orm]
dsn = "{dsn}"
base = "towns:Base"
migrations = "migrations"
required_extensions = []
"""

_MODELS: Final = '''\
"""The models: nothing in them knows about customers."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of all models."""


class Resident(Base):
    """Somebody who lives in a town."""

    __tablename__ = "residents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
'''

MODELS: Final = {
    "at first": _MODELS,
    "with an e-mail address": f"{_MODELS}    email: Mapped[str | None]\n",
}
