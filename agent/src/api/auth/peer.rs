//! Identifies a process on this host by the kernel's facts about its socket (unix(7), `SO_PEERCRED` and `SO_PEERGROUPS`), as of connect(2). Its
//! process number never gives a right, because another process may have it by now; it can only be a reason to refuse. From Linux 6.5 on the kernel
//! returns the process itself (`SO_PEERPIDFD`), which exposes a reused number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use agent_model::grant::{Caller, Power};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use tokio::net::UnixStream;

use crate::process::is_bounded;

/// The number that the kernel shows for users without a number in this namespace (user_namespaces(7)).
const UNMAPPED: u32 = 65534;

/// The caller at the other end.
///
/// # Errors
/// When the kernel does not say, or the user has no number here: then the caller is unknown. Also when it is a program of a build: the
/// agent's own user needs no grant, and a package that is being installed must not act as that user.
pub(crate) fn of(stream: &UnixStream) -> io::Result<Caller> {
    let credentials = stream.peer_cred()?;
    let uid = credentials.uid();
    if uid == UNMAPPED {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the user is not mapped into this namespace"));
    }
    if uid == geteuid().as_raw()
        && let Some(why) = match is_build(stream, credentials.pid()) {
            Some(false) => None,
            Some(true) => Some("a program that installs packages asks for nothing"),
            // A legitimate client waits for its answer, so its process still exists.
            None => Some("the process that asked is gone, or hidden, so it cannot be told whether it is a package that is being installed"),
        }
    {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut gids = peer_groups(stream)?;
    gids.push(credentials.gid());
    let name_of = |gid: &u32| Group::from_gid(Gid::from_raw(*gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
    let mut groups: Vec<String> = gids.iter().map(name_of).collect();
    groups.sort();
    groups.dedup();
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let power = if uid == 0 || uid == geteuid().as_raw() { Power::Own } else { Power::Granted };
    Ok(Caller::Unix { user, groups, power })
}

/// Whether the connected process runs within the bounds of a build; `None` when it is gone, or hidden.
fn is_build(stream: &UnixStream, number: Option<i32>) -> Option<bool> {
    let process = match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(process) => process,
        // An older kernel. A process from outside this namespace has no number here.
        Err(Errno::ENOPROTOOPT) => {
            return number.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0).map_or(Some(false), is_bounded);
        }
        Err(_) => return None,
    };
    let answer = match number_of(&process)? {
        // The process exists outside of this namespace.
        0 => Some(false),
        number => is_bounded(number.try_into().ok()?),
    };
    // The answer is about this very process if it has not ended by now (pidfd_open(2)).
    let mut asked = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ended| ended == 0).then_some(answer).flatten()
}

/// The number of a process in this namespace; 0 where it has none here, and negative where it has ended (proc_pid_fdinfo(5)).
fn number_of(process: &OwnedFd) -> Option<i32> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// The supplementary groups (`SO_PEERGROUPS`, since Linux 4.13).
#[expect(
    unsafe_code,
    reason = "no crate that is here offers SO_PEERGROUPS; the call writes at most `length` bytes into a buffer of that size"
)]
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut length = nix::libc::socklen_t::try_from(groups.len() * size_of::<u32>()).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for the life of `stream`, the buffer is writable for `length` bytes, and both outlive the call.
        let answer = unsafe {
            nix::libc::getsockopt(
                stream.as_raw_fd(),
                nix::libc::SOL_SOCKET,
                nix::libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        if answer == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let err = io::Error::last_os_error();
        // The buffer was too small, and the kernel returned the size that it needs.
        if err.raw_os_error() != Some(nix::libc::ERANGE) || count <= groups.len() {
            return Err(err);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_who_we_are() {
        let (here, _there) = UnixStream::pair().unwrap();
        let Caller::Unix { user, groups, power } = of(&here).unwrap() else { panic!("not a local caller") };
        assert_eq!(user, User::from_uid(geteuid()).unwrap().unwrap().name);
        assert!(!groups.is_empty());
        assert_eq!(power, Power::Own);
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_nobody_whoever_holds_its_connection() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        // The process connects, leaves the connection to its child, and ends.
        let script = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.fork() and os._exit(0); \
            sys.stdout.close(); s.recv(1)";
        let mut child = std::process::Command::new("python3").args(["-c", script]).arg(&path).spawn().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        child.wait().unwrap();
        // The process that now has its number is not accepted either. Only some users may choose the next number (proc_sys_kernel(5), `ns_last_pid`).
        let number = stream.peer_cred().unwrap().pid().unwrap();
        let namesake = (0..200).find_map(|_| {
            fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).ok()?;
            let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            if other.id() == number.cast_unsigned() {
                return Some(other);
            }
            other.kill().unwrap();
            other.wait().unwrap();
            None
        });
        let refused = of(&stream);
        if let Some(mut other) = namesake {
            other.kill().unwrap();
            other.wait().unwrap();
        }
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
