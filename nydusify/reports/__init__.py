"""What was converted, as Parquet: one row an image and platform, one row a layer. Cheap to import."""

from nydusify.reports.dataset import append, read
from nydusify.reports.redact import redact
from nydusify.reports.rows import ConversionRow, LayerRow

__all__ = ["ConversionRow", "LayerRow", "append", "read", "redact"]
