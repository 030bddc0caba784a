//! Why a step failed, as reported: the whole chain of causes, the remedy, and the tool's last lines.

use std::error::Error;

use serde::{Deserialize, Serialize};

use crate::database::DatabaseError;
use crate::django::ManageError;
use crate::git::GitError;
use crate::process::ProgramError;
use crate::python::PythonError;
use crate::restart::RestartError;
use crate::root::RootError;

/// Why a step failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The whole chain of causes, outermost first.
    pub reason: String,
    /// What the operator should do.
    pub hint: Option<String>,
    /// The last lines of the tool.
    pub tail: Vec<String>,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn of(err: &dyn Error, hint: Option<String>, tail: &[String]) -> Self {
        Self { reason: chain(err), hint, tail: tail.to_vec() }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let next = err.to_string();
        // A transparent error has its cause's text, and some causes repeat it with a number.
        let last = text.rsplit(": ").next().unwrap_or_default();
        if !text.ends_with(&next) && !next.ends_with(last) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = err.source();
    }
    text
}

impl From<RootError> for Failure {
    fn from(err: RootError) -> Self {
        Self::of(&err, err.hint(), &[])
    }
}

impl From<GitError> for Failure {
    fn from(err: GitError) -> Self {
        Self::of(&err, err.hint(), err.tail())
    }
}

impl From<ProgramError> for Failure {
    fn from(err: ProgramError) -> Self {
        Self::of(&err, err.hint().map(Into::into), err.tail())
    }
}

impl From<PythonError> for Failure {
    fn from(err: PythonError) -> Self {
        Self::of(&err, err.hint().map(Into::into), err.tail())
    }
}

impl From<ManageError> for Failure {
    fn from(err: ManageError) -> Self {
        Self::of(&err, err.hint().map(Into::into), err.tail())
    }
}

impl From<DatabaseError> for Failure {
    fn from(err: DatabaseError) -> Self {
        Self::of(&err, err.hint().map(Into::into), err.tail())
    }
}

impl From<RestartError> for Failure {
    fn from(err: RestartError) -> Self {
        Self::of(&err, err.hint(), err.tail())
    }
}
