"""What ``celery_hybrid_boot.start`` runs in every interpreter (PEP 829, Python 3.15 and later).

A module of its own and next to nothing in it, because almost every interpreter that runs it has
nothing to do with Celery. Older Pythons run the line of ``celery_hybrid_boot.pth`` instead,
which says the same.
"""

import os
import sys


def arm() -> None:
    """Get ready to patch if this command line may ask for one of our pools."""
    asked = "\0".join(getattr(sys, "argv", ())) + os.environ.get("CELERY_CUSTOM_WORKER_POOL", "")
    if "hybrid." in asked:
        from hybrid import _boot

        _boot.arm()
