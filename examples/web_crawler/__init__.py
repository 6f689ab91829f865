"""A web crawler on Celery: follows the links of one site, each page once, within limits."""
