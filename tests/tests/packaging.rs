//! What is shipped: manual pages that are true, completions that shells take, and a package and an archive that hold all of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_tests::{Bench, build_archive, build_package, project};

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

/// The names of the pages that there must be: one for each verb, and the main one.
fn pages_of_verbs(bench: &Bench) -> BTreeSet<String> {
    let help = bench.ctl(["--help"]).expect(0).stdout;
    let verbs = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    // A verb stands two columns in; what it does may go on in the next line, further in.
    let verbs = verbs.filter(|line| !line.starts_with("   ")).map(|line| line.split_whitespace().next().unwrap());
    let wanted: BTreeSet<String> = verbs.map(|verb| format!("agentctl-{verb}.1")).chain(["agentctl.1".to_owned()]).collect();
    assert!(wanted.len() > 15, "{help}");
    wanted
}

#[test]
fn every_page_can_be_shown_without_a_warning_and_every_verb_has_one() {
    let bench = Bench::new("pages");
    let dir = bench.path("man");
    bench.ctl(["man", dir.to_str().unwrap()]).expect(0);
    let made: BTreeSet<String> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let wanted = pages_of_verbs(&bench);
    let missing: Vec<&String> = wanted.difference(&made).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // A verb's own verbs have pages of their own.
    let more = made.difference(&wanted).find(|page| !wanted.iter().any(|verb| page.starts_with(&verb.replace(".1", "-"))));
    assert_eq!(more, None);

    let ours = fs::read_dir(project("packaging/man")).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = ours.chain(made.iter().map(|name| dir.join(name))).collect();
    let said: String = pages.iter().map(|page| complaints(page)).collect();
    assert_eq!(said, "");
    bench.write("broken.1", ".TH broken 1\n.SH NAME\nbroken \\- \\*[nothing]\n");
    assert_ne!(complaints(&bench.path("broken.1")), "", "groff would say when something is wrong");
}

/// Has a shell read a script of completions.
#[track_caller]
fn parse(shell: &str, file: &Path) {
    let check = if shell == "fish" { "--no-execute" } else { "-n" };
    let done = Command::new(shell).arg(check).arg(file).output().unwrap_or_else(|err| panic!("{shell}: {err}; tests/run installs it"));
    assert!(done.status.success() && done.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn shells_take_the_completions() {
    let bench = Bench::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.ctl(["completions", shell]).expect(0).stdout;
        assert!(script.contains("rollback"), "{shell}: {script}");
        parse(shell, &bench.write(format!("completions.{shell}"), script));
    }
}

/// Runs a program that must succeed; answers with what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The files below a directory, by their paths from there.
fn files_below(directory: &Path) -> BTreeSet<String> {
    run(Command::new("find").args([".", "-type", "f", "-printf", "%P\\n"]).current_dir(directory)).lines().map(str::to_owned).collect()
}

/// The documents below a directory have no link that leads nowhere, but to what only the sources have.
fn follow_links(directory: &Path) {
    let mut seen = 0;
    for document in files_below(directory).iter().filter(|name| name.ends_with(".md")) {
        let text = fs::read_to_string(directory.join(document)).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains("://")) {
            let target = target.split('#').next().unwrap();
            let found = directory.join(document).parent().unwrap().join(target);
            let of_sources = ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "static-agentctl", "LICENSE"];
            assert!(found.exists() || of_sources.iter().any(|name| target.ends_with(name)), "{document}: {target} leads nowhere");
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} links were found");
}

#[test]
fn the_package_holds_what_it_must_and_lintian_has_nothing_to_say() {
    let bench = Bench::new("package");
    // --check fails for whatever lintian says that packaging/debian/lintian-overrides does not argue against.
    let deb = build_package(&bench.path("out"), &["--check"]);
    let (tree, control) = (bench.path("tree"), bench.path("control"));
    run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&tree));
    run(Command::new("dpkg-deb").arg("--control").arg(&deb).arg(&control));
    let files = files_below(&tree);
    let read = |path: &str| fs::read_to_string(tree.join(path)).unwrap();

    for part in ["system", "sysusers.d", "tmpfiles.d"] {
        let to = if part == "system" { "usr/lib/systemd/system" } else { &format!("usr/lib/{part}") };
        let ours = files_below(&project("systemd").join(part));
        assert!(!ours.is_empty(), "{part}");
        for name in ours {
            assert_eq!(read(&format!("{to}/{name}")), fs::read_to_string(project("systemd").join(part).join(&name)).unwrap(), "{name}");
        }
    }
    for name in files_below(&project("systemd/examples")) {
        assert!(files.contains(&format!("usr/share/doc/release-agent/examples/units/{name}")), "{name}");
    }

    let conffiles: BTreeSet<String> = fs::read_to_string(control.join("conffiles")).unwrap().lines().map(str::to_owned).collect();
    let in_etc: BTreeSet<String> = files.iter().filter(|name| name.starts_with("etc/")).map(|name| format!("/{name}")).collect();
    assert_eq!(conffiles, in_etc);
    assert!(conffiles.contains("/etc/release-agent/agent.toml"));
    // Nobody may do anything until the operator says so: all that is said is how programs are run, and that only if there is a choice.
    let agent = read("etc/release-agent/agent.toml");
    let said: Vec<&str> = agent.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let has_choice = fs::read_to_string(project("packaging/examples/agent.toml")).unwrap().contains("executor = ");
    assert_eq!(said, if has_choice { vec!["executor = \"units\""] } else { vec![] });
    bench.agent(["--check-config", "--config", tree.join("etc/release-agent").to_str().unwrap()]).expect(0);

    run(Command::new("md5sum").args(["--check", "--strict", "--quiet"]).arg(control.join("md5sums")).current_dir(&tree));
    let summed = fs::read_to_string(control.join("md5sums")).unwrap().lines().count();
    assert_eq!(summed, files.len() - conffiles.len(), "every other file has its sum");

    for (shell, to) in [
        ("bash", "bash-completion/completions/agentctl"),
        ("zsh", "zsh/vendor-completions/_agentctl"),
        ("fish", "fish/vendor_completions.d/agentctl.fish"),
    ] {
        parse(shell, &tree.join("usr/share").join(to));
    }

    for page in pages_of_verbs(&bench) {
        assert!(files.contains(&format!("usr/share/man/man1/{page}.gz")), "{page}");
    }
    let man = |args: &[&str]| {
        Command::new("man").env("MANPATH", tree.join("usr/share/man")).env("MAN_KEEP_STDERR", "1").args(args).output().unwrap()
    };
    for page in files.iter().filter(|name| name.starts_with("usr/share/man/")) {
        let shown = man(&["--warnings", "--encoding=UTF-8", "--local-file", tree.join(page).to_str().unwrap()]);
        assert!(shown.status.success() && shown.stderr.is_empty(), "{page}: {}", String::from_utf8_lossy(&shown.stderr));
    }
    // However the pages of the files are called, this is how they are asked for.
    for (section, page) in [("1", "agentctl-release"), ("5", "agent.toml"), ("5", "app.toml"), ("8", "release-agent")] {
        assert!(man(&["--where", section, page]).status.success(), "{page}({section})");
    }

    let crates = run(Command::new("zcat").arg(tree.join("usr/share/doc/release-agent/THIRD-PARTY.gz")));
    for part in ["aws-lc-sys ", "rustls ", "serde ", "Permission is hereby granted"] {
        assert!(crates.contains(part), "{part}");
    }
    follow_links(&tree.join("usr/share/doc/release-agent"));
}

#[test]
fn two_builds_give_the_same_bytes() {
    let bench = Bench::new("twice");
    let builds = ["one", "two"].map(|name| bench.path(name));
    let packages = builds.each_ref().map(|directory| fs::read(build_package(directory, &[])).unwrap());
    assert!(packages[0] == packages[1], "the packages differ");
    let archives = builds.each_ref().map(|directory| fs::read(build_archive(directory)).unwrap());
    assert!(archives[0] == archives[1], "the archives differ");
}

#[test]
fn the_archive_holds_what_its_sums_say() {
    let bench = Bench::new("archive");
    let archive = build_archive(&bench.path("out"));
    let name = archive.file_name().unwrap().to_str().unwrap().strip_suffix(".tar.gz").unwrap().to_owned();
    run(Command::new("tar").args(["--extract", "--file"]).arg(&archive).arg("--directory").arg(bench.path("out")));
    let root = bench.path("out").join(name);
    run(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&root));
    let sums = fs::read_to_string(root.join("SHA256SUMS")).unwrap();
    let summed: BTreeSet<String> = sums.lines().map(|line| line.split_once("  ").unwrap().1.to_owned()).collect();
    let mut files = files_below(&root);
    assert!(files.remove("SHA256SUMS"));
    assert_eq!(summed, files);
    for part in
        ["bin/release-agent", "bin/agentctl", "man/man8/release-agent.8", "README.md", "LICENSE", "THIRD-PARTY", "examples/agent.toml"]
    {
        assert!(files.contains(part), "{part}");
    }
    for name in files_below(&project("systemd")) {
        assert!(files.contains(&format!("systemd/{name}")), "{name}");
    }
    follow_links(&root);
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
