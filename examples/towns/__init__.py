"""The directory and the rooms of several towns, one schema for each."""
