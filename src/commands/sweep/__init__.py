"""Sweeps: what each job came to, and how a sweep goes on."""
