"""Tests of onegov_orm."""
