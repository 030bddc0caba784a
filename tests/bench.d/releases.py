"""The releases and rollbacks of one project, by everybody in turns, and the table of them."""

import subprocess

from contestants import HANDOVER, Agent, Script, moment, proven, steps
from processes import disk
from tables import amount, compare, middle, spread, table, verdict
from traces import Shares, Trace

# At most so much of what the script takes, with pip and with uv.
FLOORS = {("first", "live"): {"pip": 1 / 2}, ("pin", "live"): {"pip": 1}, ("views", "ready"): {"pip": 1 / 20, "uv": 1 / 10}, ("back", "live"): {"pip": 1.2},
          ("disk", "bytes"): {"pip": 1 / 10}, ("disk", "inodes"): {"pip": 1 / 10}}
# The agent that installs by pip, against the script that does.
BY_PIP = 1
WARM = 0.1  # seconds until the former release answers, where it was kept warm

TITLES = {"first": "first release", "same": "same requirements, a migration", "pin": "one requirement changed", "views": "only views changed",
          "back": "rollback, cold", "warm": "rollback, kept warm", "stage": "staged ahead", "staged": "activate what was staged"}
HEADS = {"agent": "agent, uv", "agent-pip": "agent, pip", "pip": "script, pip", "uv": "script, uv", "capistrano": "Capistrano", "fabric": "Fabric"}


class Releases:
    def __init__(self, bench, project, whole):
        self.bench, self.project = bench, project
        # Whether the script with pip makes the rows too in which it does the same as ever.
        self.whole = whole
        self.runs, self.disk, self.shares, self.load = {}, {}, {}, []

    def warm_caches(self):
        """What the installers of all contestants will want, in the caches that they share; nothing else."""
        self.bench.say(f"{self.project.title}: warming the caches")
        directory = self.bench.directory / self.project.name / "warm"
        for tag in ("first", "pin"):
            directory.mkdir(parents=True, exist_ok=True)
            wanted = directory / f"{tag}.txt"
            wanted.write_text(self.project.git("show", f"{tag}:requirements.txt"))
            for installer in self.bench.installers():
                venv = directory / f"{tag}-{installer}"
                if installer == "uv":
                    commands = [["uv", "venv", "--quiet", "--no-project", "--python", "/usr/bin/python3", venv],
                                ["uv", "pip", "install", "--quiet", "--python", venv / "bin/python", "--requirement", wanted]]
                else:
                    commands = [["/usr/bin/python3", "-m", "venv", venv],
                                [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", wanted]]
                for command in commands:
                    subprocess.run(command, env=self.bench.environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)

    def note(self, row, who, run):
        self.runs.setdefault(row, {}).setdefault(who, []).append(run)

    def measure_disk(self, place, who, release):
        """What a further release takes, beside dumps and what the app itself has written."""
        without = ("backups", "shared")
        before = disk(place.app, without)
        run = release()
        after = disk(place.app, without)
        for what, was, has in zip(("bytes", "inodes"), before, after):
            self.disk.setdefault(what, {}).setdefault(who, []).append(has - was)
        return run

    def repeat(self, number):
        turns = [("agent", self.by_agent), ("agent-pip", self.by_agent_with_pip), *((installer, self.by_script) for installer in self.bench.installers())]
        turns = turns[number % len(turns):] + turns[:number % len(turns)]
        for who, make in turns:
            self.bench.say(f"{self.project.title}, repeat {number}: {who}")
            make(number, who)
        if self.bench.strace:
            self.bench.say(f"{self.project.title}, repeat {number}: agent, traced")
            self.traced(number)

    def by_agent(self, number, _):
        agent = Agent(self.bench, self.project, f"{number}-agent")
        try:
            for row in ("first", "same", "pin"):
                self.note(row, "agent", agent.release(row))
            self.note("views", "agent", self.measure_disk(agent, "agent", lambda: agent.release("views-0")))
            self.note("back", "agent", agent.watched(agent.rollback))
            agent.restart_with(HANDOVER, warm="true")
            agent.activate("views-0")
            agent.release("views-1")
            self.note("warm", "agent", agent.watched(agent.rollback))
            self.note("stage", "agent", agent.stage("views-2"))
            self.note("staged", "agent", agent.watched(lambda: agent.activate("views-2")))
            if self.bench.details:
                agent.classic()
                self.note("fifo", "agent", agent.watched(lambda: agent.activate("views-0")))
        finally:
            agent.close()

    def by_agent_with_pip(self, number, who):
        """The rows in which an environment is built."""
        agent = Agent(self.bench, self.project, f"{number}-{who}", installer="pip")
        try:
            for row in ("first", "pin"):
                self.note(row, who, agent.release(row))
        finally:
            agent.close()

    def by_script(self, number, installer):
        script = Script(self.bench, self.project, f"{number}-{installer}", installer)
        try:
            self.note("first", installer, script.release("first"))
            if self.whole or installer == "uv":
                for row in ("same", "pin"):
                    self.note(row, installer, script.release(row))
            self.note("views", installer, self.measure_disk(script, installer, lambda: script.release("views-0")))
            self.note("back", installer, script.rollback())
            if installer == self.bench.installers()[-1]:
                # In the same place, whose directories are the same; so nobody has to wait for their first releases.
                for count, contestant in enumerate(self.bench.over_ssh):
                    self.bench.say(f"{self.project.title}, repeat {number}: {contestant.title}")
                    who, over_ssh = contestant.title.lower(), contestant(script, self.bench.loopback)
                    self.note("views", who, self.measure_disk(script, who, lambda ref=f"views-{count + 1}": over_ssh.release(ref)))
                    self.note("back", who, over_ssh.rollback())
        finally:
            script.close()

    def traced(self, number):
        agent = Agent(self.bench, self.project, f"{number}-traced", traced=True)
        runs, pid = {}, agent.process.pid
        try:
            for row, ref in (("first", "first"), ("same", "same"), ("pin", "pin"), ("views", "views-0")):
                runs[row] = agent.release(ref)
            runs["back"] = agent.rollback()
        finally:
            agent.close()
        trace = Trace(agent.trace, pid)
        for row, run in runs.items():
            self.shares.setdefault(row, []).append((run, Shares(run, trace)))

    # --- what is printed

    def values(self, row, who, measure):
        """One number for each repeat, in seconds, or bytes, or inodes."""
        if row == "disk":
            return self.disk[measure].get(who, [])
        runs = self.runs[row].get(who, [])
        if measure == "cpu":
            return [run.cpu for run in runs]
        if measure == "wall":
            return [run.wall for run in runs]
        if measure == "ready":
            return [run.ready() for run in runs]
        # Who looked from outside knows best.
        return [run.answered - run.begun if run.answered else run.live() for run in runs]

    def report(self):
        ssh = [contestant.title.lower() for contestant in self.bench.over_ssh]
        everybody = ["agent", "agent-pip", *self.bench.installers(), *ssh]
        print(f"\n{self.project.title} ({self.project.size()}), {self.bench.repeats} repeats, load {min(self.load):.1f} to {max(self.load):.1f}. "
              f"The agent's releases are `read_only`. Seconds from when it was asked for: median [min-max].\n")
        measures = [(row, measure) for row in ("first", "same", "pin", "views") for measure in ("ready", "live", "cpu")]
        measures += [(row, measure) for row in ("back", "warm") for measure in ("live", "wall", "cpu")]
        measures += [("stage", "wall")] + [("staged", measure) for measure in ("live", "wall", "cpu")]
        words = {"ready": "until ready to switch", "live": "until live and proven", "cpu": "CPU", "wall": "until all is done"}
        rows, former = [["", "", *(HEADS[who] for who in everybody), "limit"]], None
        for row, measure in measures:
            values = {who: self.values(row, who, measure) for who in everybody}
            word = "until the former answers" if (row, measure) in (("back", "live"), ("warm", "live")) else \
                "until it answers" if (row, measure) == ("staged", "live") else words[measure]
            rows.append([TITLES[row] if row != former else "", word, *(amount(values[who]) for who in everybody), self.limit(row, measure, values)])
            former = row
        for measure, word, unit in (("bytes", "MB", 1e6), ("inodes", "inodes", 1)):
            values = {who: self.values("disk", who, measure) for who in everybody}
            rows.append(["disk of a release with views changed" if measure == "bytes" else "", word,
                         *(amount([value / unit for value in values[who]]) for who in everybody), self.limit("disk", measure, values)])
        table(rows)
        if ssh:
            print(f"Capistrano and Fabric run the steps of the script with {HEADS[self.bench.installers()[-1]].split(', ')[1]}, over ssh to this host.")
        if not self.whole and len(self.bench.installers()) > 1:
            print("The script with pip builds everything anew each time: its rows with a migration and with a requirement changed are like the one with views changed.")

    def limit(self, row, measure, values):
        told = [compare(values["agent"], values.get(who, []), floor, who) for who, floor in FLOORS.get((row, measure), {}).items()]
        if measure == "live" and values.get("agent-pip"):
            told.append(compare(values["agent-pip"], values.get("pip", []), BY_PIP, "pip, by pip"))
        if (row, measure) == ("warm", "live"):
            found = middle(values["agent"])
            told.append(verdict(found <= WARM, f"{found * 1000:.0f} ms (at most {WARM * 1000:.0f} ms)"))
        told = [one for one in told if one]
        self.bench.verdicts += [f"{self.project.title}, {TITLES.get(row, 'disk of a further release')}: {one}" for one in told]
        return "; ".join(told)

    def report_details(self):
        print(f"\n{self.project.title}. The agent's steps by its own account, in ms:")
        for row in ("first", "same", "pin", "views", "back", "warm", "stage", "staged"):
            print(f"  {TITLES[row]}: {steps(self.runs[row]['agent'])}")
        self.report_back()
        if self.shares:
            self.report_shares()

    def report_back(self):
        print(f"\n{self.project.title}. Rollback: the way to the proof, in ms, and what of it is the server's own start.\n")
        rows = [["rollback by", "wall", "switch until proven", "server's own", "beyond it", "after the proof"]]

        def add(title, runs, servers):
            until = [proven(run) - run.marks["switch started"] for run in runs]
            beyond = [one - server for one, server in zip(until, servers)]
            rest = [run.marks["switch done"] - proven(run) for run in runs]
            rows.append([title, spread([run.wall for run in runs]), spread(until), spread(servers), spread(beyond), spread(rest)])

        if shares := self.shares.get("back"):
            add("handover (traced)", [run for run, _ in shares], [share.server[1] - share.server[0] for _, share in shares])
        warm = self.runs["warm"]["agent"]
        add("handover, kept warm", warm, [0] * len(warm))
        fifo = [run for run in self.runs["fifo"]["agent"] if run.answered]

        def wrote(run):
            return next(moment(event["at"]) for event in run.events if event["what"] == "note" and event["text"].startswith("wrote r"))

        if fifo:
            add("uwsgi-fifo, r", fifo, [run.answered - wrote(run) for run in fifo])
        table(rows)
        if fifo:
            before = [wrote(run) - run.marks["switch started"] for run in fifo]
            after = [proven(run) - run.answered for run in fifo]
            print(f"\nuwsgi-fifo: {spread(before)} until the byte is written (the release is loaded once before), {spread(after)} from its first "
                  "answer until the proof is complete (the master is watched for a second).")
            script = [run.between("restart", "end") for run in self.runs["back"]["pip"]]
            print(f"The script's own restart, r until the first answer: {spread(script)}.")

    def report_shares(self):
        print(f"\n{self.project.title}. Where the agent's time goes, in ms: runs under strace. Own = wall, less the time in which a program that it ran was running, less\n"
              "the start of the new server until its workers are there, and what follows the proof: the former server finishes and goes. CPU is the agent's own, from\n"
              "the runs without strace.\n")
        rows = [["run", "wall", "programs", "server's start", "former's end", "own", "own share", "own CPU", "limit"]]
        for row in self.shares:
            shares = [share for _, share in self.shares[row]]
            own, wall = middle([share.own for share in shares]), middle([share.wall for share in shares])
            most = max(0.03 * wall, 0.15)
            rows.append([TITLES[row], spread([share.wall for share in shares]), spread([share.children for share in shares]),
                         spread([share.serving for share in shares]), spread([share.letting_go for share in shares]),
                         spread([share.own for share in shares]),
                         spread([share.own / share.wall for share in shares], 100, 1) + " %",
                         spread([run.own_cpu for run in self.runs[row]["agent"]]),
                         verdict(own <= most, f"<= {most * 1000:.0f} ms (3 %, or 150 ms)")])
        table(rows)
        for row in self.shares:
            shares = [share for _, share in self.shares[row]]
            print(f"\n{self.project.title}, {TITLES[row]}, step by step:\n")
            rows = [["step", "wall", "programs", "how many", "servers", "own"]]
            for step in shares[0].steps:
                found = [share.steps[step] for share in shares if step in share.steps]
                columns = [spread([one[index] for one in found]) for index in range(4)]
                count = shares[0].count.get(step)
                rows.append([step, columns[0], columns[1], str(count) if count is not None else "", columns[2], columns[3]])
            table(rows)
