"""Choosing among cells, and comparing: methods with each other, and two runs."""
