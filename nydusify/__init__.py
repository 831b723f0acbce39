"""Converts OCI and Docker images into Nydus images, and checks, copies and mounts them.

``nydusify.convert(...)`` is the library call behind ``nydusify convert``. Importing this package is cheap: what it
offers is loaded when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nydusify.convert import convert as convert

__version__ = "0.1.0"

__all__ = ["__version__", "convert"]

_HOMES = {"convert": "nydusify.convert"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps ``nydusify.convert`` the function: importing the module of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
