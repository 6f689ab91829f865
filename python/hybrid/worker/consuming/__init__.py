"""From messages to jobs: the consumer, its loop, requests, and tasks that wait for their time."""
