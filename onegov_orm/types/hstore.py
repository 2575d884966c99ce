"""Texts by key, in a column of PostgreSQL's extension hstore."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql

from onegov_orm.types._tracked_attributes import track

__all__ = ["HSTORE"]


class HSTORE(postgresql.HSTORE):
    """A dictionary of texts; changes in it mark the object as changed."""


track(HSTORE)
