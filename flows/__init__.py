"""Prefect flows: one file a flow, the whole pipeline on one screen."""
