"""Celery projects that the workers under test import."""
