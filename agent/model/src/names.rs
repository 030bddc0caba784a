//! Names with rules. A text that becomes a path, an argument or a query is parsed here once, and then has a type of its own.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A text that breaks the rule of its name. The message contains the text and the rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {text:?} {rule}")]
pub struct BadName {
    /// The expected kind, such as `app name`.
    pub what: &'static str,
    /// The text as it came, cut at 80 characters.
    pub text: String,
    /// The rule that it breaks, readable after the text.
    pub rule: &'static str,
}

impl BadName {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// The name of an app: a lower-case letter, then up to 31 lower-case letters, digits or hyphens. It becomes a file name, a directory name and part of
/// a unit name, so the rule is the narrowest of the three.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(String);
text_type!(AppName);

impl FromStr for AppName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let mut bytes = text.bytes();
        let starts = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
        let goes_on = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if starts && goes_on && text.len() <= 32 {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName::new("app name", text, "must be a lower-case letter followed by at most 31 lower-case letters, digits or hyphens"))
        }
    }
}

/// The name of a host in requests for it: the lower-case labels of a host name (RFC 1123, section 2.1), at most 253 characters. An operator sets it,
/// and the agent never takes it from a client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(String);
text_type!(HostId);

impl FromStr for HostId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName::new("host", text, "must be a host name in lower-case letters, digits, hyphens and dots, such as web1.example.org"))
        }
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A whole commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(String);
text_type!(CommitId);

impl CommitId {
    /// The first twelve digits, as in release names.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for CommitId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        if matches!(text.len(), 40 | 64) && is_lower_hex(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName::new("commit", text, "must be 40 or 64 lower-case hexadecimal digits"))
        }
    }
}

/// A full ref: `refs/heads/…` or `refs/tags/…`, by the grammar of git-check-ref-format(1). No component may begin with a hyphen, so that no tool can
/// read a ref as an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);
text_type!(RefName);

impl RefName {
    /// The name without `refs/heads/` or `refs/tags/`, as people write it.
    pub fn short(&self) -> &str {
        self.0.strip_prefix("refs/heads/").or_else(|| self.0.strip_prefix("refs/tags/")).unwrap_or(&self.0)
    }

    /// Whether it is a tag.
    pub fn is_tag(&self) -> bool {
        self.0.starts_with("refs/tags/")
    }
}

impl FromStr for RefName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let short = text.strip_prefix("refs/heads/").or_else(|| text.strip_prefix("refs/tags/"));
        match short {
            Some(short) => check_ref_grammar(short).map(|()| Self(text.to_owned())).map_err(|rule| BadName::new("ref", text, rule)),
            None => Err(BadName::new("ref", text, "must begin with refs/heads/ or refs/tags/")),
        }
    }
}

/// git-check-ref-format(1), for the part after `refs/heads/` or `refs/tags/`.
fn check_ref_grammar(short: &str) -> Result<(), &'static str> {
    if short.is_empty() || short.len() > 200 {
        return Err("must have between 1 and 200 bytes behind its prefix");
    }
    if short.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte)) {
        return Err("has a character that no ref may have (space, control, ~ ^ : ? * [ or \\)");
    }
    if short.contains("..") || short.contains("@{") || short == "@" {
        return Err("has a sequence that no ref may have (.. or @{)");
    }
    if short.ends_with('.') {
        return Err("must not end with a dot");
    }
    for component in short.split('/') {
        if component.is_empty() {
            return Err("must not have an empty component");
        }
        if component.starts_with('.') || component.ends_with(".lock") {
            return Err("has a component that begins with a dot or ends with .lock");
        }
        if component.starts_with('-') {
            return Err("has a component that begins with a hyphen");
        }
    }
    Ok(())
}

/// A person's name for a commit: a branch, a tag, a full ref, or a commit id, whole or abbreviated. Only the repository decides which it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);
text_type!(Revision);

impl Revision {
    /// The digits, if the text may be a commit id or the beginning of one (at least seven digits).
    pub fn as_commit_prefix(&self) -> Option<&str> {
        ((7..=64).contains(&self.0.len()) && is_lower_hex(&self.0)).then_some(&self.0)
    }
}

impl FromStr for Revision {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let short = text.strip_prefix("refs/heads/").or_else(|| text.strip_prefix("refs/tags/")).unwrap_or(text);
        check_ref_grammar(short).map(|()| Self(text.to_owned())).map_err(|rule| BadName::new("revision", text, rule))
    }
}

/// The name of a release: `YYYY-MM-DD-HH-MM-SS-` in UTC and the first twelve digits of its commit. Names sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseName(String);
text_type!(ReleaseName);

impl ReleaseName {
    /// The twelve digits of the commit.
    pub fn commit_digits(&self) -> &str {
        &self.0[20..]
    }
}

impl FromStr for ReleaseName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        const SHAPE: &[u8] = b"dddd-dd-dd-dd-dd-dd-xxxxxxxxxxxx";
        let fits = text.len() == SHAPE.len()
            && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
                b'd' => byte.is_ascii_digit(),
                b'x' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
                _ => byte == b'-',
            });
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName::new("release name", text, "must look like 2026-11-20-22-45-23-1a2b3c4d5e6f"))
        }
    }
}

/// A person's name for an existing release: the whole name, a unique beginning of a name or of a commit, or `previous`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReleaseSelector {
    /// The release that was live before the live one.
    Previous,
    /// Digits and hyphens to be looked up among the releases.
    Prefix(String),
}

/// The result of looking a selector up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected<'a> {
    /// Exactly one release matches.
    One(&'a ReleaseName),
    /// None matches, or no release was live before.
    None,
    /// More than one release matches.
    Several(Vec<&'a ReleaseName>),
}

impl ReleaseSelector {
    /// Looks the selector up among `releases`; `previous` is the release that was live before the live one.
    pub fn select<'a>(&self, releases: impl IntoIterator<Item = &'a ReleaseName>, previous: Option<&'a ReleaseName>) -> Selected<'a> {
        let prefix = match self {
            Self::Previous => return previous.map_or(Selected::None, Selected::One),
            Self::Prefix(prefix) => prefix,
        };
        let digits: &str = &prefix[..prefix.len().min(12)];
        let found: Vec<_> = releases
            .into_iter()
            .filter(|name| name.as_str().starts_with(prefix.as_str()) || name.commit_digits().starts_with(digits) && !prefix.contains('-'))
            .collect();
        match found.as_slice() {
            [] => Selected::None,
            [one] => Selected::One(one),
            _ => Selected::Several(found),
        }
    }
}

impl FromStr for ReleaseSelector {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        if text == "previous" {
            return Ok(Self::Previous);
        }
        let fits = (4..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase() || byte == b'-');
        if fits && !text.starts_with('-') {
            Ok(Self::Prefix(text.to_owned()))
        } else {
            Err(BadName::new(
                "release",
                text,
                "must be a release name, at least four characters of a name or a commit, or the word previous",
            ))
        }
    }
}

impl fmt::Display for ReleaseSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Previous => "previous",
            Self::Prefix(prefix) => prefix,
        })
    }
}

/// The number of a run: from 1 upwards, never used twice within one journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl FromStr for RunId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let number = text.trim_start_matches('#').parse().ok().filter(|number| *number > 0 && *number <= i64::MAX as u64);
        number.map(Self).ok_or_else(|| BadName::new("run", text, "must be the number of a run"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_are_what_a_unit_a_file_and_a_directory_can_all_be() {
        for good in ["a", "shop", "shop-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<AppName>().unwrap().as_str(), good);
        }
        for bad in ["", "Shop", "2shop", "-shop", "shop_1", "sh/op", "..", "shop\n", "shöp", &"a".repeat(33)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn refs_follow_gits_grammar_and_never_look_like_an_option() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/feature/x-1", "refs/heads/ünïcode"] {
            assert!(good.parse::<RefName>().is_ok(), "{good:?} was refused");
        }
        for bad in [
            "main",
            "refs/heads/",
            "refs/heads/-x",
            "refs/heads/a/-oProxyCommand=x",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/a\nb",
            "refs/heads/a@{1}",
            "refs/heads/a:b",
            "refs/heads/a^",
            "refs/heads/x.lock",
            "refs/heads/.x",
            "refs/heads/x.",
            "refs/heads/a//b",
            "refs/heads/@",
            "refs/pull/1/head",
            "refs/heads/a\\b",
        ] {
            assert!(bad.parse::<RefName>().is_err(), "{bad:?} was taken");
        }
        for bad in ["-x", "--upload-pack=touch /tmp/x", "a..b", "HEAD^", "", "a:b", "main@{1}"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn commits_are_whole_and_lower_case() {
        assert!("0123456789abcdef0123456789abcdef01234567".parse::<CommitId>().is_ok());
        for bad in ["0123456", "0123456789ABCDEF0123456789abcdef01234567", &"a".repeat(41), &"g".repeat(40)] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn release_names_have_one_shape() {
        assert!("2026-11-20-22-45-23-1a2b3c4d5e6f".parse::<ReleaseName>().is_ok());
        for bad in [
            "../x",
            "/etc",
            "",
            "2026-11-20-22-45-23-1A2b3c4d5e6f",
            ".trash-2026",
            "2026-11-20-22-45-23-1a2b3c4d5e6",
            "２026-11-20-22-45-23-1a2b3c4d5e6f",
        ] {
            assert!(bad.parse::<ReleaseName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_selector_finds_one_none_or_says_that_several_fit() {
        let names: Vec<ReleaseName> =
            ["2026-11-20-22-45-23-1a2b3c4d5e6f", "2026-11-20-23-00-00-1a2bffffffff", "2026-11-21-00-00-00-abcdef012345"]
                .iter()
                .map(|name| name.parse().unwrap())
                .collect();
        let select = |text: &str| text.parse::<ReleaseSelector>().unwrap().select(&names, Some(&names[0]));
        assert_eq!(select("2026-11-21"), Selected::One(&names[2]));
        assert_eq!(select("abcdef0123456789"), Selected::One(&names[2]));
        assert_eq!(select("1a2b3"), Selected::One(&names[0]));
        assert_eq!(select("previous"), Selected::One(&names[0]));
        assert_eq!(select("1a2b"), Selected::Several(vec![&names[0], &names[1]]));
        assert_eq!(select("9999"), Selected::None);
        for bad in ["", "abc", "../..", "-abcd", "live now"] {
            assert!(bad.parse::<ReleaseSelector>().is_err(), "{bad:?} was taken");
        }
    }
}
