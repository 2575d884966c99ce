"""What applications need beside models: chained queries, names for URLs."""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from onegov_orm._query_chain import QueryChain
from onegov_orm._url_names import increment_name, normalize_for_url

__all__ = ["QueryChain", "increment_name", "maybe_merge", "normalize_for_url"]

T = TypeVar("T")


def maybe_merge(session: Session, obj: T) -> T:
    """Merge a detached object into the session, without reading it again; return all else.

    Raises `CrossSchemaError` for an object of another customer.
    """
    state = inspect(obj, raiseerr=False)
    if not getattr(state, "detached", False):
        return obj
    return session.merge(obj, load=False)
