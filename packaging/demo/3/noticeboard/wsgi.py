import os

from django.core.wsgi import get_wsgi_application

from noticeboard.tracing import trace

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "noticeboard.settings")

application = trace(get_wsgi_application())
