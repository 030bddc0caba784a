//! What the ID token of a CI job says of the job, by the kind of CI.
//!
//! GitHub: docs.github.com, "OpenID Connect reference". GitLab: docs.gitlab.com, "OpenID Connect (OIDC) authentication using ID tokens". A project is
//! told by its number: a name that was given up can be taken by somebody else. A job that outsiders can bring about is nobody's to release with.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::names::{CommitId, RefName};
use thiserror::Error;

use super::jwt::{BadToken, Claims};

/// A job of a CI, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CiJob {
    /// Whose it is, for people: such as `acme/shop`.
    pub subject: String,
    /// The claims that a grant may ask for.
    pub claims: BTreeMap<String, String>,
    /// Claims that a grant must name before it means this job: those in which it is unlike what an operator has in mind.
    pub unusual: BTreeSet<String>,
    /// The token's own number.
    pub id: String,
    /// When the token was made, in seconds since 1970 UTC.
    pub issued: u64,
    /// The commit that the job is of.
    pub commit: CommitId,
    /// The ref that the job is of.
    pub reference: RefName,
}

/// A job asks for a release of something that it is not of itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum OtherWork {
    /// The request leaves it open.
    #[error("a request with an ID token must name the `{0}` that the job is of")]
    Unnamed(&'static str),
    /// Another commit.
    #[error("the ID token is of a job of the commit {token}, and the request names {request}")]
    Commit {
        /// The job's.
        token: CommitId,
        /// The request's.
        request: String,
    },
    /// Another ref.
    #[error("the ID token is of a job of {token}, and the request names {request}")]
    Reference {
        /// The job's.
        token: RefName,
        /// The request's.
        request: String,
    },
}

impl CiJob {
    /// Whether a release of `commit`, which `reference` reaches, is one that this job may ask for: that of what it ran for, and no other.
    ///
    /// # Errors
    /// [`OtherWork`]
    pub(crate) fn is_of(&self, commit: Option<&str>, reference: Option<&str>) -> Result<(), OtherWork> {
        let commit = commit.ok_or(OtherWork::Unnamed("commit"))?;
        let reference = reference.ok_or(OtherWork::Unnamed("ref"))?;
        if commit != self.commit.as_str() {
            return Err(OtherWork::Commit { token: self.commit.clone(), request: commit.to_owned() });
        }
        if reference != self.reference.as_str() {
            return Err(OtherWork::Reference { token: self.reference.clone(), request: reference.to_owned() });
        }
        Ok(())
    }
}

/// What begins a job of GitHub's and can be done by nobody who may not write to the repository. Other events, such as a comment, begin jobs of the
/// default branch at the wish of anybody.
const USUAL_EVENTS: [&str; 7] = ["push", "workflow_dispatch", "schedule", "release", "create", "deployment", "repository_dispatch"];
/// Events whose jobs may run what somebody else wrote.
const FOREIGN_EVENTS: [&str; 3] = ["pull_request", "pull_request_target", "workflow_run"];

/// A job of GitHub Actions.
pub(super) fn of_github(claims: &Claims, id: &str) -> Result<CiJob, BadToken> {
    for number in ["repository_id", "repository_owner_id"] {
        claims.number(number)?;
    }
    let event = claims.text("event_name")?;
    if FOREIGN_EVENTS.contains(&event) {
        return Err(BadToken::Claim { claim: "event_name", rule: "is one whose jobs may run what somebody else wrote" });
    }
    let repository = subject(claims, "repository")?;
    let mut unusual = BTreeSet::new();
    if !USUAL_EVENTS.contains(&event) {
        unusual.insert("event_name".to_owned());
    }
    // A workflow of another repository is run with this one's claims when this one calls it, and is changed by whoever writes there.
    if !claims.text("job_workflow_ref")?.strip_prefix(repository.as_str()).is_some_and(|rest| rest.starts_with('/')) {
        unusual.insert("job_workflow_ref".to_owned());
    }
    let reference = claims.text("ref")?.to_owned();
    job(claims, id, repository, unusual, &reference)
}

/// What begins a pipeline of GitLab's and can be done by nobody who may not write to the project.
const USUAL_SOURCES: [&str; 7] = ["push", "web", "schedule", "api", "trigger", "pipeline", "chat"];
/// Sources whose pipelines may run what somebody else wrote.
const FOREIGN_SOURCES: [&str; 2] = ["merge_request_event", "external_pull_request_event"];

/// A job of GitLab CI.
pub(super) fn of_gitlab(claims: &Claims, id: &str) -> Result<CiJob, BadToken> {
    for number in ["project_id", "namespace_id"] {
        claims.number(number)?;
    }
    let source = claims.text("pipeline_source")?;
    if FOREIGN_SOURCES.contains(&source) {
        return Err(BadToken::Claim { claim: "pipeline_source", rule: "is one whose pipelines may run what somebody else wrote" });
    }
    // A child pipeline does not say what began its parent.
    let usual = USUAL_SOURCES.contains(&source);
    let unusual = if usual { BTreeSet::new() } else { BTreeSet::from(["pipeline_source".to_owned()]) };
    let reference = if claims.has("ref_path") {
        claims.text("ref_path")?.to_owned()
    } else {
        // GitLab before 16.0.
        match claims.text("ref_type")? {
            "branch" => format!("refs/heads/{}", claims.text("ref")?),
            "tag" => format!("refs/tags/{}", claims.text("ref")?),
            _ => return Err(BadToken::Claim { claim: "ref_type", rule: "is neither branch nor tag" }),
        }
    };
    job(claims, id, subject(claims, "project_path")?, unusual, &reference)
}

/// A name for people: it goes into events and lists.
fn subject(claims: &Claims, claim: &'static str) -> Result<String, BadToken> {
    let text = claims.text(claim)?;
    let fits = text.len() <= 255 && text.contains('/') && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err(BadToken::Claim { claim, rule: "is not the path of a project" }) }
}

fn job(claims: &Claims, id: &str, subject: String, unusual: BTreeSet<String>, reference: &str) -> Result<CiJob, BadToken> {
    let commit = claims.text("sha")?.parse().map_err(|_| BadToken::Claim { claim: "sha", rule: "is not a whole commit id" })?;
    let reference = reference.parse().map_err(|_| BadToken::Claim { claim: "ref", rule: "is neither a branch nor a tag" })?;
    Ok(CiJob { subject, claims: claims.texts(), unusual, id: id.to_owned(), issued: claims.moment("iat")?, commit, reference })
}
