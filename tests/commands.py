"""Runs the command as its users do, in a process of its own, for the tests of `nydusify.cli`."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = ("PATH", "COVERAGE_", "COV_", "LANG", "LC_")
"""What a command gets from the environment of the tests; a build server may have set SOURCE or TARGET."""


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nydusify", *map(str, arguments)]


def environment(home: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(OWN)}
    return {**kept, "HOME": str(home), "DOCKER_CONFIG": str(home / ".docker"), "PYTHONPATH": str(ROOT), **variables}


def nydusify(home: Path, *arguments: object, stdin: bytes = b"", **variables: str) -> Outcome:
    """Run ``nydusify arguments…`` in ``home``, also its home directory, with ``variables`` in its environment."""
    done = subprocess.run(
        command(*arguments),
        cwd=home,
        env=environment(home, **variables),
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
