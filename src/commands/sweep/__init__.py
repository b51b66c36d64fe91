"""Sweeps: the jobs of `-m`, their status and resuming."""
