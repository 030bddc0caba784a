//! Tests that work without systemd. Those that need it run from outside, in a machine booted for them.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use super::*;
use crate::restart::Restart;
use crate::restart::in_place::units;
use crate::restart::tests::{A, APP, B, Stage};

#[test]
fn without_a_bus_the_hint_is_told_before_anything_is_done() {
    if Path::new("/run/dbus/system_bus_socket").exists() {
        println!("*** NOT TESTED: there is a system bus here");
        return;
    }
    let settings = units::Settings {
        units: vec!["x.service".to_owned()],
        how: UnitAction::Restart,
        watch_for: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    };
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let error = stage.with_scene(|context| Restart::Systemd(settings.clone()).prepare(context, a.serving()).map(drop)).unwrap_err();
    assert!(error.to_string().contains("cannot reach systemd") && error.hint().unwrap().contains("is dbus running"), "{error}");
}

/// A process that starts its workers in the first release. Like uWSGI in a reload, it ends them before it changes into the second one.
const RELOADS: &str = r#"
    while read -r _; do
        cd "$1"
        for _ in 1 2 3 4; do sleep 60 & done
        echo
        read -r _
        kill -9 $(jobs -p); wait
        sleep 0.2
        cd "$2"
        echo
    done"#;

/// A process that stays in the first release, while its workers come and go in the second one.
const STAYS: &str = r#"
    cd "$2"; sleep 60 & first=$!; cd "$1"
    echo
    read -r _
    for ((round = 0; round < 50; round++)); do
        cd "$2"
        others=
        for _ in 1 2 3 4; do sleep 60 & others="$others $!"; done
        sleep 0.02
        cd "$1"
        kill -9 $others; wait $others
    done
    echo
    read -r _
    kill $first"#;

struct Master {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Master {
    fn of(script: &str, a: &Path, b: &Path) -> Self {
        let mut process = Command::new("bash")
            .args(["-c", script, "master"])
            .args([a, b])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (orders, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()).lines());
        Self { process, orders, answers }
    }

    fn order(&mut self) {
        self.orders.write_all(b"\n").unwrap();
    }

    fn await_answer(&mut self) {
        self.answers.next().unwrap().unwrap();
    }

    fn unit(&self) -> Unit {
        Unit { main_pid: self.process.id(), ..Unit::default() }
    }

    fn end(mut self) {
        drop(self.orders);
        self.process.wait().unwrap();
    }
}

#[test]
fn a_worker_at_its_end_does_not_say_that_the_unit_has_arrived() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let mut master = Master::of(RELOADS, &a.dir, &b.dir);
    for _ in 0..20 {
        master.order();
        master.await_answer();
        assert!(stray(&master.unit(), ShownBy::Directory, b.serving()).is_some());
        master.order();
        while stray(&master.unit(), ShownBy::Directory, b.serving()).is_some() {}
        assert_eq!(Process::of(master.process.id()).cwd().as_deref(), Some(b.dir.as_path()));
        master.await_answer();
    }
    master.end();
}

#[test]
fn where_a_main_process_stays_the_end_of_one_worker_among_others_says_nothing() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let mut master = Master::of(STAYS, &a.dir, &b.dir);
    master.await_answer();
    master.order();
    let unit = master.unit();
    thread::scope(|scope| {
        let answered = scope.spawn(|| master.await_answer());
        while !answered.is_finished() {
            assert_eq!(stray(&unit, ShownBy::Directory, b.serving()), None);
        }
    });
    assert_ne!(stray(&unit, ShownBy::Directory, a.serving()), None);
    master.end();
}

#[test]
fn workers_that_a_unit_forks_again_are_not_judged_by_their_directory_where_answers_tell() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    let reload = |byte: &str| Unit {
        can_reload: true,
        exec_reload: vec![vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("echo {byte} > /run/fifo")]],
        ..Unit::default()
    };
    let shown = |stage: &Stage, byte: &str| stage.with_scene(|context| shown_by(context, &reload(byte)));
    assert_eq!((shown(&stage, "c"), shown(&stage, "r")), (ShownBy::Nothing, ShownBy::Directory));
    let mut asked = stage;
    asked.checks = vec![asked.check(crate::http::Target::Unix("/run/web.sock".into()))];
    assert_eq!((shown(&asked, "c"), shown(&asked, "r")), (ShownBy::Answers, ShownBy::Directory));
    let mut worker = std::process::Command::new("sleep").arg("600").current_dir(&a.dir).spawn().unwrap();
    let processes = [Process::of(worker.id())];
    assert!(ShownBy::Directory.stray(&processes, b.serving()).is_some() && ShownBy::Nothing.stray(&processes, b.serving()).is_some());
    assert_eq!(ShownBy::Answers.stray(&processes, b.serving()), None);
    worker.kill().unwrap();
    worker.wait().unwrap();
}
