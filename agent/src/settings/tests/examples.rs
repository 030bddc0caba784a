//! The shipped examples: they are the reference, so they must be right, and nothing may be missing from them.
//!
//! In them a line `#key = value` shows a default, and `# key = value` something that can be set. Both are read here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use agent_model::names::AppName;

use super::sentences;
use crate::settings::app::{self, STEPS};
use crate::settings::reader::{KnownKeys, read_and_list};
use crate::settings::{App, agent};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples")
}

fn app_examples() -> Vec<(AppName, String)> {
    let mut examples: Vec<(AppName, String)> = fs::read_dir(examples().join("apps"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().parse().unwrap(), fs::read_to_string(&path).unwrap()))
        .collect();
    examples.sort();
    assert!(examples.len() >= 6);
    examples
}

#[derive(Clone, Copy, PartialEq)]
enum Lines {
    Defaults,
    DefaultsAndOptions,
}

/// The text with the lines set that are commented out.
fn with(lines: Lines, text: &str) -> String {
    let is_key = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| !key.is_empty() && key.chars().all(|char| char.is_ascii_lowercase() || "_-".contains(char)))
    };
    let set = |line: &str| match (line.strip_prefix("# "), line.strip_prefix('#')) {
        (Some(option), _) if is_key(option) && lines == Lines::DefaultsAndOptions => option.to_owned(),
        (None, Some(default)) if is_key(default) => default.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| set(line) + "\n").collect()
}

/// With every timeout said aloud, so that a default that is set equals one that is not.
fn parse(name: &AppName, text: &str) -> App {
    let mut app =
        app::parse(name, Path::new("example.toml"), text).unwrap_or_else(|complaints| panic!("{name}: {}", sentences(&complaints)));
    app.timeouts = STEPS.iter().map(|step| ((*step).to_owned(), app.timeout_of(step))).collect();
    app
}

#[test]
fn every_example_is_right_and_shows_the_defaults_as_they_are() {
    for (name, text) in app_examples() {
        assert_eq!(parse(&name, &text), parse(&name, &with(Lines::Defaults, &text)), "{name}");
        parse(&name, &with(Lines::DefaultsAndOptions, &text));
    }
    let text = fs::read_to_string(examples().join("agent.toml")).unwrap();
    let file = Path::new("agent.toml");
    assert_eq!(agent::parse(file, &text).unwrap(), agent::parse(file, &with(Lines::Defaults, &text)).unwrap());
}

/// Looks for everything that was asked for among what was found.
fn assert_complete(known: &[KnownKeys], texts: &str) {
    for (section, key) in
        known.iter().flat_map(|known| known.keys.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (section, key))))
    {
        let stands = known.iter().any(|known| known.found.get(section).is_some_and(|found| found.contains(*key)));
        assert!(stands, "no example shows {key} in [{section}]");
    }
    for (key, word) in known.iter().flat_map(|known| known.words.iter().flat_map(|(key, words)| words.iter().map(move |word| (key, word))))
    {
        let stands = texts.split(|char: char| !char.is_ascii_alphanumeric() && char != '-').any(|other| other == *word);
        assert!(stands, "no example names the word {word} of {key}");
    }
}

#[test]
fn every_key_and_every_word_that_is_read_stands_in_an_example() {
    let mut known = Vec::new();
    let mut texts = String::new();
    for (name, text) in app_examples() {
        known.push(read_and_list(Path::new("example.toml"), &with(Lines::DefaultsAndOptions, &text), |top| app::read(&name, top)).1);
        texts.push_str(&text);
    }
    let strategies: BTreeSet<_> = known.iter().filter_map(|known| known.words.get("restart.strategy")).flatten().collect();
    assert_eq!(strategies.len(), 6, "the readings of all strategies are walked through");
    assert_complete(&known, &texts);

    let text = fs::read_to_string(examples().join("agent.toml")).unwrap();
    let known = read_and_list(Path::new("agent.toml"), &with(Lines::DefaultsAndOptions, &text), agent::read).1;
    assert_complete(&[known], &text);
}

#[test]
fn the_reference_names_every_step() {
    let (_, text) = app_examples().into_iter().find(|(name, _)| name.as_str() == "shop").unwrap();
    let app = app::parse(&"shop".parse().unwrap(), Path::new("shop.toml"), &with(Lines::Defaults, &text)).unwrap();
    assert_eq!(app.timeouts.keys().map(String::as_str).collect::<BTreeSet<_>>(), STEPS.into_iter().collect::<BTreeSet<_>>());
}

/// Texts cut anywhere, and with anything anywhere, are taken or complained of; nothing panics, and every complaint has a line.
#[test]
fn no_text_panics() {
    const PIECES: [&str; 14] = ["\"", "[", "]", "=", "\n", "{", "\0", "ü", "'''", "9", "-", ".", "[[", "\u{feff}"];
    let shop: AppName = "shop".parse().unwrap();
    let read = |text: &str| {
        for complaint in app::parse(&shop, Path::new("x"), text).err().unwrap_or_default() {
            assert!(complaint.line.is_some(), "{complaint}\n{text}");
            let _ = complaint.to_string();
        }
        let _ = agent::parse(Path::new("x"), text);
    };
    for (_, text) in app_examples() {
        let text: String =
            with(Lines::Defaults, &text).lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for (at, _) in text.char_indices() {
            read(&text[..at]);
            read(&text[at..]);
            let piece = PIECES[at % PIECES.len()];
            read(&format!("{}{piece}{}", &text[..at], &text[at..]));
            let next = text[at..].chars().next().map_or(at, |char| at + char.len_utf8());
            read(&format!("{}{}", &text[..at], &text[next..]));
        }
    }
    for deep in ["[", "a.", "a = {", "[[a.", "a = ["].map(|piece| piece.repeat(100_000)) {
        read(&deep);
    }
}
