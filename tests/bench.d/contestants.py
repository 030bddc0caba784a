"""Who makes releases: the agent, the ten steps as a script, and the ten steps over ssh by Capistrano and by Fabric."""

import json
import os
import subprocess
import threading
import time
from datetime import datetime
from pathlib import Path

from building import BINARIES, PROJECT
from processes import MOST, Trouble, alive, answer, cpu, cpu_of_tree, end, wait_until
from tables import middle

HERE = Path(__file__).resolve().parent


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Run:
    """One release or rollback, measured from outside. `ready` is how long it was until the switch could begin, `live` until the release was seen to answer."""

    def __init__(self, wall, cpu_seconds, begun, marks):
        self.wall, self.cpu, self.begun, self.marks = wall, cpu_seconds, begun, marks
        self.own_cpu = self.events = self.answered = None

    def ready(self):
        return self.after("switch started" if self.events else "swap")

    def live(self):
        return proven(self) - self.begun if self.events else self.after("end")

    def after(self, mark):
        return self.marks[mark] - self.begun

    def between(self, first, last):
        return self.marks[last] - self.marks[first]


def proven(run):
    """When the last check of the switch was told to have passed; where none was, when the switch was done."""
    notes = [event for event in run.events if event["what"] == "note" and event["step"] == "switch" and " answered " in event["text"]]
    return moment(notes[-1]["at"]) if notes else run.marks["switch done"]


def steps(runs):
    """How long each step of the agent's took, by its own account."""
    taken = {}
    for run in runs:
        for event in run.events:
            if event["what"] == "step_done":
                taken.setdefault(event["step"], []).append(event["ms"])
    return ", ".join(f"{step} {middle(ms):.0f}" for step, ms in taken.items() if middle(ms) >= 1)


class Place:
    """A directory of its own for one contestant: an app root, a socket, a database."""

    def __init__(self, bench, project, name):
        self.bench, self.project, self.root = bench, project, bench.directory / project.name / name
        self.app, self.site = self.root / "app-root", self.root / "web.sock"
        (self.app / "shared").mkdir(parents=True)
        self.database = self.app / "shared/db.sqlite3"
        # In front of the other programs, when the steps of the app are to cost nothing.
        self.free = None

    def environment(self):
        if not self.free:
            return self.bench.environment
        return {**self.bench.environment, "PATH": f"{self.free}:{self.bench.environment['PATH']}"}

    def variables(self):
        return {**self.environment(), **self.project.variables(self)}

    def answer(self):
        return answer(self.site, self.project.page)


class Script(Place):
    """The ten steps."""

    def __init__(self, bench, project, name, installer):
        super().__init__(bench, project, name)
        self.installer = installer

    def needed(self):
        """What the steps need to know."""
        python = self.free / "python3" if self.free else "/usr/bin/python3"
        return {**self.variables(), "APP_ROOT": str(self.app), "REPOSITORY": str(self.project.repository), "SITE_SOCKET": str(self.site),
                "PYTHON": str(python), "MANAGE": self.project.manage, "CODE": self.project.code, "MODULE": self.project.module, "PAGE": self.project.page}

    def ask(self, words, environment):
        times, log = self.root / "times", self.root / "script.log"
        times.write_text("")
        begun_at, begun = time.time(), time.monotonic()
        with open(log, "ab") as output:
            child = subprocess.Popen(words, env={**self.needed(), **environment, "TIMES": str(times)}, cwd=self.root, stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output)
        bound = threading.Timer(MOST, child.kill)
        bound.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begun
        bound.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise Trouble(f"{' '.join(map(str, words))} failed:\n{log.read_text()[-3000:]}")
        marks = {name: float(at) for name, at in (line.split() for line in times.read_text().splitlines())}
        return Run(wall, usage.ru_utime + usage.ru_stime, begun_at, marks)

    def release(self, ref):
        return self.ask([HERE / "by-script", "release", ref, self.installer], {})

    def rollback(self):
        return self.ask([HERE / "by-script", "rollback"], {})

    def close(self):
        pidfile = self.app / "uwsgi.pid"
        if pidfile.exists():
            end(int(pidfile.read_text()))


class OverSsh:
    """The same over ssh, in the place of a script, whose directories are the same."""

    def __init__(self, script, loopback):
        self.script, self.loopback = script, loopback

    def ask(self, words, **more):
        needed = self.script.needed()
        # What this process happens to know besides is no more the host's business than with the script.
        more = {**more, **self.loopback.variables(), "EXPORTS": " ".join(needed), "INSTALLER": self.script.installer}
        before = self.loopback.cpu()
        run = self.script.ask(words, more)
        run.cpu += self.loopback.cpu() - before
        return run


class Capistrano(OverSsh):
    title, package = "Capistrano", "capistrano"

    def cap(self, task, **more):
        return self.ask(["cap", "--rakefile", HERE / "capistrano/Capfile", "loopback", task], **more)

    def release(self, ref):
        return self.cap("deploy", REF=ref)

    def rollback(self):
        return self.cap("deploy:rollback")


class Fabric(OverSsh):
    title, package = "Fabric", "fabric"

    def fab(self, *words):
        return self.ask([self.script.bench.which("fab"), "--search-root", HERE, *words])

    def release(self, ref):
        return self.fab("release", "--ref", ref)

    def rollback(self):
        return self.fab("rollback")


HANDOVER = """
[restart]
strategy = "handover"
socket = "{site}"
keep_warm = {warm}
command = [
    "uwsgi", "--plugins", "python3", "--virtualenv", "venv", "--pythonpath", "{code}", "--module", "{module}", "--http-socket", "{{socket}}", "--master",
    "--die-on-term", "--need-app", "--processes", "2", "--listen", "{listen}",
]
"""

FIFO = """
[restart]
strategy = "uwsgi-fifo"
fifo = "{app}/shared/fifo"
"""

APP = """
root = "{app}"
allow_local = true
repository = "{repository}"
# Static files that are taken over are then the live release's own.
read_only = true

[python]
interpreter = "/usr/bin/python3"
installer = "{installer}"

[django]
manage = "{manage}"

[env]
{variables}

[backup]
database = "sqlite"

[[check]]
url = "unix:{site}:{page}"
headers = {{ Host = "localhost" }}
release_header = "X-Release"
# The script asks until it is answered once, and no longer.
stable = "0s"
"""


class Agent(Place):
    """The agent, with its own state and socket."""

    def __init__(self, bench, project, name, traced=False, settings=APP + HANDOVER, free=None, installer="auto"):
        super().__init__(bench, project, name)
        self.installer = installer
        self.traced, self.trace, self.process, self.free = traced, self.root / "trace", None, free
        (self.root / "config/apps").mkdir(parents=True)
        self.configure(settings)
        self.start()

    def configure(self, settings, warm="false", listen="128"):
        variables = "\n".join(f'{name} = "{value}"' for name, value in self.project.variables(self).items())
        words = {"app": self.app, "site": self.site, "repository": self.project.repository, "code": self.project.code, "module": self.project.module,
                 "manage": self.project.manage, "page": self.project.page, "variables": variables, "warm": warm, "listen": listen, "free": self.free,
                 "database": self.database, "installer": self.installer}
        (self.root / f"config/apps/{self.project.name}.toml").write_text(settings.format(**words))

    def environment(self):
        """As on a host that somebody has set up: with the uv that the setup fetches, and no other."""
        environment = super().environment()
        path = [part for part in environment["PATH"].split(":") if not (Path(part) / "uv").exists()]
        return {**environment, "PATH": ":".join(path), "RELEASE_AGENT_CACHE": str(self.bench.directory / "agent-cache")}

    def start(self):
        command = [BINARIES / "release-agent", "--config", self.root / "config", "--state", self.root / "state",
                   "--socket", self.root / "control.sock"]
        if self.traced:
            # -D: the agent stays our child. With --seccomp-bpf it stops at nothing but these calls.
            command = ["strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-s", "200", "-e", "trace=execve,clone,clone3,fork,vfork",
                       "-e", "signal=none", "-A", "-o", self.trace, *command]
        with open(self.root / "agent.log", "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment(), cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            if self.ctl("status", wanted=None).returncode == 0:
                return
            if self.process.poll() is not None or time.monotonic() > until:
                raise Trouble(f"the agent does not start:\n{(self.root / 'agent.log').read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def ctl(self, *words, wanted=0):
        done = subprocess.run([BINARIES / "agentctl", "--socket", self.root / "control.sock", *words], env=self.bench.environment,
                              cwd=self.root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MOST)
        if wanted is not None and done.returncode != wanted:
            raise Trouble(f"agentctl {' '.join(words)} exits {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def servers(self):
        records = (json.loads(file.read_text()) for file in (self.app / ".agent/instances").glob("*.json"))
        return [record["process"][0] for record in records if record["process"] and alive(record["process"][0])]

    def ask(self, *words):
        pid = self.process.pid
        # A server that is stopped on the way is a child that the agent waits for, with all that it ever used.
        servers = {server: cpu_of_tree(server) for server in self.servers()}
        children, own = cpu(pid, False), cpu(pid, True)
        begun_at, begun = time.time(), time.monotonic()
        with open(self.root / "ctl.log", "ab") as log:
            ctl = subprocess.Popen([BINARIES / "agentctl", "--socket", self.root / "control.sock", *words], env=self.bench.environment,
                                   cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(ctl.pid, 0)
        wall = time.monotonic() - begun
        ctl.returncode = os.waitstatus_to_exitcode(status)
        if ctl.returncode:
            raise Trouble(f"agentctl {' '.join(words)} exits {ctl.returncode}:\n{self.ctl('logs', wanted=None).stdout[-3000:]}")
        gone = sum(used for server, used in servers.items() if not alive(server))
        own = cpu(pid, True) - own
        children = max(0, cpu(pid, False) - children - gone)
        run = Run(wall, children + own + usage.ru_utime + usage.ru_stime, begun_at, {})
        run.own_cpu = own
        run.events = [json.loads(line) for line in self.ctl("logs", "--json").stdout.splitlines()]
        for event in run.events:
            at = moment(event["at"])
            run.marks.setdefault(event["what"], at)
            if "step" in event and event["what"] in ("step_started", "step_done"):
                run.marks[f"{event['step']} {event['what'][5:]}"] = at
        return run

    def release(self, ref):
        return self.ask("release", ref)

    def stage(self, ref):
        return self.ask("stage", ref)

    def rollback(self):
        return self.ask("rollback")

    def activate(self, ref):
        return self.ask("activate", self.project.commit(ref))

    def restart_with(self, restart, **words):
        """The same app with another [restart]; no instance of before goes on."""
        servers = self.servers()
        self.stop()
        for server in servers:
            end(server)
        for file in (self.app / ".agent/instances").glob("*.json"):
            file.unlink()
        self.site.unlink(missing_ok=True)
        self.configure(APP + restart, **words)
        self.start()

    def classic(self, listen="128", more=()):
        """The same app, served by a uWSGI that runs in the link, as the script's does."""
        self.restart_with(FIFO)
        fifo, pidfile = self.app / "shared/fifo", self.root / "uwsgi.pid"
        subprocess.run(["uwsgi", "--plugins", "python3", "--chdir", self.app / "app" / self.project.code, "--virtualenv", self.app / "app/venv",
                        "--module", self.project.module, "--http-socket", self.site, "--master", "--die-on-term", "--need-app",
                        "--processes", "2", *more, "--listen", listen, "--master-fifo", fifo, "--pidfile", pidfile,
                        "--daemonize", self.root / "uwsgi.log"],
                       env=self.variables(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("uWSGI serves in the link", self.answer)

    def watched(self, ask):
        """A run, and when somebody first met the release that it made live."""
        before, answered, over = self.answer(), [], threading.Event()

        def look():
            while not answered and not over.is_set():
                if (told := self.answer()) and told != before:
                    answered.append(time.time())
                time.sleep(0.005)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            run = ask()
        finally:
            over.set()
            watcher.join()
        run.answered = answered[0] if answered else None
        return run

    def close(self):
        servers = self.servers()
        self.stop()
        for server in servers:
            end(server)
        pidfile = self.root / "uwsgi.pid"
        if pidfile.exists():
            end(int(pidfile.read_text()))
