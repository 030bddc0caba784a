"""Processes, what they use, and what a site answers."""

import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MOST = 600  # seconds that anything may take


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


def numbers():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def tree(pid):
    """A process and its descendants."""
    parents = {number: int(fields[1]) for number in numbers() if (fields := stat(number))}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu(pid, own):
    """Seconds of CPU: the process's own, or of the children that it has waited for."""
    fields = stat(pid) or ["0"] * 20
    first = 11 if own else 13
    return sum(int(ticks) for ticks in fields[first:first + 2]) / TICK


def cpu_of_tree(pid):
    return sum(cpu(one, True) + cpu(one, False) for one in tree(pid))


def end(pid, how=signal.SIGTERM):
    """Ends one process, and waits until it is gone."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
    until = time.monotonic() + 20
    while alive(pid):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            until += 20
        time.sleep(0.01)


def end_all_of(directory):
    """Ends what was started within a directory and is still there, by its number."""
    own, name = os.getpid(), os.fsencode(directory)
    for _ in range(50):
        found = []
        for pid in numbers():
            try:
                about = [Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ")]
            except OSError:
                continue
            if pid != own and any(name in text for text in about) and alive(pid):
                found.append(pid)
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        time.sleep(0.05)


def answer(path, page="/healthz"):
    """The release that names itself in the answer to a GET at a Unix socket, or None."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(path))
            connection.sendall(f"GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            text = b""
            while chunk := connection.recv(65536):
                text += chunk
    except OSError:
        return None
    found = re.search(rb"\r\nX-Release: (\S+)", text)
    return found and found[1].decode()


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


def wait_until(what, condition):
    until = time.monotonic() + 120
    while not condition():
        if time.monotonic() > until:
            raise Trouble(f"waited in vain until {what}")
        time.sleep(0.01)


def wait_until_files_are_cheap(directory, say):
    """Waits, for six minutes at most, until the file system gives new files their numbers without passing over those of removed ones."""
    def cost(place):
        """Of a file, in seconds: as many as a small environment has, which stay until the end."""
        place, began = Path(tempfile.mkdtemp(dir=place)), time.monotonic()
        for number in range(80):
            (place / str(number)).mkdir()
            for name in range(30):
                os.close(os.open(place / str(number) / str(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return (time.monotonic() - began) / (80 * 31)

    until, cheap = time.monotonic() + 360, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        while cheap < 3:
            # What a file costs in memory is told by the same machine; three times in a row, for it comes and goes.
            cheap = cheap + 1 if cost(directory) < 12 * cost(memory) else 0
            if not cheap and time.monotonic() > until:
                say("making a file still costs more than twelve times what it does in memory: what makes many files takes longer than it would")
                return
            if not cheap:
                say("much was removed here not long ago: waiting until the file system makes files at its usual speed")
            time.sleep(1 if cheap else 15)


def disk(directory, without=()):
    """What a directory takes: bytes of blocks and inodes, each inode once however many names it has."""
    seen, blocks = set(), 0
    for place, directories, files in os.walk(directory):
        if place == str(directory):
            directories[:] = [name for name in directories if name not in without]
        for name in [".", *files]:
            found = os.lstat(os.path.join(place, name))
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                blocks += found.st_blocks
        for name in directories:
            if os.path.islink(path := os.path.join(place, name)):
                found = os.lstat(path)
                seen.add((found.st_dev, found.st_ino))
                blocks += found.st_blocks
    return blocks * 512, len(seen)
