//! `[[report]]` of an app: whom the agent tells how releases go, and the files with what it proves itself by.

use std::path::{Path, PathBuf};

use agent_model::names::AppName;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::kinds::{absolute, one_of, parsed, switch};
use super::reader::{Section, Value, shown};
use super::{Complaint, secrets};
use crate::https::{Roots, check_address};

/// `[[report]]`: one place that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// `to`, with what belongs to it.
    pub to: To,
    /// `url` without a slash at its end: the base of the forge's API, or the receiver itself.
    pub url: String,
    /// `token_file` or `secret_file`
    pub secret_file: PathBuf,
    /// `ca`
    pub roots: Roots,
    /// Where it stands in the file, from 1: what people call it by.
    pub place: usize,
}

/// `to`: what is told, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// `github`: commit statuses, and deployments.
    Github {
        /// `repository`: `owner/name`.
        repository: String,
        /// `context`: what the status is called.
        context: String,
        /// `environment` of the deployments; nothing with `deployments = false`.
        environment: Option<String>,
    },
    /// `gitlab`: commit statuses.
    Gitlab {
        /// `repository`: the number of the project, or its path.
        project: String,
        /// `context`: what the status is called.
        context: String,
    },
    /// `webhook`: signed messages after Standard Webhooks 1.0.
    Webhook,
}

/// The words of `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Github,
    Gitlab,
    Webhook,
}

impl Word {
    fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Webhook => "webhook",
        }
    }
}

const GITHUB: &str = "https://api.github.com";
const GITLAB: &str = "https://gitlab.com";
const ENVIRONMENT: &str = "production";

impl Report {
    /// What the journal knows it by: the same as long as the same place is told the same thing. The address goes in as a digest, for that of a
    /// receiver may be a secret.
    pub(crate) fn key(&self) -> String {
        let (word, about) = match &self.to {
            To::Github { repository, context, environment } => {
                ("github", format!("{repository}\n{context}\n{}", environment.as_deref().unwrap_or_default()))
            }
            To::Gitlab { project, context } => ("gitlab", format!("{project}\n{context}")),
            To::Webhook => ("webhook", String::new()),
        };
        let digest = digest::digest(&digest::SHA256, format!("{}\n{about}", self.url).as_bytes());
        format!("{word}:{}", hex::encode(&digest.as_ref()[..8]))
    }

    /// How it is named in sentences.
    pub(crate) fn shown(&self) -> String {
        match &self.to {
            To::Github { repository, .. } => format!("github {repository}"),
            To::Gitlab { project, .. } => format!("gitlab {project}"),
            To::Webhook => {
                let host = self.url.split("://").nth(1).unwrap_or_default();
                format!("webhook {}", host.split(['/', '?']).next().unwrap_or_default())
            }
        }
    }

    /// The key that names the file, and the file's content: for a forge its token.
    pub(crate) fn secret_key(&self) -> &'static str {
        if self.to == To::Webhook { "secret_file" } else { "token_file" }
    }

    /// Reads the token of a forge.
    pub(crate) fn token(&self) -> Result<String, Box<Complaint>> {
        let text = secrets::read_closed(&self.secret_file)?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Box::new(Complaint::of_file(&self.secret_file, "must hold one token, and nothing else")));
        }
        Ok(token.to_owned())
    }

    /// Reads the secrets of a webhook: one a line, and the message carries a signature by each, so that a secret can be replaced without a gap
    /// (Standard Webhooks 1.0, "Secret rotation").
    pub(crate) fn secrets(&self) -> Result<Vec<Vec<u8>>, Box<Complaint>> {
        let text = secrets::read_closed(&self.secret_file)?;
        parse_secrets(&self.secret_file, &text)
    }

    /// Whether what it needs can be read; for `doctor`.
    pub(crate) fn examine(&self) -> Result<(), Box<Complaint>> {
        match self.to {
            To::Webhook => self.secrets().map(|_| ()),
            _ => self.token().map(|_| ()),
        }
    }
}

fn parse_secrets(file: &Path, text: &str) -> Result<Vec<Vec<u8>>, Box<Complaint>> {
    let says = "must hold a secret in the form whsec_ and 24 to 64 bytes in base64, one a line";
    let hint = "make one: echo whsec_$(head -c 32 /dev/urandom | base64 -w0)";
    let wrong = || Box::new(Complaint::of_file(file, says).hint(hint));
    let secret = |line: &str| {
        let bytes = STANDARD.decode(line.strip_prefix("whsec_")?).ok()?;
        (24..=64).contains(&bytes.len()).then_some(bytes)
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Option<Vec<Vec<u8>>> = lines.map(secret).collect();
    secrets.filter(|secrets| !secrets.is_empty()).ok_or_else(wrong)
}

pub(super) fn read(name: &AppName, top: &Section<'_>) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for (place, section) in top.tables("report").iter().enumerate() {
        let Some(report) = one(name, section, place + 1) else { continue };
        if let Some(other) = reports.iter().find(|other| other.key() == report.key()) {
            let hint = "leave one of them out, or give them different contexts";
            section.complain("", format!("tells the same place the same as report[{}]", other.place), hint);
        }
        reports.push(report);
    }
    reports
}

fn one(name: &AppName, section: &Section<'_>, place: usize) -> Option<Report> {
    let word = section.need("to", one_of(&[("github", Word::Github), ("gitlab", Word::Gitlab), ("webhook", Word::Webhook)]));
    let url = section.get("url", parsed(|text| check_address(text).map(|()| text.trim_end_matches('/').to_owned())));
    let repository = section.get("repository", repository_of(word));
    let token_file = section.get("token_file", absolute);
    let secret_file = section.get("secret_file", absolute);
    let context = section.get("context", parsed(parse_label)).unwrap_or_else(|| format!("release-agent/{name}"));
    let environment = section.get("environment", parsed(parse_label)).unwrap_or_else(|| ENVIRONMENT.to_owned());
    let deployments = section.get("deployments", switch).unwrap_or(true);
    let ca = section.get("ca", absolute);
    let word = word?;
    let (needed, idle): (&[&str], &[&str]) = match word {
        Word::Github => (&["repository", "token_file"], &["secret_file"]),
        Word::Gitlab => (&["repository", "token_file"], &["secret_file", "environment", "deployments"]),
        Word::Webhook => (&["url", "secret_file"], &["repository", "token_file", "context", "environment", "deployments"]),
    };
    for key in idle.iter().filter(|key| section.has(key)) {
        section.complain(key, format!("does nothing in a report to {}", word.word()), format!("leave {key} out"));
    }
    for key in needed.iter().filter(|key| !section.has(key)) {
        section.complain("", format!("needs {key} to tell {}", word.word()), format!("add {key} = \"…\""));
    }
    if deployments_are_off(section, deployments) && section.has("environment") {
        section.complain("environment", "is of deployments, and they are turned off", "leave environment out, or deployments = false");
    }
    if word != Word::Webhook && url.as_deref().is_some_and(|url| url.contains('?') || url.contains("/api/v4")) {
        section.complain(
            "url",
            "must be the base of the API, and has too much behind it",
            "for GitLab https://host, for GitHub https://host/api/v3",
        );
    }
    let to = match word {
        Word::Github => To::Github { repository: repository?, context, environment: deployments.then_some(environment) },
        Word::Gitlab => To::Gitlab { project: repository?, context },
        Word::Webhook => To::Webhook,
    };
    let usual = match word {
        Word::Github => Some(GITHUB),
        Word::Gitlab => Some(GITLAB),
        Word::Webhook => None,
    };
    let url = if section.has("url") { url? } else { usual?.to_owned() };
    let secret_file = if word == Word::Webhook { secret_file? } else { token_file? };
    Some(Report { to, url, secret_file, roots: ca.map_or(Roots::System, Roots::File), place })
}

fn deployments_are_off(section: &Section<'_>, deployments: bool) -> bool {
    section.has("deployments") && !deployments
}

/// The repository, as the forge that is told calls it. Only what cannot break out of a path of the API is taken.
fn repository_of<'a>(word: Option<Word>) -> impl Fn(&Value<'a>) -> Option<String> {
    move |value| {
        parsed(|text| {
            let part = |part: &str| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            };
            let parts = text.split('/').count();
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let fits = text.len() <= 250
                && text.split('/').all(part)
                && match word {
                    Some(Word::Gitlab) => parts >= 2 || is_number,
                    _ => parts == 2,
                };
            match word {
                _ if fits => Ok(text.to_owned()),
                Some(Word::Gitlab) => {
                    Err(format!("{:?} must be the number of the project, or its path, such as \"acme/shop\"", shown(text)))
                }
                _ => Err(format!("{:?} must be owner/name, such as \"acme/shop\"", shown(text))),
            }
        })(value)
    }
}

/// GitHub takes 255 characters for the name of an environment.
fn parse_label(text: &str) -> Result<String, String> {
    let fits = !text.trim().is_empty() && text.chars().count() <= 100 && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("must be one line of 1 to 100 characters".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_those_of_standard_webhooks() {
        let file = Path::new("x");
        let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        assert_eq!(parse_secrets(file, &format!("{}\n", secret(24))).unwrap(), [vec![7; 24]]);
        assert_eq!(parse_secrets(file, &format!("{}\n\n {} \n", secret(32), secret(64))).unwrap().len(), 2);
        for bad in [String::new(), "hunter2".into(), secret(23), secret(65), secret(32).replace("whsec_", ""), format!("{}!", secret(32))] {
            let complaint = parse_secrets(file, &bad).unwrap_err().to_string();
            assert!(complaint.contains("whsec_") && !complaint.contains("hunter2") && !complaint.contains("Bwc"), "{complaint}");
        }
    }

    #[test]
    fn what_is_stored_and_shown_has_nothing_of_a_receivers_path() {
        let report = Report {
            to: To::Webhook,
            url: "https://hooks.example:8443/services/T00/hunter2".into(),
            secret_file: "/x".into(),
            roots: Roots::System,
            place: 1,
        };
        assert_eq!(report.shown(), "webhook hooks.example:8443");
        assert!(report.key().starts_with("webhook:") && report.key().len() == 24, "{}", report.key());
    }
}
