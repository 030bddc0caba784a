use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_model::names::RunId;

use super::wire::{Heard, JobRequest, Line};
use super::*;
use crate::settings::parse_app;

fn app() -> App {
    let hook = |when: &str, step: &str| format!("[[hook]]\n{when} = \"{step}\"\nrun = [\"true\"]\n");
    let hooks: String =
        [("before", "checkout"), ("after", "environment"), ("before", "seal"), ("after", "seal"), ("before", "switch"), ("after", "prune")]
            .map(|(when, step)| hook(when, step))
            .concat();
    parse_app(&format!("repository = \"https://forge.example/shop.git\"\n[python]\n[django]\n{hooks}"))
}

#[test]
fn what_builds_is_never_who_knows_the_secrets() {
    let app = app();
    let role = |job: Job| job.role(&app);
    for job in [
        Job::Want,
        Job::Environment { key: "a".into(), caches: Caches::Keep },
        Job::CollectStatic,
        Job::Bytecode { changed: Vec::new() },
        Job::GrantAccess,
    ] {
        assert_eq!(role(job), Some(Role::Build));
    }
    for job in [Job::Inspect(Bytecode::Written), Job::Examine(Bytecode::Written), Job::Migrate, Job::Load, Job::Dump, Job::Used] {
        assert_eq!(role(job), Some(Role::App));
    }
    let hooks: Vec<Option<Role>> = (0..7).map(|place| Job::hook(&app, place).and_then(|job| job.role(&app))).collect();
    let (build, app) = (Some(Role::Build), Some(Role::App));
    assert_eq!(hooks, [build, build, build, app, app, app, None]);
}

/// A request must contain only names: a client of the runner must not be able to choose what is run.
#[test]
fn an_order_holds_names_and_no_arguments() {
    let order = Order {
        run: RunId(7),
        marker: "j:7".into(),
        caller: "unix:anna".into(),
        release: Some(Ordered {
            name: "2026-11-20-22-45-23-1a2b3c4d5e6f".parse().unwrap(),
            commit: "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b".parse().unwrap(),
            reference: Some("refs/heads/main".parse().unwrap()),
        }),
        former: Some(("2026-11-20-22-45-22-1a2b3c4d5e6f".parse().unwrap(), None)),
    };
    let asked = serde_json::to_value(JobRequest::new(&order, &Job::Migrate, Duration::from_secs(3))).unwrap();
    let members: BTreeSet<&str> = asked.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["job", "run", "marker", "caller", "release", "former", "ms"]));
    let back: JobRequest = serde_json::from_value(asked.clone()).unwrap();
    assert_eq!((back.order().unwrap(), back.ms), (order, 3000));

    let with = |member: &str, value: serde_json::Value| {
        let mut asked = asked.clone();
        asked[member] = value;
        serde_json::from_value::<JobRequest>(asked).map_err(|err| err.to_string()).and_then(|asked| asked.order().map(|_| ()))
    };
    for (member, value) in [
        ("job", serde_json::json!("make-coffee")),
        ("job", serde_json::json!({ "hook": ["sh", "-c", "id"] })),
        ("job", serde_json::json!({ "environment": { "key": "a", "caches": "keep", "argv": ["id"] } })),
        ("argv", serde_json::json!(["id"])),
        ("env", serde_json::json!({ "LD_PRELOAD": "/tmp/x.so" })),
        ("release", serde_json::json!({ "name": "../../etc", "commit": "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b" })),
        ("former", serde_json::json!(["../x", null])),
        ("caller", serde_json::json!("a\nb")),
    ] {
        assert!(with(member, value.clone()).is_err(), "{member} = {value}");
    }
    assert_eq!(with("ms", serde_json::json!(5)), Ok(()));
}

#[test]
fn lines_come_whole_and_with_their_descriptor_however_they_are_cut() {
    let (here, there) = UnixStream::pair().unwrap();
    let mut heard = Line::new(here);
    let patience = Duration::from_millis(20);
    assert!(matches!(heard.hear::<u32>(patience), Ok(Heard::Nothing)));
    (&there).write_all(b"12").unwrap();
    assert!(matches!(heard.hear::<u32>(patience), Ok(Heard::Nothing)));
    (&there).write_all(b"3\n4\n").unwrap();
    assert!(matches!(heard.hear::<u32>(patience), Ok(Heard::Said(123))));
    assert!(matches!(heard.hear::<u32>(patience), Ok(Heard::Said(4))));
    let file = tempfile::tempfile().unwrap();
    let there = Line::new(there);
    there.say(&"with a file", Some(&file)).unwrap();
    assert!(matches!(heard.hear::<String>(patience), Ok(Heard::Said(text)) if text == "with a file"));
    let mut came = std::fs::File::from(heard.descriptor().unwrap());
    came.write_all(b"hello").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    drop(there);
    assert!(matches!(heard.hear::<u32>(patience), Ok(Heard::Gone)));
}

#[test]
fn only_sources_within_a_release_are_compiled() {
    for (path, whether) in [
        ("shop/views.py", true),
        ("views.py", true),
        ("../other/views.py", false),
        ("/etc/views.py", false),
        ("shop/views.pyc", false),
        ("", false),
    ] {
        assert_eq!(super::job_runner::is_source(path.as_ref()), whether, "{path:?}");
    }
}
