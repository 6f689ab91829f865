"""Virtual environments that take milliseconds to make and hold what a user's would hold.

The packages of the tests' own environment are linked into them one by one, with their metadata,
so that pip and Celery see ordinary installations. Ours is not linked: pip installs its wheel.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# Not `celery[redis]`: under Celery 5.4 that is a redis-py too old for the kombu that comes with it.
PACKAGES = ("celery", "kombu[redis]", "gevent", "eventlet")
OURS = "celery-hybrid"


class Venv:
    """A virtual environment in ``folder`` with ``requirements`` and what they require."""

    def __init__(self, folder: Path, requirements: Iterable[str]) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        self.site_packages = Path(paths["platlib"])
        for name in closure(requirements):
            self._link(importlib.metadata.distribution(name))

    def _link(self, distribution: importlib.metadata.Distribution) -> None:
        for file in distribution.files or ():
            if file.parts[-2:] == ("bin", "celery"):
                self._copy_script(Path(str(distribution.locate_file(file))))
            elif file.parts[0] not in ("..", "__pycache__"):
                link = self.site_packages / file.parts[0]
                if not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(file.parts[0]))).resolve())

    def _copy_script(self, script: Path) -> None:
        lines = script.resolve().read_text().splitlines(keepends=True)
        copy = self.bin / script.name
        copy.write_text("".join([f"#!{self.python}\n", *lines[1:]]))
        copy.chmod(0o755)

    def pip(self, *args: str) -> str:
        """Run the tests' own pip on this environment."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), *args],
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, wheel: Path, *options: str) -> None:
        """Install ``wheel``, whose own requirements must be there."""
        self.pip("install", "--quiet", "--no-index", *options, str(wheel))

    def files(self) -> set[str]:
        """List what pip may have written."""
        return {
            str(Path(folder, name))
            for top in (self.site_packages, self.bin)
            for folder, _, names in os.walk(top)
            for name in names
        }


def closure(requirements: Iterable[str]) -> set[str]:
    """Name the distributions that ``requirements`` need, themselves included."""
    found: set[str] = set()
    seen: set[Requirement] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        wanted = left.pop()
        if wanted in seen or wanted.name == OURS:
            continue
        seen.add(wanted)
        found.add(re.sub(r"[-_.]+", "-", wanted.name).lower())
        for text in importlib.metadata.distribution(wanted.name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in wanted.extras or {""}
            ):
                left.append(requirement)
    return found
