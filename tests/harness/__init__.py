"""What the broker tests stand on: real brokers, real worker processes, and what tasks saw.

Nothing here imports gevent or eventlet: the pytest process stays an ordinary, unpatched client.
"""
