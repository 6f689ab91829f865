"""What ``celery_hybrid_boot.start`` runs in every interpreter (PEP 829, Python 3.15 and later).

A module of its own with next to nothing in it, because almost every interpreter that runs it has
nothing to do with Celery. Older Pythons run the line in ``celery_hybrid_boot.pth`` instead, which
does the same: a line costs them less than a module.
"""

import sys


def arm() -> None:
    """Get ready to patch if this command line may ask for one of our pools."""
    # `-P custom` means the pool in the environment variable CELERY_CUSTOM_WORKER_POOL.
    if "hybrid." in str(sys.argv).replace("custom", "hybrid."):
        from hybrid import _boot

        _boot.arm()
