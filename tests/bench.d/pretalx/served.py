"""pretalx, and in each answer the release that gave it, as it was when the code was loaded. For tests/bench."""

from pathlib import Path

from pretalx.wsgi import application as pretalx

RELEASE = (Path(__file__).resolve().parent.parent / "REVISION").read_text().strip()


def application(environ, start_response):
    def start(status, headers, exc_info=None):
        return start_response(status, [*headers, ("X-Release", RELEASE)], exc_info)

    return pretalx(environ, start)
