//! `agent.toml`: who may ask for what, and the agent's own ways.

use std::path::Path;

use agent_model::names::AppName;
use agent_model::request::{Grant, Principal, RefPattern, Right, Scope};

use super::kinds::{one_of, parsed, some_list, text, timeout};
use super::reader::{self, Section, Value, nearest, shown};
use super::{Agent, Complaint, defaults};

/// Reads `text`, which stands in `file`. An empty text means the defaults: nobody is granted anything.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Agent, Vec<Complaint>> {
    reader::read(file, text, read)
}

pub(super) fn read(top: &Section<'_>) -> Option<Agent> {
    let grants = top.tables("grant");
    Some(Agent {
        grants: grants.iter().filter_map(grant).collect(),
        socket_group: top.get("socket_group", parsed(parse_group)),
        drain_timeout: top.get("drain_timeout", timeout).unwrap_or(defaults::DRAIN_TIMEOUT),
    })
}

fn grant(section: &Section<'_>) -> Option<Grant> {
    let to = section.need("to", principal);
    let apps = section.need("apps", scope("it would allow nothing", parsed(str::parse::<AppName>)));
    let rights = section.need("actions", scope("it would allow nothing", right));
    let refs = section.get("refs", some_list("leave it out to allow whatever the app allows", parsed(str::parse::<RefPattern>)));
    Some(Grant { to: to?, apps: apps?, rights: rights?, refs })
}

fn principal(value: &Value<'_>) -> Option<Principal> {
    let text = text(value)?;
    let kinds = ["unix-user", "unix-group"];
    match text.split_once(':') {
        Some((kind @ ("key" | "oidc"), _)) => value.complain(
            format!("{kind}: names a caller on the network, and network callers are not supported by this version"),
            Some("grant to unix-user:NAME or unix-group:NAME".to_owned()),
        ),
        Some((kind, name)) if !kinds.contains(&kind) => {
            let near = nearest(kind, kinds).map(|near| format!("did you mean \"{near}:{}\"?", shown(name)));
            value.complain(format!("{:?} is no kind of caller; those are {}", shown(kind), kinds.join(" and ")), near)
        }
        None => value.complain(
            format!("{:?} does not say what kind of caller it is", shown(&text)),
            Some(format!("write \"unix-user:{0}\" or \"unix-group:{0}\"", shown(&text))),
        ),
        Some(_) => parsed(str::parse::<Principal>)(value),
    }
}

/// What people call the actions otherwise.
const OTHER_WORDS: [(&str, Right); 8] = [
    ("deploy", Right::Release),
    ("rollback", Right::Activate),
    ("status", Right::Read),
    ("list", Right::Read),
    ("show", Right::Read),
    ("runs", Right::Read),
    ("logs", Right::Read),
    ("doctor", Right::Read),
];

const RIGHTS: [(&str, Right); 11] = [
    ("release", Right::Release),
    ("activate", Right::Activate),
    ("prune", Right::Prune),
    ("check", Right::Check),
    ("lock", Right::Lock),
    ("unlock", Right::Unlock),
    ("pin", Right::Pin),
    ("unpin", Right::Unpin),
    ("cancel", Right::Cancel),
    ("plan", Right::Plan),
    ("read", Right::Read),
];

fn right(value: &Value<'_>) -> Option<Right> {
    let other = value.item().as_str().and_then(|word| OTHER_WORDS.iter().find(|(other, _)| *other == word));
    match other {
        Some((word, right)) => {
            value.complain(format!("there is no action {word:?} that could be granted"), Some(format!("it comes with {:?}", right.word())))
        }
        None => one_of(&RIGHTS)(value),
    }
}

/// `["*"]`, or a list of some.
fn scope<'a, T>(why: &'static str, of: impl Fn(&Value<'a>) -> Option<T>) -> impl Fn(&Value<'a>) -> Option<Scope<T>> {
    let each = some_list(why, move |value: &Value<'a>| match value.item().as_str() {
        Some("*") => Some(None),
        _ => of(value).map(Some),
    });
    move |value| each(value).map(|items| items.into_iter().collect::<Option<Vec<T>>>().map_or(Scope::All, Scope::Only))
}

fn parse_group(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 32
        && !text.starts_with('-')
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "_.-".contains(char));
    if fits { Ok(text.to_owned()) } else { Err(format!("{:?} is not the name of a group", shown(text))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_right_has_its_word() {
        assert_eq!(RIGHTS.map(|(word, right)| (word, right)), Right::ALL.map(|right| (right.word(), right)));
    }
}
