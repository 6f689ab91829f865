"""The settings of ``django_project``; the test says which database."""

import json
import os

DATABASES = {"default": json.loads(os.environ["HYBRID_TEST_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_results", "shop"]
SECRET_KEY = "none"
USE_TZ = True

CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True
