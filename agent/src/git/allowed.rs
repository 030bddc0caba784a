//! The refs that may be released from, and which of several a commit is known by.

use std::fmt;

use agent_model::grant::RefPattern;
use agent_model::names::RefName;

/// The refs that may be released from: the app's patterns, narrowed by those of a grant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed<'a> {
    /// Of the app.
    pub app: &'a [RefPattern],
    /// Of the grant.
    pub grant: Option<&'a [RefPattern]>,
    /// The one ref that must reach the commit, where the request names it beside the commit.
    pub via: Option<&'a RefName>,
    /// The branch that the app follows by itself.
    pub follows: Option<&'a RefName>,
}

/// Who allows refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The app, for everybody.
    App,
    /// The grant of whoever asks.
    Grant,
    /// The request itself.
    Request,
}

impl fmt::Display for Whose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::App => "the app",
            Self::Grant => "the grant",
            Self::Request => "the request",
        })
    }
}

/// What a branch is called that projects release from, where the settings name none.
const USUAL: [&str; 3] = ["refs/heads/main", "refs/heads/master", "refs/heads/trunk"];

impl Allowed<'_> {
    /// Whether all that must allow a ref do.
    pub(super) fn allows(&self, reference: &RefName) -> bool {
        let fits = |patterns: &[RefPattern]| patterns.iter().any(|pattern| pattern.fits_ref(reference));
        fits(self.app) && self.grant.is_none_or(fits) && self.via.is_none_or(|via| via == reference)
    }

    /// Whether an operator has named this very ref: as the branch that the app follows, or by a pattern that fits no other one.
    pub(super) fn names(&self, reference: &RefName) -> bool {
        let named = |patterns: &[RefPattern]| patterns.iter().any(|pattern| pattern.is_exactly(reference));
        self.via == Some(reference) || self.follows == Some(reference) || named(self.app) || self.grant.is_some_and(named)
    }

    /// Which of several refs that reach a commit is told as the one by which it is released; the least is. Anybody who may push can make a branch that
    /// comes first by its name. So the ref that the request names goes first, then the branch that the app follows, then the refs that the settings
    /// name, in their order, then those that fit a pattern, branches before tags.
    pub(super) fn rank<'r>(&self, reference: &'r RefName) -> impl Ord + use<'r> {
        let place = |patterns: &[RefPattern], fits: &dyn Fn(&RefPattern) -> bool| patterns.iter().position(fits).unwrap_or(usize::MAX);
        let exactly = |pattern: &RefPattern| pattern.is_exactly(reference);
        let at_all = |pattern: &RefPattern| pattern.fits_ref(reference);
        let of_grant = self.grant.unwrap_or_default();
        (
            self.via != Some(reference),
            self.follows != Some(reference),
            (place(self.app, &exactly), place(of_grant, &exactly)),
            (place(self.app, &at_all), place(of_grant, &at_all)),
            reference.is_tag(),
            USUAL.iter().position(|usual| *usual == reference.as_str()).unwrap_or(USUAL.len()),
            reference,
        )
    }

    pub(super) fn whose(&self) -> Whose {
        match (self.via, self.grant) {
            (Some(_), _) => Whose::Request,
            (None, Some(_)) => Whose::Grant,
            (None, None) => Whose::App,
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        if let Some(via) = self.via {
            return vec![via.to_string()];
        }
        self.grant.unwrap_or(self.app).iter().map(|pattern| pattern.as_str().to_owned()).collect()
    }
}
