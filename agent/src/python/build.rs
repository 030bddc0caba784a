//! Builds an environment and looks at what was built.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_wire::event::Stream;

use super::advice;
use super::host::{Tool, Whose};
use super::key::without_userinfo;
use super::own;
use super::pip;
use super::project::{Closure, EnvironmentSource};
use super::requirements::normalised;
use super::{Built, Place, PythonError, Wanted};
use crate::process::sandbox::Bounds;
use crate::process::{Program, ProgramError, Watch};

/// How many lines of an installer are searched for what went wrong.
const REMEMBERED_LINES: usize = 400;

/// One building of one environment.
pub(super) struct Build<'a> {
    pub wanted: &'a Wanted,
    pub venv: &'a Path,
    pub release: &'a Path,
    pub place: Place<'a>,
    /// What everything is held to that runs packages, or may.
    pub bounds: Arc<Bounds>,
    pub watch: &'a Watch<'a>,
    pub note: &'a dyn Fn(&str),
}

impl Build<'_> {
    /// Creates, fills, verifies.
    pub(super) fn run(&self) -> Result<Built, PythonError> {
        // What may be written in must be there; and nothing may be in it yet.
        match fs::create_dir(self.venv) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_dir(self.venv).map_or(true, |mut entries| entries.next().is_some()) {
                    return Err(PythonError::AlreadyThere(self.venv.to_owned()));
                }
            }
            made => made.map_err(|source| PythonError::File { act: "make", path: self.venv.to_owned(), source })?,
        }
        self.create()?;
        let brought = self.packages()?;
        self.fill()?;
        self.compile()?;
        self.verify(&brought)
    }

    /// A program that may run what a package brings: with caches and a place for temporary files that are this app's, and within the bounds. What an
    /// interpreter of the environment imports at its start belongs to the packages, too.
    fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Program {
        let Place { scratch, caches, .. } = self.place;
        // What cargo goes by is no cache: one package must not tell the next how it is compiled.
        let caches = [("XDG_CACHE_HOME", caches.to_owned()), ("CARGO_HOME", scratch.join("cargo"))];
        self.wanted.host.program(program).env("TMPDIR", scratch).envs(caches).confined(&self.bounds)
    }

    fn uv(&self) -> PathBuf {
        match self.wanted.tool {
            Tool::Uv(_, Whose::Agents) => own::program(self.place.caches),
            _ => PathBuf::from("uv"),
        }
    }

    fn python(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    fn create(&self) -> Result<(), PythonError> {
        let real = &self.wanted.interpreter.real;
        // In `/`, so that no file of the release is taken for a module or a setting.
        let program = match &self.wanted.tool {
            Tool::Uv(..) => {
                let seed = if matches!(self.wanted.way, EnvironmentSource::Commands(_)) { ["--seed"].as_slice() } else { &[] };
                self.program(self.uv()).args(["venv", "--no-project"]).args(seed).arg("--python").arg(real).arg(self.venv)
            }
            // These call the pip of the environment.
            Tool::Pip(_) if matches!(self.wanted.way, EnvironmentSource::Commands(_) | EnvironmentSource::PoetryLock { .. }) => {
                self.program(real).args(["-I", "-m", "venv"]).arg(self.venv)
            }
            Tool::Pip(_) => self.program(real).args(["-I", "-c", pip::CREATE]).arg(self.venv),
        };
        self.run_program(&program, format!("creating the environment with {}", self.wanted.interpreter))
    }

    fn fill(&self) -> Result<(), PythonError> {
        let packages = &self.wanted.packages;
        match &self.wanted.way {
            EnvironmentSource::Requirements { files, made } => {
                // Packages of a command must all have hashes when one has, and a lock names all that may be installed with it.
                let together = made.is_empty() && !self.wanted.reading.hashed;
                if !files.is_empty() {
                    let files = files.iter().flat_map(|file| ["-r".into(), file.clone().into_os_string()]);
                    let packages = if together { self.as_args(packages) } else { Vec::new() };
                    let files: Vec<OsString> = files.chain(packages).collect();
                    // With hashes every package is named, and its very file: an index could not answer anything else.
                    if !self.wanted.reading.hashed || !self.install_from_cache(&files)? {
                        self.install(files, "the requirements")?;
                    }
                }
                for (index, made) in made.iter().enumerate() {
                    let list = self.write(&format!("requirements-{index}.txt"), &made.lines)?;
                    let no_deps = if made.closure == Closure::Complete { vec![OsString::from("--no-deps")] } else { Vec::new() };
                    let args: Vec<OsString> = no_deps.into_iter().chain(["-r".into(), list.into_os_string()]).collect();
                    if made.closure != Closure::Complete || !self.install_from_cache(&args)? {
                        self.install(args, &made.from.display().to_string())?;
                    }
                }
                if together { Ok(()) } else { self.beside() }
            }
            EnvironmentSource::PackagesOnly => self.install(self.as_args(packages), "the packages that are set"),
            EnvironmentSource::UvLock { dir } => {
                let program = self
                    .inside(self.uv())
                    .args(["sync", "--frozen", "--no-dev", "--no-install-project", "--link-mode=copy", "--compile-bytecode"])
                    .arg("--python")
                    .arg(self.python())
                    .dir(self.release.join(dir));
                self.run_program(&program, "installing uv.lock".into())?;
                self.beside()
            }
            EnvironmentSource::PoetryLock { dir } => {
                let program = self
                    .inside("poetry")
                    .args(["install", "--no-root", "--only", "main", "--no-interaction", "--no-ansi"])
                    .dir(self.release.join(dir));
                self.run_program(&program, "installing poetry.lock".into())?;
                self.beside()
            }
            EnvironmentSource::Commands(commands) => {
                for argv in commands {
                    let (name, args) = argv.split_first().map_or(("", argv.as_slice()), |(name, args)| (name.as_str(), args));
                    (self.note)(&argv.join(" "));
                    let module = self.wanted.module.iter().map(|module| ("DJANGO_SETTINGS_MODULE", module));
                    let program = self.inside(name).args(args).dir(self.release).envs(module);
                    self.run_program(&program, format!("the command {name} of [python] install"))?;
                }
                Ok(())
            }
        }
    }

    /// Installs the packages that are set beside what is there, without changing what is there.
    fn beside(&self) -> Result<(), PythonError> {
        if self.wanted.packages.is_empty() {
            return Ok(());
        }
        let there = self.packages()?.into_values().filter(|package| !package.version.is_empty());
        let there: Vec<String> = there.map(|package| format!("{}=={}", package.name, package.version)).collect();
        let list = self.write("installed.txt", &there)?;
        let args = ["-c".into(), list.into_os_string()].into_iter().chain(self.as_args(&self.wanted.packages));
        self.install(args, "the packages that are set")
    }

    fn as_args(&self, packages: &[String]) -> Vec<OsString> {
        if packages.is_empty() {
            return Vec::new();
        }
        std::iter::once("--".into()).chain(packages.iter().map(OsString::from)).collect()
    }

    /// Installs what uv has in its cache whole, without asking an index for anything. Tells whether it had.
    fn install_from_cache(&self, args: &[OsString]) -> Result<bool, PythonError> {
        if !matches!(self.wanted.tool, Tool::Uv(..)) {
            return Ok(false);
        }
        match self.uv_install().arg("--offline").args(args).dir(self.release).quiet().capture(self.watch) {
            Ok(_) => {
                (self.note)("everything was in uv's cache: no index was asked");
                Ok(true)
            }
            // It has installed nothing then: it looks first whether it has everything.
            Err(ProgramError::Failed { .. }) => Ok(false),
            Err(source) => Err(PythonError::Program { act: "installing from uv's cache".to_owned(), hint: None, source }),
        }
    }

    fn uv_install(&self) -> Program {
        // Copies: an environment that shares files with uv's cache would change with it.
        let program = self.program(self.uv()).args(["pip", "install", "--link-mode=copy", "--compile-bytecode"]);
        program.arg("--python").arg(self.python())
    }

    fn install(&self, args: impl IntoIterator<Item = OsString>, what: &str) -> Result<(), PythonError> {
        let program = match &self.wanted.tool {
            Tool::Uv(..) => self.uv_install(),
            Tool::Pip(_) => self.pip().args(["install", "--no-compile", "--no-input", "--disable-pip-version-check"]),
        };
        self.run_program(&program.args(args).dir(self.release), format!("installing {what}"))
    }

    /// Isolated, or modules at the root of the project would be taken for those of the standard library.
    fn pip(&self) -> Program {
        self.program(self.python()).args(["-I", "-c", pip::RUN]).arg(pip::copies(self.place.caches)).called("pip")
    }

    /// pip compiles one file after the other, which takes as long as all the rest.
    fn compile(&self) -> Result<(), PythonError> {
        match self.wanted.tool {
            Tool::Uv(..) => Ok(()),
            Tool::Pip(_) => {
                let program = self.program(self.python()).args(["-I", "-c", pip::COMPILE]).arg(self.venv.join("lib")).quiet();
                self.run_program(&program, "compiling the packages".to_owned())
            }
        }
    }

    /// A program for which the environment is active.
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Program {
        let bin = self.venv.join("bin");
        let path = std::iter::once(bin).chain(std::env::split_paths(&self.wanted.host.path));
        let program = self.program(program);
        // Without it pip could fall back to an interpreter of the host.
        let program = program.env("VIRTUAL_ENV", self.venv).env("UV_PROJECT_ENVIRONMENT", self.venv).env("PIP_REQUIRE_VIRTUALENV", "1");
        let program = program.env("UV_LINK_MODE", "copy").env("UV_COMPILE_BYTECODE", "1");
        match std::env::join_paths(path) {
            Ok(path) => program.env("PATH", path),
            // Only a colon in the environment's own path does that; then programs are found as the host finds them.
            Err(_) => program,
        }
    }

    /// Writes lines into the environment, where they tell later what it was made of.
    fn write(&self, name: &str, lines: &[String]) -> Result<PathBuf, PythonError> {
        let path = self.venv.join(format!("release-agent-{name}"));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // Packages have been at work here: a link of that name is not followed.
        let written = match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => fs::File::create_new(&path).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())),
        };
        written.map_err(|source| PythonError::File { act: "write", path: path.clone(), source })?;
        Ok(path)
    }

    fn run_program(&self, program: &Program, act: String) -> Result<(), PythonError> {
        let heard = RefCell::new(VecDeque::new());
        let lines = |stream: Stream, line: &str| {
            let line = without_userinfo(line);
            (self.watch.lines)(stream, &line);
            let mut heard = heard.borrow_mut();
            if heard.len() == REMEMBERED_LINES {
                heard.pop_front();
            }
            heard.push_back(line);
        };
        let watch = Watch { lines: &lines, ..*self.watch };
        let result = program.run(&watch);
        let heard: Vec<String> = heard.into_inner().into();
        result.map_err(|source| self.failed(act, source, &heard))
    }

    fn failed(&self, act: String, mut source: ProgramError, heard: &[String]) -> PythonError {
        if let ProgramError::Failed { tail, .. } | ProgramError::TimedOut { tail, .. } = &mut source {
            tail.iter_mut().for_each(|line| *line = without_userinfo(line));
            advice::begin_with_the_error(tail, heard);
        }
        let hint = advice::hint(heard, |name| self.asked_by(name));
        PythonError::Program { act, hint, source }
    }

    /// Where a package is asked for, for people.
    fn asked_by(&self, name: &str) -> Option<String> {
        let name = normalised(name);
        let of = |requirement: &String| super::requirements::package_of(requirement).name;
        if let Some(asked) = self.wanted.reading.asked.iter().find(|asked| asked.name.as_ref() == Some(&name)) {
            let line = asked.line.map(|line| format!(", line {line}")).unwrap_or_default();
            return Some(format!("{}{line}", asked.file));
        }
        self.wanted.packages.iter().any(|package| of(package).as_ref() == Some(&name)).then(|| "[python] packages".to_owned())
    }

    fn verify(&self, brought: &BTreeMap<String, Installed>) -> Result<Built, PythonError> {
        let odd = |why: String| PythonError::NotAnEnvironment { venv: self.venv.to_owned(), why };
        let prefix = self.program(self.python()).args(["-I", "-c", "import sys; print(sys.prefix)"]).quiet().capture(self.watch);
        let prefix = PathBuf::from(prefix.map_err(|err| odd(format!("its interpreter does not run: {err}")))?.text());
        if prefix.canonicalize().ok() != self.venv.canonicalize().ok() {
            return Err(odd(format!("its interpreter belongs to {}", prefix.display())));
        }

        let installed = self.packages()?;
        let Wanted { reading, packages, .. } = self.wanted;
        let mut asked: Vec<String> = reading.asked.iter().filter_map(|asked| asked.name.clone()).collect();
        asked.extend(packages.iter().filter_map(|package| super::requirements::package_of(package).name));
        let count = installed.keys().filter(|name| !brought.contains_key(*name) || asked.contains(name)).count();
        if count == 0 && !reading.asked.is_empty() {
            return Err(PythonError::NothingInstalled { asked: reading.asked.len() });
        }
        let unconditional = reading.asked.iter().filter(|asked| !asked.conditional).filter_map(|asked| asked.name.clone());
        let absent: Vec<String> = unconditional.filter(|name| !installed.contains_key(name)).collect();
        if !absent.is_empty() {
            return Err(PythonError::Absent(absent));
        }
        if !reading.tied
            && let Some(package) = installed.values().find(|package| package.lies_in(self.release))
        {
            return Err(odd(format!("{} is installed from the release itself, with which it would vanish", package.name)));
        }
        let mut warnings = self.check()?;
        if count == 0 {
            warnings.push("the environment holds no packages".into());
        }
        Ok(Built { packages: count, warnings })
    }

    /// What does not fit together, by the installer's own check.
    fn check(&self) -> Result<Vec<String>, PythonError> {
        let program = match &self.wanted.tool {
            Tool::Uv(..) => self.program(self.uv()).args(["pip", "check", "--python"]).arg(self.python()),
            Tool::Pip(_) => self.pip().arg("check"),
        };
        match program.quiet().run(self.watch) {
            Ok(()) => Ok(Vec::new()),
            Err(ProgramError::Failed { tail, .. }) => {
                let told = ["Using Python", "Checked ", "Found "];
                Ok(tail.into_iter().filter(|line| !line.trim().is_empty() && !told.iter().any(|start| line.starts_with(start))).collect())
            }
            Err(source) => Err(PythonError::Program { act: "checking the environment".into(), hint: None, source }),
        }
    }

    /// The packages of the environment by their normalised names.
    fn packages(&self) -> Result<BTreeMap<String, Installed>, PythonError> {
        let lib = self.venv.join("lib");
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| PythonError::File { act: "read", path, source }
        };
        let mut packages = BTreeMap::new();
        for version in fs::read_dir(&lib).map_err(unreadable(&lib))? {
            let root = version.map_err(unreadable(&lib))?.path().join("site-packages");
            let entries = match fs::read_dir(&root) {
                Ok(entries) => entries,
                Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(err) => return Err(unreadable(&root)(err)),
            };
            for entry in entries {
                let path = entry.map_err(unreadable(&root))?.path();
                if let Some(package) = Installed::at(path) {
                    packages.insert(normalised(&package.name), package);
                }
            }
        }
        Ok(packages)
    }
}

/// A package that is installed: a directory `name-version.dist-info` or, of old tools, `name-version-py3.8.egg-info`.
#[derive(Debug)]
struct Installed {
    name: String,
    version: String,
    info: PathBuf,
}

impl Installed {
    fn at(info: PathBuf) -> Option<Self> {
        let file_name = info.file_name()?.to_str()?;
        // What older pips leave of an editable package; its version stands elsewhere.
        if let Some(name) = file_name.strip_suffix(".egg-link") {
            return Some(Self { name: name.to_owned(), version: String::new(), info });
        }
        let stem = file_name.strip_suffix(".dist-info").or_else(|| file_name.strip_suffix(".egg-info"))?;
        let mut parts = stem.split('-');
        let (name, version) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { name, version, info })
    }

    /// Whether it was installed from within a directory (PEP 610).
    fn lies_in(&self, dir: &Path) -> bool {
        let text = fs::read_to_string(self.info.join("direct_url.json")).unwrap_or_default();
        let url = serde_json::from_str::<serde_json::Value>(&text).ok();
        let path = url.as_ref().and_then(|url| url.get("url")?.as_str()?.strip_prefix("file://"));
        path.is_some_and(|path| Path::new(path).starts_with(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_their_directories() {
        let name = |file: &str| Installed::at(PathBuf::from(file)).map(|package| format!("{} {}", package.name, package.version));
        assert_eq!(name("/x/Django-4.2.1.dist-info").unwrap(), "Django 4.2.1");
        assert_eq!(name("/x/old_thing-1.0-py3.8.egg-info").unwrap(), "old_thing 1.0");
        assert_eq!(name("/x/django"), None);
    }
}
