use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use super::super::tests::{minute, sh, with_watch};
use super::super::{Cancel, Leftovers, Program, ProgramError, sandbox, with_variable};
use super::*;

/// The program of these tests is the supervisors', too. The harness has a main function of its own, so this runs before it.
#[used]
#[expect(unsafe_code, reason = "the harness's main function cannot be changed; what runs before it is a plain function")]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    if serve_if_asked().is_some() {
        std::process::exit(0);
    }
}

/// A program that runs away. Each of its processes says that it is there by one more byte in the file `steps` of its working directory.
const RUNAWAY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <stdio.h>
#include <unistd.h>

static int steps;
static void step(void) { if (write(steps, ".", 1) != 1) _exit(9); }
static void away(void) { setsid(); signal(SIGTERM, SIG_IGN); close(0); close(1); close(2); }

int main(int argc, char **argv) {
    char *way = argv[1], *none[] = { NULL }, *again[] = { "x", "exec-again", NULL };
    steps = open("steps", O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (!strcmp(way, "limit")) {
        struct rlimit locks;
        getrlimit(RLIMIT_LOCKS, &locks);
        printf("%lu %lu\n", (unsigned long) locks.rlim_cur, (unsigned long) locks.rlim_max);
        return 0;
    }
    if (!strcmp(way, "exec-again")) { step(); execve("/proc/self/exe", again, none); _exit(8); }
    int ready[2];
    char byte;
    if (pipe(ready)) return 1;
    for (int at = 0; at < 3; at++) {
        if (fork()) continue;
        away();
        if (write(ready[1], ".", 1) != 1) _exit(7);
        if (!strcmp(way, "exec")) { execve("/proc/self/exe", again, none); _exit(8); }
        if (!strcmp(way, "fork")) for (;;) { step(); if (fork()) _exit(0); setsid(); }
        if (!strcmp(way, "chain")) { for (int depth = 0; depth < 400; depth++) { step(); if (fork()) break; setsid(); } for (;;) pause(); }
        if (!strcmp(way, "restart")) for (;;) { step(); int pid = fork(); if (!pid) { setsid(); for (;;) { step(); usleep(200); } } usleep(1000); }
    }
    for (int at = 0; at < 3; at++) if (read(ready[0], &byte, 1) != 1) return 1;
    if (argc > 2) for (;;) pause();
    return 0;
}
"#;

/// Compiled once: each test of nextest's is a process of its own, so into a place of the process's.
fn runaway() -> PathBuf {
    static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("runaway.c"), RUNAWAY).unwrap();
        let compiled =
            std::process::Command::new("gcc").args(["-O1", "-static", "-o", "runaway", "runaway.c"]).current_dir(dir.path()).status();
        assert!(compiled.unwrap().success());
        dir
    });
    DIR.path().join("runaway")
}

/// Whether anything of it still runs: one that does takes a step.
#[track_caller]
fn assert_still(dir: &Path) {
    let steps = || std::fs::metadata(dir.join("steps")).unwrap().len();
    let before = steps();
    assert!(before > 0, "nothing ran away");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(steps(), before, "something of the program still runs");
}

const WAYS: [&str; 4] = ["fork", "exec", "chain", "restart"];

#[test]
fn what_forks_or_execs_in_a_loop_is_gone_when_its_program_has_ended() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (result, _) = minute("t:30", |watch| Program::new(runaway()).arg(way).dir(dir.path()).run(watch));
        result.unwrap();
        assert_still(dir.path());
    }
}

#[test]
fn what_forks_or_execs_in_a_loop_is_gone_at_the_deadline() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::new(runaway()).args([way, "stay"]).dir(dir.path());
        let (result, _) = with_watch("t:31", Duration::from_millis(300), &Cancel::default(), |watch| program.run(watch));
        assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
        assert_still(dir.path());
    }
}

#[test]
fn what_forks_or_execs_in_a_loop_ends_with_the_agent() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::new(runaway()).args([way, "stay"]).dir(dir.path());
        let supervised = Supervised::start(&program.request("t:32"), "t:32", Stdio::null(), Stdio::null()).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while std::fs::metadata(dir.path().join("steps")).map_or(0, |meta| meta.len()) < 3 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        // As the kernel does it with all that a dead process had open.
        let Supervised { mut supervisor, line } = supervised;
        drop(line);
        supervisor.wait().unwrap();
        assert_still(dir.path());
    }
}

#[test]
fn a_program_within_bounds_has_its_mark_from_its_first_instruction_on() {
    let bounds = std::sync::Arc::new(Bounds { writable: vec!["/".into()], hidden: vec![] });
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(runaway()).arg("limit").dir(dir.path());
    let (result, _) = minute("t:33", |watch| program.clone().confined(&bounds).capture(watch));
    assert_eq!(result.unwrap().text(), "0 0");
    let (result, _) = minute("t:34", |watch| program.capture(watch));
    assert_ne!(result.unwrap().text(), "0 0");
}

#[test]
fn a_program_starts_as_it_would_without_a_supervisor() {
    // No shell: it clears its signals.
    let both = |program: Program| {
        let (supervised, _) = minute("t:35", |watch| program.capture(watch));
        let (alone, _) = minute("t:35", |watch| program.clone().env(MARKER, "t:35").leftovers(Leftovers::Leave).capture(watch));
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let supervised = sorted(supervised.unwrap().text());
        assert_eq!(supervised, sorted(alone.unwrap().text()));
        supervised.join("\n")
    };
    let lines = "^(Sig[BIC]|Cap|NoNew|Seccomp|Uid|Gid|Groups|Umask)";
    let status = both(Program::new("grep").args(["-E", lines, "/proc/self/status"]));
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    both(Program::new("cat").arg("/proc/self/limits"));
    both(Program::new("env").env("A", "b"));
    let script = "ls /proc/self/fd; readlink /proc/self/fd/0; pwd; [ \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$ ] && echo leads";
    assert!(both(sh(script).dir("/tmp")).contains("leads"));
    // What is set for the program is not set for its supervisor.
    let (result, _) = minute("t:35", |watch| sh("tr '\\0' '\\n' </proc/$PPID/environ").env("LD_PRELOAD", "").capture(watch));
    assert_eq!(result.unwrap().text(), format!("{MARKER}=t:35"));
}

#[test]
fn how_a_program_ended_is_told_as_the_kernel_told_it() {
    let of = |script: &str| minute("t:36", |watch| sh(script).run(watch)).0.map_err(|err| err.to_string());
    assert_eq!(of("exit 0"), Ok(()));
    assert!(of("exit 255").unwrap_err().ends_with("ended with exit status 255"));
    assert!(of("kill -KILL $$").unwrap_err().ends_with("was killed by SIGKILL"));
    // A real-time signal has no name.
    assert!(of("kill -40 $$").unwrap_err().ends_with("was killed by 40"));
    // errno of the start, and not of the supervisor's.
    let odd = tempfile::tempdir().unwrap();
    let path = odd.path().join("no-program");
    std::fs::write(&path, "\0").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let err = minute("t:37", |watch| Program::new(&path).run(watch)).0.unwrap_err();
    let ProgramError::Start { source, .. } = err else { panic!("{err}") };
    assert_eq!(source.raw_os_error(), Some(nix::libc::ENOEXEC));
}

#[test]
fn what_is_left_when_its_supervisor_was_killed_is_found_by_the_last_look() {
    let script = "setsid sleep 326.5 & kill -KILL $PPID; exec sleep 327.5";
    let (result, _) = minute("t:38", |watch| sh(script).run(watch));
    let err = result.unwrap_err();
    assert!(err.to_string().ends_with("was ended with its supervisor") && err.hint().is_some(), "{err:?}");
    assert_eq!(with_variable(MARKER, "t:38"), []);
}

#[test]
fn a_program_within_bounds_cannot_end_its_supervisor() {
    if matches!(sandbox::kernel(), sandbox::Held::Nothing)
        || matches!(sandbox::kernel(), sandbox::Held::AllBut(what) if what.contains("signals"))
    {
        return;
    }
    let bounds = std::sync::Arc::new(Bounds { writable: vec!["/".into()], hidden: vec![] });
    let script = "for signal in KILL STOP TERM; do kill -$signal $PPID 2>/dev/null && echo $signal; done; echo tried";
    let (result, _) = minute("t:39", |watch| sh(script).confined(&bounds).capture(watch));
    assert_eq!(result.unwrap().text(), "tried");
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let request = Request {
        file: "/bin/sh".into(),
        argv: vec!["sh".into(), OsString::from_vec(vec![b'-', 0xff, b'\n']), OsString::new()],
        dir: "/".into(),
        env: vec![("A".into(), "1=2".into()), ("B".into(), OsString::new())],
        input: vec![0; 100_000],
        bounds: Some(Bounds { writable: vec!["/tmp".into()], hidden: vec![] }),
    };
    for request in [request.clone(), Request { bounds: None, ..request }, Request::default()] {
        let bytes = request.encoded();
        assert_eq!(Request::read(&mut bytes.as_slice()).unwrap(), request);
        Request::read(&mut &bytes[..bytes.len() - 1]).unwrap_err();
    }
    for word in [Word::Started(7), Word::NotStarted(2, String::new()), Word::Ended(-1, "sudo (process 7)".into())] {
        assert_eq!(Word::read(&mut word.encoded().as_slice()).unwrap(), word);
    }
}
