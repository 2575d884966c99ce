"""Cached properties: values of one customer that a committed change outdates.

`pip install 'onegov_orm[cache]'`, with ``redis`` for what several processes share.
"""

from __future__ import annotations

try:
    import dogpile.cache  # noqa: F401
except ImportError as exc:  # an extra
    raise ImportError(f"{exc}\nHere: pip install 'onegov_orm[cache]'") from exc

from onegov_orm.cache.descriptors import OrmCached, RequestCached, orm_cached, request_cached
from onegov_orm.cache.orm_cache import OrmCache
from onegov_orm.cache.policies import (
    ObjectChange,
    TableChange,
    on_change,
    on_table_change,
)
from onegov_orm.cache.regions import memory_region, redis_region

__all__ = [
    "ObjectChange",
    "OrmCache",
    "OrmCached",
    "RequestCached",
    "TableChange",
    "memory_region",
    "on_change",
    "on_table_change",
    "orm_cached",
    "redis_region",
    "request_cached",
]
