"""Tries, one after the other, what code of strangers might try, and says of each how it went: `attack.py NAME OLDER_RELEASE`."""
import ctypes, json, mmap, os, socket, sys

libc = ctypes.CDLL(None, use_errno=True)
tried = {}


def attempt(what, act):
    try:
        act()
        tried[what] = "done"
    except BaseException as err:
        tried[what] = type(err).__name__


def call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def append(path):
    with open(path, "ab") as file:
        file.write(b"#")


def connect(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)


def listen():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()


def agents():
    own = {os.getpid(), os.getppid()}
    # The step runner is the parent of this program's supervisor.
    with open(f"/proc/{os.getppid()}/stat") as file:
        own.add(int(file.read().rsplit(") ", 1)[1].split()[1]))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() == "release-agent" and int(pid) not in own:
                yield pid


def look_into_agent():
    pid = next(agents())
    read(f"/proc/{pid}/environ")
    read(f"/proc/{pid}/mem")


def leave_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):
                os.close(number)
            os.execve("/bin/sleep", ["left-by-an-attack", "987654"], {})
        os._exit(0)
    os.wait()


def own_program():
    place = next(place for place in (".", "/var/shop/shared/media", "/tmp") if os.access(place, os.W_OK))
    append(f"{place}/made")
    os.chmod(f"{place}/made", 0o4755)


def traced_child():
    pid = os.fork()
    if pid == 0:
        os._exit(1 if libc.syscall(101, 0, 0, 0, 0) < 0 else 0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise PermissionError


older = sys.argv[2]
attempt("read the secrets", lambda: read("/etc/release-agent/apps/shop.env"))
attempt("read the secrets that were handed over", lambda: read("/run/credentials/release-agent-app@shop.service/secrets-0"))
attempt("know the secrets", lambda: os.environ["TOKEN"])
attempt("read the journal", lambda: read("/var/lib/release-agent/journal.db"))
attempt("write whom the agent trusts", lambda: append("/etc/release-agent/allowed_signers"))
attempt("write what the agent runs", lambda: append("/etc/release-agent/apps/shop.toml"))
attempt("set the link", lambda: os.symlink("releases/x", "/var/shop/app.next"))
attempt("move the link", lambda: os.rename("/var/shop/app", "/var/shop/moved"))
attempt("write in an older release", lambda: append(f"{older}/page"))
attempt("open an older release", lambda: os.chmod(f"{older}/page", 0o777))
attempt("remove a file of an older release", lambda: os.unlink(f"{older}/page"))
attempt("write in an older environment", lambda: append(f"{older}/venv/pyvenv.cfg"))
attempt("open an older environment", lambda: os.chmod(f"{older}/venv/pyvenv.cfg", 0o777))
attempt("see the backups", lambda: os.listdir("/var/shop/backups"))
attempt("see what the agent remembers", lambda: os.listdir("/var/shop/.agent"))
attempt("write what is shared", lambda: append("/var/shop/shared/media/upload"))
attempt("write in this release", lambda: append("page"))
attempt("make a program that is somebody else", own_program)
attempt("make a user namespace", lambda: call(272, 0x10000000))
attempt("mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("trace its parent", lambda: call(101, 16, os.getppid(), 0, 0))
attempt("use keys of the kernel", lambda: call(250, 0, -3, 1))
attempt("have itself traced", traced_child)
attempt("load a program into the kernel", lambda: call(321, 5, 0, 0))
attempt("see the agent among the processes", lambda: next(agents()))
attempt("look into the agent", look_into_agent)
attempt("write where anybody may", lambda: append("/opt/anybody/left-by-an-attack"))
attempt("read what others have in /tmp", lambda: read("/tmp/of-others"))
attempt("look into homes", lambda: os.listdir("/home"))
attempt("speak netlink to the kernel", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("change how it is run", lambda: call(135, 0x0400000))
attempt("open a socket of the network", lambda: socket.socket(socket.AF_INET))
attempt("make memory that is written and run", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
attempt("signal the first process", lambda: os.kill(1, 0))
attempt("ask the agent", lambda: connect("/run/release-agent/control.sock"))
attempt("ask the runner that builds", lambda: connect("/run/release-agent-steps/shop.build"))
attempt("ask the runner that migrates", lambda: connect("/run/release-agent-steps/shop.app"))
attempt("listen on a port", listen)
attempt("leave a daemon", leave_daemon)
print("TOLD", sys.argv[1], os.environ.get("TOKEN"))
print("TRIED", sys.argv[1], json.dumps(tried), flush=True)
