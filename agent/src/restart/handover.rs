//! One instance per release. The agent starts the new one on a socket of its own and runs the checks there before any visitor reaches it. Then it
//! replaces the name that the visitors' proxy connects to, and lets the former instance finish.
//!
//! ```text
//!             start, ask            rename                 drained, told to stop
//! (nothing) ───────────▶ asked ───────────▶ named ─ ─ ─ ─▶ former ───────────▶ (nothing)
//!                          │ does not answer  ▲               │
//!                          ▼                  └───────────────┘ rename back: warm
//!                      (nothing)
//! ```
//!
//! A systemd instance is named after its release. With slots it is named after one of a few names that the releases take in turn: then the units are
//! known beforehand, and the agent needs no rights over other units.

mod instance;
mod record;
mod renewal;
mod standing;
#[cfg(test)]
mod tests;
mod workers;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent_model::names::ReleaseName;

use super::proof::{Asking, Crew, go_on};
use super::worker::{self, Worker};
use super::{Patience, Prepared, ReleaseRef, RestartContext, RestartError, Revived, ServingProof, Steadiness};
use crate::http;
use crate::http::MOST_SOCKET_PATH;
use crate::process::{Process, Watch};
use crate::root::{Slot, Slots};
use crate::systemd::{Bus, instance_name};
use instance::{Instance, Instances};
pub(crate) use record::{StartedAgain, recorded, started_again};
pub(crate) use standing::Standing;
pub(super) use workers::Finishing;

/// How long after the rename a connection made just before it may take to become visible.
const AFTER_RENAME: Duration = Duration::from_millis(200);

/// `[restart] strategy = "handover"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The name that nginx connects to. Instances bind `<socket>.<release>`; the name is a link to one of them, replaced by rename.
    pub socket: PathBuf,
    pub starter: Starter,
    /// The slot names, used in turn; empty when instances are named after their releases. Only units have slots.
    pub slots: Vec<Slot>,
    /// How long an instance may take until it accepts connections.
    pub start_timeout: Duration,
    /// How long the former instance may take to finish its requests after the name has moved on.
    pub drain: Duration,
    /// How long the agent watches a release that has never been proven once visitors reach it. Only then may the former instance go.
    pub confirm: Duration,
    /// Whether the former instance keeps running for an instant rollback.
    pub keep_warm: KeepWarm,
}

/// What starts an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Starter {
    /// systemd: a template unit such as `shop@.service`, started as `shop@<release>.service` or `shop@<slot>.service`.
    Unit(String),
    /// The agent itself: an argument vector, started in the release's directory. The agent replaces `{socket}`, `{release}` and `{dir}` in it.
    Command(Vec<String>),
}

/// Whether the former instance keeps running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepWarm {
    /// It is stopped after it has drained.
    No,
    /// It is kept until the next switch.
    Former,
}

impl Settings {
    /// The name of a release's instance, used in its unit's name and as the ending of its socket: the slot that leads to the release, or else the
    /// release itself, as before there were slots. `link` is the root's link `app`.
    fn called(&self, link: &Path, release: &ReleaseName) -> String {
        self.slot_of(link, release).map_or_else(|| self.called_without_slot(link, release), |slot| slot.to_string())
    }

    /// The name of a release's worker. Without a slot, a worker has only the release as its name, because its unit finds the release by it.
    fn worker_called(&self, link: &Path, release: &ReleaseName) -> String {
        self.slot_of(link, release).map_or_else(|| release.to_string(), |slot| slot.to_string())
    }

    /// The slot that leads to a release. A slot that is no longer configured counts as long as it leads there.
    fn slot_of(&self, link: &Path, release: &ReleaseName) -> Option<Slot> {
        if self.slots.is_empty() {
            return None;
        }
        let public = self.named().map(|socket| file_name(&socket));
        let mut slots: Vec<Slot> = Slots::beside(link).taken().into_iter().filter(|(_, of)| of == release).map(|(slot, _)| slot).collect();
        // Several slots match while a second instance starts beside the first, and where someone has made links by hand.
        slots.sort_by_key(|slot| {
            let is_public = public.as_deref() == Some(&*file_name(&self.socket_called(slot.as_str())));
            (self.rank_of_slot(link, release, slot), !is_public)
        });
        slots.into_iter().next()
    }

    fn socket_called(&self, called: &str) -> PathBuf {
        let mut socket = self.socket.clone().into_os_string();
        socket.push(format!(".{called}"));
        socket.into()
    }

    fn socket_of(&self, link: &Path, release: &ReleaseName) -> PathBuf {
        self.socket_called(&self.called(link, release))
    }

    /// The path that the name points to; `None` when there is no such link.
    fn named(&self) -> Option<PathBuf> {
        let target = fs::read_link(&self.socket).ok()?;
        Some(self.socket.parent().map_or_else(|| target.clone(), |dir| dir.join(&target)))
    }

    fn names(&self, link: &Path, release: &ReleaseName) -> bool {
        self.named().is_some_and(|socket| socket == self.socket_of(link, release))
    }

    /// Points the name to the instance of a release. A visitor who connects at this moment reaches either the old or the new one.
    fn name(&self, link: &Path, release: &ReleaseName) -> Result<(), RestartError> {
        let error = |source| RestartError::File { act: "point the socket's name", path: self.socket.clone(), source };
        let socket = self.socket_of(link, release);
        let target = socket.file_name().ok_or_else(|| error(io::ErrorKind::InvalidInput.into()))?;
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let temporary = self.socket.with_file_name(format!(".{}.next-{}-{nanos}", file_name(&self.socket), std::process::id()));
        symlink(target, &temporary).map_err(error)?;
        fs::rename(&temporary, &self.socket).inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(error)
    }

    /// Removes the name if this agent made it: a link to the socket of an instance. Anything else at that path belongs to someone else.
    pub(super) fn unname(&self) -> Result<(), RestartError> {
        let instance_of = |target: &Path| {
            let (target, socket) = (target.file_name()?.to_str()?, self.socket.file_name()?.to_str()?);
            let called = target.strip_prefix(socket)?.strip_prefix('.')?;
            let is_slot = || self.slots.iter().any(|slot| slot.as_str() == called);
            (renewal::release_in(called).is_some() || is_slot()).then_some(())
        };
        if !fs::read_link(&self.socket).is_ok_and(|target| instance_of(&target).is_some()) {
            return Ok(());
        }
        match fs::remove_file(&self.socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RestartError::File { act: "remove the socket's name", path: self.socket.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// The set-up problem that prevents the name or an instance's socket, if any.
    pub(super) fn obstacle(&self) -> Option<RestartError> {
        let set_up = |what: String, hint: String| Some(RestartError::SetUp { what, hint });
        // A dot and the 32 characters of a release's name.
        let length = self.socket.as_os_str().len() + 33;
        if length > MOST_SOCKET_PATH {
            let what = format!("the sockets of instances would have paths of {length} bytes, and Linux allows {MOST_SOCKET_PATH}");
            return set_up(what, format!("shorten socket under [restart] by {} bytes", length - MOST_SOCKET_PATH));
        }
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            let what = format!("the directory {} of the socket does not exist", directory.display());
            return set_up(what, "let tmpfiles.d or RuntimeDirectory= create it, writable for the agent's user".to_owned());
        }
        if nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).is_err() {
            let what = format!("the agent's user may not write into the directory {} of the socket", directory.display());
            return set_up(what, "give the agent's user write permission on it".to_owned());
        }
        let meta = fs::symlink_metadata(&self.socket).ok()?;
        if meta.file_type().is_symlink() {
            return None;
        }
        let socket = self.socket.display();
        let (what, hint) = if meta.file_type().is_socket() && http::listens(&self.socket) {
            let what = format!("a server listens at {socket} itself, where a link to the instance of a release should be");
            let hint = format!(
                "let that server bind another name and let nginx connect there, or stop it and remove {socket}; the first handover then makes the link"
            );
            (what, hint)
        } else {
            (format!("{socket} is in the way: it is no link, and nobody listens there"), format!("remove {socket}"))
        };
        set_up(what, hint)
    }

    /// Removes links that a dead agent left between making and renaming them.
    fn sweep(&self) {
        let prefix = format!(".{}.next-", file_name(&self.socket));
        let entries = self.socket.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            // A leftover link does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Starts the new instance, unless it runs already, and runs the checks on it. Returns how long to watch it once visitors reach it.
    pub(super) fn prepare(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Duration, RestartError> {
        if let Some(obstacle) = self.obstacle() {
            return Err(obstacle);
        }
        self.sweep();
        let instances = Instances::open(self, context)?;
        instances.check_starter(new)?;
        instances.set_aside(new)?;
        match self.bring_up(&instances, new) {
            Ok(_) => Ok(if context.steadiness == Steadiness::Unseen { self.confirm } else { Duration::ZERO }),
            Err(error) => {
                // An instance that serves visitors is left alone, even when it does not answer as it should.
                if !self.names(context.link, new.name)
                    && let Err(also) = instances.stop(new.name, Duration::ZERO)
                {
                    (context.warn)(&format!("the instance of {} could not be stopped: {also}", new.name));
                }
                Err(error)
            }
        }
    }

    fn bring_up(&self, instances: &Instances<'_>, new: ReleaseRef<'_>) -> Result<Instance, RestartError> {
        let context = instances.context;
        let there = if instances.is_set_aside(new.name) { None } else { instances.find(new.name)? };
        if let Some(instance) = there {
            (context.note)(&format!("the instance of {} runs already", new.name));
            if http::listens(&self.socket_of(context.link, new.name)) && !instances.is_leaving(new.name) {
                match self.ask_itself(instances, &instance, new, Duration::ZERO) {
                    Ok(_) => return Ok(instance),
                    Err(error) if self.names(context.link, new.name) => return Err(error),
                    Err(error) => (context.warn)(&format!("the running instance of {} is started anew: {error}", new.name)),
                }
            }
            if self.names(context.link, new.name) {
                (context.warn)(&format!("the instance of {} does not accept connections; it is started anew", new.name));
            }
            instances.stop(new.name, Duration::ZERO)?;
        }
        let begun = Instant::now();
        let instance = instances.start(new)?;
        self.await_listener(instances, &instance, new)?;
        (context.note)(&format!("the instance of {} accepts connections after {:.1} s", new.name, begun.elapsed().as_secs_f64()));
        let stable_for = context.checks.iter().map(|check| check.stable_for).max().unwrap_or(Duration::from_secs(1));
        let proof = self.ask_itself(instances, &instance, new, stable_for)?;
        proof.notes.iter().for_each(|note| (context.note)(note));
        Ok(instance)
    }

    fn await_listener(&self, instances: &Instances<'_>, instance: &Instance, new: ReleaseRef<'_>) -> Result<(), RestartError> {
        let socket = self.socket_of(instances.context.link, new.name);
        let end = Instant::now() + self.start_timeout;
        loop {
            instances.alive(instance, new.name)?;
            if http::listens(&socket) {
                return Ok(());
            }
            go_on(instances.context, "starting the new instance")?;
            if Instant::now() > end {
                return Err(RestartError::Process {
                    what: format!(
                        "the instance of {} did not accept connections at {} within {} s",
                        new.name,
                        socket.display(),
                        self.start_timeout.as_secs()
                    ),
                    hint: Some("it must bind the socket that it is given as {socket} and RELEASE_SOCKET (%i in a template unit); raise start_timeout if it needs longer".to_owned()),
                    tail: instances.tail(instance, new.name),
                });
            }
            instances.context.watch.pause(Duration::from_millis(20));
        }
    }

    /// Runs the checks over the instance's own socket. A warm instance skips the time for which the checks must keep passing.
    fn ask_itself(
        &self,
        instances: &Instances<'_>,
        instance: &Instance,
        new: ReleaseRef<'_>,
        stable_for: Duration,
    ) -> Result<ServingProof, RestartError> {
        let unstable: Vec<_>;
        let context = instances.context;
        let context = if stable_for.is_zero() {
            let mut checks = context.checks.to_vec();
            checks.iter_mut().for_each(|check| check.stable_for = Duration::ZERO);
            unstable = checks;
            &RestartContext { checks: &unstable, ..*context }
        } else {
            context
        };
        let mut proof = Asking {
            context,
            serving: new,
            socket: Some(&self.socket_of(context.link, new.name)),
            alive: &|| instances.alive(instance, new.name),
            tail: &|| instances.tail(instance, new.name),
            hopeless: &|_| None,
            workers: instances.workers(instance),
            crew: Crew::New(&|| instances.crew(instance, new.name)),
            watch_for: stable_for,
        }
        .prove()?;
        // These warnings concern the checks' settings, and the proof through the public address repeats them.
        proof.warnings.clear();
        Ok(proof)
    }

    /// Starts the new workers, tells the others to finish, and points the name to the new instance.
    pub(super) fn act(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, prepared: &mut Prepared) -> Result<(), RestartError> {
        let instances = Instances::open(self, context)?;
        let mut workers = instances.start_workers(new)?;
        // Workers that were watched in an earlier run are not watched again, because a rollback is urgent.
        if context.steadiness == Steadiness::Unseen {
            instances.watch_workers(new, &mut workers)?;
        }
        prepared.workers.append(&mut workers);
        prepared.finishing = instances.let_others_finish(new.name)?;
        instances.await_noticed(&prepared.finishing)?;
        self.name(context.link, new.name)?;
        (context.note)(&format!("{} now leads to the instance of {}", self.socket.display(), new.name));
        Ok(())
    }

    /// Proves that the name leads to the instance, the instance is alive, and the public address passes the checks.
    pub(super) fn ask(&self, others: Asking<'_>, how: Patience) -> Result<ServingProof, RestartError> {
        let (context, serving) = (others.context, others.serving);
        let instances = Instances::open(self, context)?;
        let Some(instance) = instances.find(serving.name)? else {
            return Err(RestartError::Process {
                what: format!("there is no instance of {}", serving.name),
                hint: Some("activate the release again: that starts one".to_owned()),
                tail: instances.last_log(serving.name),
            });
        };
        let alive = || {
            self.check_name(context, serving)?;
            instances.alive(&instance, serving.name)?;
            (others.alive)()
        };
        let tail = || instances.tail(&instance, serving.name);
        let crew = || instances.crew(&instance, serving.name);
        how.ask(&Asking { alive: &alive, tail: &tail, workers: instances.workers(&instance), crew: Crew::New(&crew), ..others })
    }

    fn check_name(&self, context: &RestartContext<'_>, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
        if self.names(context.link, serving.name) {
            return Ok(());
        }
        let target = self.named().map_or_else(|| "nothing".to_owned(), |target| target.display().to_string());
        Err(RestartError::Process {
            what: format!("{} leads to {target}, not to the instance of {}", self.socket.display(), serving.name),
            hint: Some("somebody else changed the link; activate the release again".to_owned()),
            tail: Vec::new(),
        })
    }

    /// The unit of a release's instance, or the masters that the agent started.
    pub(super) fn served_by(
        &self,
        context: &RestartContext<'_>,
        release: &ReleaseName,
    ) -> Result<(Option<String>, Vec<Process>), RestartError> {
        Ok(match Instances::open(self, context)?.find(release)? {
            Some(Instance::Unit { unit, .. }) => (Some(unit), Vec::new()),
            Some(Instance::Processes { masters, .. }) => (None, masters),
            None => (None, Vec::new()),
        })
    }

    /// Starts the workers of a release that is live again, and tells the others to finish.
    pub(super) fn bring_workers(
        &self,
        context: &RestartContext<'_>,
        release: ReleaseRef<'_>,
        prepared: &mut Prepared,
    ) -> Result<(), RestartError> {
        let instances = Instances::open(self, context)?;
        prepared.finishing = instances.let_others_finish(release.name)?;
        prepared.workers = instances.start_workers(release)?;
        Ok(())
    }

    /// The units of the workers that have one instance per release.
    pub(super) fn workers_of(&self, context: &RestartContext<'_>, release: &ReleaseName) -> Vec<String> {
        worker::instances(context, &self.worker_called(context.link, release))
    }

    /// Stops former instances after their workers have finished, or after the time for the last requests. Until then, a crash of the agent leaves
    /// something to go back to.
    pub(super) fn settle(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        former: Option<ReleaseRef<'_>>,
        prepared: &Prepared,
    ) -> Result<(), RestartError> {
        if former.is_some_and(|former| former.name == new.name) {
            return Ok(());
        }
        let instances = Instances::open(self, context)?;
        context.watch.pause(AFTER_RENAME);
        let mut failure = instances.await_finished(&prepared.finishing, self.drain).err();
        failure = failure.or(instances.end_former(new.name, self.drain).err());
        let kept =
            |name: &ReleaseName| name == new.name || self.keep_warm == KeepWarm::Former && former.is_some_and(|former| former.name == name);
        for release in instances.running()?.iter().filter(|name| !kept(name)) {
            // The agent reports the first failure and still tries the others.
            match instances.stop(release, self.drain) {
                Ok(()) => (context.note)(&format!("the instance of {release} has finished and stopped")),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        instances.sweep_logs(new);
        failure.map_or(Ok(()), Err)
    }

    /// Points the name to the former instance, and starts it if it is gone.
    pub(super) fn stand(&self, context: &RestartContext<'_>, former: ReleaseRef<'_>) -> Result<Stood, RestartError> {
        let instances = Instances::open(self, context)?;
        if instances.serves(former.name)? {
            self.name(context.link, former.name)?;
        } else if instances.knows(former.name) || self.named().is_some() {
            (context.note)(&format!("the instance of {} is gone; it is started again", former.name));
            self.bring_up(&instances, former)?;
            self.name(context.link, former.name)?;
        } else {
            // The strategy is new, and the agent does not own the server that serves. The name never existed, so the former release has lost nothing.
            (context.note)(&format!("{} was never served by handover; nothing had been changed", former.name));
            return Ok(Stood::NeverOurs);
        }
        Ok(Stood::Ours)
    }

    /// Stops the instance of a release that failed. It may have met visitors and begun tasks, so it first answers and finishes them. A failure here
    /// is only a warning.
    pub(super) fn end(
        &self,
        context: &RestartContext<'_>,
        failed: ReleaseRef<'_>,
        former: Option<ReleaseRef<'_>>,
        finishing: &[Finishing],
    ) {
        if former.is_some_and(|former| former.name == failed.name) {
            return;
        }
        if self.names(context.link, failed.name) {
            // There was no way back. An instance that answers in some way is better than none.
            (context.warn)(&format!("the instance of {} is left running: visitors have no other", failed.name));
            return;
        }
        context.watch.pause(AFTER_RENAME);
        let stopped = Instances::open(self, context).and_then(|instances| {
            // Its workers are named after its slot, and stopping the instance frees the slot.
            let mut workers = instances.workers_of(failed.name);
            workers.retain(|unit| !finishing.iter().any(|finishing| finishing.is(unit)));
            let finished = instances.let_finish(&workers).and_then(|others| {
                instances.await_finished(finishing, self.drain).and_then(|()| instances.await_finished(&others, self.drain))
            });
            // The instance is stopped whether or not its workers finished.
            instances.stop(failed.name, self.drain).and(finished)
        });
        if let Err(error) = stopped {
            (context.warn)(&format!("not all that was started for {} could be stopped: {error}", failed.name));
        }
    }

    /// Starts the live release's instance if it is gone, for example after a boot.
    pub(super) fn revive(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Result<Revived, RestartError> {
        let instances = Instances::open(self, context)?;
        let running = instances.serves(live.name)?;
        if !running && !instances.knows(live.name) {
            return Ok(Revived::NotNeeded);
        }
        let serves = running && self.names(context.link, live.name);
        if !serves {
            if let Some(obstacle) = self.obstacle() {
                return Err(obstacle);
            }
            if !running {
                self.bring_up(&instances, live)?;
            }
            self.name(context.link, live.name)?;
        }
        let works = instances.work(live.name)?;
        if !works {
            instances.start_workers(live)?;
        }
        Ok(if serves && works { Revived::NotNeeded } else { Revived::Started })
    }
}

/// The releases that have an instance or a worker in a unit, none of which may be removed. The agent asks systemd. If systemd does not answer, every
/// release that a slot leads to counts.
pub(super) fn in_units(settings: &Settings, link: &Path, workers: &[Worker], watch: &Watch<'_>) -> Vec<ReleaseName> {
    let web = match &settings.starter {
        Starter::Unit(template) => Some(template.as_str()),
        Starter::Command(_) => None,
    };
    let workers = workers.iter().filter(|worker| worker.is_template()).map(|worker| worker.unit.as_str());
    let templates: Vec<&str> = web.into_iter().chain(workers).collect();
    if templates.is_empty() {
        return Vec::new();
    }
    let taken = || if settings.slots.is_empty() { Vec::new() } else { Slots::beside(link).taken() };
    let running = |bus: Bus<'_>| {
        let units = templates.iter().map(|template| bus.running(&instance_name(template, "*")));
        units.collect::<Result<Vec<_>, _>>().map(|units| units.concat())
    };
    match Bus::open(watch).and_then(running) {
        Err(_) => taken().into_iter().map(|(_, release)| release).collect(),
        Ok(units) => {
            let slots = taken();
            let of = |called: &str| slots.iter().find(|(slot, _)| slot.as_str() == called).map(|(_, release)| release.clone());
            let called = |unit: &String| unit.split_once('@')?.1.strip_suffix(".service").map(str::to_owned);
            units.iter().filter_map(called).filter_map(|called| of(&called).or_else(|| called.parse().ok())).collect()
        }
    }
}

/// The result of [`Settings::stand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stood {
    /// The name leads to the release's instance.
    Ours,
    /// A server that is not an instance serves the release.
    NeverOurs,
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
