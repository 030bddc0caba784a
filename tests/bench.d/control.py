"""The tools themselves: the same releases where every step of the app costs nothing."""

import subprocess

from contestants import Agent, Script, steps
from projects import VIEWS
from tables import amount, compare, table

# Against bash, and against Capistrano.
FLOORS = {"bash": 1, "capistrano": 1 / 10}

# The agent has steps of its own for Python and Django, which ask the interpreter and believe the answer. Here it runs the programs of the script instead.
SETTINGS = """
root = "{app}"
allow_local = true
repository = "{repository}"

[env]
APP_ROOT = "{app}"

[[hook]]
before = "seal"
run = ["python3", "-m", "venv", "venv"]

[[hook]]
before = "seal"
run = ["venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"]

[[hook]]
before = "seal"
run = ["venv/bin/python", "{manage}", "collectstatic", "--noinput"]

[[hook]]
before = "seal"
run = ["venv/bin/python", "{manage}", "check", "--deploy", "--fail-level", "ERROR"]

[[hook]]
before = "switch"
run = ["sh", "-c", "sqlite3 {database} \\".backup '{app}/backups/$RELEASE_NAME.sqlite3'\\""]

[[hook]]
before = "switch"
run = ["venv/bin/python", "{manage}", "migrate", "--noinput"]

[restart]
strategy = "command"
run = ["uwsgi"]

[[hook]]
after = "switch"
run = ["sh", "-c", "curl | grep --quiet $RELEASE_COMMIT"]
"""


class Control:
    def __init__(self, bench, project):
        self.bench, self.project, self.runs = bench, project, {}

    def measure(self):
        self.bench.say(f"{self.project.title}: the tools themselves")
        agent, bash = Agent(self.bench, self.project, "control-agent", settings=SETTINGS, free=self.bench.free), self.script("bash")
        try:
            self.empty_database(agent)
            contestants = {"agent": agent, "bash": bash}
            for over_ssh in self.bench.over_ssh:
                contestants[over_ssh.title.lower()] = over_ssh(self.script(over_ssh.title), self.bench.loopback)
            self.runs = {who: [] for who in contestants}
            # The first one clones, and is not counted.
            for number in range(self.bench.repeats + 1):
                order = list(contestants)
                order = order[number % len(order):] + order[:number % len(order)]
                for who in order:
                    run = contestants[who].release(f"views-{number % VIEWS}")
                    if number:
                        self.runs[who].append(run)
        finally:
            agent.close()

    def script(self, name):
        script = Script(self.bench, self.project, f"control-{name.lower()}", "pip")
        script.free = self.bench.free
        self.empty_database(script)
        return script

    def empty_database(self, place):
        (place.app / "backups").mkdir(exist_ok=True)
        subprocess.run(["sqlite3", place.database, "create table notes (id integer primary key)"], env=self.bench.environment, check=True)

    def report(self):
        print(f"\nThe tools themselves with the files of {self.project.title}: git, tar, a dump of an empty database and links are real, and every other step of the "
              "app is a program that does nothing.\nThe agent runs the same programs as hooks, without [python] and [django], and `command` restarts; it also makes "
              "durable what it writes. Seconds: median [min-max].\n")
        rows = [["", *(who if who in ("agent", "bash") else who.title() for who in self.runs), "limit"]]
        for word, value in (("a release", lambda run: run.wall), ("until ready to switch", lambda run: run.ready()), ("CPU", lambda run: run.cpu)):
            values = {who: [value(run) for run in runs] for who, runs in self.runs.items()}
            told = []
            if word == "a release":
                told = [compare(values["agent"], values.get(who, []), floor, who.title() if who != "bash" else who) for who, floor in FLOORS.items()]
                told = [one for one in told if one]
                self.bench.verdicts += [f"the tools themselves, files of {self.project.title}: {one}" for one in told]
            rows.append([word, *(amount(of) for of in values.values()), "; ".join(told)])
        table(rows)
        print(f"Of the agent, in ms: {steps(self.runs['agent'])}.")
