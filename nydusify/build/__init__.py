"""From layers to blobs and bootstraps."""

BUILDER_VERSION = "1"
"""Changes whenever the same layer and options would give other bytes; a part of every cache key."""
