"""The release build that is measured, and a word on what is being done."""

import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
BINARIES = PROJECT / "target/release"


def built(*more):
    """Builds agent and ctl for release, and programs of the tests; tells whether that went well."""
    binaries = [word for name in ("release-agent", "agentctl", *more) for word in ("--bin", name)]
    return not subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "release-agent", "-p", "agentctl", "-p", "agent-tests", *binaries],
                              cwd=PROJECT).returncode


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
