//! `agent.toml`: who may ask for what, and the agent's own ways.

use std::path::Path;
use std::time::Duration;

use agent_model::grant::{Downgrade, Grant, KeyKinds, Principal, Scope};
use agent_model::names::AppName;
use agent_model::request::Right;
use agent_wire::sshsig::MOST_SIGNATURES;

use super::kinds::{duration, integer, one_of, parsed, some_list, switch, text, texts_by_name, timeout};
use super::reader::{self, Section, Value, nearest, shown};
use super::{Agent, Complaint, ExecutorKind, defaults, https, issuer, refs};

/// Reads `text`, which stands in `file`. An empty text means the defaults: nobody is granted anything.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Agent, Vec<Complaint>> {
    reader::read(file, text, read)
}

pub(super) fn read(top: &Section<'_>) -> Option<Agent> {
    let (issuers, kinds) = issuer::read_all(top);
    let grants = top.tables("grant");
    Some(Agent {
        grants: grants.iter().filter_map(|section| grant(section, &kinds)).collect(),
        issuers,
        socket_group: top.get("socket_group", parsed(parse_group)),
        drain_timeout: top.get("drain_timeout", timeout).unwrap_or(defaults::DRAIN_TIMEOUT),
        executor: top
            .get("executor", one_of(&[("direct", ExecutorKind::Direct), ("units", ExecutorKind::Units)]))
            .unwrap_or(ExecutorKind::Direct),
        keep_runs: top.table("journal").and_then(|section| section.get("keep", duration(LEAST_KEPT..=MOST_KEPT))),
        https: top.table("https").and_then(|section| https::read(&section)),
    })
}

/// For how long runs may be kept: a day at least, for what was asked a moment ago is still looked up.
const LEAST_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_KEPT: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

fn grant(section: &Section<'_>, issuers: &issuer::Kinds) -> Option<Grant> {
    let to = section.need("to", principals);
    let apps = section.need("apps", scope("it would allow nothing", parsed(str::parse::<AppName>)));
    let rights = section.need("actions", scope("it would allow nothing", right));
    let refs = refs::read(section, "leave it out to allow whatever the app allows");
    let signatures = section.get("signatures", integer(1..=MOST_SIGNATURES as u64));
    let key_kinds =
        section.get("keys", one_of(&[("software", KeyKinds::Software), ("any", KeyKinds::Any), ("hardware", KeyKinds::Hardware)]));
    let claims = section.get("claims", texts_by_name(check_claim));
    let downgrade = section.get("downgrade", switch).unwrap_or(false);
    let to = to?;
    let names = |kind: fn(&Principal) -> bool| to.iter().filter(|to| kind(to)).count();
    let (keys, tokens) = (names(|to| matches!(to, Principal::Key(_))), names(|to| matches!(to, Principal::Oidc(_))));
    let (signatures, claims) = (usize::try_from(signatures.unwrap_or(1)).unwrap_or(1), claims.unwrap_or_default());
    if signatures > 1 && keys < to.len() {
        let says = "counts keys, and `to` names others too, who would need none";
        section.complain("signatures", says, "give them a grant of their own");
    } else if signatures > 1 && keys < signatures {
        let says = format!("asks for {signatures} signatures, and `to` names {keys} key(s): nobody could ever have them");
        section.complain("signatures", says, "name every key that may be one of them: to = [\"key:anna\", \"key:ben\"]");
    }
    if tokens > 0 && claims.is_empty() {
        let says = "is missing: every job of everybody at that issuer would be meant".to_owned();
        section.complain("claims", says, "for GitHub at least { repository_id = \"…\" }, for GitLab { project_id = \"…\" }");
    }
    if tokens == 0 && !claims.is_empty() {
        section.complain("claims", "are of ID tokens, and `to` names no issuer", "leave them out, or add an oidc:ISSUER to `to`");
    }
    issuer::check_grant(section, &to, &claims, issuers);
    Some(Grant {
        to,
        apps: apps?,
        rights: rights?,
        refs,
        signatures,
        key_kinds: key_kinds.unwrap_or_default(),
        claims: claims.into_iter().collect(),
        downgrade: if downgrade { Downgrade::Allowed } else { Downgrade::Refused },
    })
}

/// Numbers tell projects apart, and names do not: a name that was given up can be taken by somebody else.
fn check_claim(name: &str, value: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !fits {
        return Err(format!("{:?} is not the name of a claim", shown(name)));
    }
    if value.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

/// One principal, or a list of some.
fn principals(value: &Value<'_>) -> Option<Vec<Principal>> {
    if value.item().is_str() { principal(value).map(|one| vec![one]) } else { some_list("it would mean nobody", principal)(value) }
}

fn principal(value: &Value<'_>) -> Option<Principal> {
    let text = text(value)?;
    let kinds = ["unix-user", "unix-group", "key", "oidc"];
    match text.split_once(':') {
        Some((kind, name)) if !kinds.contains(&kind) => {
            let near = nearest(kind, kinds).map(|near| format!("did you mean \"{near}:{}\"?", shown(name)));
            value.complain(format!("{:?} is no kind of caller; those are {}", shown(kind), kinds.join(", ")), near)
        }
        None => value.complain(
            format!("{:?} does not say what kind of caller it is", shown(&text)),
            Some(format!("write \"unix-user:{0}\" or \"unix-group:{0}\"", shown(&text))),
        ),
        Some(_) => parsed(str::parse::<Principal>)(value),
    }
}

/// What people call the actions otherwise.
const OTHER_WORDS: [(&str, Right); 10] = [
    ("deploy", Right::Release),
    ("rollback", Right::Activate),
    ("status", Right::Read),
    ("list", Right::Read),
    ("show", Right::Read),
    ("runs", Right::Read),
    ("logs", Right::Read),
    ("doctor", Right::Read),
    ("fsck", Right::Read),
    ("verify", Right::Read),
];

const RIGHTS: [(&str, Right); 17] = [
    ("release", Right::Release),
    ("stage", Right::Stage),
    ("activate", Right::Activate),
    ("reverse", Right::Reverse),
    ("restart", Right::Restart),
    ("prune", Right::Prune),
    ("mend", Right::Mend),
    ("check", Right::Check),
    ("lock", Right::Lock),
    ("unlock", Right::Unlock),
    ("pin", Right::Pin),
    ("unpin", Right::Unpin),
    ("cancel", Right::Cancel),
    ("settle", Right::Settle),
    ("exec", Right::Exec),
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
