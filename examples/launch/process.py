"""A child process that is ended for certain, and whose CPU time and memory can be read."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import psutil

from launch.errors import LaunchError

if TYPE_CHECKING:
    from typing_extensions import Self

EXAMPLES = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Usage:
    """CPU seconds spent so far and resident memory, of a process and its children."""

    cpu_s: float
    rss_mb: float


class Child:
    """A process in its own session, with its output in ``log``.

    Ends with ``SIGTERM``, and with ``SIGKILL`` to its whole session after ``patience`` seconds.

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
        self.command = list(command)
        self.log = log
        self.patience = patience
        path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads_stdout else sink,
                stderr=sink if reads_stdout else subprocess.STDOUT,
                env={**os.environ, **(env or {}), "PYTHONPATH": path},
                # Ctrl-C must reach the runner only: it then ends the children in order.
                start_new_session=True,
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

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or ``None`` while the process runs."""
        return self._process.poll()

    def first_line(self, timeout: float) -> str:
        """Return the first line of stdout, which is how our servers say that they are ready.

        Raises:
            LaunchError: The process ended or stayed silent for ``timeout`` seconds.
        """
        assert self._process.stdout is not None, "started without reads_stdout"
        stdout = self._process.stdout
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=timeout).decode()
        except queue.Empty:
            line = ""
        if not line:
            raise LaunchError(self.describe_failure(f"said nothing within {timeout:g} s"))
        return line

    def wait(self, timeout: float) -> int:
        """Wait for the process to end by itself and return its exit status.

        Raises:
            LaunchError: It still runs after ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"still runs after {timeout:g} s"
            raise LaunchError(self.describe_failure(reason)) from None

    def usage(self) -> Usage:
        """CPU time and memory so far, of the process and its living children."""
        cpu_s = rss = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu_s += times.user + times.system
                    rss += process.memory_info().rss
        return Usage(cpu_s, rss / 2**20)

    def log_tail(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def describe_failure(self, reason: str) -> str:
        """Say what went wrong with this process, with its command and the end of its log."""
        if self.returncode is not None:
            reason = f"exited with status {self.returncode}"
        tail = self.log_tail() or "(the log is empty)"
        return f"`{' '.join(self.command)}` {reason}; end of {self.log}:\n{tail}"

    def stop(self) -> None:
        """End the process and everything it started. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.patience)
        # The session outlives a leader that was killed: prefork children, for example.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


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
