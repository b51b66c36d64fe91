"""Whole commands; a package, with which fixtures of its scope end."""
