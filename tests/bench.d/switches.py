"""What visitors meet while one release of the demo takes over from another: by handover, and by uWSGI's own reload."""

import json
import os
import subprocess
import time

from building import BINARIES, PROJECT
from contestants import HANDOVER, Agent
from processes import MOST, Trouble, answer, wait_until
from tables import middle, ratio, spread, table, verdict

RATES = (100, 300)
SILENCE = 1 / 50  # of what it is with `r`
# Each slow page has a thread to itself for as long as it takes; what comes while `r` reloads waits in the queue.
THREADS, QUEUE = ("--threads", "16"), "1024"


class Switches:
    def __init__(self, bench, project):
        self.bench, self.project, self.met = bench, project, {}

    def measure(self):
        for per_second in RATES:
            self.bench.say(f"switches under {per_second} requests a second")
            agent = Agent(self.bench, self.project, f"visited-{per_second}")
            threads = ", ".join(f'"{word}"' for word in THREADS)
            agent.restart_with(HANDOVER.replace('"--listen"', f'{threads}, "--listen"'), listen=QUEUE)
            nginx = None
            try:
                agent.release("views-1")
                agent.release("views-0")
                front, nginx = self.nginx_before(agent)
                for number in range(2 * self.bench.repeats):
                    # Releases that take over, and rollbacks, in turn.
                    self.visited(per_second, "handover", front, agent.rollback if number % 2 else lambda: agent.activate("views-1"))
                agent.classic(QUEUE, THREADS)
                for number in range(self.bench.repeats):
                    self.visited(per_second, "uWSGI r", front, lambda: agent.activate(f"views-{number % 2}"))
            finally:
                if nginx:
                    nginx.terminate()
                    nginx.wait(30)
                agent.close()

    def visited(self, per_second, by, front, switch):
        """One switch while visitors come: from a second before it until half a second after it is done, and until the last one was answered."""
        visitors = subprocess.Popen([BINARIES / "visitors", front, str(per_second), "/visit", "/slow"], env=self.bench.environment,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(1)
            switch()
            time.sleep(0.5)
            told, _ = visitors.communicate(timeout=MOST)
            if visitors.returncode:
                raise Trouble("the visitors did not come")
            self.met.setdefault((per_second, by), []).append(json.loads(told))
        finally:
            if visitors.poll() is None:
                visitors.kill()

    def nginx_before(self, agent):
        """The server of the examples, with other places."""
        directory, front = agent.root / "nginx", agent.root / "front.sock"
        directory.mkdir()
        server = (PROJECT / "systemd/examples/nginx-shop.conf").read_text()
        for shipped, here in (("listen 80;", f"listen unix:{front};"), ("/run/shop/web.sock", str(agent.site)), ("/var/shop/app", str(agent.app / "app"))):
            server = server.replace(shipped, here)
        temporary = "".join(f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "" if os.geteuid() else "user root;\n"
        settings = directory / "nginx.conf"
        settings.write_text(f"{user}daemon off;\npid {directory}/pid;\nerror_log {directory}/errors;\nevents {{ worker_connections 4096; }}\n"
                            f"http {{\naccess_log off;\n{temporary}{server}\n}}\n")
        process = subprocess.Popen(["nginx", "-c", settings, "-e", directory / "errors", "-p", directory], env=self.bench.environment, cwd=agent.root,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("nginx serves", lambda: answer(front))
        return front, process

    def report(self):
        print(f"\n{self.project.title}: {2 * self.bench.repeats} switches by handover (releases that take over, and rollbacks) and {self.bench.repeats} by uWSGI's `r`, each under visitors "
              "who come through nginx at a fixed rate,\nwhatever they meet; one in five over a kept connection, one in ten by POST, one in a hundred for a page that takes 2 s. "
              "Latencies in ms, from when a\nrequest was due; of each switch the longest silence, median [min-max].\n")
        rows = [["requests a second", "by", "requests", "median", "slowest", "slowest of the pages of 2 s", "longest silence", "lost", "limit"]]
        for (per_second, by), met in self.met.items():
            lost, silences = sum(one["lost"] for one in met), [one["silence_ms"] for one in met]
            told = []
            if by == "handover":
                beside = middle(silences) / middle([one["silence_ms"] for one in self.met[per_second, "uWSGI r"]])
                told = [verdict(beside <= SILENCE, f"{ratio(beside)} of the silence of r (at most {ratio(SILENCE)})"), verdict(not lost, "none lost")]
                self.bench.verdicts += [f"switches under {per_second} requests a second: {one}" for one in told]
            first = next((f", the first by {one['first_lost']}" for one in met if one["lost"]), "")
            rows.append([str(per_second), by, str(sum(one["visits"] for one in met)), f"{middle([one['median_ms'] for one in met]):.0f}",
                         f"{max(one['slowest_ms'] for one in met):.0f}", f"{max(one['slowest_slow_ms'] for one in met):.0f}",
                         spread(silences, 1), f"{lost}{first}", "; ".join(told)])
        table(rows)
