//! The caller, and its rights. Every caller was proven before it became a value here, and every principal has a type. Everything that no grant allows
//! is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::names::{AppName, BadName, RefName};
use crate::request::{Refusal, Right};

/// The proven sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this host, identified by the kernel's facts about its socket.
    Unix {
        /// The user's name, or its number where the host has no name for it.
        user: String,
        /// The names of the user's groups, supplementary ones included.
        groups: Vec<String>,
        /// Whether the caller could do everything that the agent can without it.
        power: Power,
    },
    /// The holders of the private keys that signed the request: one entry for each signature. A grant decides how many principals it needs.
    Keys(Vec<Signer>),
    /// A CI job, identified by the ID token from its issuer.
    Token {
        /// The issuer's name in `agent.toml`.
        issuer: String,
        /// The job's owner for messages, such as `acme/shop`.
        subject: String,
        /// The claims that a grant may require, each as a text.
        claims: BTreeMap<String, String>,
        /// Claims that a grant must name before it covers this job. In these the job differs from an operator's expectation, such as a workflow that
        /// another repository wrote.
        unusual: BTreeSet<String>,
        /// The token's own number (RFC 7519, section 4.1.7): it starts at most one run.
        id: String,
    },
    /// A webhook said that a repository may have changed. The agent polled it, because the app is set to follow this ref.
    Webhook {
        /// The sender of the webhook, such as `github`.
        source: String,
        /// The ref that the app follows.
        follows: RefName,
    },
    /// The agent itself.
    Agent,
}

/// A key that signed a request, by its name in `allowed_signers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The principal, such as `ci-shop@acme`.
    pub principal: String,
    /// Whether the key can be copied.
    pub key: KeyKind,
}

/// The place of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A file or an agent: the key can be copied.
    Software,
    /// A hardware authenticator that a person touched for this signature.
    Hardware,
}

/// Whether a local caller needs a grant at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The user that the agent runs as, or root: a refusal would only hide what they can do anyway.
    Own,
    /// Any other user, who has only the rights of grants.
    Granted,
}

impl Caller {
    /// Whether it is a process on this host, and not a request from the network.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Unix { .. })
    }

    /// Whether the caller could do all that the agent can without asking it, and so needs no grant.
    pub fn needs_no_grant(&self) -> bool {
        matches!(self, Self::Agent | Self::Unix { power: Power::Own, .. })
    }

    /// Whether the caller has no limits: a caller who needs no grant, or a webhook, whose polls have a rate of their own.
    pub fn has_no_limit(&self) -> bool {
        self.needs_no_grant() || matches!(self, Self::Webhook { .. })
    }

    /// The principals of the caller, for a message about a missing grant.
    pub fn principals(&self) -> Vec<String> {
        match self {
            Self::Unix { user, groups, .. } => {
                let groups = groups.iter().map(|group| format!("unix-group:{group}"));
                [format!("unix-user:{user}")].into_iter().chain(groups).collect()
            }
            Self::Keys(signers) => signers.iter().map(|signer| format!("key:{}", signer.principal)).collect(),
            Self::Token { issuer, .. } => vec![format!("oidc:{issuer}")],
            Self::Webhook { .. } | Self::Agent => Vec::new(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { user, .. } => write!(formatter, "unix:{user}"),
            Self::Keys(signers) => {
                let mut names: Vec<&str> = signers.iter().map(|signer| signer.principal.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                write!(formatter, "key:{}", names.join("+"))
            }
            Self::Token { issuer, subject, .. } => write!(formatter, "oidc:{issuer}:{subject}"),
            Self::Webhook { source, .. } => write!(formatter, "webhook:{source}"),
            Self::Agent => formatter.write_str("agent"),
        }
    }
}

/// The subject of a grant. Every principal has a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// `unix-user:anna`
    UnixUser(String),
    /// `unix-group:deployers`
    UnixGroup(String),
    /// `key:ci-shop@acme`: a signer with a key of this principal in `allowed_signers`.
    Key(String),
    /// `oidc:github`: a job with a token of this issuer that has the claims of the grant.
    Oidc(String),
}

impl FromStr for Principal {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let named = |name: &str| !name.is_empty() && !name.contains(|char: char| char.is_whitespace() || char.is_control());
        match text.split_once(':') {
            Some(("unix-user", name)) if named(name) => Ok(Self::UnixUser(name.to_owned())),
            Some(("unix-group", name)) if named(name) => Ok(Self::UnixGroup(name.to_owned())),
            Some(("key", name)) if named(name) => Ok(Self::Key(name.to_owned())),
            Some(("oidc", name)) if named(name) => Ok(Self::Oidc(name.to_owned())),
            _ => Err(BadName {
                what: "principal",
                text: text.chars().take(80).collect(),
                rule: "must be unix-user:NAME, unix-group:NAME, key:NAME or oidc:ISSUER",
            }),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixUser(name) => write!(formatter, "unix-user:{name}"),
            Self::UnixGroup(name) => write!(formatter, "unix-group:{name}"),
            Self::Key(name) => write!(formatter, "key:{name}"),
            Self::Oidc(name) => write!(formatter, "oidc:{name}"),
        }
    }
}

/// A scope of a grant: everything, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope<T> {
    /// `*`
    All,
    /// A list of items.
    Only(Vec<T>),
}

impl<T: PartialEq> Scope<T> {
    /// Whether `item` is in the scope.
    pub fn holds(&self, item: &T) -> bool {
        match self {
            Self::All => true,
            Self::Only(items) => items.contains(item),
        }
    }
}

/// A pattern for the full name of a branch (`refs/heads/…`) or of a tag (`refs/tags/…`). `*` stands for any characters, slashes too; every other
/// character for itself. A pattern for short names would let a tag pass for the branch of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern(String);

impl RefPattern {
    /// The pattern that matches branches by their short names.
    ///
    /// # Errors
    /// [`BadName`] for a text that cannot be a branch.
    pub fn branch(short: &str) -> Result<Self, BadName> {
        Self::of_kind("refs/heads/", short)
    }

    /// The pattern that matches tags by their short names.
    ///
    /// # Errors
    /// [`BadName`] for a text that cannot be a tag.
    pub fn tag(short: &str) -> Result<Self, BadName> {
        Self::of_kind("refs/tags/", short)
    }

    fn of_kind(prefix: &str, short: &str) -> Result<Self, BadName> {
        let fits = !short.is_empty()
            && !short.starts_with('-')
            && !short.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"~^:?[\\".contains(&byte));
        if fits {
            Ok(Self(format!("{prefix}{short}")))
        } else {
            let rule = "must be the name of a branch or tag, where * stands for any characters";
            Err(BadName { what: "ref pattern", text: short.chars().take(80).collect(), rule })
        }
    }

    /// Whether a ref matches.
    pub fn fits_ref(&self, reference: &RefName) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = reference.as_str().strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// The pattern that matches this ref alone: no ref has a `*` in its name.
    pub fn exactly(reference: &RefName) -> Self {
        Self(reference.as_str().to_owned())
    }

    /// The ref, if the pattern matches only one.
    pub fn only(&self) -> Option<RefName> {
        self.0.parse().ok()
    }

    /// Whether the pattern matches this ref and no other one.
    pub fn is_exactly(&self, reference: &RefName) -> bool {
        self.0 == reference.as_str()
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefPattern {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let of_kind = |prefix: &str| text.strip_prefix(prefix).map(|short| Self::of_kind(prefix, short));
        of_kind("refs/heads/").or_else(|| of_kind("refs/tags/")).unwrap_or_else(|| {
            let rule = "must begin with refs/heads/ or refs/tags/";
            Err(BadName { what: "ref pattern", text: text.chars().take(80).collect(), rule })
        })
    }
}

/// Whether a release may go back behind the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Downgrade {
    /// The commit must be the live one, or descend from it.
    #[default]
    Refused,
    /// Any commit that an allowed ref reaches.
    Allowed,
}

/// A permission from the operator's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The principals; any of them suffices.
    pub to: Vec<Principal>,
    /// The apps that it covers.
    pub apps: Scope<AppName>,
    /// The rights that it gives.
    pub rights: Scope<Right>,
    /// Patterns for the refs that may be released; `None` means all that the app allows.
    pub refs: Option<Vec<RefPattern>>,
    /// For keys: how many different principals of `to` must have signed.
    pub signatures: usize,
    /// For keys: the kinds of key whose signatures count.
    pub key_kinds: KeyKinds,
    /// For tokens: the required claims.
    pub claims: BTreeMap<String, String>,
    /// For releases: whether they may go back.
    pub downgrade: Downgrade,
}

/// The kinds of key whose signatures count for a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKinds {
    /// Keys in files and agents.
    #[default]
    Software,
    /// These, and hardware authenticators too.
    Any,
    /// Hardware authenticators alone.
    Hardware,
}

impl KeyKinds {
    fn holds(self, kind: KeyKind) -> bool {
        matches!((self, kind), (Self::Any, _) | (Self::Software, KeyKind::Software) | (Self::Hardware, KeyKind::Hardware))
    }
}

impl Grant {
    /// Whether it gives this right. `release` includes `stage`, because a release does all that a stage does.
    pub fn allows(&self, right: Right) -> bool {
        self.rights.holds(&right) || right == Right::Stage && self.rights.holds(&Right::Release)
    }

    /// A grant of these rights, with defaults for the rest.
    pub fn new(to: Vec<Principal>, apps: Scope<AppName>, rights: Scope<Right>) -> Self {
        Self {
            to,
            apps,
            rights,
            refs: None,
            signatures: 1,
            key_kinds: KeyKinds::default(),
            claims: BTreeMap::new(),
            downgrade: Downgrade::default(),
        }
    }

    /// Whether the grant covers the caller.
    pub fn means(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Unix { user, groups, .. } => self.to.iter().any(|principal| match principal {
                Principal::UnixUser(name) => name == user,
                Principal::UnixGroup(name) => groups.contains(name),
                Principal::Key(_) | Principal::Oidc(_) => false,
            }),
            Caller::Keys(signers) => {
                let named = |signer: &Signer| self.to.iter().any(|to| matches!(to, Principal::Key(name) if *name == signer.principal));
                let counting = signers.iter().filter(|signer| self.key_kinds.holds(signer.key) && named(signer));
                let mut principals: Vec<&str> = counting.map(|signer| signer.principal.as_str()).collect();
                principals.sort_unstable();
                // Two signatures of one principal are one vote, by one key or by two: a key belongs to one principal.
                principals.dedup();
                principals.len() >= self.signatures.max(1)
            }
            Caller::Token { issuer, claims, unusual, .. } => {
                let named = self.to.iter().any(|to| matches!(to, Principal::Oidc(name) if name == issuer));
                // A grant without claims would cover every job of every user of that issuer.
                named
                    && !self.claims.is_empty()
                    && self.claims.iter().all(|(claim, wanted)| claims.get(claim) == Some(wanted))
                    && unusual.iter().all(|claim| self.claims.contains_key(claim))
            }
            Caller::Webhook { .. } | Caller::Agent => false,
        }
    }
}

/// The refs from which a caller may release a commit that does not descend from the live one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Back {
    /// No ref.
    #[default]
    Never,
    /// All refs that may be released.
    Always,
    /// The refs that match one of these patterns.
    From(Vec<RefPattern>),
}

impl Back {
    /// Whether a commit that this ref reaches may go back.
    pub fn allows(&self, reference: &RefName) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::From(refs) => refs.iter().any(|pattern| pattern.fits_ref(reference)),
        }
    }
}

/// The proof that a caller may do a thing to an app. Only [`authorise`] makes it, and code that acts requires it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorised {
    caller: Caller,
    right: Right,
    refs: Option<Vec<RefPattern>>,
    back: Back,
}

impl Authorised {
    /// The caller that was authorised.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The right that was checked.
    pub fn right(&self) -> Right {
        self.right
    }

    /// The ref patterns of the grant, if it has any.
    pub fn refs(&self) -> Option<&[RefPattern]> {
        self.refs.as_deref()
    }

    /// The refs from which a release may go back.
    pub fn back(&self) -> &Back {
        &self.back
    }

    /// Whether the grant allows a release of this ref.
    pub fn allows_ref(&self, reference: &RefName) -> bool {
        self.refs.as_ref().is_none_or(|refs| refs.iter().any(|pattern| pattern.fits_ref(reference)))
    }
}

/// Whether `caller` may use `right` on `app`.
///
/// # Errors
/// [`Refusal::NotAllowed`], with the missing grant.
pub fn authorise(caller: Caller, right: Right, app: &AppName, grants: &[Grant]) -> Result<Authorised, Refusal> {
    if caller.needs_no_grant() {
        return Ok(Authorised { caller, right, refs: None, back: Back::Always });
    }
    // The app's own file is the grant: it says that the app follows this ref. A webhook has no other right.
    if let Caller::Webhook { follows, .. } = &caller
        && right == Right::Release
    {
        let refs = Some(vec![RefPattern::exactly(follows)]);
        return Ok(Authorised { caller, right, refs, back: Back::Never });
    }
    let fitting: Vec<&Grant> = grants.iter().filter(|grant| grant.means(&caller) && grant.apps.holds(app) && grant.allows(right)).collect();
    if fitting.is_empty() {
        return Err(Refusal::NotAllowed { caller: caller.to_string(), right, app: app.clone() });
    }
    // Grants add up. One without refs allows all refs; otherwise the patterns of every matching grant count.
    let together =
        |grants: &[&Grant]| grants.iter().map(|grant| grant.refs.clone()).collect::<Option<Vec<_>>>().map(|lists| lists.concat());
    let downward: Vec<&Grant> = fitting.iter().copied().filter(|grant| grant.downgrade == Downgrade::Allowed).collect();
    let back = match together(&downward) {
        Some(refs) if refs.is_empty() => Back::Never,
        Some(refs) => Back::From(refs),
        None => Back::Always,
    };
    Ok(Authorised { caller, right, refs: together(&fitting), back })
}

/// The grant that would give this caller the right, for an operator to add.
pub fn missing_grant(caller: &str, app: &str, right: Right) -> String {
    let more = if caller.starts_with("oidc:") {
        ", claims = { … }; a job that is unusual needs the claim in which it is among them"
    } else {
        ""
    };
    let to = match caller.split_once(':') {
        Some(("unix", user)) => format!("unix-user:{user}"),
        Some(("oidc", job)) => format!("oidc:{}", job.split(':').next().unwrap_or(job)),
        _ => caller.to_owned(),
    };
    format!("an operator can add it to agent.toml: [[grant]] to = \"{to}\", apps = [\"{app}\"], actions = [\"{right}\"]{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_by_default_and_a_grant_gives_what_it_says() {
        let app: AppName = "shop".parse().unwrap();
        let anna = Caller::Unix { user: "anna".into(), groups: vec!["deployers".into()], power: Power::Granted };
        assert!(matches!(authorise(anna.clone(), Right::Read, &app, &[]), Err(Refusal::NotAllowed { .. })));
        let to = vec!["unix-group:deployers".parse().unwrap()];
        let narrow = Grant {
            refs: Some(vec![RefPattern::tag("v*").unwrap()]),
            ..Grant::new(to, Scope::Only(vec![app.clone()]), Scope::Only(vec![Right::Release]))
        };
        let allowed = authorise(anna.clone(), Right::Release, &app, std::slice::from_ref(&narrow)).unwrap();
        assert_eq!(allowed.refs().unwrap().len(), 1);
        assert!(authorise(anna.clone(), Right::Activate, &app, std::slice::from_ref(&narrow)).is_err());
        assert!(authorise(anna.clone(), Right::Release, &"other".parse().unwrap(), std::slice::from_ref(&narrow)).is_err());
        let wide = Grant { refs: None, ..narrow.clone() };
        assert!(authorise(anna, Right::Release, &app, &[narrow.clone(), wide]).unwrap().refs().is_none());
        let ben = Caller::Unix { user: "ben".into(), groups: vec![], power: Power::Granted };
        assert!(authorise(ben, Right::Release, &app, &[narrow]).is_err());
    }

    #[test]
    fn who_may_release_may_stage_and_who_may_stage_may_nothing_more() {
        let app: AppName = "shop".parse().unwrap();
        let anna = Caller::Unix { user: "anna".into(), groups: vec![], power: Power::Granted };
        let may = |given: Right, wanted: Right| {
            let grant = Grant::new(vec!["unix-user:anna".parse().unwrap()], Scope::All, Scope::Only(vec![given]));
            authorise(anna.clone(), wanted, &app, &[grant]).is_ok()
        };
        for given in Right::ALL {
            for wanted in Right::ALL {
                let included = given == Right::Release && wanted == Right::Stage;
                assert_eq!(may(given, wanted), given == wanted || included, "{given} for {wanted}");
            }
        }
    }

    fn signer(principal: &str, key: KeyKind) -> Signer {
        Signer { principal: principal.into(), key }
    }

    #[test]
    fn each_principal_is_one_vote_and_only_keys_of_the_right_kind_have_one() {
        let to = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Principal>>();
        let two = Grant { signatures: 2, ..Grant::new(to(&["key:anna", "key:ben"]), Scope::All, Scope::All) };
        let software = |name| signer(name, KeyKind::Software);
        assert!(two.means(&Caller::Keys(vec![software("anna"), software("ben")])));
        assert!(!two.means(&Caller::Keys(vec![software("anna"), software("anna")])), "two keys of one principal");
        assert!(!two.means(&Caller::Keys(vec![software("anna"), software("eve")])));
        let one = Grant::new(to(&["key:anna"]), Scope::All, Scope::All);
        let hardware = Caller::Keys(vec![signer("anna", KeyKind::Hardware)]);
        assert!(!one.means(&hardware));
        assert!(Grant { key_kinds: KeyKinds::Any, ..one.clone() }.means(&hardware));
        let only_hardware = Grant { key_kinds: KeyKinds::Hardware, ..one.clone() };
        assert!(only_hardware.means(&hardware) && !only_hardware.means(&Caller::Keys(vec![software("anna")])));
        let anna = Caller::Unix { user: "anna".into(), groups: vec!["anna".into()], power: Power::Granted };
        assert!(!one.means(&anna), "a user of the name of a key is no key");
    }

    #[test]
    fn a_token_needs_every_claim_of_its_grant_and_a_grant_without_claims_lets_nobody_in() {
        let claims = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let job = Caller::Token {
            issuer: "github".into(),
            subject: "acme/shop".into(),
            claims: claims(&[("repository_id", "7"), ("environment", "production"), ("event_name", "issue_comment")]),
            unusual: BTreeSet::new(),
            id: "a-job".into(),
        };
        let open = Grant::new(vec!["oidc:github".parse().unwrap()], Scope::All, Scope::All);
        assert!(!open.means(&job));
        assert!(Grant { claims: claims(&[("repository_id", "7")]), ..open.clone() }.means(&job));
        assert!(!Grant { claims: claims(&[("repository_id", "8")]), ..open.clone() }.means(&job));
        assert!(!Grant { claims: claims(&[("repository_id", "7"), ("sub", "x")]), ..open.clone() }.means(&job));
        let other = Grant { to: vec!["oidc:gitlab".parse().unwrap()], claims: claims(&[("repository_id", "7")]), ..open };
        assert!(!other.means(&job));
        let Caller::Token { issuer, subject, claims: said, id, .. } = job else { panic!("not a token") };
        let unlike = Caller::Token { issuer, subject, claims: said, unusual: BTreeSet::from(["event_name".to_owned()]), id };
        let named = Grant::new(vec!["oidc:github".parse().unwrap()], Scope::All, Scope::All);
        assert!(!Grant { claims: claims(&[("repository_id", "7")]), ..named.clone() }.means(&unlike), "nothing says that comments may");
        assert!(Grant { claims: claims(&[("repository_id", "7"), ("event_name", "issue_comment")]), ..named }.means(&unlike));
    }

    #[test]
    fn who_may_go_back_may_do_so_from_the_refs_of_that_grant_alone() {
        let app: AppName = "shop".parse().unwrap();
        let anna = Caller::Keys(vec![signer("anna", KeyKind::Software)]);
        let wide = Grant::new(vec!["key:anna".parse().unwrap()], Scope::All, Scope::Only(vec![Right::Release]));
        let tags = Grant { refs: Some(vec![RefPattern::tag("v*").unwrap()]), downgrade: Downgrade::Allowed, ..wide.clone() };
        let back = |grants: &[Grant]| authorise(anna.clone(), Right::Release, &app, grants).unwrap().back().clone();
        assert_eq!(back(std::slice::from_ref(&wide)), Back::Never);
        assert_eq!(back(&[Grant { downgrade: Downgrade::Allowed, ..wide.clone() }]), Back::Always);
        let both = back(&[wide, tags]);
        assert!(both.allows(&"refs/tags/v1".parse().unwrap()) && !both.allows(&"refs/heads/main".parse().unwrap()));
    }

    #[test]
    fn a_webhook_may_release_what_the_app_follows_and_nothing_else() {
        let app: AppName = "shop".parse().unwrap();
        let webhook = Caller::Webhook { source: "github".into(), follows: "refs/heads/main".parse().unwrap() };
        let allowed = authorise(webhook.clone(), Right::Release, &app, &[]).unwrap();
        assert!(allowed.allows_ref(&"refs/heads/main".parse().unwrap()) && !allowed.allows_ref(&"refs/heads/other".parse().unwrap()));
        for right in Right::ALL.into_iter().filter(|right| *right != Right::Release) {
            assert!(authorise(webhook.clone(), right, &app, &[]).is_err(), "{right}");
        }
    }

    #[test]
    fn a_pattern_of_full_names_tells_a_branch_from_a_tag() {
        let fits = |pattern: &str, name: &str| pattern.parse::<RefPattern>().unwrap().fits_ref(&name.parse().unwrap());
        assert!(fits("refs/heads/main", "refs/heads/main") && !fits("refs/heads/main", "refs/tags/main"));
        assert!(fits("refs/tags/v*", "refs/tags/v1") && !fits("refs/tags/v*", "refs/heads/v1"));
        for bad in ["main", "*", "refs/*", "refs/heads/", "refs/heads/-x", "refs/tags/a b", "heads/main"] {
            assert!(bad.parse::<RefPattern>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn patterns_of_refs() {
        for (pattern, name, fits) in [
            ("main", "main", true),
            ("main", "main2", false),
            ("v*", "v1.0", true),
            ("v*", "main/v1", false),
            ("release/*", "release/2026/11", true),
            ("*", "anything/at/all", true),
            ("v*-rc*", "v1-rc2", true),
            ("v*-rc*", "v1", false),
            ("a*a", "a", false),
            ("a*b*a", "aba", true),
        ] {
            let reference = format!("refs/heads/{name}").parse().unwrap();
            assert_eq!(RefPattern::branch(pattern).unwrap().fits_ref(&reference), fits, "{pattern} {name}");
        }
    }
}
