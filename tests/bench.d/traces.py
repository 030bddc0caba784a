"""What strace saw: where the agent's time goes."""

import re
from pathlib import Path

from contestants import moment, proven


class Trace:
    """The programs that the agent ran, as (name, begin, end), and of the servers that it started the time until they had forked their workers."""

    LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")

    def __init__(self, path, agent):
        threads, parent, starts, ends, open_calls = {agent}, {}, {}, {}, {}
        forks = {}
        for line in path.read_text(errors="replace").splitlines():
            if not (found := self.LINE.match(line)):
                continue
            pid, at, text = int(found[1]), float(found[2]), found[3]
            if text.startswith("+++"):
                ends[pid] = at
            elif text.startswith("execve("):
                if (name := re.match(r'execve\("([^"]+)"', text)) and (text.endswith("= 0") or "unfinished" in text):
                    starts.setdefault(pid, (name[1], at))
            elif "unfinished" in text:
                open_calls[pid] = text
            elif made := re.search(r"= (\d+)$", text):
                # What was asked stands in the first half.
                asked = open_calls.pop(pid, "") + text
                child = int(made[1])
                if "CLONE_THREAD" in asked and pid in threads:
                    threads.add(child)
                elif "CLONE_THREAD" not in asked:
                    parent[child] = pid
                    forks.setdefault(pid, []).append((child, at))
        self.programs, self.servers = [], []
        for pid, (path_of, at) in starts.items():
            if parent.get(pid) not in threads:
                continue
            name = Path(path_of).name
            if name.startswith("uwsgi"):
                # Some apps run a program while they are loaded; workers run none.
                workers = [forked for child, forked in forks.get(pid, []) if child not in starts]
                self.servers.append((at, max(workers[:2], default=at)))
            else:
                self.programs.append((name, at, ends.get(pid, at)))


def covered(spans, first, last):
    """How much of the time between two moments is covered by spans."""
    total, reached = 0.0, first
    for begin, finish in sorted(spans):
        begin, finish = max(begin, reached), min(finish, last)
        if finish > begin:
            total += finish - begin
            reached = finish
    return total


class Shares:
    """Where the time of one run went. From the proof to the end of the switch the former server finishes and goes: that is told apart."""

    def __init__(self, run, trace):
        first, last = run.begun, run.begun + run.wall
        programs = [(begin, finish) for _, begin, finish in trace.programs]
        servers = [(begin, finish) for begin, finish in trace.servers if first <= begin <= last]
        self.server = servers[-1] if servers else None
        former = [(proven(run), run.marks["switch done"])]
        self.letting_go = former[0][1] - former[0][0]
        spans = programs + servers + former
        self.wall, self.children, self.serving = run.wall, covered(programs, first, last), covered(servers, first, last)
        self.own = run.wall - covered(spans, first, last)
        self.steps, self.count = {}, {}
        started = {}
        for event in run.events:
            if event["what"] == "step_started":
                started[event["step"]] = moment(event["at"])
            elif event["what"] == "step_done":
                name, begin = event["step"], started[event["step"]]
                finish = begin + event["ms"] / 1000
                used = covered(programs, begin, finish)
                waited = covered(servers + former, begin, finish)
                own = event["ms"] / 1000 - covered(spans, begin, finish)
                count = sum(1 for one, _ in programs if begin <= one <= finish)
                self.steps[name] = (event["ms"] / 1000, used, waited, own)
                self.count[name] = count
        inside = sum(step[0] for step in self.steps.values())
        self.steps["between and around"] = (run.wall - inside, 0, 0, run.wall - inside)
