"""The end-to-end benchmark: tasks through real brokers and real worker processes.

``python -m benches.e2e --help`` runs it, ``python -m benches.e2e.tables`` and
``python -m benches.e2e.plots`` show a run that was kept. ``benches/README.md`` has the method.
"""
