"""The same in a terminal: what a run ends with, `show`, `top`, `compare`."""
