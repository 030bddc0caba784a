//! The users that build and serve an app: two users, and neither of them root, the agent, or each other.

use std::path::{Path, PathBuf};

use agent_model::names::AppName;
use nix::unistd::{Gid, Group, Uid, User};

use super::Refusal;

/// The agent's user.
pub(super) const AGENT: &str = "release-agent";

/// A user that exists on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostUser {
    pub uid: u32,
    pub group: String,
    pub gid: u32,
    pub home: PathBuf,
}

/// A user, as far as the host knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub name: String,
    pub known: Option<HostUser>,
    /// Whether the group that it has, or will have, exists.
    pub has_group: bool,
    /// The other members of that group.
    pub companions: Vec<String>,
}

impl Person {
    /// Its group; for a user that does not exist yet, the one with its own name.
    pub(super) fn group(&self) -> &str {
        self.known.as_ref().map_or(&self.name, |known| &known.group)
    }
}

/// The origin of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// An option gave it, now or at an earlier setup.
    Said,
    /// It follows from the name of the app.
    ByApp,
}

/// The users of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct People {
    /// The user that serves, and knows the secrets.
    pub app: Person,
    pub app_chosen: Chosen,
    /// The user that builds.
    pub builder: Person,
    pub builder_chosen: Chosen,
    pub agent: HostUser,
    /// The other members of the agent's group.
    pub with_agent: Vec<String>,
}

impl People {
    /// Checks that they differ from each other, from root and from the agent.
    pub(super) fn check(&self, app: &AppName, roots: &[&Path]) -> Result<(), Refusal> {
        let both = [(&self.app, self.app_chosen, "--user"), (&self.builder, self.builder_chosen, "--build-user")];
        for (person, chosen, option) in both {
            let refuse = |what: String| Err(Refusal { what, hint: format!("name another user: {option} NAME") });
            let name = &person.name;
            if !is_name(name) {
                return refuse(format!("{name:?} cannot be the name of a user (small letters, digits, - and _; at most 32)"));
            }
            if name == "root" || name == AGENT {
                return refuse(format!("an app of {name}'s would have all of {name}'s rights"));
            }
            let Some(known) = &person.known else { continue };
            if known.uid == 0 || known.uid == self.agent.uid {
                return refuse(format!("the user {name} has the number {}, which is another user's", known.uid));
            }
            if known.gid == 0 || known.gid == self.agent.gid {
                return refuse(format!("the user {name} is in the group {}, which can read what is not {name}'s", known.group));
            }
            if chosen == Chosen::ByApp && !roots.contains(&&*known.home) {
                let what = format!(
                    "the user {name} is there already, with the home {}, and does not seem to be made for the app {app}",
                    known.home.display()
                );
                return Err(Refusal { what, hint: format!("say that it is meant: {option} {name}; or name another one") });
            }
        }
        let (user, builder) = (&self.app, &self.builder);
        let same_number = matches!((&user.known, &builder.known), (Some(one), Some(other)) if one.uid == other.uid);
        if user.name == builder.name || same_number {
            return Err(Refusal {
                what: format!("{} and {} are one user: what builds must not read the secrets of what serves", user.name, builder.name),
                hint: "name another user who builds: --build-user NAME, or leave it out".to_owned(),
            });
        }
        if user.group() == builder.group() {
            return Err(Refusal {
                what: format!(
                    "{} and {} have the same group, {}: what serves could write what is built",
                    user.name,
                    builder.name,
                    user.group()
                ),
                hint: format!("give {} a group of its own: usermod --gid, or name another user", builder.name),
            });
        }
        let strangers: Vec<&str> = builder.companions.iter().map(String::as_str).filter(|name| *name != AGENT).collect();
        if !strangers.is_empty() {
            return Err(Refusal {
                what: format!(
                    "{} in the group {} could write what is built: {}",
                    count(strangers.len()),
                    builder.group(),
                    strangers.join(", ")
                ),
                hint: format!(
                    "take them out: gpasswd --delete NAME {}; or name another user who builds: --build-user NAME",
                    builder.group()
                ),
            });
        }
        if let Some(person) = [user, builder].into_iter().find(|person| self.with_agent.contains(&person.name)) {
            return Err(Refusal {
                what: format!("{} is in the group {}, which is the agent's own", person.name, self.agent.group),
                hint: format!("take it out: gpasswd --delete {} {}", person.name, self.agent.group),
            });
        }
        if user.companions.contains(&builder.name) {
            return Err(Refusal {
                what: format!("{} is in the group {}, which reads what is shared with releases", builder.name, user.group()),
                hint: format!("take it out: gpasswd --delete {} {}", builder.name, user.group()),
            });
        }
        Ok(())
    }
}

fn count(number: usize) -> String {
    if number == 1 { "somebody".to_owned() } else { format!("{number} users") }
}

/// A name that useradd(8) accepts.
fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|first| first.is_ascii_lowercase() || first == '_');
    first && text.len() <= 32 && text.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-' || char == '_')
}

/// The existing user `name`.
pub(super) fn known(name: &str) -> Option<HostUser> {
    // A user whose lookup fails counts as missing.
    let user = User::from_name(name).ok().flatten()?;
    Some(HostUser { uid: user.uid.as_raw(), group: group_of(user.gid.as_raw()), gid: user.gid.as_raw(), home: user.dir })
}

/// The user `name`, with all members of its group.
pub(super) fn person(name: &str) -> Person {
    let known = known(name);
    let group_name = known.as_ref().map_or(name, |known| &*known.group);
    let group = Group::from_name(group_name).ok().flatten();
    let mut companions = group.as_ref().map(|group| group.mem.clone()).unwrap_or_default();
    if let Some(group) = &group {
        companions.extend(with_primary_group(group.gid.as_raw()));
    }
    companions.retain(|other| other != name);
    companions.sort();
    companions.dedup();
    Person { name: name.to_owned(), has_group: group.is_some(), companions, known }
}

/// The users in this host's own file with this primary group.
fn with_primary_group(gid: u32) -> Vec<String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let group = fields.nth(2)?;
        (group.parse() == Ok(gid)).then(|| name.to_owned())
    };
    text.lines().filter_map(of_line).collect()
}

/// A user's name, or its number where it has none.
pub(super) fn user_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// A group's name, or its number where it has none.
pub(super) fn group_of(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// Whether a user is in a group beside its own.
pub(super) fn is_in(user: &str, group: &str) -> bool {
    let listed = Group::from_name(group).ok().flatten().is_some_and(|group| group.mem.iter().any(|member| member == user));
    listed || known(user).is_some_and(|known| known.group == group)
}
