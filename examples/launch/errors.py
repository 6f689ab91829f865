from __future__ import annotations


class LaunchError(Exception):
    """Something the example needs did not start, or did not finish in time.

    The message says what, why (with the tail of its log), and what to do about it.
    """
