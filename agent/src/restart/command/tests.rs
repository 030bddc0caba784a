use std::fs;

use super::*;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, Stage};
use crate::tools::http::Target;

fn command(script: &str) -> Restart {
    let run = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Restart::Command(Settings { run, timeout: Duration::from_secs(5) })
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
    crate::tools::Process::of(pid).signal(nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn a_command_that_fails_is_told_with_its_last_lines() {
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let error = stage.switch(&command("echo no such service >&2; exit 5"), &a, None).unwrap_err();
    assert!(error.to_string().contains("the restart command failed") && error.tail() == ["no such service"], "{error:?}");
    let empty = Restart::Command(Settings { run: Vec::new(), timeout: Duration::from_secs(5) });
    assert!(stage.with_scene(|scene| empty.prepare(scene, a.serving()).map(drop)).unwrap_err().hint().is_some());
}
