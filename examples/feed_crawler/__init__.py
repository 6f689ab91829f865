"""A feed crawler on Celery: polite, incremental, and at home on a green pool.

``run.py`` is the way in. What the worker runs is ``app``, ``tasks`` and what they import;
``site``, ``crawl`` and ``report`` are the local web, the measurement and the tables around it.
"""
