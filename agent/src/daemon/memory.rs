//! The agent's memory: who may look into it, and that it is small while nothing happens.

#[cfg(target_env = "gnu")]
use nix::libc;

/// No core dump of the agent, and no look into its memory for other programs of its user: keys and secrets pass through it (prctl(2),
/// `PR_SET_DUMPABLE`). Programs that it starts are not bound by it.
pub(super) fn keep_private() {
    if let Err(err) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!("a core dump of the agent cannot be ruled out: {err}");
    }
}

/// Has all threads share two heaps: each app has a thread, which mostly sleeps, and glibc would give each a heap of its own (mallopt(3)).
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library is told so by a call of its own")]
pub(super) fn share_heaps() {
    // SAFETY: it is called before there is another thread, with a parameter that mallopt(3) names.
    let told = unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    if told == 0 {
        tracing::debug!("each thread gets a heap of its own");
    }
}

/// Gives back to the kernel what is not used (malloc_trim(3)): what a run has needed, glibc would keep for the next one.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library is told so by a call of its own")]
pub(super) fn give_back() {
    // SAFETY: it may be called at any time, by any thread.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn share_heaps() {}

#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
