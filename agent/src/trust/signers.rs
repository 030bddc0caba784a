//! `allowed_signers` and `revoked_keys`: whose keys the agent knows, in OpenSSH's own formats (ssh-keygen(1), "ALLOWED SIGNERS" and
//! "KEY REVOCATION LISTS"), so that `ssh-keygen -Y verify` can be asked about the same files.
//!
//! Narrower than OpenSSH, where its freedom would hide who signs: one principal a line and no pattern, no certificate authority, and a key belongs to
//! one principal only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agent_wire::sshsig::{BadBlob, NAMESPACE, PublicKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, Local, NaiveDateTime, TimeZone, Utc};

/// Something wrong in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, readable after the file's name and a colon.
    pub says: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// One line of `allowed_signers`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    principal: String,
    after: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
}

/// The keys that are known, each with whose it is and when it is good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Signers(BTreeMap<PublicKey, Vec<Entry>>);

/// Why a key is not believed. It goes to the log, never to whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untrusted {
    /// Nobody's.
    #[error("the key {0} is not in allowed_signers")]
    Unknown(String),
    /// Taken back.
    #[error("the key {0} is revoked")]
    Revoked(String),
    /// Not any more, or not yet.
    #[error("the key {key} of {principal} is good {when} only")]
    OutOfSeason {
        /// Its fingerprint.
        key: String,
        /// Whose it is.
        principal: String,
        /// The window.
        when: String,
    },
}

/// The fingerprint of a key, as `ssh-keygen -l` prints it.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    fingerprint_of_blob(&key.to_blob())
}

fn fingerprint_of_blob(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

impl Signers {
    /// Reads the text of `allowed_signers`; every bad line when there is any.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<BadLine>> {
        let mut keys: BTreeMap<PublicKey, Vec<Entry>> = BTreeMap::new();
        let mut bad = Vec::new();
        for (line, text) in lines(text) {
            let complain = |(says, hint): (String, Option<&str>)| BadLine { line, says, hint: hint.map(str::to_owned) };
            match parse_line(text) {
                Ok(None) => {}
                Ok(Some((key, entry))) => {
                    let entries = keys.entry(key).or_default();
                    match entries.first() {
                        Some(other) if other.principal != entry.principal => bad.push(complain((
                            format!("the key is that of {} and of {}", shown(&other.principal), shown(&entry.principal)),
                            Some("a key says who signed: give each principal a key of its own"),
                        ))),
                        _ => entries.push(entry),
                    }
                }
                Err(wrong) => bad.push(complain(wrong)),
            }
        }
        if bad.is_empty() { Ok(Self(keys)) } else { Err(bad) }
    }

    /// Whose key it is now.
    ///
    /// # Errors
    /// When it is nobody's, or not at this time.
    pub(crate) fn principal(&self, key: &PublicKey, now: DateTime<Utc>) -> Result<&str, Untrusted> {
        let entries = self.0.get(key).map(Vec::as_slice).unwrap_or_default();
        let good = |entry: &&Entry| entry.after.is_none_or(|after| now >= after) && entry.before.is_none_or(|before| now < before);
        match (entries.iter().find(good), entries.first()) {
            (Some(entry), _) => Ok(&entry.principal),
            (None, None) => Err(Untrusted::Unknown(fingerprint(key))),
            (None, Some(entry)) => Err(Untrusted::OutOfSeason {
                key: fingerprint(key),
                principal: entry.principal.clone(),
                when: season(entry).unwrap_or_else(|| "at no time".to_owned()),
            }),
        }
    }

    /// Every key with its principal, its fingerprint, and when it is good where that is limited: for `doctor`.
    pub(crate) fn told(&self) -> Vec<(String, String, Option<String>)> {
        let entries = self.0.iter().flat_map(|(key, entries)| entries.iter().map(move |entry| (key, entry)));
        let mut told: Vec<_> = entries.map(|(key, entry)| (entry.principal.clone(), fingerprint(key), season(entry))).collect();
        told.sort();
        told
    }

    /// Whether any key belongs to this principal.
    pub(crate) fn knows(&self, principal: &str) -> bool {
        self.0.values().flatten().any(|entry| entry.principal == principal)
    }
}

fn season(entry: &Entry) -> Option<String> {
    let told = |moment: DateTime<Utc>| moment.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    match (entry.after, entry.before) {
        (None, None) => None,
        (Some(after), None) => Some(format!("from {}", told(after))),
        (None, Some(before)) => Some(format!("until {}", told(before))),
        (Some(after), Some(before)) => Some(format!("from {} until {}", told(after), told(before))),
    }
}

/// The lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A text of the file as it may stand in a sentence.
fn shown(text: &str) -> String {
    text.chars().take(60).map(|char| if char.is_control() { '?' } else { char }).collect()
}

type Wrong = (String, Option<&'static str>);

/// A line of `allowed_signers`; nothing when the key is for other namespaces than ours.
fn parse_line(line: &str) -> Result<Option<(PublicKey, Entry)>, Wrong> {
    const SHAPE: &str = "a line is: PRINCIPAL [OPTIONS] ssh-ed25519 KEY, as in a *.pub file with the principal before it";
    let (principal, rest) = word(line);
    if is_key_type(principal) {
        return Err(("the principal is missing".to_owned(), Some(SHAPE)));
    }
    let fits = principal.len() <= 128 && principal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@._-:/".contains(&byte));
    if !fits {
        let says = format!("{:?} is no principal that can be granted anything", shown(principal));
        return Err((says, Some("one name a line, of letters, digits and @ . _ - : / without a pattern")));
    }
    let mut entry = Entry { principal: principal.to_owned(), after: None, before: None };
    let mut ours = true;
    let (first, after_first) = word(rest);
    let (kind, rest) = if is_key_type(first) {
        (first, after_first)
    } else {
        for option in options(first)? {
            let (name, value) = option;
            match (name.to_ascii_lowercase().as_str(), value) {
                ("namespaces", Some(list)) => ours = list.split(',').any(|namespace| namespace == NAMESPACE),
                ("valid-after", Some(moment)) => entry.after = Some(parse_moment(&moment)?),
                ("valid-before", Some(moment)) => entry.before = Some(parse_moment(&moment)?),
                ("cert-authority", _) => {
                    return Err(("certificate authorities are not taken".to_owned(), Some("list the keys themselves")));
                }
                (other, _) => {
                    let says = format!("{:?} is no option with a value that is known here", shown(other));
                    return Err((says, Some("those are namespaces=\"…\", valid-after=\"…\" and valid-before=\"…\"")));
                }
            }
        }
        word(after_first)
    };
    if !is_key_type(kind) {
        return Err((format!("{:?} is no type of key", shown(kind)), Some(SHAPE)));
    }
    let (base64, _comment) = word(rest);
    let key = PublicKey::from_base64(base64).map_err(|err| match err {
        BadBlob::KeyType => (format!("the key {err}"), Some("make one with: ssh-keygen -t ed25519")),
        err => (format!("the key {err}"), Some("copy the whole line of the *.pub file")),
    })?;
    if key.type_word() != kind {
        return Err((format!("the key is of type {}, and the line says {}", key.type_word(), shown(kind)), None));
    }
    Ok(ours.then_some((key, entry)))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "sk-ssh-", "ecdsa-", "sk-ecdsa-", "rsa-"].iter().any(|start| word.starts_with(start))
}

/// The first word, where a quoted part may have spaces in it; and what follows.
fn word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, char) in text.char_indices() {
        match char {
            '"' => quoted = !quoted,
            char if char.is_whitespace() && !quoted => return (&text[..at], text[at..].trim_start()),
            _ => {}
        }
    }
    (text, "")
}

/// `name="value",name="value"`, where a value may have commas in it.
fn options(text: &str) -> Result<Vec<(&str, Option<String>)>, Wrong> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let at = rest.find(['=', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(at);
        rest = match after.strip_prefix("=\"") {
            Some(value) => {
                let (value, after) = value.split_once('"').ok_or(("a quotation mark is never closed".to_owned(), None))?;
                found.push((name, Some(value.to_owned())));
                after
            }
            None if after.starts_with('=') => return Err((format!("the value of {:?} is not between quotation marks", shown(name)), None)),
            None => {
                found.push((name, None));
                after
            }
        };
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(found),
            None => return Err((format!("{:?} stands where a comma should", shown(rest)), None)),
        }
    }
}

/// `YYYYMMDD` or `YYYYMMDDHHMM[SS]`, in the host's own time zone, or in UTC with a `Z` behind it (ssh-keygen(1)).
fn parse_moment(text: &str) -> Result<DateTime<Utc>, Wrong> {
    let wrong = || (format!("{:?} is no moment", shown(text)), Some("write YYYYMMDDHHMMSSZ, in UTC"));
    let (digits, utc) = text.strip_suffix('Z').map_or((text, false), |digits| (digits, true));
    let whole = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(wrong()),
    };
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let naive = NaiveDateTime::parse_from_str(&whole, "%Y%m%d%H%M%S").map_err(|_| wrong())?;
    if utc {
        return Ok(naive.and_utc());
    }
    // An hour that comes twice when the clocks are set back means its first time.
    Local.from_local_datetime(&naive).earliest().map(|local| local.with_timezone(&Utc)).ok_or_else(wrong)
}

/// The keys that are believed no more, whatever else is said of them: by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Revoked(BTreeSet<String>);

impl fmt::Display for Revoked {
    /// As [`Revoked::parse`] reads it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|print| writeln!(formatter, "{print}"))
    }
}

impl Revoked {
    /// Reads the text of `revoked_keys`: a public key a line, or its fingerprint. What can be read is revoked, whatever stands beside it; the bad
    /// lines come with it.
    pub(crate) fn parse(text: &str) -> (Self, Vec<BadLine>) {
        let (mut revoked, mut bad) = (BTreeSet::new(), Vec::new());
        for (line, text) in lines(text) {
            let (first, rest) = word(text);
            let found = if first.starts_with("SHA256:") {
                Some(first.trim_end_matches('=').to_owned())
                    .filter(|print| STANDARD_NO_PAD.decode(print.trim_start_matches("SHA256:")).is_ok_and(|digest| digest.len() == 32))
            } else if is_key_type(first) {
                STANDARD.decode(word(rest).0).ok().filter(|blob| !blob.is_empty()).map(|blob| fingerprint_of_blob(&blob))
            } else {
                None
            };
            match found {
                Some(print) => drop(revoked.insert(print)),
                None => bad.push(BadLine {
                    line,
                    says: format!("{:?} is neither a public key nor a fingerprint", shown(first)),
                    hint: Some("a line is: ssh-ed25519 KEY, or SHA256:FINGERPRINT as `ssh-keygen -l` prints it".to_owned()),
                }),
            }
        }
        (Self(revoked), bad)
    }

    /// With all that another list revokes.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Refuses a key that is revoked.
    pub(crate) fn check(&self, key: &PublicKey) -> Result<(), Untrusted> {
        let print = fingerprint(key);
        if self.0.contains(&print) { Err(Untrusted::Revoked(print)) } else { Ok(()) }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIN/HamL4i1Oe+tDwaZ6iq+Huwc1uxkm/3U01I7SwxhIB";

    fn key() -> PublicKey {
        PublicKey::from_base64(KEY).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_its_principals_within_its_time() {
        let text = format!(
            "# who may sign\n\nci-shop@acme namespaces=\"git,release-agent.v1\",valid-after=\"20260101\",valid-before=\"20270101000000Z\" ssh-ed25519 {KEY} of the CI\n"
        );
        let signers = Signers::parse(&text).unwrap();
        assert_eq!(signers.principal(&key(), at("2026-06-01T00:00:00Z")), Ok("ci-shop@acme"));
        assert!(matches!(signers.principal(&key(), at("2025-06-01T00:00:00Z")), Err(Untrusted::OutOfSeason { .. })));
        assert!(matches!(signers.principal(&key(), at("2027-01-01T00:00:00Z")), Err(Untrusted::OutOfSeason { .. })));
        assert!(signers.knows("ci-shop@acme") && !signers.knows("ci"));
        // As `ssh-keygen -l` prints it.
        assert_eq!(signers.told()[0].1, fingerprint(&key()));
    }

    #[test]
    fn a_key_for_other_namespaces_is_none_of_ours() {
        let signers = Signers::parse(&format!("anna namespaces=\"git\" ssh-ed25519 {KEY}")).unwrap();
        assert!(matches!(signers.principal(&key(), Utc::now()), Err(Untrusted::Unknown(_))));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, part) in [
            (format!("ssh-ed25519 {KEY} anna"), "principal is missing"),
            (format!("*@acme ssh-ed25519 {KEY}"), "no principal"),
            (format!("anna,ben ssh-ed25519 {KEY}"), "no principal"),
            (format!("anna cert-authority ssh-ed25519 {KEY}"), "certificate authorities"),
            (format!("anna namespaces=git ssh-ed25519 {KEY}"), "not between quotation marks"),
            (format!("anna namespaces=\"git ssh-ed25519 {KEY}"), "never closed"),
            (format!("anna valid-after=\"2026\" ssh-ed25519 {KEY}"), "no moment"),
            (format!("anna valid-after=\"20261301\" ssh-ed25519 {KEY}"), "no moment"),
            (format!("anna forever ssh-ed25519 {KEY}"), "no option"),
            ("anna ssh-ed25519 AAAA!".to_owned(), "not base64"),
            (format!("anna ssh-ed25519 {}", &KEY[..40]), "does not end"),
            (format!("anna ssh-rsa {KEY}"), "the line says ssh-rsa"),
            ("anna ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==".to_owned(), "key type other than"),
            (format!("anna ssh-ed25519 {KEY}\nben ssh-ed25519 {KEY}"), "that of anna and of ben"),
        ] {
            let bad = Signers::parse(&format!("# first\n{text}")).unwrap_err();
            assert!(bad[0].says.contains(part), "{text}: {}", bad[0].says);
            assert_eq!(bad[0].line, 1 + text.lines().count());
        }
    }

    #[test]
    fn what_is_revoked_stays_so_among_garbage() {
        let (revoked, bad) = Revoked::parse(&format!("ssh-ed25519 {KEY} lost\n\0\u{1}garbage\n"));
        assert_eq!((revoked.len(), bad.len(), bad[0].line), (1, 1, 2));
        assert!(matches!(revoked.check(&key()), Err(Untrusted::Revoked(_))));
        let (by_print, bad) = Revoked::parse(&fingerprint(&key()));
        assert!(bad.is_empty() && by_print.check(&key()).is_err());
        let (nothing, _) = Revoked::parse("garbage");
        assert!(nothing.and(&revoked).check(&key()).is_err());
    }
}
