use super::hearing::MOST_LINE_BYTES;
use super::*;
use std::cell::RefCell;

pub(super) fn with_watch<T>(
    marker: &str,
    deadline: Duration,
    cancel: &Cancel,
    act: impl FnOnce(&Watch<'_>) -> T,
) -> (T, Vec<(Stream, String)>) {
    let lines = RefCell::new(Vec::new());
    let hear = |stream: Stream, line: &str| lines.borrow_mut().push((stream, line.to_owned()));
    let watch = Watch { marker, deadline: Instant::now() + deadline, cancel, lines: &hear };
    let result = act(&watch);
    (result, lines.into_inner())
}

pub(super) fn sh(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

pub(super) fn minute<T>(marker: &str, act: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<(Stream, String)>) {
    with_watch(marker, Duration::from_secs(60), &Cancel::default(), act)
}

#[test]
fn every_line_is_heard_and_the_status_told() {
    let (result, lines) = minute("t:1", |watch| sh("echo one; echo two >&2; printf three; exit 3").run(watch));
    let err = result.unwrap_err();
    assert!(err.to_string().ends_with("ended with exit status 3"), "{err}");
    assert_eq!(err.tail().len(), 3);
    assert!(lines.contains(&(Stream::Stderr, "two".into())) && lines.contains(&(Stream::Stdout, "three".into())));
}

#[test]
fn odd_output_becomes_lines_that_can_be_shown() {
    let (result, lines) = minute("t:2", |watch| {
        sh(r"printf 'a\000b\377c\n\033[31mred\033[0m\n10%%\r20%%\r\n'; head -c 2000000 /dev/zero | tr '\0' x").run(watch)
    });
    result.unwrap();
    let texts: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(&texts[..2], ["a\u{fffd}b\u{fffd}c", "red"]);
    assert!(texts.contains(&"10%") && texts.contains(&"20%"));
    let long = texts.last().unwrap();
    assert!(long.ends_with("(cut)") && long.len() < MOST_LINE_BYTES + 20);
}

#[test]
fn a_line_is_cut_where_it_is_too_long_and_nowhere_else() {
    // The last one has a control character of two bytes (U+009B, which begins a terminal sequence), and a letter that begins as it does.
    let script = "long() { head -c $1 /dev/zero | tr '\\0' x; }; long 8192; echo; long 8193; echo; long 70000; printf '\\rafter\\n\\n'; \
        printf '\\302\\2332J\\302\\251\\tend\\n'";
    let (result, lines) = minute("t:13", |watch| sh(script).run(watch));
    result.unwrap();
    let texts: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    let (whole, cut) = ("x".repeat(MOST_LINE_BYTES), format!("{} … (cut)", "x".repeat(MOST_LINE_BYTES)));
    assert!(texts == [&whole, &cut, &cut, "after", "", "\u{fffd}2J\u{a9}\tend"], "{:?}", texts.iter().map(String::len).collect::<Vec<_>>());
}

#[test]
fn sixty_four_mebibytes_are_read_without_being_kept() {
    let (result, lines) = minute("t:3", |watch| {
        sh("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 67108864").quiet().run(watch)
    });
    result.unwrap();
    assert!(lines.is_empty(), "a quiet program is not passed on");
}

#[test]
fn it_reads_nothing_unless_it_is_given_something() {
    let (result, _) = minute("t:4", |watch| sh("cat; cat").capture(watch));
    assert_eq!(result.unwrap().text(), "");
    let (result, _) = minute("t:5", |watch| sh("cat").input(b"given".to_vec()).capture(watch));
    assert_eq!(result.unwrap().text(), "given");
}

#[test]
fn more_is_read_and_said_at_once_than_pipes_hold() {
    let given: Vec<u8> = (0..4_000_000_u32).map(|at| at.to_le_bytes()[0] | 1).collect();
    let (result, _) = minute("t:14", |watch| sh("tee /dev/stderr").input(given.clone()).quiet().capture(watch));
    assert!(result.unwrap().stdout == given);
    // One that ends without reading it all is none the worse for that.
    let (result, _) = minute("t:15", |watch| sh("head -c 3").input(given.clone()).capture(watch));
    assert_eq!(result.unwrap().stdout, given[..3]);
}

#[test]
fn a_program_is_found_along_the_path_of_its_own_environment() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = |dir: &Path, mode| {
        let path = dir.join("one-of-two");
        std::fs::write(&path, "#!/bin/sh\necho \"$0\"\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    // What nobody may run is passed over, as execvp(3) does.
    script(first.path(), 0o644);
    let found = script(second.path(), 0o755);
    let path = std::env::join_paths([first.path(), second.path(), Path::new("/bin")]).unwrap();
    let (result, _) = minute("t:16", |watch| Program::new("one-of-two").env("PATH", path).capture(watch));
    assert_eq!(result.unwrap().text(), found.to_str().unwrap());
    // A part of it that is no absolute path is meant from where the program runs.
    let (result, _) = minute("t:17", |watch| Program::new("one-of-two").env("PATH", ".:/bin").dir(second.path()).capture(watch));
    result.unwrap();
    // It is called what it was asked for as.
    let (result, _) =
        minute("t:18", |watch| Program::new("sh").args(["-c", "tr '\\0' '\\n' </proc/$$/cmdline | head -n 1"]).capture(watch));
    assert_eq!(result.unwrap().text(), "sh");
}

#[test]
fn the_environment_is_fixed() {
    let (result, _) = minute("t:6", |watch| Program::new("/usr/bin/env").env("MINE", "1").capture(watch));
    let mut names: Vec<String> = result.unwrap().text().lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    names.retain(|name| !["USER", "LOGNAME", "HOME"].contains(&name.as_str()));
    names.sort();
    assert_eq!(names, ["LANG", "MINE", "PATH", MARKER]);
}

#[test]
fn what_ignores_the_signal_is_killed_with_its_children_at_the_deadline() {
    let script = "trap '' TERM; (trap '' TERM; exec sleep 321.5) & echo here; while :; do sleep 1; done";
    let (result, _) = with_watch("t:7", Duration::from_millis(300), &Cancel::default(), |watch| sh(script).run(watch));
    assert!(matches!(result, Err(ProgramError::TimedOut { .. })), "{result:?}");
    assert_eq!(with_variable(MARKER, "t:7"), []);
}

#[test]
fn what_says_much_when_it_is_told_to_end_is_heard_to_its_end() {
    // More than a pipe holds (pipe(7)), and many lines of it.
    let script = "trap 'seq 100000; echo last; exit 1' TERM; sleep 321.7 & while :; do wait; done";
    let (result, lines) = with_watch("t:19", Duration::from_secs(3), &Cancel::default(), |watch| sh(script).run(watch));
    assert!(matches!(&result, Err(ProgramError::TimedOut { tail, .. }) if tail.last().is_some_and(|line| line == "last")), "{result:?}");
    assert_eq!(lines.len(), 100_001);
}

#[test]
fn a_daemon_that_left_the_group_and_holds_the_pipe_is_found_and_ended() {
    let (result, _) = minute("t:8", |watch| sh("setsid sleep 322.5 & echo started").run(watch));
    result.unwrap();
    assert_eq!(with_variable(MARKER, "t:8"), []);
}

#[test]
fn what_may_stay_stays_when_the_program_succeeded() {
    let (result, _) = minute("t:9", |watch| sh("sleep 323.5 >/dev/null 2>&1 & echo $!").leftovers(Leftovers::Leave).capture(watch));
    let process = Process::of(result.unwrap().text().parse().unwrap());
    assert!(process.is_alive());
    process.signal(Signal::SIGKILL);
}

#[test]
fn what_may_stay_may_go_on_speaking() {
    // More than a pipe holds (pipe(7)).
    let script = "(sleep 0.5; head -c 300000 /dev/zero && echo >spoken; exec sleep 325.5) & echo $!";
    let dir = tempfile::tempdir().unwrap();
    let (result, lines) = minute("t:91", |watch| sh(script).dir(dir.path()).leftovers(Leftovers::Leave).run(watch));
    result.unwrap();
    let process = Process::of(lines[0].1.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(30);
    while !dir.path().join("spoken").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let spoke = dir.path().join("spoken").exists();
    process.signal(Signal::SIGKILL);
    assert!(spoke, "nobody reads what it says");
}

#[test]
fn a_cancel_ends_it() {
    let cancel = Cancel::default();
    let from_elsewhere = cancel.clone();
    let lines = |_: Stream, line: &str| {
        if line == "ready" {
            from_elsewhere.ask();
        }
    };
    let watch = Watch { marker: "t:10", deadline: Instant::now() + Duration::from_secs(60), cancel: &cancel, lines: &lines };
    assert!(matches!(sh("echo ready; exec sleep 60").run(&watch), Err(ProgramError::Cancelled(_))));
    assert!(matches!(sh("echo never").run(&watch), Err(ProgramError::Cancelled(_))), "nothing new begins");
}

#[test]
fn a_missing_program_and_a_missing_directory_are_told_apart() {
    let (result, _) = minute("t:11", |watch| Program::new("no-such-program-here").run(watch));
    assert!(matches!(result, Err(ProgramError::Missing(_))));
    let (result, _) = minute("t:12", |watch| sh("true").dir("/no/such/directory").run(watch));
    assert!(matches!(result, Err(ProgramError::Start { .. })));
}
