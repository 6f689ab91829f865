"""Child processes that are ended for certain, and never outlive whoever started them.

The tests and the benchmarks start theirs with this, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from launch.errors import LaunchError

if TYPE_CHECKING:
    from typing_extensions import Self

EXAMPLES = Path(__file__).resolve().parent.parent

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    # Whoever is killed (-9, the CI's time limit) ends nothing.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Usage:
    """CPU seconds spent so far and resident memory, of a process and its children."""

    cpu_s: float
    rss_mb: float


class Process:
    """A process in a session of its own, ended by its id, with its output in ``log``.

    It ends with ``SIGTERM``, and with ``SIGKILL`` to its whole session after ``patience`` seconds.

    Args:
        args: Program and arguments.
        log: Receives stdout and stderr.
        env: Its whole environment; ``None`` for ours.
        cwd: Its folder; ``None`` for ours.
        patience: Seconds between ``SIGTERM`` and ``SIGKILL``.
        stdout: Where its standard output goes instead of ``log``.
    """

    def __init__(
        self,
        args: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        *,
        patience: float = 10.0,
        stdout: int | None = None,
    ) -> None:
        self.args = list(args)
        self.log = log
        self.patience = patience
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(
                self.args,
                stdin=subprocess.DEVNULL,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                # Ctrl-C must reach the runner only: it then ends its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit status, or ``None`` while the process runs."""
        return self._popen.poll()

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def wait(self, within: float) -> int | None:
        """Return the exit code, or ``None`` when the process still runs after ``within``."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, within: float | None = None, number: int = signal.SIGTERM) -> int:
        """Ask politely, then kill the whole session the process leads. Safe to call twice.

        Args:
            within: Seconds to end in, instead of its patience.
            number: The signal that asks.
        """
        if self.running:
            self.send_signal(number)
            self.wait(self.patience if within is None else within)
        # The session outlives a leader that was killed: prefork children, for example.
        self.kill()
        return self._popen.wait()

    def kill(self) -> None:
        """``kill -9`` for the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


class Child(Process):
    """A process of an example: it finds our modules, and says what went wrong.

    Args:
        command: Program and arguments.
        log: Receives stderr, and stdout unless ``reads_stdout``.
        env: Added to our environment.
        patience: Seconds between ``SIGTERM`` and ``SIGKILL``.
        reads_stdout: Keep stdout for :meth:`first_line`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        patience: float = 5.0,
        reads_stdout: bool = False,
    ) -> None:
        path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
        super().__init__(
            command,
            log,
            {**os.environ, **(env or {}), "PYTHONPATH": path},
            patience=patience,
            stdout=subprocess.PIPE if reads_stdout else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def first_line(self, timeout: float) -> str:
        """Return the first line of stdout, which is how our servers say that they are ready.

        Raises:
            LaunchError: The process ended or stayed silent for ``timeout`` seconds.
        """
        assert self._popen.stdout is not None, "started without reads_stdout"
        stdout = self._popen.stdout
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=timeout).decode()
        except queue.Empty:
            line = ""
        if not line:
            raise LaunchError(self.describe_failure(f"said nothing within {timeout:g} s"))
        return line

    def usage(self) -> Usage:
        """CPU time and memory so far, of the process and its living children."""
        import psutil  # nobody else who starts processes needs it

        cpu_s = rss = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu_s += times.user + times.system
                    rss += process.memory_info().rss
        return Usage(cpu_s, rss / 2**20)

    def describe_failure(self, reason: str) -> str:
        """Say what went wrong with this process, with its command and the end of its log."""
        if self.exit_code is not None:
            reason = f"exited with status {self.exit_code}"
        tail = self.tail(20) or "(the log is empty)"
        return f"`{' '.join(self.args)}` {reason}; end of {self.log}:\n{tail}"

    def stop(self, within: float | None = None, number: int = signal.SIGTERM) -> int:
        code = super().stop(within, number)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        return code


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Turn ``SIGTERM`` into ``SystemExit`` inside the block, so that children are ended too."""

    def leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Deadline:
    """A moment after which waiting is an error."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left == 0.0
