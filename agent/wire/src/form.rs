//! The body of a request: one JSON object for every act. An unknown key is refused, a name is parsed into the model's type, and the action decides
//! which of the other members it needs.

use agent_model::names::{BadName, CommitId, HostId, RefName, RunId};
use agent_model::request::{Act, DataLoss, Rebuild, Request, Right, SchemaChoice};
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// A request for `POST /v1/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// The version of this form: 1.
    pub v: u32,
    /// The hosts that it is meant for. Required over the network, where each host accepts only requests that name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
    /// The app; required by every action but `read`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app: String,
    /// The action: the word of a right, such as `release`.
    pub action: String,
    /// For `release` and `stage`: branch, tag, full ref or commit. Beside `commit`: the full ref that must reach it.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// For `release` and `stage`: the whole commit id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// For `read`: the path and query that are read, such as `/v1/apps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For `activate`, `reverse`, `pin` and `unpin`: which release. For `exec`: in which one, the live one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// For `cancel` and `settle`: the run's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// For `lock`: the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// For `exec`: the program and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The release that the caller believes to be live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// The time of issue, in seconds since 1970 UTC; required over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// The time of expiry, in seconds since 1970 UTC; required over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// 128 random bits in hexadecimal or base64url: sending the same bytes again starts nothing new.
    pub nonce: String,
    /// Optional settings of the action.
    #[serde(default, skip_serializing_if = "Options::is_plain", deserialize_with = "by_name")]
    pub options: Options,
}

/// Reads an object, member by member. A derived implementation also accepts a list with members by position, and positions could change their meaning
/// in another version.
fn by_name<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Members<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
        type Value = T;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object with named members")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Members(PhantomData))
}

/// Optional settings of an action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// For `release` and `stage`: build the environment anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebuild: bool,
    /// For `activate`: make the release live though its code does not fit the schema of the database.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_schema: bool,
    /// For `reverse`: reverse the newer migrations though rows or values go with them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_data: bool,
}

impl Options {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a form cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadForm {
    /// The form has another version.
    #[error("`v` is {0}, and this agent understands version 1")]
    Version(u32),
    /// A name breaks its rule.
    #[error("`{member}`: {source}")]
    Name {
        /// The member of the form.
        member: &'static str,
        /// The rule that the name breaks.
        #[source]
        source: BadName,
    },
    /// A required member is missing.
    #[error("the action {action} needs `{member}`")]
    Missing {
        /// The action that needs it.
        action: String,
        /// The missing member.
        member: &'static str,
    },
    /// The action is one that only reads.
    #[error("the action {0} asks for nothing to be done: GET the address, or send the action read with `path`")]
    NotAnAct(String),
    /// A text is too long, too short or has forbidden characters.
    #[error("`{member}` {rule}")]
    Text {
        /// The member of the form.
        member: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

fn named<T: std::str::FromStr<Err = BadName>>(member: &'static str, text: &str) -> Result<T, BadForm> {
    text.parse().map_err(|source| BadForm::Name { member, source })
}

impl Form {
    /// Parses the text of a request.
    ///
    /// # Errors
    /// When it is no object, or has an unknown member, a duplicate one, or one of another type.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let form = by_name(&mut deserializer)?;
        deserializer.end()?;
        Ok(form)
    }

    /// A form with only an app, an action and a nonce.
    pub fn new(app: impl Into<String>, action: Right, nonce: String) -> Self {
        Self {
            v: 1,
            aud: None,
            app: app.into(),
            action: action.word().to_owned(),
            revision: None,
            commit: None,
            path: None,
            release: None,
            run: None,
            why: None,
            command: None,
            prev: None,
            iat: None,
            exp: None,
            nonce,
            options: Options::default(),
        }
    }

    /// The path of a `read`.
    ///
    /// # Errors
    /// When it has none, or one that is no reading address.
    pub fn reads(&self) -> Result<Option<&str>, BadForm> {
        if self.action != Right::Read.word() {
            return Ok(None);
        }
        self.check_version_and_nonce()?;
        let path = self.path.as_deref().ok_or_else(|| BadForm::Missing { action: self.action.clone(), member: "path" })?;
        let fits = path.starts_with("/v1/") && path.len() <= 1024 && path.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'#');
        if !fits {
            return Err(BadForm::Text { member: "path", rule: "must be a path below /v1/, percent-encoded, of at most 1,024 characters" });
        }
        Ok(Some(path))
    }

    fn check_version_and_nonce(&self) -> Result<(), BadForm> {
        if self.v != 1 {
            return Err(BadForm::Version(self.v));
        }
        let nonce_fits =
            (16..=64).contains(&self.nonce.len()) && self.nonce.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !nonce_fits {
            return Err(BadForm::Text { member: "nonce", rule: "must be 16 to 64 letters, digits, hyphens or underscores" });
        }
        Ok(())
    }

    /// The requested commit, and the ref that must reach it.
    fn revision(&self) -> Result<(agent_model::names::Revision, Option<RefName>), BadForm> {
        match &self.commit {
            Some(commit) => {
                named::<CommitId>("commit", commit)?;
                let via = self.revision.as_deref().map(|via| named("ref", via)).transpose()?;
                Ok((named("commit", commit)?, via))
            }
            None => Ok((named("ref", self.needs("ref", &self.revision)?)?, None)),
        }
    }

    fn needs<'a, T>(&'a self, member: &'static str, value: &'a Option<T>) -> Result<&'a T, BadForm> {
        value.as_ref().ok_or_else(|| BadForm::Missing { action: self.action.clone(), member })
    }
}

impl TryFrom<&Form> for Request {
    type Error = BadForm;
    fn try_from(form: &Form) -> Result<Self, BadForm> {
        form.check_version_and_nonce()?;
        let release = || named("release", form.needs("release", &form.release)?);
        let rebuild = if form.options.rebuild { Rebuild::Always } else { Rebuild::WhenNeeded };
        let act = match named::<Right>("action", &form.action)? {
            Right::Release => {
                let (revision, via) = form.revision()?;
                Act::Release { revision, via, rebuild }
            }
            Right::Stage => {
                let (revision, via) = form.revision()?;
                Act::Stage { revision, via, rebuild }
            }
            Right::Activate => {
                let schema = if form.options.keep_schema { SchemaChoice::Keep } else { SchemaChoice::MustFit };
                Act::Activate { release: release()?, schema }
            }
            Right::Reverse => {
                let loss = if form.options.drop_data { DataLoss::Accepted } else { DataLoss::Refused };
                Act::Activate { release: release()?, schema: SchemaChoice::Reverse(loss) }
            }
            Right::Restart => Act::Restart,
            Right::Prune => Act::Prune,
            Right::Mend => Act::Mend,
            Right::Check => Act::Check,
            Right::Lock => {
                let why = form.needs("why", &form.why)?.trim();
                if why.is_empty() || why.len() > 500 || why.contains(char::is_control) {
                    return Err(BadForm::Text { member: "why", rule: "must be one line of 1 to 500 bytes" });
                }
                Act::Lock { why: why.to_owned() }
            }
            Right::Unlock => Act::Unlock,
            Right::Pin => Act::Pin { release: release()? },
            Right::Unpin => Act::Unpin { release: release()? },
            Right::Cancel => {
                let run = *form.needs("run", &form.run)?;
                Act::Cancel { run: named::<RunId>("run", &run.to_string())? }
            }
            Right::Settle => {
                let run = form.run.map(|run| named::<RunId>("run", &run.to_string())).transpose()?;
                Act::Settle { run }
            }
            Right::Exec => {
                let command = form.needs("command", &form.command)?;
                let fits = |part: &String| !part.contains('\0');
                if command.is_empty() || command.iter().map(String::len).sum::<usize>() > MOST_COMMAND || !command.iter().all(fits) {
                    return Err(BadForm::Text {
                        member: "command",
                        rule: "must be a program and its arguments, of at most 16 KiB, without a NUL",
                    });
                }
                let release = form.release.as_deref().map(|release| named("release", release)).transpose()?;
                Act::Exec { release, command: command.clone() }
            }
            right @ (Right::Plan | Right::Read) => return Err(BadForm::NotAnAct(right.word().to_owned())),
        };
        let expect_live = form.prev.as_deref().map(|prev| named("prev", prev)).transpose()?;
        Ok(Self { app: named("app", &form.app)?, act, expect_live })
    }
}

/// The longest command, in bytes.
const MOST_COMMAND: usize = 16 * 1024;
/// The longest that a request may be valid, in seconds.
pub const MOST_VALID: u64 = 900;
/// The accepted difference between two clocks, in seconds.
pub const CLOCK_SKEW: u64 = 60;
/// The most hosts that one request may be meant for.
pub const MOST_HOSTS: usize = 64;
/// The fewest characters of a nonce over the network: 128 bits in base64url.
const FEWEST_NONCE: usize = 22;

/// The hosts and the time of a request. Required over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    hosts: Vec<HostId>,
    issued: u64,
    expires: u64,
}

/// Why a request is not for this host, or not for now. The client may read this, because its signature was verified before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotNow {
    /// The request is for another host.
    #[error("the request is for {}, and this host is {host}", meant.iter().map(HostId::as_str).collect::<Vec<_>>().join(", "))]
    OtherHost {
        /// This host's name.
        host: HostId,
        /// The hosts that the request names.
        meant: Vec<HostId>,
    },
    /// The request has expired.
    #[error("the request expired {0} seconds ago")]
    Expired(u64),
    /// The request is not valid yet: one of the two clocks is wrong.
    #[error("the request was issued {0} seconds in the future: compare the clocks")]
    Early(u64),
    /// It is older than this agent's memory.
    #[error("the request was issued before this agent's journal began, so nobody can tell whether it was carried out already")]
    TooOld,
}

impl Envelope {
    /// Reads it from a form.
    ///
    /// # Errors
    /// When a member is missing or breaks its rule, or the request would be valid for longer than [`MOST_VALID`].
    pub fn of(form: &Form) -> Result<Self, BadForm> {
        let missing = |member| BadForm::Missing { action: form.action.clone(), member };
        let text = |member, rule| BadForm::Text { member, rule };
        form.check_version_and_nonce()?;
        let hosts = form.aud.as_ref().ok_or_else(|| missing("aud"))?;
        if !(1..=MOST_HOSTS).contains(&hosts.len()) {
            return Err(text("aud", "must name 1 to 64 hosts"));
        }
        let hosts = hosts.iter().map(|host| named("aud", host)).collect::<Result<Vec<HostId>, _>>()?;
        let issued = form.iat.ok_or_else(|| missing("iat"))?;
        let expires = form.exp.ok_or_else(|| missing("exp"))?;
        if expires <= issued || expires - issued > MOST_VALID {
            return Err(text("exp", "must lie 1 to 900 seconds behind `iat`"));
        }
        if form.nonce.len() < FEWEST_NONCE {
            return Err(text("nonce", "must hold 128 random bits: 22 characters of base64url, or 32 hexadecimal digits"));
        }
        let makes_a_release = [Right::Release, Right::Stage].iter().any(|right| form.action == right.word());
        if makes_a_release && let Some(reference) = &form.revision {
            // No name that could mean another commit tomorrow: neither `main` nor the first digits of a commit.
            named::<RefName>("ref", reference)?;
        }
        Ok(Self { hosts, issued, expires })
    }

    /// Whether it is for this host, and for now. `now` and `not_before` are seconds since 1970 UTC; a request issued before `not_before` is refused.
    ///
    /// # Errors
    /// [`NotNow`], the first that applies.
    pub fn check(&self, host: &HostId, now: u64, not_before: u64) -> Result<(), NotNow> {
        if !self.hosts.contains(host) {
            return Err(NotNow::OtherHost { host: host.clone(), meant: self.hosts.clone() });
        }
        if self.issued > now.saturating_add(CLOCK_SKEW) {
            return Err(NotNow::Early(self.issued - now));
        }
        if self.expires.saturating_add(CLOCK_SKEW) <= now {
            return Err(NotNow::Expired(now - self.expires));
        }
        if self.issued < not_before { Err(NotNow::TooOld) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Request, String> {
        let form = Form::parse(text).map_err(|err| err.to_string())?;
        Request::try_from(&form).map_err(|err| err.to_string())
    }

    #[test]
    fn a_release_is_understood() {
        let request =
            form(r#"{"v":1,"app":"shop","action":"release","ref":"main","nonce":"0123456789abcdef","options":{"rebuild":true}}"#).unwrap();
        assert_eq!(request.act, Act::Release { revision: "main".parse().unwrap(), via: None, rebuild: Rebuild::Always });
    }

    #[test]
    fn a_stage_says_what_a_release_says() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let request = form(&format!(r#"{{"v":1,"app":"shop","action":"stage","ref":"refs/heads/main","commit":"{commit}",{NETWORK}}}"#));
        let via = Some("refs/heads/main".parse().unwrap());
        assert_eq!(request.unwrap().act, Act::Stage { revision: commit.parse().unwrap(), via, rebuild: Rebuild::WhenNeeded });
        assert!(form(r#"{"v":1,"app":"shop","action":"stage","nonce":"0123456789abcdef"}"#).unwrap_err().contains("needs `ref`"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            (r#"{"v":2,"app":"shop","action":"prune","nonce":"0123456789abcdef"}"#, "version 1"),
            (r#"{"v":1,"app":"Shop","action":"prune","nonce":"0123456789abcdef"}"#, "`app`"),
            (r#"{"v":1,"app":"shop","action":"explode","nonce":"0123456789abcdef"}"#, "is none of release"),
            (r#"{"v":1,"app":"shop","action":"release","nonce":"0123456789abcdef"}"#, "needs `ref`"),
            (r#"{"v":1,"app":"shop","action":"release","ref":"--upload-pack=x","nonce":"0123456789abcdef"}"#, "hyphen"),
            (r#"{"v":1,"app":"shop","action":"read","nonce":"0123456789abcdef"}"#, "GET the address"),
            (r#"{"v":1,"app":"shop","action":"prune","nonce":"short"}"#, "`nonce`"),
            (r#"{"v":1,"app":"shop","action":"lock","why":"a\nb","nonce":"0123456789abcdef"}"#, "`why`"),
            (r#"{"v":1,"app":"shop","action":"prune","nonce":"0123456789abcdef","force":true}"#, "unknown field `force`"),
            (
                r#"[1,null,"shop","prune",null,null,null,null,null,null,null,null,null,"0123456789abcdef",{}]"#,
                "an object with named members",
            ),
            (
                r#"{"v":1,"app":"shop","action":"release","ref":"main","nonce":"0123456789abcdef","options":[true]}"#,
                "an object with named members",
            ),
            (r#"{"v":1,"app":"shop","action":"prune","nonce":"0123456789abcdef"} {}"#, "trailing characters"),
            (r#"{"v":1,"v":1,"app":"shop","action":"prune","nonce":"0123456789abcdef"}"#, "duplicate field `v`"),
        ] {
            let err = form(text).unwrap_err();
            assert!(err.contains(part), "{text}: {err}");
        }
    }

    const NETWORK: &str = r#""aud":["web1.example.org","web2"],"iat":1000,"exp":1900,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#;

    fn envelope(text: &str) -> Result<Envelope, String> {
        let form: Form = serde_json::from_str(text).map_err(|err| err.to_string())?;
        Envelope::of(&form).map_err(|err| err.to_string())
    }

    #[test]
    fn a_commit_and_the_ref_that_must_reach_it() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let request = form(&format!(r#"{{"v":1,"app":"shop","action":"release","ref":"refs/heads/main","commit":"{commit}",{NETWORK}}}"#));
        let via = Some("refs/heads/main".parse().unwrap());
        assert_eq!(request.unwrap().act, Act::Release { revision: commit.parse().unwrap(), via, rebuild: Rebuild::WhenNeeded });
        let short = form(&format!(r#"{{"v":1,"app":"shop","action":"release","ref":"main","commit":"{commit}",{NETWORK}}}"#));
        assert!(short.unwrap_err().contains("refs/heads/"));
        let cut = form(&format!(r#"{{"v":1,"app":"shop","action":"release","commit":"0123456",{NETWORK}}}"#));
        assert!(cut.unwrap_err().contains("40 or 64"));
    }

    #[test]
    fn what_a_request_over_the_network_must_say() {
        let text = |more: &str| format!(r#"{{"v":1,"app":"shop","action":"prune"{more}}}"#);
        assert!(envelope(&text(&format!(",{NETWORK}"))).is_ok());
        for (more, part) in [
            (r#","iat":1,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "needs `aud`"),
            (r#","aud":[],"iat":1,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "1 to 64 hosts"),
            (r#","aud":["Web1"],"iat":1,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "`aud`"),
            (r#","aud":["web1"],"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "needs `iat`"),
            (r#","aud":["web1"],"iat":1,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "needs `exp`"),
            (r#","aud":["web1"],"iat":1,"exp":902,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "1 to 900 seconds"),
            (r#","aud":["web1"],"iat":2,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "1 to 900 seconds"),
            (r#","aud":["web1"],"iat":1,"exp":2,"nonce":"0123456789abcdef""#, "128 random bits"),
            (r#","aud":["web1"],"iat":-1,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "integer `-1`"),
            (r#","aud":["web1"],"iat":1.0,"exp":2,"nonce":"mJx3w2n9QhGv0e1o7uTq4A""#, "floating point"),
        ] {
            let err = envelope(&text(more)).unwrap_err();
            assert!(err.contains(part), "{more}: {err}");
        }
        for action in ["release", "stage"] {
            let short = envelope(&format!(r#"{{"v":1,"app":"shop","action":"{action}","ref":"main",{NETWORK}}}"#));
            assert!(short.unwrap_err().contains("must begin with refs/heads/"));
        }
    }

    #[test]
    fn the_edges_of_the_window_are_where_they_are_said_to_be() {
        let envelope = envelope(&format!(r#"{{"v":1,"app":"shop","action":"prune",{NETWORK}}}"#)).unwrap();
        let host: HostId = "web1.example.org".parse().unwrap();
        let check = |now, not_before| envelope.check(&host, now, not_before);
        assert_eq!(check(939, 0), Err(NotNow::Early(61)));
        assert_eq!(check(940, 0), Ok(()));
        assert_eq!(check(1959, 1000), Ok(()));
        assert_eq!(check(1960, 0), Err(NotNow::Expired(60)));
        assert_eq!(check(1500, 1001), Err(NotNow::TooOld));
        let other = envelope.check(&"web3".parse().unwrap(), 1500, 0).unwrap_err().to_string();
        assert_eq!(other, "the request is for web1.example.org, web2, and this host is web3");
    }

    #[test]
    fn a_read_names_a_path_of_the_interface() {
        let read = |path: &str| {
            let form: Form = serde_json::from_str(&format!(r#"{{"v":1,"action":"read","path":{path:?},{NETWORK}}}"#)).unwrap();
            form.reads().map(|path| path.map(str::to_owned)).map_err(|err| err.to_string())
        };
        assert_eq!(read("/v1/runs/7/events?after=3"), Ok(Some("/v1/runs/7/events?after=3".to_owned())));
        for path in ["", "/", "/metrics", "http://x/v1/apps", "/v1/a b", "/v1/#x"] {
            assert!(read(path).is_err(), "{path}");
        }
    }
}
