"""Where the Prefect project (``flows``, ``tasks``, ``deployments``) lies."""

from pathlib import Path

from nydusify.errors import UsageError


def project_root() -> Path:
    """The directory from which ``flows`` and ``tasks`` can be imported; put it on `sys.path` to do so.

    In a checkout that is the checkout. The wheel holds a copy inside the package, because the names are too generic for
    site-packages. Raises `UsageError` if there is neither.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "project_files", package.parent):
        if (root / "flows" / "__init__.py").is_file():
            return root
    raise UsageError(f"no flows beside {package}", advice="Install nydusify[prefect] again, or use a checkout.")
