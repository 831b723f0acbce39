"""Prefect tasks: one thin wrapper around each step of the library."""
