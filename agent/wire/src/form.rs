//! What clients send: one JSON object for every act. An unknown key is refused, a name is parsed into the model's type, and the action decides
//! which of the other members it needs.

use agent_model::names::{BadName, RunId};
use agent_model::request::{Act, Rebuild, Request, Right};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A request as it is sent to `POST /v1/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// The version of this form: 1.
    pub v: u32,
    /// The app.
    pub app: String,
    /// The action: the word of a right, such as `release`.
    pub action: String,
    /// For `release`: branch, tag, full ref or commit.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// For `activate`, `pin` and `unpin`: which release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// For `cancel`: which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    /// For `lock`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The release that the caller believes to be live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// 128 random bits in hexadecimal or base64url: the same bytes sent again start nothing new.
    pub nonce: String,
    /// What else can be wished for.
    #[serde(default, skip_serializing_if = "Options::is_plain")]
    pub options: Options,
}

/// What else can be wished for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// For `release`: build the environment anew.
    #[serde(default)]
    pub rebuild: bool,
}

impl Options {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a form says nothing that can be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadForm {
    /// Another version.
    #[error("`v` is {0}, and this agent understands version 1")]
    Version(u32),
    /// A name breaks its rule.
    #[error("`{member}`: {source}")]
    Name {
        /// The member of the form.
        member: &'static str,
        /// What is wrong.
        #[source]
        source: BadName,
    },
    /// A member is missing.
    #[error("the action {action} needs `{member}`")]
    Missing {
        /// The action.
        action: String,
        /// The member.
        member: &'static str,
    },
    /// The action is one that only looks.
    #[error("the action {0} asks for nothing to be done; read it with GET")]
    NotAnAct(String),
    /// A text is too long, too short or of the wrong characters.
    #[error("`{member}` {rule}")]
    Text {
        /// The member of the form.
        member: &'static str,
        /// The rule.
        rule: &'static str,
    },
}

fn named<T: std::str::FromStr<Err = BadName>>(member: &'static str, text: &str) -> Result<T, BadForm> {
    text.parse().map_err(|source| BadForm::Name { member, source })
}

impl Form {
    /// A form with only an app, an action and a nonce.
    pub fn new(app: impl Into<String>, action: Right, nonce: String) -> Self {
        Self {
            v: 1,
            app: app.into(),
            action: action.word().to_owned(),
            revision: None,
            release: None,
            run: None,
            why: None,
            prev: None,
            nonce,
            options: Options::default(),
        }
    }

    fn needs<'a, T>(&'a self, member: &'static str, value: &'a Option<T>) -> Result<&'a T, BadForm> {
        value.as_ref().ok_or_else(|| BadForm::Missing { action: self.action.clone(), member })
    }
}

impl TryFrom<&Form> for Request {
    type Error = BadForm;
    fn try_from(form: &Form) -> Result<Self, BadForm> {
        if form.v != 1 {
            return Err(BadForm::Version(form.v));
        }
        let nonce_fits =
            (16..=64).contains(&form.nonce.len()) && form.nonce.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !nonce_fits {
            return Err(BadForm::Text { member: "nonce", rule: "must be 16 to 64 letters, digits, hyphens or underscores" });
        }
        let release = || named("release", form.needs("release", &form.release)?);
        let act = match named::<Right>("action", &form.action)? {
            Right::Release => Act::Release {
                revision: named("ref", form.needs("ref", &form.revision)?)?,
                rebuild: if form.options.rebuild { Rebuild::Always } else { Rebuild::WhenNeeded },
            },
            Right::Activate => Act::Activate { release: release()? },
            Right::Prune => Act::Prune,
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
            right @ (Right::Plan | Right::Read) => return Err(BadForm::NotAnAct(right.word().to_owned())),
        };
        let expect_live = form.prev.as_deref().map(|prev| named("prev", prev)).transpose()?;
        Ok(Self { app: named("app", &form.app)?, act, expect_live })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Request, String> {
        let form: Form = serde_json::from_str(text).map_err(|err| err.to_string())?;
        Request::try_from(&form).map_err(|err| err.to_string())
    }

    #[test]
    fn a_release_is_understood() {
        let request =
            form(r#"{"v":1,"app":"shop","action":"release","ref":"main","nonce":"0123456789abcdef","options":{"rebuild":true}}"#).unwrap();
        assert_eq!(request.act, Act::Release { revision: "main".parse().unwrap(), rebuild: Rebuild::Always });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            (r#"{"v":2,"app":"shop","action":"prune","nonce":"0123456789abcdef"}"#, "version 1"),
            (r#"{"v":1,"app":"Shop","action":"prune","nonce":"0123456789abcdef"}"#, "`app`"),
            (r#"{"v":1,"app":"shop","action":"explode","nonce":"0123456789abcdef"}"#, "is none of release"),
            (r#"{"v":1,"app":"shop","action":"release","nonce":"0123456789abcdef"}"#, "needs `ref`"),
            (r#"{"v":1,"app":"shop","action":"release","ref":"--upload-pack=x","nonce":"0123456789abcdef"}"#, "hyphen"),
            (r#"{"v":1,"app":"shop","action":"read","nonce":"0123456789abcdef"}"#, "read it with GET"),
            (r#"{"v":1,"app":"shop","action":"prune","nonce":"short"}"#, "`nonce`"),
            (r#"{"v":1,"app":"shop","action":"lock","why":"a\nb","nonce":"0123456789abcdef"}"#, "`why`"),
            (r#"{"v":1,"app":"shop","action":"prune","nonce":"0123456789abcdef","force":true}"#, "unknown field `force`"),
            (r#"{"v":1,"v":1,"app":"shop","action":"prune","nonce":"0123456789abcdef"}"#, "duplicate field `v`"),
        ] {
            let err = form(text).unwrap_err();
            assert!(err.contains(part), "{text}: {err}");
        }
    }
}
