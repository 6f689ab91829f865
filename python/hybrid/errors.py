"""What celery-hybrid raises."""

from __future__ import annotations


class HybridError(Exception):
    """Base of all errors raised by this package."""


class NotPatchedError(SystemExit, HybridError):
    """The standard library is not patched for the hub that is asked for.

    Leaving it uncaught ends the process with the message and exit status 1, without a
    traceback: whoever sees it typed a command and needs to know what to type instead.
    """


class WorkLostError(HybridError):
    """Work that several tasks had asked for was ended by somebody before it was done.

    Whether it has had an effect is not known, as with a lost connection.
    """


class ForkedError(HybridError):
    """A forked child has used what only its parent, the worker, can use."""
