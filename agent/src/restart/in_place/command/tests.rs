use std::fs;

use super::*;
use crate::http::Target;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, Stage};

fn command(script: &str) -> Restart {
    let run = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Restart::Command(Settings { run, back: None, timeout: Duration::from_secs(5) })
}

#[test]
fn it_runs_in_the_release_and_what_it_starts_stays() {
    let mut stage = Stage::new();
    let socket = stage.path("web.sock");
    stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let script = format!(
        "echo $RELEASE_NAME $PWD; test -e ../../pid && kill $(cat ../../pid); rm -f {0}; uwsgi --plugin python3 --http-socket={0} \
         --wsgi-file=app.py --die-on-term >../../log 2>&1 & echo $! >../../pid",
        socket.display()
    );
    let restart = command(&script);
    stage.switch(&restart, &a, None).unwrap();
    stage.switch(&restart, &b, Some(&a)).unwrap();
    assert!(stage.said.borrow().contains(&format!("line: {B} {}", b.dir.display())), "{:?}", stage.said.borrow());
    stage.back(&restart, &b, Some(&a)).unwrap();
    let pid = fs::read_to_string(stage.path("pid")).unwrap().trim().parse().unwrap();
    crate::process::Process::of(pid).signal(nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn a_command_that_fails_is_told_with_its_last_lines() {
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let error = stage.switch(&command("echo no such service >&2; exit 5"), &a, None).unwrap_err();
    assert!(error.to_string().contains("the restart command failed") && error.tail() == ["no such service"], "{error:?}");
    let empty = Restart::Command(Settings { run: Vec::new(), back: None, timeout: Duration::from_secs(5) });
    assert!(stage.with_scene(|context| empty.prepare(context, a.serving()).map(drop)).unwrap_err().hint().is_some());
}

/// A command that hangs, with no server behind it.
fn hangs(back: Option<&str>) -> Restart {
    let argv = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Restart::Command(Settings { run: argv("sleep 600"), back: back.map(argv), timeout: Duration::from_secs(1) })
}

#[test]
fn a_command_that_hangs_is_gone_back_from_by_another() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let restart = hangs(Some("echo back to $RELEASE_NAME in $PWD"));
    let error = stage.switch(&restart, &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("the restart command failed"), "{error}");
    stage.back(&restart, &b, Some(&a)).unwrap();
    assert!(stage.said.borrow().contains(&format!("line: back to {A} in {}", a.dir.display())), "{:?}", stage.said.borrow());
    let stuck = stage.back(&hangs(None), &b, Some(&a)).unwrap_err();
    assert!(stuck.hint().unwrap().contains("set back under [restart]"), "{stuck}");
    let stuck = stage.back(&hangs(Some("echo no way >&2; exit 3")), &b, Some(&a)).unwrap_err();
    assert!(stuck.tail() == ["no way"] && stuck.hint().is_none(), "{stuck:?}");
}

#[test]
fn a_command_that_hangs_on_the_way_back_counts_less_than_the_answers() {
    let mut stage = Stage::new();
    let socket = stage.path("web.sock");
    stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let log = fs::File::create(stage.path("log")).unwrap();
    let mut server = std::process::Command::new("uwsgi")
        .args(["--plugin", "python3", "--wsgi-file=app.py", "--die-on-term"])
        .arg(format!("--http-socket={}", socket.display()))
        .current_dir(&a.dir)
        .stderr(log)
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !crate::http::listens(&socket) {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
    let back = stage.back(&hangs(None), &b, Some(&a));
    // An answer that names no release proves nothing.
    stage.checks[0].release_header = None;
    let unproven = stage.back(&hangs(None), &b, Some(&a));
    server.kill().unwrap();
    server.wait().unwrap();
    back.unwrap();
    assert!(stage.warnings()[0].contains("the checks were answered by"), "{:?}", stage.warnings());
    unproven.unwrap_err();
}
