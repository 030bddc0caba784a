//! Not one request is lost: visitors come at a fixed rate through nginx, new connections and kept ones, quick pages and slow ones, while release
//! after release takes over and is taken back; and while releases come that cannot serve.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Bench, Led, Load, Met, Nginx, Rate, Repo, Stages, Upstream, Visit, demo_settings, wait_until};

const MOST: Duration = Duration::from_secs(60);
/// How long a former instance may take for what it was asked, by the app's file.
const DRAIN: Duration = Duration::from_secs(5);

const VIEWS: &str = "

import time

from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def visit(request):
    Notice.objects.exists()
    return HttpResponse('welcome', content_type='text/plain')


def slow(request):
    time.sleep(2)
    return HttpResponse('at last', content_type='text/plain')
";

/// What serves a release.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    /// It ends each connection with its answer.
    Uwsgi,
    /// It leaves connections open, and nginx keeps them.
    Gunicorn,
}

/// The demo's site behind nginx, with a page that takes two seconds.
struct Site {
    bench: Bench,
    repo: Repo,
    server: Server,
    stages: Stages,
    led: Led,
}

impl Site {
    /// Its first release is live.
    fn new(name: &str, checks: &str, server: Server) -> (Self, Nginx) {
        let bench = Bench::new(name);
        let repo = bench.demo_repo(1);
        let views = fs::read_to_string(repo.path().join("board/views.py")).unwrap();
        let urls = fs::read_to_string(repo.path().join("noticeboard/urls.py")).unwrap();
        repo.write("board/views.py", views + VIEWS);
        repo.write("noticeboard/urls.py", urls.replace("]\n", "    path(\"visit\", views.visit),\n    path(\"slow\", views.slow),\n]\n"));
        let first = repo.commit("A page that takes its time");
        let mut site = Self { bench, repo, server, stages: Stages::default(), led: Led::default() };
        site.bench.app("demo", &site.settings(checks, "")).start();
        site.stages.begin("the first release");
        site.switch(&["release", "main"], &first);
        let upstream = if server == Server::Gunicorn { Upstream::Kept } else { Upstream::Closed };
        let nginx = Nginx::before_demo(&site.bench, upstream);
        (site, nginx)
    }

    fn settings(&self, checks: &str, restart: &str) -> String {
        let restart = format!("strategy = \"handover\"\ndrain = \"{}s\"\n{restart}", DRAIN.as_secs());
        let all = demo_settings(&self.bench, &self.repo)
            .replace("strategy = \"handover\"\n", &restart)
            .replace("\"--listen\"", "\"--threads\", \"16\", \"--listen\"")
            .replace("status = 200\n", &format!("status = 200\n{checks}\n"));
        if self.server == Server::Uwsgi {
            return all;
        }
        let (head, rest) = all.split_once("command = [").unwrap();
        let (_, tail) = rest.split_once("]\n").unwrap();
        let argv = [
            "venv/bin/gunicorn",
            "--bind=unix:{socket}",
            "--preload",
            "--workers=2",
            "--threads=16",
            "--backlog=1024",
            "--keep-alive=10",
            "noticeboard.wsgi",
        ];
        format!("{head}command = {argv:?}\n{tail}").replace("\"pyuwsgi==2.0.30.post1\"", "\"gunicorn==23.0.0\"")
    }

    /// Sets the app file anew, and waits until the agent has taken it up.
    fn set(&self, toml: &str) {
        let taken_up = || self.bench.log().matches("the configuration was taken up").count();
        let before = taken_up();
        self.bench.app("demo", toml);
        wait_until("the configuration is taken up", MOST, || taken_up() > before);
    }

    /// Commits what changes a page and nothing else.
    fn page(&self, text: &str) -> String {
        let page = "board/templates/board/board.html";
        let board = fs::read_to_string(self.repo.path().join(page)).unwrap();
        self.repo.write(page, board.replace("</body>", &format!("<p>{text}</p>\n</body>")));
        self.repo.commit(text)
    }

    /// The ctl makes a commit live.
    fn switch(&mut self, args: &[&str], to: &str) {
        self.led.asked(to);
        self.bench.ctl(args).expect(0);
        self.led.live();
    }

    /// Visitors so many times a second, or as often as this machine can bear; and how often that is.
    fn visitors(&self, nginx: &Nginx, per_second: u32) -> (Load, String) {
        let rate = Rate { socket: nginx.socket(), per_second, path: "/visit".into(), slow_path: "/slow".into() }.within_reach();
        let comes_to = match rate.per_second {
            all if all == per_second => format!("{all} requests/s"),
            fewer => format!("{fewer} requests/s, for this machine does not bear {per_second}"),
        };
        (Load::begin(rate), comes_to)
    }

    /// Every visit got what it came for, from one of so many releases, all of which visitors were led to when it was made or answered.
    #[track_caller]
    fn check(&mut self, what: &str, visits: &[Visit], nginx: &Nginx, releases: usize) -> Met {
        let met = Met::of(visits);
        self.stages.begin(&format!("{what}: {met}"));
        let lost: Vec<&Visit> = visits.iter().filter(|visit| visit.is_lost()).collect();
        assert!(
            lost.is_empty(),
            "{} of {} requests were lost: {:#?}\nnginx: {:#?}",
            lost.len(),
            visits.len(),
            &lost[..lost.len().min(5)],
            nginx.errors().iter().rev().take(5).collect::<Vec<_>>()
        );
        let (strangers, stragglers) = (self.led.strangers(visits), self.led.stragglers(visits, DRAIN));
        assert!(strangers.is_empty(), "{} answers of releases that were not live: {:#?}", strangers.len(), strangers.first());
        assert!(stragglers.is_empty(), "{} answers of the old release after the drain: {:#?}", stragglers.len(), stragglers.first());
        assert_eq!(met.releases.len(), releases, "each release had visitors: {met:?}");
        met
    }
}

#[test]
fn twenty_releases_and_twenty_rollbacks_lose_no_request() {
    const CHECKS: &str = "stable = \"0s\"";
    let (mut site, nginx) = Site::new("no request lost", CHECKS, Server::Uwsgi);
    let first = site.repo.head();

    let (load, rate) = site.visitors(&nginx, 100);
    let mut commits = Vec::new();
    for number in 1..=3 {
        let commit = site.page(&format!("Page {number}"));
        site.switch(&["release", "main"], &commit);
        site.switch(&["rollback"], &first);
        commits.push(commit);
    }
    site.check(&format!("3 releases and 3 rollbacks at {rate}"), &load.end(), &nginx, 4);

    let (load, rate) = site.visitors(&nginx, 300);
    for commit in &commits[..2] {
        site.switch(&["activate", commit], commit);
        site.switch(&["rollback"], &first);
    }
    site.check(&format!("2 and 2 at {rate}"), &load.end(), &nginx, 3);

    site.set(&site.settings(CHECKS, "keep_warm = true\n"));
    let (load, rate) = site.visitors(&nginx, 300);
    // Each twice: the second time it is warm.
    for commit in commits.iter().flat_map(|commit| [commit; 2]).cycle().take(15) {
        site.switch(&["activate", commit], commit);
        site.switch(&["rollback"], &first);
    }
    site.check(&format!("15 and 15 at {rate}, the former release kept warm"), &load.end(), &nginx, 4);
    assert_eq!(site.bench.runs().iter().filter(|run| run["outcome"] == "live").count(), 1 + 20 + 20);
}

#[test]
fn a_proxy_that_keeps_connections_for_less_than_the_drain_loses_no_request() {
    let (mut site, nginx) = Site::new("no request lost over kept connections", "stable = \"0s\"", Server::Gunicorn);
    let first = site.repo.head();
    let (load, rate) = site.visitors(&nginx, 300);
    let commit = site.page("Another page");
    site.switch(&["release", "main"], &commit);
    site.switch(&["rollback"], &first);
    site.switch(&["activate", &commit], &commit);
    site.switch(&["rollback"], &first);
    site.check(&format!("2 and 2 of gunicorn at {rate}, with connections that nginx keeps"), &load.end(), &nginx, 2);
    let told: String = site.bench.runs().iter().map(|run| format!("{:?}", site.bench.events(run["run"].as_u64().unwrap()))).collect();
    assert!(
        told.contains("has finished and stopped") && !told.contains("still open after"),
        "the former one was left by everybody: {told}"
    );
}

/// Makes a commit.
type Make<'m> = &'m dyn Fn(&Repo) -> String;

/// A commit with another `healthz` in it.
fn healthz(repo: &Repo, body: &str) -> String {
    let views = fs::read_to_string(repo.path().join("board/views.py")).unwrap();
    let (head, rest) = views.split_once("def healthz(request):\n").unwrap();
    let rest = rest.split_once("\n\n\n").unwrap().1;
    repo.write("board/views.py", format!("import time\nBORN = time.time()\n{head}def healthz(request):\n{body}\n\n\n{rest}"));
    repo.commit("Another healthz")
}

/// A commit with more in its wsgi.py.
fn wsgi(repo: &Repo, more: &str) -> String {
    let wsgi = fs::read_to_string(repo.path().join("noticeboard/wsgi.py")).unwrap();
    repo.write("noticeboard/wsgi.py", wsgi + more);
    repo.commit("Another wsgi.py")
}

#[test]
fn releases_that_do_not_serve_lose_no_request() {
    let (mut site, nginx) = Site::new("no request lost to what does not serve", "stable = \"3s\"\nwithin = \"4s\"", Server::Uwsgi);
    let first = site.repo.head();
    // The master loads the app, and then forks its workers: the child that is left behind here ends the master.
    let dies = "\nimport time\nif os.fork() == 0:\n    time.sleep(2)\n    os.kill(os.getppid(), 9)\n    os._exit(0)\n";
    let later = "    if time.time() > BORN + 1.5:\n        return HttpResponse('broken', status=500)\n    return HttpResponse('ok')";
    let broken: [(&str, Make, &str); 4] = [
        ("it cannot be imported", &|repo| wsgi(repo, "\nimport nothing_of_that_name\n"), "nothing_of_that_name"),
        ("it dies some seconds after its first answers", &|repo| wsgi(repo, dies), "signal: 9"),
        ("it answers 500", &|repo| healthz(repo, "    return HttpResponse('broken', status=500)"), "500"),
        ("it answers 500 some seconds after its first answers", &|repo| healthz(repo, later), "500"),
    ];
    for (what, make, told) in broken {
        site.repo.reset(&first);
        let commit = make(&site.repo);
        let (load, rate) = site.visitors(&nginx, 100);
        let done = site.bench.ctl(["release", "main"]);
        let met = site.check(&format!("{what}, at {rate}"), &load.end(), &nginx, 1);
        done.expect(1).says(&[told]);
        assert_eq!(met.releases.keys().collect::<Vec<_>>(), [&first], "{commit} met visitors");
    }
    site.repo.reset(&first);
    let good = site.page("What is good is released after all that");
    site.switch(&["release", "main"], &good);
    site.bench.assert_sound();
}
