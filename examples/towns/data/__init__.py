"""The records that the towns import, and the program that invented them."""
