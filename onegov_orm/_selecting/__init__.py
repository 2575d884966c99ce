"""How raw SQL becomes something to select from."""
