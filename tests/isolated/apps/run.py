"""A script that starts its worker itself: ``python run.py [patch=HUB] [late=HUB] option…``.

``patch=gevent`` calls ``hybrid.patch`` before anything else, ``late=gevent`` after the imports.
"""

import sys

options = [arg for arg in sys.argv[1:] if "=" not in arg or arg.startswith("-")]
wishes = dict(arg.split("=") for arg in sys.argv[1:] if arg not in options)

if "patch" in wishes:
    import hybrid

    hybrid.patch(wishes["patch"])

from proj import app  # noqa: E402

if "late" in wishes:
    import hybrid

    hybrid.patch(wishes["late"])

if __name__ == "__main__":
    if "pool" in wishes:
        options += ["-P", wishes["pool"]]
    app.worker_main(["worker", *options])
