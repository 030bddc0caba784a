"""What the benchmarks share: looking at processes, and printing tables."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
BINARIES = PROJECT / "target/release"
TICK = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    """Something could not be measured."""


def stat(pid):
    """Fields of /proc/PID/stat from the state on (proc_pid_stat(5), field 3); None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None


def alive(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def cpu(pid, own):
    """Seconds of CPU: the process's own, or of the children that it has waited for."""
    fields = stat(pid) or ["0"] * 20
    first = 11 if own else 13
    return sum(int(ticks) for ticks in fields[first:first + 2]) / TICK


def resident(pid):
    """Its memory in MiB: now, at most, and what of it belongs to it alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {field: int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024 for field in ("VmRSS", "VmHWM", "RssAnon")}


def woken(pid, seconds):
    """How often each of its threads that woke up at all within some seconds did."""
    def switches():
        found = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            text = (task / "status").read_text()
            found[task.name] = (re.search(r"Name:\s+(.*)", text)[1], int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", text)[1]))
        return found

    before = switches()
    time.sleep(seconds)
    return {name: count - before.get(task, ("", 0))[1] for task, (name, count) in switches().items() if count > before.get(task, ("", 0))[1]}


def built(*more):
    """Builds agent and ctl for release, and programs of the tests; tells whether that went well."""
    binaries = [word for name in ("release-agent", "agentctl", *more) for word in ("--bin", name)]
    return not subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "release-agent", "-p", "agentctl", "-p", "agent-tests", *binaries],
                              cwd=PROJECT).returncode


def wait_until(what, condition):
    until = time.monotonic() + 120
    while not condition():
        if time.monotonic() > until:
            raise Trouble(f"waited in vain until {what}")
        time.sleep(0.01)


def spread(values, unit=1000, digits=0):
    values = [value * unit for value in values if value is not None]
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def middle(values):
    return statistics.median(values)


def table(rows):
    """Rows of cells, the first of them the heads; the first column to the left, the last too when it holds words."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def verdict(met, words):
    return f"{'met' if met else 'NOT MET'}: {words}"


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
