"""The pilot's published software on the tables of our own measurements."""
