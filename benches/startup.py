"""What the start-up file costs in an interpreter that has nothing to do with Celery.

All in microseconds, measured inside fresh interpreters, but for the starts:

* ``empty file``: what site spends on any ``.pth`` file, here one with a comment in it.
* ``our file``: the same for ``celery_hybrid_boot.pth``.
* ``our line``: the difference, which is what we can do something about. The target is for it.
* ``again``: our file, read once more. In virtual environments, site reads every file twice.
* ``module``: importing ``celery_hybrid_boot`` and calling ``arm``. From Python 3.15 on, that is
  what ``celery_hybrid_boot.start`` asks for, in place of the ``.pth`` file (PEP 829).
* ``bare start``: a whole ``python -c pass`` in a virtual environment without the file.
* ``start``: how much longer it takes with the file. Both kinds take turns, and this is the median
  of the differences between neighbours. It is a check on the others: no two starts are alike,
  hence the range, in which the median lies with 95 % confidence.

``python benches/startup.py [--quick]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import venv
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from report import RESULTS

FILES = Path(__file__).parents[1] / "python" / "celery_hybrid.data" / "platlib"
TARGET_US = 50.0

IN_FILE = """
import site, sys, time
known = set(sys.path)
for _ in range(2):
    began = time.perf_counter_ns()
    site.addpackage({folder!r}, {name!r}, known)
    print((time.perf_counter_ns() - began) / 1000)
"""

IN_MODULE = """
import time
began = time.perf_counter_ns()
import celery_hybrid_boot
celery_hybrid_boot.arm()
print((time.perf_counter_ns() - began) / 1000)
"""


class Environment:
    """A bare virtual environment, with or without the start-up file in it."""

    def __init__(self, folder: Path, *, names: tuple[str, ...] = ()) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        self.site_packages = paths["platlib"]
        self._python = str(folder / "bin" / "python")
        for name in names:
            shutil.copy(FILES / name, self.site_packages)

    def start_us(self) -> float:
        """Start an interpreter that does nothing, and tell how long it took."""
        began = perf_counter()
        # Not `subprocess`: it takes as long itself as what we look for.
        pid = os.posix_spawn(self._python, [self._python, "-I", "-c", "pass"], os.environ)
        status = os.waitpid(pid, 0)[1]
        took = perf_counter() - began
        assert status == 0
        return took * 1e6

    def run_us(self, code: str) -> list[float]:
        """Run code that prints figures, in a fresh interpreter."""
        done = subprocess.run(
            [self._python, "-I", "-c", code], stdout=subprocess.PIPE, check=True, text=True
        )
        return [float(line) for line in done.stdout.splitlines()]


def measure(folder: Path, starts: int) -> dict[str, list[float]]:
    """Return every sample, by figure."""
    without = Environment(folder / "without")
    with_file = Environment(folder / "with", names=("celery_hybrid_boot.pth",))
    module = Environment(folder / "module", names=("celery_hybrid_boot.py",))
    (folder / "empty.pth").write_text("# nothing\n")
    read_empty = IN_FILE.format(folder=str(folder), name="empty.pth")
    read_ours = IN_FILE.format(folder=with_file.site_packages, name="celery_hybrid_boot.pth")
    for environment in (without, with_file):  # byte code and caches
        for _ in range(5):
            environment.start_us()
    module.run_us(IN_MODULE)

    figures = ("empty file", "our file", "our line", "again", "module", "bare start", "start")
    samples: dict[str, list[float]] = {name: [] for name in figures}
    for number in range(starts):
        if number % 2:
            bare, ours = without.start_us(), with_file.start_us()
        else:
            ours, bare = with_file.start_us(), without.start_us()
        samples["bare start"].append(bare)
        samples["start"].append(ours - bare)
        if number % 4 == 0:
            empty, _ = without.run_us(read_empty)
            first, again = without.run_us(read_ours)
            samples["empty file"].append(empty)
            samples["our file"].append(first)
            samples["our line"].append(first - empty)
            samples["again"].append(again)
            samples["module"] += module.run_us(IN_MODULE)
    return samples


def confidence(samples: list[float]) -> tuple[float, float]:
    """Return the range in which the true median lies with 95 % confidence.

    Taken from the order of the samples alone (a sign test), whatever their distribution.
    """
    ordered = sorted(samples)
    count = len(ordered)
    reach = 0.98 * count**0.5
    low, high = round(count / 2 - reach), round(count / 2 + reach)
    return ordered[max(low, 0)], ordered[min(high, count - 1)]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 pairs of starts, not 1000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder), 200 if options.quick else 1000)

    print(
        "microseconds in an interpreter that is not Celery's: median (95 % range of the median)\n"
    )
    for name, values in samples.items():
        low, high = confidence(values)
        print(
            f"{name:<12}{statistics.median(values):10.1f}  ({low:.1f} to {high:.1f}), "
            f"{len(values)} samples from {min(values):.1f} to {max(values):.1f}"
        )
    is_met = statistics.median(samples["our line"]) < TARGET_US
    print(f"\nour line: below {TARGET_US:g} is {'met' if is_met else 'MISSED'}")

    path = RESULTS / f"startup{'-quick' if options.quick else ''}.json"
    RESULTS.mkdir(exist_ok=True)
    kept = {
        "title": "the start-up file in an interpreter that is not Celery's, microseconds",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release()}",
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "median": {name: statistics.median(values) for name, values in samples.items()},
        "samples": samples,
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"every sample is in {path}")


if __name__ == "__main__":
    main()
