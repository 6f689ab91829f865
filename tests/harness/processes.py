"""Child processes that log to a file, are stopped by pid, and never outlive the test run.

They are those of the examples, which have to stand by themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

from launch.process import Process as Child
from launch.process import free_port
from launch.redis import EmbeddedRedis

__all__ = ["Child", "EmbeddedRedis", "free_port"]
