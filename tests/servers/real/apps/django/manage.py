import os
import sys
import time

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="a trial", DEBUG=True)


def index(request):
    if request.path == "/slow":
        time.sleep(0.2)
    return HttpResponse(f"generation {os.environ['HOTSWAP_GENERATION']}\n")


urlpatterns = [path("", index), path("slow", index)]
execute_from_command_line(sys.argv)
