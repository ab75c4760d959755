"""A run folder: where it is, its tables, its manifest, its log, and who is at work in it."""
