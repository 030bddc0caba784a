//! A system call fails in the middle of a release: the run ends with a sentence that says so, or the agent ends and recovers.

use super::kill::{first_release, one_more};
use super::rig::{Rig, What};
use super::strace::Strace;
use super::{Case, Group};

const ERRORS: &[(&str, &str)] = &[
    ("ENOSPC", "No space left on device"),
    ("EIO", "Input/output error"),
    ("EROFS", "Read-only file system"),
    ("EDQUOT", "Disk quota exceeded"),
    ("EMFILE", "Too many open files"),
];

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The run ends so, and says which error it was.
    Ends(&'static str),
    /// The journal fails: the agent ends, is started again, and takes the run back. A full disk alone is survived, with the reserve.
    Stops,
}

/// A call that matters: where the agent is stopped before it, which calls fail, on which file of the release or the state.
struct Call {
    name: &'static str,
    place: &'static str,
    calls: &'static str,
    on: On,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Anything,
    /// Within the new release.
    Release(&'static str),
    /// The temporary name of the manifest, which has the number of the agent's process.
    Manifest,
    /// The journal's log.
    Journal,
}

const CALLS: &[Call] = &[
    Call { name: "create", place: "seal.started", calls: "openat", on: On::Manifest, then: Then::Ends("failed") },
    Call { name: "write", place: "seal.started", calls: "write", on: On::Release(".release/files"), then: Then::Ends("failed") },
    Call { name: "write-journal", place: "seal.acted", calls: "pwrite64", on: On::Journal, then: Then::Stops },
    Call { name: "fsync", place: "seal.synced", calls: "fsync,fdatasync", on: On::Release(".release"), then: Then::Ends("failed") },
    Call { name: "fsync-journal", place: "seal.acted", calls: "fsync,fdatasync", on: On::Journal, then: Then::Stops },
    Call { name: "syncfs", place: "seal.listed", calls: "syncfs", on: On::Anything, then: Then::Ends("failed") },
    Call { name: "rename", place: "switch.linked", calls: "rename,renameat,renameat2", on: On::Anything, then: Then::Ends("rolled_back") },
    Call { name: "symlink", place: "switch.exposed", calls: "symlink,symlinkat", on: On::Anything, then: Then::Ends("rolled_back") },
    Call { name: "mkdir", place: "checkout.started", calls: "mkdir,mkdirat", on: On::Anything, then: Then::Ends("failed") },
];

pub(crate) fn groups() -> Vec<Group> {
    let cases = CALLS.iter().flat_map(|call| {
        ERRORS.iter().map(move |(error, sentence)| {
            let quick = matches!((call.name, *error), ("syncfs", "EIO") | ("fsync-journal", "EIO") | ("write-journal", "ENOSPC"));
            Case::new(format!("sys.{}.{}", call.name, error.to_lowercase()), move |rig| fail(rig, call, error, sentence)).quick_when(quick)
        })
    });
    vec![Group::new(|| Rig::new("failing calls", What::Plain, None), cases.collect()).last(one_more)]
}

fn fail(rig: &mut Rig, call: &Call, error: &str, sentence: &str) -> u32 {
    rig.commit();
    rig.stop_in(&format!("{}=1*return(stop)", call.place), &["release", "main"]);
    let newest = rig.bench.releases(rig.app()).into_iter().rfind(|name| !name.starts_with('.')).unwrap_or_default();
    let release = rig.root().join("releases").join(newest);
    let pid = rig.bench.agent_pid().unwrap_or_default();
    let path = match call.on {
        On::Anything => None,
        On::Release(file) => Some(release.join(file)),
        On::Manifest => Some(release.join(format!(".release/.manifest.json.{pid}"))),
        On::Journal => Some(rig.bench.path("state/journal.db-wal")),
    };
    let paths: Vec<_> = path.iter().map(std::path::PathBuf::as_path).collect();
    let expressions = [format!("trace={}", call.calls), format!("inject={}:error={error}:when=1", call.calls)];
    let strace = Strace::attach(rig, &expressions, &paths);
    rig.go_on();
    let goes_on = rig.over();
    let traced = strace.end();
    let faults = traced.matches("(INJECTED)").count();
    let survives = call.then != Then::Stops || (error == "ENOSPC" && call.calls == "pwrite64");
    assert_eq!(goes_on, survives, "whether the agent goes on: {}\n{traced}", rig.bench.log());
    if !goes_on {
        assert!(rig.bench.log().contains("the journal cannot be read or written"), "{}", rig.bench.log());
        rig.start();
    }
    let run = rig.ended();
    let events = rig.bench.events(run["run"].as_u64().expect("a run has a number"));
    match call.then {
        Then::Ends(outcome) => {
            assert_eq!(run["outcome"], outcome, "{events:#?}");
            let failed = events.iter().find(|event| event["what"] == "step_failed").expect("a step has failed");
            let reason = failed["reason"].as_str().unwrap_or_default();
            assert!(reason.contains(sentence), "{reason}");
        }
        Then::Stops if survives => assert_eq!(run["outcome"], "live", "{events:#?}"),
        Then::Stops => assert_eq!(run["outcome"], "failed", "{events:#?}"),
    }
    rig.assert_sound();
    if run["outcome"] != "live" {
        assert_eq!(rig.bench.live(rig.app()), Some(first_release(rig)));
    }
    rig.back_to_first();
    u32::try_from(faults).unwrap_or(u32::MAX)
}
