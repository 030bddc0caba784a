//! The floors of the code: a module uses only those above it, and a crate only what it is allowed to.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::fs;
use std::path::{Path, PathBuf};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The modules of a crate, in the order in which its `lib.rs` lists them.
fn floors(lib: &Path) -> Vec<String> {
    let text = fs::read_to_string(lib).unwrap();
    let listed = text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    listed.map(str::to_owned).collect()
}

fn sources(module: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = module.with_extension("rs").is_file().then(|| module.with_extension("rs")).into_iter().collect();
    let mut dirs = vec![module.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Every `crate::<module>` in a text that is code.
fn used(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        found.push(name);
    }
    found
}

#[test]
fn a_module_of_the_daemon_uses_only_those_above_it() {
    let src = project().join("agent/src");
    let floors = floors(&src.join("lib.rs"));
    assert!(floors.len() >= 8, "the list of floors was not read: {floors:?}");
    let mut looked_at = 0;
    for (height, floor) in floors.iter().enumerate() {
        let files = sources(&src.join(floor));
        assert!(!files.is_empty(), "{floor} has no source");
        for file in files {
            looked_at += 1;
            for name in used(&fs::read_to_string(&file).unwrap()) {
                let Some(above) = floors.iter().position(|other| *other == name) else { continue };
                assert!(above <= height, "{} is on the floor {floor}, and uses {name}, which is below it", file.display());
            }
        }
    }
    assert!(looked_at > 40, "only {looked_at} files were looked at");
}

fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(project().join(manifest)).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_else(|| panic!("{manifest} has no dependencies"));
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned())).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_model_can_read_nothing_and_the_ctl_knows_no_daemon() {
    assert_eq!(dependencies("agent/model/Cargo.toml"), ["thiserror"]);
    let of_the_wire = dependencies("agent/wire/Cargo.toml");
    assert!(!of_the_wire.iter().any(|name| ["tokio", "hyper", "nix", "rusqlite"].contains(&name.as_str())), "{of_the_wire:?}");
    assert!(!dependencies("agentctl/Cargo.toml").contains(&"release-agent".to_owned()));
}

/// What only one place may do, by the word that it cannot be done without.
#[test]
fn what_only_one_place_may_do_is_done_nowhere_else() {
    let src = project().join("agent/src");
    let only = [
        ("Command::new(", &["process/"][..], "only process runs programs"),
        ("Caller::Unix {", &["api/auth/"], "only auth makes callers"),
        ("Caller::Keys(", &["api/auth/"], "only auth makes callers"),
        ("StatusCode::", &["api/"], "only the API knows status codes"),
        ("\"git_cache\"", &["root/"], "only root knows the app root"),
    ];
    for file in sources(&src) {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let code = text.split("#[cfg(test)]").next().unwrap();
        if relative.ends_with("tests.rs") || relative.ends_with("bench.rs") || relative.contains("tests/") {
            continue;
        }
        for (word, places, rule) in only {
            let allowed = places.iter().any(|place| relative.starts_with(place));
            assert!(allowed || !code.contains(word), "{relative} has {word:?}: {rule}");
        }
    }
}

/// A file that the program of the tests does not name would never run, and nobody would be told.
#[test]
fn every_file_of_tests_from_outside_belongs_to_their_program() {
    let directory = project().join("tests/tests");
    let mut files: Vec<String> = sources(&directory)
        .iter()
        .map(|path| path.strip_prefix(&directory).unwrap().with_extension("").to_str().unwrap().to_owned())
        .collect();
    files.retain(|name| name != "main");
    files.sort();
    assert_eq!(floors(&directory.join("main.rs")), files);
}
