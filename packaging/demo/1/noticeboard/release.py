"""Which release this is, as it was when the code was loaded.

It is read once, on import: a process that was not restarted goes on naming the release that it really runs, whatever the files say by then.
"""

import os
from pathlib import Path


def _read():
    try:
        revision = (Path(__file__).resolve().parent.parent / "REVISION").read_text().strip()
    except OSError:
        revision = ""
    return revision or os.environ.get("RELEASE_NAME") or "unreleased"


RELEASE = _read()


class ReleaseHeader:
    """Middleware that names the release in every answer."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["X-Release"] = RELEASE
        return response
