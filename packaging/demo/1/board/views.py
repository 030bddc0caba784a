from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from noticeboard.release import RELEASE

from .forms import NoticeForm
from .models import Notice


@require_http_methods(["GET", "HEAD", "POST"])
def board(request):
    form = NoticeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("board")
    return render(request, "board/board.html", {"form": form, "notices": Notice.objects.all()[:60], "release": RELEASE})


@require_safe
def healthz(request):
    # Asks the database too: a site whose database is out of reach is not well.
    Notice.objects.exists()
    return HttpResponse("ok", content_type="text/plain")
