"""Measure onegov_orm against bare SQLAlchemy and against other ways to switch schemas."""
