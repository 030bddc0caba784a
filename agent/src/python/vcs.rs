//! Requirements that name a place whose content can change: a branch or a tag of a repository, a file by its URL.
//!
//! The text of such a requirement stays the same when what it names moves. So what git names is asked for, by git, before the key is made, and goes
//! into the key. What cannot be asked for has the environment built for its release alone, as what is installed from the release itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PythonError;
use super::host::Host;
use super::key::{Key, without_userinfo};
use super::requirements::{Reading, index_of, is_whole_id};
use crate::process::sandbox::Bounds;
use crate::process::{ProgramError, Watch};

/// How long a repository may take to answer. An installer waits longer; what cannot be asked in this time is built anew.
const LIMIT: Duration = Duration::from_secs(30);

/// A requirement that names such a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moving {
    /// For people: `requirements.txt, line 3`.
    pub by: String,
    /// The package, where the requirement tells its name.
    pub name: Option<String>,
    /// The place.
    pub place: Place,
}

/// A place whose content can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A ref of a git repository; without a name, whatever its HEAD is.
    Git {
        /// The repository.
        url: String,
        /// The name of a branch or tag, or the beginning of a commit.
        reference: Option<String>,
    },
    /// A repository that nobody asks here: of another system, or with a variable in its address.
    Unasked {
        /// Where it is.
        url: String,
    },
    /// A file, without its hash.
    File {
        /// Where it is.
        url: String,
    },
}

impl Place {
    /// Understands the URL of a requirement; nothing where it names what stays the same, or a path on this host.
    pub(super) fn of(url: &str) -> Option<Self> {
        let (bare, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (scheme, rest) = bare.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let (system, transport) = scheme.split_once('+').unwrap_or((if scheme == "git" { "git" } else { "" }, &scheme));
        let named = match rest.split_once('/') {
            Some((host, path)) => path.rsplit_once('@').map(|(path, name)| (format!("{transport}://{host}/{path}"), name)),
            None => None,
        };
        let (url, reference) = named.map_or_else(|| (format!("{transport}://{rest}"), None), |(url, name)| (url, Some(name.to_owned())));
        match (system, transport) {
            (_, "file") => None,
            ("", "http" | "https" | "ftp") => {
                let hashed = fragment.split('&').any(|part| ["sha256=", "sha384=", "sha512="].iter().any(|hash| part.starts_with(hash)));
                (!hashed).then(|| Self::File { url: bare.to_owned() })
            }
            ("git", _) if reference.as_deref().is_some_and(is_whole_id) => None,
            ("git", "http" | "https" | "ssh" | "git") if !bare.contains('$') => Some(Self::Git { url, reference }),
            ("", _) => None,
            _ => Some(Self::Unasked { url }),
        }
    }

    fn host(&self) -> String {
        let (Self::Git { url, .. } | Self::Unasked { url } | Self::File { url }) = self;
        index_of(url)
    }
}

/// What a repository said.
enum Said {
    /// The name stands for these objects, each with its full name.
    Objects(Vec<(String, String)>),
    /// It has nothing by this name, which may be the beginning of a commit.
    Commit,
    /// It has nothing by this name.
    Nothing,
    /// Nothing, for this reason.
    Silent(String),
}

/// Adds to the key what the requirements name at this moment, and notes it.
///
/// # Errors
/// [`PythonError::Program`] where the run was cancelled meanwhile.
pub(super) fn resolve(
    host: &Host,
    reading: &mut Reading,
    bounds: &Arc<Bounds>,
    key: &mut Key,
    watch: &Watch<'_>,
) -> Result<(), PythonError> {
    if reading.tied {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for Moving { by, name, place } in std::mem::take(&mut reading.moving) {
        let what = name.unwrap_or_else(|| "what it names".to_owned());
        let at = place.host();
        match &place {
            Place::File { .. } => {
                reading.notes.push(format!("{by}: {what} is a file at {at} without a hash: it is fetched anew only with --rebuild"));
            }
            Place::Unasked { .. } => {
                reading.tie_for(format!("{by}: the repository of {what} at {at} cannot be asked where it stands"));
            }
            Place::Git { url, reference } => {
                let wanted = reference.as_deref().unwrap_or("HEAD");
                if !seen.insert((url.clone(), wanted.to_owned())) {
                    continue;
                }
                match ask(host, url, wanted, bounds, watch)? {
                    Said::Objects(objects) => {
                        key.add("repository", without_userinfo(url));
                        for (full, id) in &objects {
                            key.add("ref", full);
                            key.add("object", id);
                        }
                        let short: String = objects.last().map(|(_, id)| id.chars().take(12).collect()).unwrap_or_default();
                        reading.notes.push(format!("{by}: {what} is at {short} in its repository at {at}"));
                    }
                    Said::Commit => {}
                    Said::Nothing => {
                        reading.tie_for(format!("{by}: the repository of {what} at {at} has no branch and no tag of that name"))
                    }
                    Said::Silent(why) => {
                        reading.tie_for(format!("{by}: the repository of {what} at {at} cannot be asked where it stands ({why})"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Asks a repository, as an installer would reach it: with the same variables, the same user's settings of git and ssh, within the same bounds.
fn ask(host: &Host, url: &str, wanted: &str, bounds: &Arc<Bounds>, watch: &Watch<'_>) -> Result<Said, PythonError> {
    let names = match wanted {
        "HEAD" => vec!["HEAD".to_owned()],
        full if full.starts_with("refs/") => vec![full.to_owned()],
        short => vec![format!("refs/heads/{short}"), format!("refs/tags/{short}"), format!("refs/tags/{short}^{{}}")],
    };
    let git = host.program("git").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git").env("LC_ALL", "C.UTF-8");
    let git = git.args(["ls-remote", "--"]).arg(url).args(&names).quiet().confined(bounds);
    let deadline = watch.deadline.min(Instant::now() + LIMIT);
    match git.capture(&Watch { deadline, ..*watch }) {
        Ok(finished) => {
            let text = finished.text();
            let lines = text.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| names.iter().any(|wanted| wanted == name));
            let objects: Vec<(String, String)> = lines.map(|(id, name)| (name.to_owned(), id.to_owned())).collect();
            let is_commit = (7..=64).contains(&wanted.len()) && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
            Ok(if !objects.is_empty() {
                Said::Objects(objects)
            } else if is_commit {
                Said::Commit
            } else {
                Said::Nothing
            })
        }
        Err(source @ ProgramError::Cancelled(_)) => {
            Err(PythonError::Program { act: "asking where a requirement's repository stands".into(), hint: None, source })
        }
        Err(ProgramError::TimedOut { .. }) => Ok(Said::Silent(format!("no answer in {} s", LIMIT.as_secs()))),
        Err(source) => Ok(Said::Silent(source.tail().last().map_or_else(|| source.to_string(), |line| without_userinfo(line)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_can_change_are_told_from_those_that_cannot() {
        let git = |url: &str, name: &str| Some(Place::Git { url: url.into(), reference: (!name.is_empty()).then(|| name.into()) });
        let sha = "0123456789abcdef0123456789abcdef01234567";
        for (url, place) in [
            ("git+https://h.test/a/b.git@main", git("https://h.test/a/b.git", "main")),
            ("git+https://h.test/a/b.git@feature/x#egg=b&subdirectory=c", git("https://h.test/a/b.git", "feature/x")),
            ("git+ssh://git@h.test:22/a/b.git", git("ssh://git@h.test:22/a/b.git", "")),
            ("git+ssh://git@h.test/a/b.git@v1", git("ssh://git@h.test/a/b.git", "v1")),
            ("git+https://user:secret@h.test/b", git("https://user:secret@h.test/b", "")),
            (&format!("git+https://h.test/b@{sha}"), None),
            ("git+https://h.test/b@0123456", git("https://h.test/b", "0123456")),
            ("git+file:///srv/b@main", None),
            ("git+https://${TOKEN}@h.test/b@main", Some(Place::Unasked { url: "https://${TOKEN}@h.test/b".into() })),
            ("hg+https://h.test/b@tip", Some(Place::Unasked { url: "https://h.test/b".into() })),
            ("https://h.test/b-1.0.zip", Some(Place::File { url: "https://h.test/b-1.0.zip".into() })),
            ("https://h.test/b-1.0.zip#sha256=00", None),
            ("file:///srv/b", None),
            ("b==1.0", None),
        ] {
            assert_eq!(Place::of(url), place, "{url}");
        }
    }
}
