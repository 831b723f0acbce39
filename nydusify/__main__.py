"""``python -m nydusify``."""

from nydusify.cli.main import main

main()
