//! `branches`, `tags`, `refs`: which refs may be released from. Of an app and of a grant alike.
//!
//! A short name says nothing of its kind: with `refs = ["main"]` a tag that was called `main` passed for the branch. So each kind has a key of its own,
//! and `refs` takes full names alone.

use agent_model::grant::RefPattern;
use agent_model::names::BadName;

use super::kinds::{list, parsed, some_list, text};
use super::reader::{Section, Value, shown};

/// What is set of it, in the order branches, tags, refs. Nothing where nothing is set, or what is set is wrong and complained of.
pub(super) fn read(section: &Section<'_>, when_left_out: &'static str) -> Option<Vec<RefPattern>> {
    let branches = section.get("branches", some_list(when_left_out, short(RefPattern::branch, "refs/heads/")));
    let tags = section.get("tags", some_list(when_left_out, short(RefPattern::tag, "refs/tags/")));
    let full = section.get("refs", |value| full(value, when_left_out));
    let all: Vec<RefPattern> = [branches, tags, full].into_iter().flatten().flatten().collect();
    (!all.is_empty()).then_some(all)
}

/// Whether anything is set of it, rightly or wrongly.
pub(super) fn is_set(section: &Section<'_>) -> bool {
    ["branches", "tags", "refs"].iter().any(|key| section.has(key))
}

fn short(make: fn(&str) -> Result<RefPattern, BadName>, prefix: &'static str) -> impl Fn(&Value<'_>) -> Option<RefPattern> {
    move |value| {
        let name = text(value)?;
        if let Some(short) = name.strip_prefix(prefix) {
            return value.complain(format!("{:?} is a full name", shown(&name)), Some(format!("write {:?}", shown(short))));
        }
        if name.starts_with("refs/") {
            return value.complain(format!("{:?} is the full name of another kind", shown(&name)), Some("write it into `refs`".to_owned()));
        }
        parsed(make)(value)
    }
}

fn full(value: &Value<'_>, when_left_out: &'static str) -> Option<Vec<RefPattern>> {
    let names = some_list(when_left_out, text)(value)?;
    let is_full = |name: &&String| name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
    let (full, short): (Vec<&String>, Vec<&String>) = names.iter().partition(is_full);
    if short.is_empty() {
        return list(parsed(str::parse::<RefPattern>))(value);
    }
    let told: Vec<String> = short.iter().map(|name| format!("{:?}", shown(name))).collect();
    let is = if told.len() == 1 { "is a short name" } else { "are short names" };
    let says = format!("{} {is}, which a branch and a tag can both have, and `refs` takes full names only", told.join(", "));
    value.complain(says, Some(format!("write instead: {}", instead(&short, &full))))
}

/// The lines that say the same by the keys of today, as far as a name shows its kind: what begins like a version is taken for a tag.
fn instead(short: &[&String], full: &[&String]) -> String {
    let is_version = |name: &str| name.trim_start_matches('v').starts_with(|char: char| char.is_ascii_digit() || char == '*');
    let of_tags = short.iter().filter(|name| is_version(name));
    let of_branches = short.iter().filter(|name| !is_version(name) || **name == "*");
    let line = |key: &str, names: Vec<&str>| {
        let names: Vec<String> = names.into_iter().map(|name| format!("{:?}", shown(name))).collect();
        (!names.is_empty()).then(|| format!("{key} = [{}]", names.join(", ")))
    };
    let lines = [
        line("branches", of_branches.map(|name| name.as_str()).collect()),
        line("tags", of_tags.map(|name| name.as_str()).collect()),
        line("refs", full.iter().map(|name| name.as_str()).collect()),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join(" and, on a line of its own, ")
}
