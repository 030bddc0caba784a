//! What a package brings beside the programs: manual pages that are true and completions that shells take.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_tests::{Bench, project};

/// The hand-written pages, with what each describes.
const PAGES: [(&str, &str); 2] = [("agent.toml.5", "packaging/examples/agent.toml"), ("app.toml.5", "packaging/examples/apps")];

/// What a file or a page says of each key of each section: the values that it is shown with.
type Keys = BTreeMap<(String, String), BTreeSet<String>>;

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_lowercase() || "_-".contains(char))
}

/// The keys of an example. A line `#key = value` shows a default, which is kept; of other lines, only the key.
fn keys_of_example(app: &str, text: &str, keys: &mut Keys) {
    let mut section = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.split_inclusive(']').take_while(|part| part.starts_with(['[', ']'])).collect();
            continue;
        }
        let (line, is_default) = match (line.strip_prefix("# "), line.strip_prefix('#')) {
            (Some(option), _) => (option, false),
            (None, Some(default)) => (default, true),
            (None, None) => (line, false),
        };
        let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) else { continue };
        let values = keys.entry((section.clone(), key.to_owned())).or_default();
        if is_default {
            // The page speaks of no app in particular.
            values.insert(value.replace(app, "APP"));
        }
    }
}

/// A line of a page as it is read.
fn plain(line: &str) -> String {
    let mut text = line.to_owned();
    for (escape, meant) in
        [("\\fB", ""), ("\\fI", ""), ("\\fP", ""), ("\\-", "-"), ("\\(dq", "\""), ("\\(aq", "'"), ("\\&", ""), ("\\e", "\\")]
    {
        text = text.replace(escape, meant);
    }
    text
}

/// The keys of a page: what stands behind `.TP`, below the `.SS` of its section.
fn keys_of_page(text: &str) -> Keys {
    let (mut keys, mut section) = (Keys::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix(".SS ") {
            section = plain(head).split(' ').next().unwrap().to_owned();
        } else if line == ".TP" {
            let tag = plain(lines.next().unwrap());
            let (key, value) = tag.split_once(" = ").unwrap_or_else(|| panic!("{tag:?} is no key with a value"));
            keys.entry((section.clone(), key.to_owned())).or_default().insert(value.to_owned());
        }
    }
    keys
}

#[test]
fn the_pages_name_every_key_and_no_other_with_the_default_that_holds() {
    for (page, examples) in PAGES {
        let examples = project(examples);
        let files: Vec<PathBuf> = match fs::read_dir(&examples) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![examples],
        };
        let mut known = Keys::new();
        for file in files {
            keys_of_example(file.file_stem().unwrap().to_str().unwrap(), &fs::read_to_string(&file).unwrap(), &mut known);
        }
        let told = keys_of_page(&fs::read_to_string(project("packaging/man").join(page)).unwrap());
        assert_eq!(known.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>(), "{page}");
        for (key, defaults) in &known {
            let missing: Vec<_> = defaults.difference(&told[key]).collect();
            assert!(missing.is_empty(), "{page} does not say that {key:?} is {missing:?}, but {:?}", told[key]);
        }
    }
}

#[test]
fn the_daemons_page_names_every_option() {
    let bench = Bench::new("options");
    let page: String =
        fs::read_to_string(project("packaging/man/release-agent.8")).unwrap().lines().map(|line| plain(line) + "\n").collect();
    let help = bench.agent(["--help"]).expect(0).stdout;
    let options: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert!(options.len() >= 5, "{help}");
    for option in options {
        let option = option.trim_end_matches([',', ';', '.']);
        assert!(page.lines().any(|line| line.split([' ', ',']).any(|word| word == option)), "{option} is not in the page");
    }
}

/// What groff has to say of a page.
fn complaints(page: &Path) -> String {
    let groff = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(page).output().expect("groff is installed (groff-base)");
    format!("{}{}", String::from_utf8_lossy(&groff.stderr), if groff.status.success() { "" } else { "groff failed\n" })
}

#[test]
fn every_page_can_be_shown_without_a_warning_and_every_verb_has_one() {
    let bench = Bench::new("pages");
    let dir = bench.path("man");
    bench.ctl(["man", dir.to_str().unwrap()]).expect(0);
    let made: BTreeSet<String> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let help = bench.ctl(["--help"]).expect(0).stdout;
    let verbs = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    // A verb stands two columns in; what it does may go on in the next line, further in.
    let verbs = verbs.filter(|line| !line.starts_with("   ")).map(|line| line.split_whitespace().next().unwrap());
    let wanted: BTreeSet<String> = verbs.map(|verb| format!("agentctl-{verb}.1")).chain(["agentctl.1".to_owned()]).collect();
    assert!(wanted.len() > 15, "{help}");
    assert_eq!(made, wanted);

    let ours = fs::read_dir(project("packaging/man")).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = ours.chain(made.iter().map(|name| dir.join(name))).collect();
    let said: String = pages.iter().map(|page| complaints(page)).collect();
    assert_eq!(said, "");
    bench.write("broken.1", ".TH broken 1\n.SH NAME\nbroken \\- \\*[nothing]\n");
    assert_ne!(complaints(&bench.path("broken.1")), "", "groff would say when something is wrong");
}

#[test]
fn shells_take_the_completions() {
    let bench = Bench::new("completions");
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = bench.ctl(["completions", shell]).expect(0).stdout;
        assert!(script.contains("rollback"), "{shell}: {script}");
        let file = bench.write(format!("completions.{shell}"), script);
        match Command::new(shell).arg(check).arg(&file).output() {
            Ok(done) => assert!(done.status.success() && done.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&done.stderr)),
            Err(err) if shell != "bash" && err.kind() == std::io::ErrorKind::NotFound => {
                println!("{shell} is not installed: its completions were made, and no {shell} has read them");
            }
            Err(err) => panic!("{shell}: {err}"),
        }
    }
}

/// What stands in a guide between ```` ```sh ```` and its end.
fn scripts(guide: &str) -> String {
    guide.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_guide_to_the_api_does_what_it_says() {
    let bench = Bench::new("guide");
    let repo = bench.repo("shop");
    repo.write("public/index.html", "one").commit("The first page");
    bench.app("shop", &format!("repository = {:?}\n", repo.path())).start();
    let guide = fs::read_to_string(project("packaging/docs/http-api.md")).unwrap();

    let socket = bench.path("run/control.sock");
    let script = scripts(&guide).replace("/run/release-agent/control.sock", socket.to_str().unwrap());
    assert!(script.contains(socket.to_str().unwrap()));
    let mut bash = bench.command("bash");
    bash.args(["-euo", "pipefail"]).arg(bench.write("guide.sh", script));
    let done = bench.begin(bash).finish(std::time::Duration::from_secs(300)).expect(0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[..2], ["ok", "shop: nothing is live"]);
    let stands = |line: &str| assert!(lines.contains(&line), "{line:?} is missing:\n{}\n{}", done.stdout, done.stderr);
    [r#"{"run":1,"events":"/v1/runs/1/events"}"#, "live", "id: 3", "202", "200", r#"  "code": "no_release","#].into_iter().for_each(stands);
    assert_eq!(lines[lines.len() - 3..], ["ended with 0", "ended with 1", "ended with 2"], "{}", done.stderr);
    let runs: Vec<_> = bench.runs().iter().map(|run| run["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!(runs, ["release", "release", "check", "release"], "what was sent again started nothing");

    let contract = bench.ask_json("/openapi.json");
    for code in contract["components"]["schemas"]["ProblemCode"]["enum"].as_array().unwrap() {
        assert!(guide.contains(&format!("`{}`", code.as_str().unwrap())), "the guide does not name {code}");
    }
}
