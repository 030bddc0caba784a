//! Carries out jobs with programs of the agent's or runner's own user.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use agent_model::names::ReleaseName;
use nix::unistd::{User, geteuid};
use parking_lot::Mutex;

use super::{Bytecode, Caches, Failure, Job, JobAnswer, Order, Role, Wanted, digest, environment_dir};
use crate::database;
use crate::database::{DatabaseError, DumpFile};
use crate::django::{Django, Inspection, Tree};
use crate::process::sandbox::Bounds;
use crate::process::{Program, ProgramError, Watch};
use crate::python;
use crate::root::{AppRoot, grant_access, remove_tree};
use crate::settings::{App, Hook, When};

/// Where building programs keep their files.
#[derive(Debug, Clone)]
pub(crate) enum Workspace {
    /// In the root, which belongs to the agent.
    Root,
    /// Elsewhere: these programs may not write to the root.
    Own {
        /// The files that installers keep from one build to the next.
        caches: PathBuf,
        /// For temporary files.
        scratch: PathBuf,
    },
}

/// Carries out the jobs of one app.
pub(crate) struct JobRunner<'a> {
    pub app: &'a App,
    pub root: &'a AppRoot,
    /// `[env]` and, unless the builder must not know them, the secrets.
    pub env: &'a [(String, String)],
    /// Paths that programs with untrusted code may not read.
    pub hidden: Vec<PathBuf>,
    /// Where these programs keep their own files.
    pub workspace: Workspace,
    wanted: Mutex<Option<(ReleaseName, python::Wanted)>>,
    inspection: Mutex<Option<Inspection>>,
}

impl<'a> JobRunner<'a> {
    pub(crate) fn new(app: &'a App, root: &'a AppRoot, env: &'a [(String, String)], hidden: Vec<PathBuf>, workspace: Workspace) -> Self {
        Self { app, root, env, hidden, workspace, wanted: Mutex::new(None), inspection: Mutex::new(None) }
    }

    /// Carries out a job.
    ///
    /// # Errors
    /// [`Failure`] when a program fails, or the job cannot be this app's.
    pub(crate) fn carry_out(
        &self,
        order: &Order,
        job: &Job,
        into: Option<&DumpFile>,
        watch: &Watch<'_>,
        note: &dyn Fn(&str),
    ) -> Result<JobAnswer, Failure> {
        let context = JobContext { runner: self, order, watch, note };
        match job {
            Job::Want => context.want(),
            Job::Environment { key, caches } => context.build(key, *caches),
            Job::CollectStatic => {
                let shared = [self.root.path().join("shared")];
                Ok(context.django_of(Role::Build, Tree::Open)?.get().collect(&shared, watch).map(JobAnswer::Collected)?)
            }
            Job::Bytecode { changed } => context.bytecode(changed),
            Job::GrantAccess => Ok(grant_access(self.root).map(|()| JobAnswer::Done)?),
            Job::Hook { place, digest } => context.hook(*place, digest),
            Job::Inspect(bytecode) => context.inspect(*bytecode).map(|told| JobAnswer::Inspected(Box::new(told))),
            Job::Examine(bytecode) => {
                let (inspection, warnings) = context.django((*bytecode).into())?.get().examine(watch)?;
                *self.inspection.lock() = Some(inspection.clone());
                Ok(JobAnswer::Examined(Box::new(inspection), warnings))
            }
            Job::Migrate => context.migrate(),
            Job::Load => Ok(JobAnswer::Warnings(context.django(Tree::Sealed)?.get().load(watch)?)),
            Job::Dump => context.dump(into),
            Job::Reversal(migrations) => {
                context.django(Tree::Sealed).and_then(|django| Ok(JobAnswer::Reversal(django.get().reversal(migrations, watch)?)))
            }
            Job::Reverse(targets) => {
                self.inspection.lock().take();
                context.django(Tree::Sealed).and_then(|django| Ok(django.get().reverse(targets, watch).map(|()| JobAnswer::Done)?))
            }
            Job::Contract => context.django(Tree::Sealed).and_then(|django| Ok(JobAnswer::Contract(django.get().contract(watch)?))),
            Job::Used => Ok(JobAnswer::Used(super::usage_of(self.root).dirs.into_iter().collect())),
        }
    }
}

/// One job with its order and limits.
struct JobContext<'a, 'w> {
    runner: &'a JobRunner<'w>,
    order: &'a Order,
    watch: &'a Watch<'a>,
    note: &'a dyn Fn(&str),
}

impl JobContext<'_, '_> {
    fn release(&self) -> Result<(&ReleaseName, PathBuf), Failure> {
        let name = self.order.release.as_ref().map(|release| &release.name);
        let name = name.ok_or_else(|| Failure::new("the run has not found out which release it is about"))?;
        let dir = self.runner.root.release_dir(name);
        if !dir.is_dir() {
            return Err(Failure::new(format!("the app {} has no release {name}", self.runner.app.name)));
        }
        Ok((name, dir))
    }

    fn env(&self, role: Role) -> Vec<(String, String)> {
        let (root, app) = (self.runner.root, self.runner.app);
        let of_release = self.order.variables(app, |release| root.release_dir(release));
        let of_building = if role == Role::Build { app.build_env.as_slice() } else { &[] };
        self.runner.env.iter().chain(of_building).cloned().chain(of_release).collect()
    }

    fn want(&self) -> Result<JobAnswer, Failure> {
        let (name, dir) = self.release()?;
        let settings = self.runner.app.python.as_ref().ok_or_else(|| Failure::new("no [python] is set"))?;
        let wanted = self.with_installer(settings, python::wanted(settings, &dir, &self.runner.hidden, self.watch)?, &dir)?;
        let answer = Wanted {
            key: wanted.key().to_owned(),
            told: wanted.told(),
            notes: wanted.notes().to_vec(),
            warnings: wanted.warnings().to_vec(),
        };
        *self.runner.wanted.lock() = Some((name.clone(), wanted));
        Ok(JobAnswer::Wanted(answer))
    }

    fn build(&self, key: &str, caches: Caches) -> Result<JobAnswer, Failure> {
        let (name, dir) = self.release()?;
        let root = self.runner.root;
        let place = environment_dir(root, key).ok_or_else(|| Failure::new(format!("{key:?} is no environment's name")))?;
        if self.runner.wanted.lock().as_ref().is_none_or(|(of, _)| of != name) {
            self.want()?;
        }
        let wanted = self.runner.wanted.lock();
        let Some((_, wanted)) = wanted.as_ref().filter(|(_, wanted)| key.starts_with(wanted.key())) else {
            return Err(Failure::new(format!("the release {name} does not ask for the environment {key}")));
        };
        let built = self.among_installers(|within| {
            if caches == Caches::Empty {
                // A rebuild takes the packages from the index, and not from an earlier build's cache.
                root.clear(within.caches)?;
            }
            Ok(wanted.build(&place, &dir, within, self.watch, self.note)?)
        })?;
        Ok(JobAnswer::Built { packages: built.packages, warnings: built.warnings })
    }

    /// Runs `act` with the installers' caches and a place for their temporary files.
    fn among_installers<T>(&self, act: impl FnOnce(python::Place<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let root = self.runner.root;
        let (caches, scratch) = match &self.runner.workspace {
            Workspace::Root => (root.caches(), root.scratch_dir(&format!("installers-{}", self.order.run))?),
            Workspace::Own { caches, scratch } => (caches.clone(), scratch.clone()),
        };
        let done = act(python::Place { scratch: &scratch, caches: &caches, hidden: &self.runner.hidden });
        if matches!(self.runner.workspace, Workspace::Root) {
            remove_tree(&scratch)?;
        }
        done
    }

    /// The wanted environment with an available installer. Without a build, none is needed; without the agent's own uv, pip does it.
    fn with_installer(&self, settings: &python::Settings, wanted: python::Wanted, dir: &Path) -> Result<python::Wanted, Failure> {
        let caches = match &self.runner.workspace {
            Workspace::Root => self.runner.root.caches(),
            Workspace::Own { caches, .. } => caches.clone(),
        };
        if !wanted.lacks_its_installer(&caches) || self.runner.root.has_environment(wanted.key()) {
            return Ok(wanted);
        }
        let by_pip = || {
            let by_pip = python::Settings { installer: python::Installer::Pip, ..settings.clone() };
            python::wanted(&by_pip, dir, &self.runner.hidden, self.watch).ok().filter(|_| settings.installer == python::Installer::Auto)
        };
        if python::installer_was_refused(&caches)
            && let Some(by_pip) = by_pip()
        {
            return Ok(by_pip);
        }
        match self.among_installers(|place| Ok(wanted.fetch_installer(place, self.watch)?)) {
            Ok(()) => {
                (self.note)("fetched the agent's own uv, by which it installs");
                Ok(wanted)
            }
            // A second attempt with pip would be cancelled as well.
            Err(failure) if self.watch.cancel.asked() || self.watch.left().is_zero() => Err(failure),
            Err(failure) => {
                let by_pip = by_pip().ok_or_else(|| failure.clone())?;
                (self.note)(&format!("pip installs, since the agent's own uv cannot be had: {}", failure.reason));
                Ok(by_pip)
            }
        }
    }

    fn hook(&self, place: usize, wanted: &str) -> Result<JobAnswer, Failure> {
        let app = self.runner.app;
        let Some(hook) = app.hooks.get(place) else {
            return Err(Failure::new(format!("the app {} has no hook number {place}", app.name)));
        };
        let Hook { run, timeout, when, step } = hook;
        if digest(hook) != wanted {
            return Err(
                Failure::new(format!("the hooks of {} have changed since the run began", app.name)).with_hint("ask for the release again")
            );
        }
        let dir = self.release().map_or_else(|_| self.runner.root.path().to_owned(), |(_, dir)| dir);
        // A hook has its own timeout, and not the rest of the step's time.
        let watch = Watch { deadline: Instant::now() + *timeout, ..*self.watch };
        let role = Job::hook(app, place).and_then(|job| job.role(app)).unwrap_or(Role::Build);
        let mut program = Program::from_argv(run).dir(&dir).envs(self.env(role));
        if let (Workspace::Own { caches, scratch }, Role::Build) = (&self.runner.workspace, role) {
            let writable = vec![dir.clone(), caches.clone(), scratch.clone()];
            // Its home is empty each time; caches under the XDG rules have a permanent place.
            program = program.env("XDG_CACHE_HOME", caches).env("npm_config_cache", caches.join("npm"));
            program = program.confined(&Arc::new(Bounds { writable, hidden: self.runner.hidden.clone() }));
        }
        let ended = program.run(&watch).map_err(|err| {
            let timed_out = matches!(err, ProgramError::TimedOut { .. });
            let failure = Failure::from(err);
            let when = if *when == When::Before { "before" } else { "after" };
            Failure {
                reason: format!("the hook {when} {step} failed: {}", failure.reason),
                hint: if timed_out { Some("raise `timeout` of the hook, if it needs longer".to_owned()) } else { failure.hint },
                ..failure
            }
        });
        ended.map(|()| JobAnswer::Done)
    }

    fn django(&self, tree: Tree) -> Result<AskedDjango<'_>, Failure> {
        self.django_of(Role::App, tree)
    }

    fn django_of(&self, role: Role, tree: Tree) -> Result<AskedDjango<'_>, Failure> {
        let settings = self.runner.app.django.as_ref().ok_or_else(|| Failure::new("no [django] is set"))?;
        let (_, release) = self.release()?;
        let python = release.join("venv/bin/python");
        Ok(AskedDjango { settings, python, release, env: self.env(role), tree })
    }

    fn bytecode(&self, changed: &[PathBuf]) -> Result<JobAnswer, Failure> {
        let (_, dir) = self.release()?;
        if let Some(odd) = changed.iter().find(|path| !is_source(path)) {
            return Err(Failure::new(format!("{} is no source of Python within a release", odd.display())));
        }
        if let Some((former, _)) = &self.order.former {
            python::reuse_bytecode(&self.runner.root.release_dir(former), &dir, changed)?;
        }
        python::compile(&dir.join("venv/bin/python"), &dir, changed, self.watch)?;
        Ok(JobAnswer::Done)
    }

    /// Contains the passwords of the app's databases, which stay in this process.
    fn inspect(&self, bytecode: Bytecode) -> Result<Inspection, Failure> {
        let inspection = self.django(bytecode.into())?.get().inspect(self.watch)?;
        *self.runner.inspection.lock() = Some(inspection.clone());
        Ok(inspection)
    }

    fn inspection(&self) -> Result<Inspection, Failure> {
        let known = self.runner.inspection.lock().clone();
        known.map_or_else(|| self.inspect(Bytecode::NotWritten), Ok)
    }

    fn migrate(&self) -> Result<JobAnswer, Failure> {
        let inspection = self.inspection()?;
        let report = match &self.runner.workspace {
            Workspace::Root => self.runner.root.migration_report(self.order.run),
            Workspace::Own { scratch, .. } => scratch.join("migrate-report"),
        };
        let (migrated, ended) = self.django(Tree::Sealed)?.get().migrate(self.watch, &inspection, &report);
        // Whatever it did, what is known of the database is old.
        self.runner.inspection.lock().take();
        Ok(JobAnswer::Migrated { begun: migrated.begun, warnings: migrated.warnings, failed: ended.err().map(Failure::from) })
    }

    fn dump(&self, into: Option<&DumpFile>) -> Result<JobAnswer, Failure> {
        let app = self.runner.app;
        let (Some(settings), Some(django)) = (&app.backup, &app.django) else { return Err(Failure::new("no [backup] is set")) };
        let into = into.ok_or_else(|| Failure::new("no file came with the job"))?;
        let inspection = self.inspection()?;
        let database = inspection.databases.get(&django.database).ok_or_else(|| {
            Failure::new(format!("Django's settings have no database {:?}", django.database))
                .with_hint("look at [django] database in the app's file")
        })?;
        let scratch = match &self.runner.workspace {
            Workspace::Root => Path::new("/"),
            Workspace::Own { scratch, .. } => scratch,
        };
        let kind = settings.kind_of(&database.vendor)?;
        match database::dump(kind, database, into, scratch, self.watch) {
            Ok(()) => {
                let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
                Ok(JobAnswer::Dumped { user })
            }
            Err(missing @ DatabaseError::NotThere { .. }) => Ok(JobAnswer::NothingToDump(missing.to_string())),
            Err(err) => Err(err.into()),
        }
    }
}

/// Whether a path names a Python source within a release.
pub(super) fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "py") && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// A release's Django project, and how to run it.
struct AskedDjango<'a> {
    settings: &'a crate::django::Settings,
    python: PathBuf,
    release: PathBuf,
    env: Vec<(String, String)>,
    tree: Tree,
}

impl AskedDjango<'_> {
    fn get(&self) -> Django<'_> {
        Django { settings: self.settings, release: &self.release, python: &self.python, env: &self.env, tree: self.tree }
    }
}
