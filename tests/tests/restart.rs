//! Restarts in place, with servers that somebody else runs: the new release is proven by its processes and its answers, or taken back.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, Place, Repo, SITE_SOCKET, demo_settings, get, wait_until};

const MOST: Duration = Duration::from_secs(60);

/// The demo's app file with another `[restart]`.
fn settings(bench: &Bench, repo: &Repo, restart: &str) -> String {
    let all = demo_settings(bench, repo).replace("status = 200", "status = 200\nstable = \"500ms\"\nwithin = \"8s\"");
    let (head, rest) = all.split_once("[restart]").unwrap();
    let checks = rest.find("[[check]]").unwrap();
    format!("{head}{restart}\n{}", &rest[checks..])
}

/// Sets the app file anew, and waits until the agent has taken it up.
fn set(bench: &Bench, toml: &str) {
    let before = bench.log().matches("the configuration was taken up").count();
    bench.app("demo", toml);
    wait_until("the configuration is taken up", MOST, || bench.log().matches("the configuration was taken up").count() > before);
}

fn serving(bench: &Bench) -> Option<String> {
    let answer = get(&Place::Socket(bench.path(SITE_SOCKET)), "/healthz").ok()?;
    answer.header("X-Release").map(str::to_owned)
}

/// The variables that the app's programs get, for a server that the test starts as an operator would.
fn with_app_env(bench: &Bench, command: &mut Command) {
    command
        .env("SECRET_KEY", "not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789")
        .env("ALLOWED_HOSTS", "localhost,127.0.0.1")
        .env("DATABASE_PATH", bench.root_of("demo").join("shared/db.sqlite3"));
}

/// A first release without any restart, so that there is a link to start a server in.
fn first_release(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(3);
    let all = settings(&bench, &repo, "");
    let without_checks = all.split("[[check]]").next().unwrap().to_owned();
    bench.app("demo", &without_checks).start();
    bench.ctl(["release", "v1"]).expect(0);
    (bench, repo)
}

fn with_healthz(repo: &Repo, body: &str) -> String {
    let views = fs::read_to_string(repo.path().join("board/views.py")).unwrap();
    let head = views.split("@require_safe\ndef healthz").next().unwrap().to_owned();
    repo.write("board/views.py", format!("{head}@require_safe\ndef healthz(request):\n{body}\n"));
    // The third release of the demo cannot be loaded; this one can.
    repo.write("noticeboard/wsgi.py", "import os\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\napplication = get_wsgi_application()\n");
    repo.commit("Another healthz")
}

#[test]
fn uwsgi_by_its_fifo_follows_the_link_and_is_taken_back_when_it_does_not_serve() {
    let (bench, repo) = first_release("uwsgi by fifo");
    let (link, fifo) = (bench.root_of("demo").join("app"), bench.path("run/fifo"));
    let fifo_settings = |signal: &str| {
        settings(
            &bench,
            &repo,
            &format!("[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = {fifo:?}\nsignal = \"{signal}\"\ntimeout = \"20s\"\n"),
        )
    };
    set(&bench, &fifo_settings("r"));

    // Nobody listens yet: nothing is switched, and what to do is said.
    let done = bench.ctl(["release", "v2"]).expect(1);
    assert!(done.stderr.contains("fifo"), "{}", done.stderr);
    assert!(done.stderr.contains("hint:"), "{}", done.stderr);

    let mut uwsgi = bench.command("uwsgi");
    with_app_env(&bench, &mut uwsgi);
    uwsgi.args([
        "--plugin",
        "python3",
        "--master",
        "--die-on-term",
        "--processes",
        "2",
        "--listen",
        "1024",
        "--module",
        "noticeboard.wsgi",
    ]);
    uwsgi.arg("--http-socket").arg(bench.path(SITE_SOCKET)).arg("--master-fifo").arg(&fifo);
    uwsgi.arg("--chdir").arg(&link).arg("--virtualenv").arg(link.join("venv"));
    let server = bench.begin(uwsgi);
    wait_until("uWSGI serves", MOST, || serving(&bench).is_some());
    assert_eq!(serving(&bench), Some(repo.id("v1")));

    bench.ctl(["release", "v2"]).expect(0);
    assert_eq!(serving(&bench), Some(repo.id("v2")));
    let live = bench.live("demo").unwrap();
    bench.assert_sound();

    // What cannot be imported is found out before the one server that there is is touched.
    let done = bench.ctl(["release", "v3"]).expect(1);
    assert!(done.stderr.contains("noticeboard.tracing"), "{}", done.stderr);
    assert_eq!(bench.live("demo").unwrap(), live);
    assert_eq!(serving(&bench), Some(repo.id("v2")));

    // What loads and then answers 500 met visitors for a moment: it is taken back, and the former release is proven again.
    with_healthz(&repo, "    return HttpResponse('broken', status=500)");
    let done = bench.ctl(["release", "main"]).expect(3);
    assert!(done.stderr.contains("500"), "{}", done.stderr);
    assert_eq!(bench.live("demo").unwrap(), live);
    assert_eq!(serving(&bench), Some(repo.id("v2")));
    bench.assert_sound();

    // A chain reload without lazy-apps forks the old code again, silently: what doctor calls an error fails the release, before any visitor meets it,
    // whether an answer would tell or not.
    let commit = with_healthz(&repo, "    return HttpResponse('ok')");
    for chain in [fifo_settings("c"), fifo_settings("c").replace("release_header = \"X-Release\"", "")] {
        set(&bench, &chain);
        let done = bench.ctl(["release", "main"]).expect(1);
        assert!(
            done.stderr.contains("forks the old app again") && done.stderr.contains("hint: use the graceful reload"),
            "{}",
            done.stderr
        );
        assert_eq!(bench.live("demo").unwrap(), live);
        assert_eq!(serving(&bench), Some(repo.id("v2")));
    }
    let doctor = bench.ctl(["doctor"]);
    assert!(doctor.stdout.contains("lazy-apps"), "the misconfiguration is found:\n{}", doctor.stdout);

    set(&bench, &fifo_settings("R"));
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(serving(&bench), Some(commit));
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(serving(&bench), Some(repo.id("v2")));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    bench.assert_sound();
}

#[test]
fn gunicorn_by_hup_follows_the_link_and_is_taken_back_when_it_does_not_serve() {
    let (bench, repo) = first_release("gunicorn by HUP");
    let link = bench.root_of("demo").join("app");
    let pid_file = bench.path("run/gunicorn.pid");
    let all = settings(
        &bench,
        &repo,
        &format!("[restart]\nstrategy = \"gunicorn\"\npid_file = {pid_file:?}\nsignal = \"HUP\"\ntimeout = \"20s\"\n"),
    );
    set(&bench, &all.replace("\"pyuwsgi", "\"gunicorn==23.0.0\", \"pyuwsgi"));
    let done = bench.ctl(["release", "v2"]).expect(1);
    assert!(done.stderr.contains("gunicorn"), "nobody is there to be told:\n{}", done.stderr);
    // The server comes from the release's own environment, so that must be there first.
    set(&bench, all.replace("\"pyuwsgi", "\"gunicorn==23.0.0\", \"pyuwsgi").split("[restart]").next().unwrap());
    bench.ctl(["release", "v2"]).expect(0);
    let mut gunicorn = bench.command(link.join("venv/bin/python"));
    with_app_env(&bench, &mut gunicorn);
    gunicorn.current_dir(&link).args(["-m", "gunicorn", "--workers", "2", "--chdir"]).arg(&link).arg("--pid").arg(&pid_file);
    gunicorn.arg("--bind").arg(format!("unix:{}", bench.path(SITE_SOCKET).display())).arg("noticeboard.wsgi");
    let server = bench.begin(gunicorn);
    wait_until("gunicorn serves", MOST, || serving(&bench).is_some());
    set(&bench, &all.replace("\"pyuwsgi", "\"gunicorn==23.0.0\", \"pyuwsgi"));

    let commit = with_healthz(&repo, "    return HttpResponse('ok')");
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(serving(&bench), Some(commit.clone()));
    with_healthz(&repo, "    return HttpResponse('broken', status=500)");
    bench.ctl(["release", "main"]).expect(3);
    assert_eq!(serving(&bench), Some(commit));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    bench.assert_sound();
}

#[test]
fn the_first_release_waits_for_its_server_and_a_chain_reload_brings_the_next_one() {
    let bench = Bench::new("the first one in place");
    let repo = bench.demo_repo(3);
    let (link, fifo) = (bench.root_of("demo").join("app"), bench.path("run/fifo"));
    let restart = |time: &str| format!("[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = {fifo:?}\nsignal = \"c\"\ntimeout = \"{time}\"\n");
    bench.app("demo", &settings(&bench, &repo, &restart("2s"))).start();

    // Nobody starts it: nothing is called live that nobody serves, and the link goes again.
    let done = bench.ctl(["release", "v1"]).expect(3);
    assert!(done.stderr.contains("uWSGI was not started within 2 s") && done.stderr.contains("hint: start uWSGI"), "{}", done.stderr);
    assert_eq!(bench.live("demo"), None);
    bench.assert_sound();

    set(&bench, &settings(&bench, &repo, &restart("60s")));
    let release = bench.ctl_begin(["release", "v1"]);
    wait_until("there is a link to start it in", MOST, || link.exists());
    let mut uwsgi = bench.command("uwsgi");
    with_app_env(&bench, &mut uwsgi);
    uwsgi.args(["--plugin", "python3", "--master", "--die-on-term", "--processes", "2", "--listen", "1024"]);
    uwsgi.args(["--module", "noticeboard.wsgi", "--lazy-apps"]).arg("--pythonpath").arg(&link);
    uwsgi.arg("--http-socket").arg(bench.path(SITE_SOCKET)).arg("--master-fifo").arg(&fifo);
    uwsgi.arg("--chdir").arg(&link).arg("--virtualenv").arg(link.join("venv"));
    let server = bench.begin(uwsgi);
    let done = release.finish(MOST).expect(0);
    assert!(done.stderr.contains("start uWSGI as soon as"), "{}", done.stderr);
    assert_eq!(serving(&bench), Some(repo.id("v1")));

    // The workers keep the directory of the first release, in which the master was started, and have the code of the next one.
    let done = bench.ctl(["release", "v2"]).expect(0);
    assert!(done.stderr.contains("by a relative path"), "{}", done.stderr);
    assert_eq!(serving(&bench), Some(repo.id("v2")));
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(serving(&bench), Some(repo.id("v1")));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    bench.assert_sound();
}

#[test]
fn a_gunicorn_that_a_release_ended_is_waited_for_where_another_supervisor_starts_it() {
    let (bench, repo) = first_release("gunicorn supervised");
    let (link, pid_file) = (bench.root_of("demo").join("app"), bench.path("run/gunicorn.pid"));
    let all = settings(&bench, &repo, &format!("[restart]\nstrategy = \"gunicorn\"\npid_file = {pid_file:?}\ntimeout = \"30s\"\n"))
        .replace("\"pyuwsgi", "\"gunicorn==23.0.0\", \"pyuwsgi");
    set(&bench, all.split("[restart]").next().unwrap());
    bench.ctl(["release", "v2"]).expect(0);
    let mut supervisor = bench.command("sh");
    with_app_env(&bench, &mut supervisor);
    let gunicorn = format!(
        "{link}/venv/bin/python -m gunicorn --workers 2 --chdir {link} --pid '{pid}' --bind 'unix:{socket}' noticeboard.wsgi",
        link = link.display(),
        pid = pid_file.display(),
        socket = bench.path(SITE_SOCKET).display()
    );
    supervisor.args(["-c", &format!("cd /; while :; do {gunicorn}; sleep 1; done")]);
    bench.begin(supervisor);
    wait_until("gunicorn serves", MOST, || serving(&bench).is_some());
    set(&bench, &all);

    // It can be imported by everybody but gunicorn.
    with_healthz(&repo, "    return HttpResponse('ok')");
    let wsgi = fs::read_to_string(repo.path().join("noticeboard/wsgi.py")).unwrap();
    repo.write("noticeboard/wsgi.py", format!("import sys\nif 'gunicorn' in sys.modules:\n    raise ImportError('not here')\n{wsgi}"));
    repo.commit("Not for gunicorn");
    let done = bench.ctl(["release", "main"]).expect(3);
    assert!(done.stderr.contains("it could not load") && done.stderr.contains("waiting for gunicorn to be started"), "{}", done.stderr);
    assert_eq!(serving(&bench), Some(repo.id("v2")));
    bench.assert_sound();
}
