//! What must hold whatever happened, whenever a test looks while no run is under way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::bench::Bench;
use crate::processes::processes_about;
use crate::wait::wait_until;

impl Bench {
    /// Fails the test if something is not as it must be: the link, the releases, the journal, what was left running. The part that only the agent
    /// can tell is looked at when it runs.
    #[track_caller]
    pub fn assert_sound(&self) {
        self.assert_sound_but(&[]);
    }

    /// The same, where a test has damaged something that stays damaged: each of these is said, and nothing else.
    #[track_caller]
    pub fn assert_sound_but(&self, known: &[&str]) {
        let mut problems: Vec<String> = self.apps().iter().flat_map(|app| self.problems_of(app)).chain(self.problems_of_runs()).collect();
        for known in known {
            assert!(problems.iter().any(|problem| problem.contains(known)), "this is not found: {known}");
        }
        problems.retain(|problem| !known.iter().any(|known| problem.contains(known)));
        assert!(problems.is_empty(), "not sound:\n  {}", problems.join("\n  "));
        // A step's processes may be on their way out when its run ends, but not for long.
        wait_until("no process of a run is left", std::time::Duration::from_secs(10), || self.left_over().is_empty());
    }

    /// The processes that a run started and did not end.
    pub fn left_over(&self) -> Vec<String> {
        let found = processes_about(&self.path(""));
        found.into_iter().filter(|process| process.has_variable("RELEASE_RUN_ID")).map(|process| process.command).collect()
    }

    fn problems_of(&self, app: &str) -> Vec<String> {
        let root = self.root_of(app);
        let mut problems = Vec::new();
        let mut must = |holds: bool, problem: String| {
            if !holds {
                problems.push(format!("{app}: {problem}"));
            }
        };
        let link = root.join("app");
        let live = match fs::read_link(&link) {
            Ok(target) => {
                must(target.is_relative(), format!("the link is not relative: {}", target.display()));
                let inside = target.strip_prefix("releases").ok().filter(|name| name.components().count() == 1);
                must(inside.is_some(), format!("the link names something else than a release: {}", target.display()));
                inside.map(|name| name.to_string_lossy().into_owned())
            }
            Err(err) => {
                must(err.kind() == std::io::ErrorKind::NotFound, format!("`app` is no link: {err}"));
                None
            }
        };
        if let Some(live) = &live {
            must(is_release_name(live), format!("the link names {live}, which is no release's name"));
            let directory = root.join("releases").join(live);
            must(directory.is_dir(), format!("the link names {live}, which is not there"));
            match manifest_of(&directory) {
                Ok(manifest) => {
                    let revision = fs::read_to_string(directory.join("REVISION")).unwrap_or_default();
                    let digits = live.get(20..).unwrap_or_default();
                    must(!digits.is_empty() && revision.starts_with(digits), format!("REVISION of {live} is {revision:?}"));
                    must(manifest.to_string().contains(revision.trim()), format!("the manifest of {live} does not know its commit"));
                }
                Err(problem) => must(false, format!("the live release {live} is not sealed: {problem}")),
            }
            let environment = directory.join("venv");
            must(!environment.is_symlink() || environment.join("bin/python").exists(), format!("the environment of {live} is gone"));
        }
        for name in self.releases(app) {
            must(is_release_name(&name) || name.starts_with(".trash-"), format!("releases/{name} is no release"));
        }
        for name in names_in(&root).into_iter().filter(|name| name.starts_with("app") && name != "app") {
            must(false, format!("{name} was left beside the link"));
        }
        if self.is_running() {
            let said = self.ask_json(&format!("/v1/apps/{app}"));
            let running = &said["running"];
            must(running.is_null(), format!("a run is under way: {running}"));
            let said = said["live"]["name"].as_str().map(str::to_owned);
            must(said == live, format!("the agent says that {said:?} is live, and the link says {live:?}"));
            // Whatever a test did, it left nothing that the agent itself finds fault with.
            let findings = self.ask_json(&format!("/v1/apps/{app}/fsck"))["findings"].as_array().cloned().unwrap_or_default();
            for difference in findings.iter().filter(|difference| difference["level"] != "good") {
                must(false, format!("fsck: {} ({})", difference["text"], difference["path"]));
            }
        }
        problems
    }

    fn problems_of_runs(&self) -> Vec<String> {
        if !self.is_running() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let mut numbers = BTreeSet::new();
        for run in self.runs() {
            let number = run["run"].as_u64().unwrap_or_default();
            if !numbers.insert(number) {
                problems.push(format!("run {number} is listed twice"));
            }
            if run["state"] != "ended" {
                problems.push(format!("run {number} has not ended: {run}"));
                continue;
            }
            problems.extend(problems_of_events(&self.events(number)).into_iter().map(|problem| format!("run {number}: {problem}")));
        }
        problems
    }
}

fn problems_of_events(events: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if event["n"].as_u64() != Some(index as u64 + 1) {
            problems.push(format!("a gap: the event in place {} is {event}", index + 1));
        }
    }
    let of = |event: Option<&Value>| event.map(|event| event["what"].clone()).unwrap_or_default();
    if of(events.first()) != "accepted" {
        problems.push(format!("it begins with {}", of(events.first())));
    }
    let ends = events.iter().filter(|event| event["what"] == "ended").count();
    if ends != 1 || of(events.last()) != "ended" {
        problems.push(format!("it has {ends} ends, and its last event is {}", of(events.last())));
    }
    problems
}

fn names_in(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn manifest_of(release: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(release.join(".release/manifest.json")).map_err(|err| err.to_string())?;
    serde_json::from_str(&text).map_err(|err| err.to_string())
}

/// `2026-11-20-22-45-23-1a2b3c4d5e6f`
fn is_release_name(name: &str) -> bool {
    let (clock, digits) = name.split_at_checked(20).unwrap_or((name, ""));
    let clock_fits =
        clock.bytes().zip(b"dddd-dd-dd-dd-dd-dd-").all(|(byte, shape)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == b'-' });
    clock_fits && digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = "2026-11-20-22-45-23-1a2b3c4d5e6f";

    fn sealed(bench: &Bench, name: &str) {
        let release = format!("apps/shop/releases/{name}");
        bench.write(format!("{release}/REVISION"), "1a2b3c4d5e6f7777\n");
        bench.write(format!("{release}/.release/manifest.json"), r#"{"commit":"1a2b3c4d5e6f7777"}"#);
    }

    fn problems_with(live: impl AsRef<Path>, change: impl FnOnce(&Bench)) -> String {
        let bench = Bench::new("sound");
        bench.app("shop", "");
        sealed(&bench, NAME);
        std::os::unix::fs::symlink(live, bench.path("apps/shop/app")).unwrap();
        change(&bench);
        bench.problems_of("shop").join("; ")
    }

    #[test]
    fn a_sound_root_has_no_problems_and_each_unsoundness_is_named() {
        let good = format!("releases/{NAME}");
        assert_eq!(problems_with(&good, |_| ()), "");
        for (found, part) in [
            (problems_with("/tmp/elsewhere", |_| ()), "not relative"),
            (problems_with("releases/../x", |_| ()), "something else"),
            (problems_with("releases/.trash-1", |_| ()), "no release's name"),
            (problems_with("releases/2026-11-20-22-45-23-000000000000", |_| ()), "not there"),
            (
                problems_with(&good, |bench| fs::remove_file(bench.path(format!("apps/shop/{good}/.release/manifest.json"))).unwrap()),
                "not sealed",
            ),
            (problems_with(&good, |bench| drop(bench.write(format!("apps/shop/{good}/REVISION"), "0000"))), "REVISION"),
            (problems_with(&good, |bench| drop(bench.write("apps/shop/app.new", ""))), "left beside the link"),
            (problems_with(&good, |bench| drop(bench.write("apps/shop/releases/mine/x", ""))), "releases/mine"),
            (
                problems_with(&good, |bench| std::os::unix::fs::symlink("/nowhere", bench.path(format!("apps/shop/{good}/venv"))).unwrap()),
                "environment",
            ),
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn events_have_a_beginning_no_gap_and_one_end() {
        let event = |n: u64, what: &str| json!({"n": n, "what": what});
        assert_eq!(problems_of_events(&[event(1, "accepted"), event(2, "ended")]), Vec::<String>::new());
        for bad in [
            vec![],
            vec![event(1, "accepted")],
            vec![event(1, "accepted"), event(3, "ended")],
            vec![event(1, "planned"), event(2, "ended")],
        ] {
            assert!(!problems_of_events(&bad).is_empty(), "{bad:?}");
        }
    }
}
