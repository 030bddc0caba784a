//! The documents are held to the code: links lead somewhere, verbs and tests that are named exist, examples are taken by the agent, and the exit codes
//! are those that the programs end with.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, project};
use agent_wire::event::OutcomeWord;
use agent_wire::problem::Problem;

/// A line of a document, its number, and what it stands in.
struct Line<'a> {
    number: usize,
    text: &'a str,
    /// The words behind the fence, where it stands between two.
    block: Option<&'a str>,
}

/// The lines of a document; those of the fences themselves are left out.
fn lines(text: &str) -> Vec<Line<'_>> {
    let mut block: Option<&str> = None;
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        match (text.trim_start().strip_prefix("```"), block) {
            (Some(words), None) => block = Some(words.trim()),
            (Some(_), Some(_)) => block = None,
            (None, _) => lines.push(Line { number: index + 1, text, block }),
        }
    }
    assert_eq!(block, None, "a fence is not closed");
    lines
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].iter().map(|name| project(name)).collect();
    for directory in ["packaging/docs", "docs/decisions"] {
        let pages = fs::read_dir(project(directory)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(pages.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What stands between two marks, again and again.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
}

/// The code of a line: all of it within a block, else what stands between backticks.
fn code<'a>(line: &Line<'a>) -> Vec<&'a str> {
    if line.block.is_some() { vec![line.text] } else { line.text.split('`').skip(1).step_by(2).collect() }
}

/// The name that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_heading(document: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(document).unwrap();
    lines(&text).iter().any(|line| line.block.is_none() && line.text.starts_with('#') && anchor(line.text) == wanted)
}

#[test]
fn every_link_within_the_project_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for line in lines(&text).iter().filter(|line| line.block.is_none()) {
            for target in between(line.text, "](", ")").into_iter().filter(|target| !target.contains("://")) {
                let (file, heading) = target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
                let found = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
                assert!(found.exists(), "{}:{}: {target} leads nowhere", path.display(), line.number);
                if let Some(heading) = heading {
                    assert!(has_heading(&found, heading), "{}:{}: {target}: there is no such heading", path.display(), line.number);
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} links were found");
}

fn help(bench: &Bench) -> String {
    bench.ctl(["--help"]).expect(0).stdout
}

/// The verbs that the ctl has, with their other names.
fn verbs(help: &str) -> BTreeSet<String> {
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut verbs: BTreeSet<String> = commands.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    verbs.extend(between(commands, "[alias: ", "]").into_iter().map(str::to_owned));
    verbs
}

/// The verb behind an `agentctl` in a piece of code, with the options before it passed over.
fn verb(rest: &str) -> Option<&str> {
    let mut words = rest.split_whitespace();
    loop {
        let word = words.next()?;
        match word {
            "--app" | "-a" | "--socket" | "--url" | "--key" | "--ca" | "--host" => drop(words.next()),
            word if word.starts_with('-') => {}
            word if word.chars().all(|c| c.is_ascii_lowercase()) => return Some(word),
            _ => return None,
        }
    }
}

#[test]
fn every_verb_that_is_named_exists_and_every_verb_is_named() {
    let bench = Bench::new("docs verbs");
    let verbs = verbs(&help(&bench));
    let mut named = BTreeSet::new();
    for (path, text) in documents() {
        for line in lines(&text) {
            for code in code(&line) {
                for verb in code.split("agentctl ").skip(1).filter_map(verb) {
                    assert!(verbs.contains(verb), "{}:{}: there is no verb {verb}", path.display(), line.number);
                    named.insert(verb.to_owned());
                }
            }
        }
    }
    let table = fs::read_to_string(project("README.md")).unwrap();
    for verb in verbs.iter().filter(|verb| !table.contains(&format!("(`{verb}` is the same)"))) {
        let names_it = |row: &str| row.starts_with('|') && row.contains(&format!("`agentctl {verb}"));
        assert!(table.lines().any(names_it), "the README's table has no verb {verb}");
        assert!(named.contains(verb), "{verb} is named nowhere");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_programs() {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    let section = readme.split("\n## Exit codes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        Some((cells.next()?.parse::<u8>().ok()?, cells.next()?.to_owned()))
    });
    let table: BTreeMap<u8, String> = rows.collect();

    let outcomes = [
        (OutcomeWord::Live, "live"),
        (OutcomeWord::Done, "done"),
        (OutcomeWord::Failed, "failed"),
        (OutcomeWord::RolledBack, "rolled back"),
        (OutcomeWord::Stuck, "stuck"),
        (OutcomeWord::Cancelled, "cancelled"),
        (OutcomeWord::Superseded, "superseded"),
    ];
    for (outcome, word) in outcomes {
        let meaning = table.get(&outcome.exit_code()).unwrap();
        assert!(meaning.contains(word), "{outcome:?} ends with {}, of which the table says: {meaning}", outcome.exit_code());
    }
    let problem = |status: u16, code: &str| Problem { status, code: code.to_owned(), detail: String::new(), hint: None }.exit_code();
    let problems = [
        (403, "not_allowed", "right"),
        (423, "locked", "lock"),
        (409, "busy", "busy"),
        (409, "stuck", "stuck"),
        (412, "stale", "stale"),
        (503, "draining", "stopping"),
        (400, "malformed", "make no sense"),
        (404, "no_release", "not there"),
        (500, "internal", "could not do it"),
    ];
    for (status, code, word) in problems {
        let meaning = table.get(&problem(status, code)).unwrap();
        assert!(meaning.contains(word), "{code} ends with {}, of which the table says: {meaning}", problem(status, code));
    }

    let bench = Bench::new("docs exit codes");
    let help = help(&bench);
    let told = help.split("Exit codes:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let row = |line: &str| line.trim().split_once("  ").map(|(code, meaning)| (code.parse().unwrap(), meaning.to_owned()));
    assert_eq!(told.lines().filter_map(row).collect::<BTreeMap<u8, String>>(), table, "agentctl --help and the README have the same table");
    bench.ctl(["status"]).expect(5);
    bench.ctl(["no-such-verb"]).expect(2);
}

#[test]
fn every_example_of_a_file_is_taken_by_the_agent() {
    let mut seen = 0;
    for (path, text) in documents() {
        let mut examples: Vec<(usize, &str, String)> = Vec::new();
        let mut before = 0;
        for line in lines(&text) {
            if let Some(kind @ ("toml app" | "toml agent")) = line.block {
                if line.number != before + 1 {
                    examples.push((line.number, kind, String::new()));
                }
                let example = &mut examples.last_mut().unwrap().2;
                example.push_str(line.text);
                example.push('\n');
                before = line.number;
            }
        }
        for (number, kind, example) in examples {
            seen += 1;
            let bench = Bench::new("docs examples");
            // The places that the example names are on the host of its reader.
            let example = ["/etc/release-agent/", "/etc/shop/", "/etc/letsencrypt/"]
                .iter()
                .fold(example, |text, dir| text.replace(dir, &format!("{}/", bench.path("etc").display())));
            for file in between(&example, "\"", "\"").into_iter().filter(|word| word.ends_with(".env") && word.starts_with('/')) {
                let file = bench.write(file, "SECRET_KEY=secret\n");
                fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            }
            for file in between(&example, "\"", "\"").into_iter().filter(|word| word.ends_with(".webhook")) {
                // A secret of any kind.
                let file = bench.write(file, "whsec_c2l4dGVlbi1ieXRlcy1hdC1sZWFzdCEh\n");
                fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            }
            if example.contains("[https]") {
                bench.certificate("config/tls", &["web1.example.org"]);
            }
            for (file, made) in [("fullchain.pem", "cert.pem"), ("privkey.pem", "key.pem")] {
                for named in between(&example, "\"", "\"").into_iter().filter(|word| word.ends_with(file)) {
                    let written = bench.write(named, fs::read(bench.path("config/tls").join(made)).unwrap());
                    fs::set_permissions(written, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                }
            }
            bench.write(if kind == "toml app" { "config/apps/shop.toml" } else { "config/agent.toml" }, example);
            let mut check = bench.agent_command();
            check.arg("--check-config");
            let done = bench.begin(check).finish(Duration::from_secs(60));
            assert_eq!(done.code, 0, "{}:{number}: {}", path.display(), done.stderr);
        }
    }
    assert!(seen >= 4, "only {seen} examples were found");
}

fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let mut all = String::new();
    for directory in ["agent/model/src", "agent/wire/src", "agent/src", "agentctl/src", "tests/src", "tests/tests"] {
        sources(&project(directory), &mut all);
    }
    let tests: BTreeSet<&str> = all.split("test]").skip(1).filter_map(|rest| rest.split("fn ").nth(1)?.split('(').next()).collect();
    assert!(tests.len() > 100, "only {} tests were found", tests.len());
    let mut seen = 0;
    for (path, text) in documents() {
        for line in lines(&text).iter().filter(|line| line.block.is_none()) {
            for name in code(line) {
                // A test is called by a whole sentence.
                let is_sentence =
                    name.matches('_').count() >= 3 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if is_sentence {
                    assert!(tests.contains(name), "{}:{}: there is no test {name}", path.display(), line.number);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} tests are named");
}

/// What stands in a block of YAML, as a program that is not ours reads it.
fn yaml(text: &str) -> serde_json::Value {
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let done = Command::new("/usr/bin/python3").args(["-c", read, text]).output().expect("python3 is there");
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The blocks of a document that begin with this word.
fn blocks(text: &str, word: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut before = 0;
    for line in lines(text).iter().filter(|line| line.block == Some(word)) {
        if line.number != before + 1 {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().unwrap();
        block.push_str(line.text);
        block.push('\n');
        before = line.number;
    }
    blocks
}

#[test]
fn what_tools_are_given_is_yaml_and_says_the_same_as_the_guide() {
    let guide = |name: &str| fs::read_to_string(project("packaging/docs").join(name)).unwrap();
    let automation = guide("automation.md");
    let files = blocks(&automation, "yaml").iter().map(|block| yaml(block)).collect::<Vec<_>>();
    assert_eq!(files.len(), 2);
    let (playbook, user_data) = (&files[0], &files[1]);
    for task in playbook[0]["tasks"].as_array().unwrap() {
        let modules = task.as_object().unwrap().keys().filter(|key| key.starts_with("ansible.builtin."));
        assert_eq!(modules.count(), 1, "{task}");
        assert!(task["name"].is_string(), "{task}");
    }
    let written: BTreeMap<&str, &str> = user_data["write_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["path"].as_str().unwrap(), file["content"].as_str().unwrap()))
        .collect();
    assert_eq!(written["/etc/release-agent/apps/shop.toml"], blocks(&automation, "toml app")[0]);
    let by_hand: Vec<String> = blocks(&guide("install.md"), "sh run");
    let nginx = by_hand.iter().find(|command| command.contains("<<'END'")).unwrap();
    assert!(nginx.contains(written["/etc/nginx/conf.d/shop.conf"]), "nginx is told something else than in install.md");
    let commands: Vec<&str> = user_data["runcmd"].as_array().unwrap().iter().map(|command| command.as_str().unwrap()).collect();
    for step in ["printf 'SECRET_KEY", "agentctl setup app shop --yes", "su postgres", "systemctl reload nginx", "agentctl release main"] {
        let here = commands.iter().find(|command| command.contains(step)).expect(step);
        assert!(by_hand.iter().any(|command| command.trim_end() == *here), "install.md does not say: {here}");
    }
    assert!(user_data.to_string().len() < 16 * 1024, "user data of some clouds may have no more");
}
