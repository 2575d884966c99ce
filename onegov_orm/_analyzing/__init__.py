"""How the statements of a block are counted and shown."""
