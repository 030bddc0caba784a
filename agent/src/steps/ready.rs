//! Checks that need to make nothing: settings that can be read and are certainly wrong. `doctor` finds the same.

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups};

use crate::http::Target;
use crate::root::AppRoot;
use crate::settings::{App, ExecutorKind};

/// A setting that is certainly wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unready {
    /// The subject, as `doctor` calls it.
    pub what: &'static str,
    /// Whether every release must fail because of it.
    pub fatal: Fatal,
    /// The full sentence of the message.
    pub text: String,
    /// One command or one edit.
    pub hint: String,
}

/// Whether every release must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fatal {
    /// No release can go live.
    Yes,
    /// Some can.
    No,
}

/// Problems of the secrets, as far as the agent may read them.
pub(crate) fn secrets(app: &App) -> Vec<Unready> {
    let unready = |text: String, hint: String| Unready { what: "secrets", fatal: Fatal::No, text, hint };
    let mut found = Vec::new();
    for path in &app.secrets {
        let shown = path.display();
        let says_nothing = || unready(format!("{shown} sets nothing"), format!("put the secrets into {shown}, as NAME=value"));
        if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            found.push(says_nothing());
            continue;
        }
        // With units, the service manager passes the secrets to the app's programs.
        let Some(read) = (app.executor == ExecutorKind::Direct).then(|| app.read_secrets(std::slice::from_ref(path)).ok()).flatten() else {
            continue;
        };
        if read.is_empty() {
            found.push(says_nothing());
        }
        let empty: Vec<&str> = read.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name.as_str()).collect();
        if !empty.is_empty() {
            let names = empty.join(", ");
            found.push(unready(
                format!("{shown} sets {names} to nothing"),
                format!("give {names} a value in {shown}, or take the line away"),
            ));
        }
    }
    found
}

/// Files that ssh needs, as far as the app's file names them, because ssh itself reports unreadable ones poorly.
pub(crate) fn git(app: &App) -> Vec<Unready> {
    let user = || name_of(geteuid());
    let files =
        [(&app.git.ssh_key, "ssh_key", "ssh-keygen -t ed25519 -N '' -f"), (&app.git.known_hosts, "known_hosts", "ssh-keyscan HOST >>")];
    let told = files.into_iter().filter_map(|(path, key, made_by)| {
        let path = path.as_ref()?;
        let shown = path.display();
        let err = fs::File::open(path).err()?;
        let (does, hint) = match err.kind() {
            std::io::ErrorKind::NotFound => ("is not there".to_owned(), format!("{made_by} {shown}, or correct {key} in the app's file")),
            std::io::ErrorKind::PermissionDenied => {
                (format!("cannot be read by {}", user()), format!("chown {} {shown}, and let its directory be entered", user()))
            }
            _ => (format!("cannot be read: {err}"), format!("correct {key} in the app's file")),
        };
        Some(Unready { what: "git", fatal: Fatal::Yes, text: format!("{key} {shown} {does}"), hint })
    });
    told.collect()
}

/// Addresses of checks that lead nowhere.
pub(crate) fn checks(app: &App) -> Vec<Unready> {
    let mut found = Vec::new();
    for check in &app.checks {
        let shown = check.shown();
        let unready =
            |fatal, text| Unready { what: "check", fatal, text, hint: "correct url in the [[check]] of the app's file".to_owned() };
        match &check.target {
            Target::Tcp(host, _) if host.parse::<IpAddr>().is_err() => {
                if let Err(err) = (host.as_str(), 80).to_socket_addrs() {
                    found.push(unready(Fatal::Yes, format!("{shown} cannot be asked: there is no host {host} ({err})")));
                }
            }
            Target::Tcp(..) => {}
            Target::Unix(socket) | Target::Uwsgi(socket) => {
                // A unit may make it when it starts (RuntimeDirectory=).
                let dir = socket.parent().unwrap_or(Path::new("/"));
                if !dir.is_dir() {
                    found.push(unready(Fatal::No, format!("{shown} finds no socket: there is no directory {}", dir.display())));
                }
            }
        }
    }
    found
}

/// Shared directories that a serving user cannot write to.
pub(crate) fn shared(app: &App, root: &AppRoot, user: Uid) -> Vec<Unready> {
    if user.is_root() {
        return Vec::new();
    }
    let shared = root.path().join("shared");
    // Without named directories, the agent's own programs may keep a database directly in the shared one; other users need not write there.
    let whole = (app.shared.dirs.is_empty() && user == geteuid()).then(|| shared.clone());
    let dirs = app.shared.dirs.iter().map(|dir| shared.join(dir)).chain(whole);
    let groups = groups_of(user);
    let mut found: Vec<Unready> = Vec::new();
    for dir in dirs {
        let Some(owner) = cannot_write(&dir, user, &groups) else { continue };
        let (name, owner) = (name_of(user), name_of(owner));
        let (text, hint) = (
            format!("{} belongs to {owner}, and {name}, who serves, may not write in it", dir.display()),
            format!("chown -R {name} {}", dir.display()),
        );
        found.push(Unready { what: "shared", fatal: Fatal::No, text, hint });
    }
    found
}

/// The owner of a directory that a user may not write to.
fn cannot_write(dir: &PathBuf, user: Uid, groups: &[Gid]) -> Option<Uid> {
    let meta = fs::metadata(dir).ok()?;
    let bits = if meta.uid() == user.as_raw() {
        meta.mode() >> 6
    } else if groups.iter().any(|group| group.as_raw() == meta.gid()) {
        meta.mode() >> 3
    } else {
        meta.mode()
    };
    (bits & 0o3 != 0o3).then(|| Uid::from_raw(meta.uid()))
}

fn groups_of(user: Uid) -> Vec<Gid> {
    if user == geteuid() {
        return getgroups().unwrap_or_default().into_iter().chain([getegid()]).collect();
    }
    let Some(user) = User::from_uid(user).ok().flatten() else { return Vec::new() };
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid])
}

fn name_of(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn app(text: &str) -> App {
        crate::settings::parse_app(&format!("repository = \"https://x/y.git\"\n{text}"))
    }

    fn texts(found: &[Unready]) -> Vec<&str> {
        found.iter().map(|unready| unready.text.as_str()).collect()
    }

    #[test]
    fn secrets_that_set_nothing_are_told_by_name_and_never_by_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shop.env");
        let app = app(&format!("[secrets]\nfiles = [{file:?}]"));
        for (text, told) in [("", "sets nothing"), ("# soon\n", "sets nothing"), ("A=hunter2\nB=\nC=''\n", "sets B, C to nothing")] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(texts(&secrets(&app)), [format!("{} {told}", file.display())], "{text:?}");
        }
        fs::write(&file, "A=1\n").unwrap();
        assert_eq!(secrets(&app), []);
    }

    #[test]
    fn files_that_ssh_needs_and_that_are_not_there_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (key, hosts) = (dir.path().join("key"), dir.path().join("hosts"));
        let text = format!("repository = \"git@host.example:x/y.git\"\nssh_key = {key:?}\nknown_hosts = {hosts:?}\n");
        let app = crate::settings::parse_app(&text);
        let found = git(&app);
        assert_eq!(
            texts(&found),
            [format!("ssh_key {} is not there", key.display()), format!("known_hosts {} is not there", hosts.display())]
        );
        assert!(found[1].hint.starts_with("ssh-keyscan HOST >> "), "{found:?}");
        fs::write(&key, "").unwrap();
        fs::write(&hosts, "").unwrap();
        assert_eq!(git(&app), []);
    }

    #[test]
    fn an_address_of_a_check_that_leads_nowhere_is_told() {
        let found = checks(&app("[[check]]\nurl = \"http://no-such-host.invalid/\"\n[[check]]\nurl = \"unix:/nowhere/at/all.sock:/\""));
        assert_eq!(found.iter().map(|unready| unready.fatal).collect::<Vec<_>>(), [Fatal::Yes, Fatal::No]);
        assert!(found[0].text.contains("there is no host no-such-host.invalid"), "{found:?}");
        assert_eq!(found[1].text, "GET unix:/nowhere/at/all.sock:/ finds no socket: there is no directory /nowhere/at");
        assert_eq!(checks(&app("[[check]]\nurl = \"http://127.0.0.1:1/\"\n[[check]]\nurl = \"unix:/tmp/x.sock:/\"")), []);
    }

    #[test]
    fn shared_directories_of_root_are_told_of_another_user() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = AppRoot::open(dir.path()).unwrap();
        let media = dir.path().join("shared/media");
        fs::create_dir(&media).unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap().uid;
        let app = app("[shared]\ndirs = [\"media\"]");
        let found = shared(&app, &root, nobody);
        assert!(found[0].text.contains("media belongs to root, and nobody, who serves, may not write in it"), "{found:?}");
        assert_eq!(found[0].hint, format!("chown -R nobody {}", media.display()));
        assert_eq!(shared(&app, &root, Uid::from_raw(0)), []);
        chown(&media, Some(nobody.as_raw()), None).unwrap();
        assert_eq!(shared(&app, &root, nobody), [], "what is needed can be written");
    }
}
