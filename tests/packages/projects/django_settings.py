"""The settings of ``django_project``; the test says which database."""

import json
import os

DATABASES = {"default": json.loads(os.environ["HYBRID_TEST_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    *os.environ.get("HYBRID_TEST_DJANGO_APPS", "django_celery_results").split(),
    "shop",
]
SECRET_KEY = "none"
USE_TZ = True

CELERY_RESULT_BACKEND = os.environ.get("HYBRID_TEST_RESULTS", "django-db")
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True
