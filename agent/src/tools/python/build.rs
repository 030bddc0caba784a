//! Builds an environment and looks at what was built.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_wire::event::Stream;

use super::super::sandbox::Bounds;
use super::super::{Program, ProgramError, Watch};
use super::host::Tool;
use super::key::without_userinfo;
use super::project::{Closure, Way};
use super::requirements::normalised;
use super::{Built, Place, PythonError, Wanted};

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

    fn python(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    fn create(&self) -> Result<(), PythonError> {
        let real = &self.wanted.interpreter.real;
        // In `/`, so that no file of the release is taken for a module or a setting.
        let program = match &self.wanted.tool {
            Tool::Uv(_) => {
                let seed = if matches!(self.wanted.way, Way::Commands(_)) { ["--seed"].as_slice() } else { &[] };
                self.program("uv").args(["venv", "--no-project"]).args(seed).arg("--python").arg(real).arg(self.venv)
            }
            Tool::Pip(_) => self.program(real).args(["-I", "-m", "venv"]).arg(self.venv),
        };
        self.run_program(&program, format!("creating the environment with {}", self.wanted.interpreter))
    }

    fn fill(&self) -> Result<(), PythonError> {
        let packages = &self.wanted.packages;
        match &self.wanted.way {
            Way::Requirements { files, made } => {
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
            Way::PackagesOnly => self.install(self.as_args(packages), "the packages that are set"),
            Way::UvLock { dir } => {
                let program = self
                    .inside("uv")
                    .args(["sync", "--frozen", "--no-dev", "--no-install-project", "--link-mode=copy", "--compile-bytecode"])
                    .arg("--python")
                    .arg(self.python())
                    .dir(self.release.join(dir));
                self.run_program(&program, "installing uv.lock".into())?;
                self.beside()
            }
            Way::PoetryLock { dir } => {
                let program = self
                    .inside("poetry")
                    .args(["install", "--no-root", "--only", "main", "--no-interaction", "--no-ansi"])
                    .dir(self.release.join(dir));
                self.run_program(&program, "installing poetry.lock".into())?;
                self.beside()
            }
            Way::Commands(commands) => {
                for argv in commands {
                    let (name, args) = argv.split_first().map_or(("", argv.as_slice()), |(name, args)| (name.as_str(), args));
                    (self.note)(&argv.join(" "));
                    self.run_program(&self.inside(name).args(args).dir(self.release), format!("the command {name} of [python] install"))?;
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
        if !matches!(self.wanted.tool, Tool::Uv(_)) {
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
        let program = self.program("uv").args(["pip", "install", "--link-mode=copy", "--compile-bytecode"]);
        program.arg("--python").arg(self.python())
    }

    fn install(&self, args: impl IntoIterator<Item = OsString>, what: &str) -> Result<(), PythonError> {
        let program = match &self.wanted.tool {
            Tool::Uv(_) => self.uv_install(),
            // Isolated, or modules at the root of the project would be taken for those of the standard library.
            Tool::Pip(_) => self.program(self.python()).args(["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]),
        };
        self.run_program(&program.args(args).dir(self.release), format!("installing {what}"))
    }

    /// A program for which the environment is active.
    fn inside(&self, program: &str) -> Program {
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
        }
        let hint = hint(heard, |name| self.asked_by(name));
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
            Tool::Uv(_) => self.program("uv").args(["pip", "check", "--python"]).arg(self.python()),
            Tool::Pip(_) => self.program(self.python()).args(["-I", "-m", "pip", "check"]),
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
            let site = version.map_err(unreadable(&lib))?.path().join("site-packages");
            let entries = match fs::read_dir(&site) {
                Ok(entries) => entries,
                Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(err) => return Err(unreadable(&site)(err)),
            };
            for entry in entries {
                let path = entry.map_err(unreadable(&site))?.path();
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

/// What to do about a failed install, by what the installers and compilers are known to say.
fn hint(heard: &[String], asked_by: impl Fn(&str) -> Option<String>) -> Option<String> {
    let find = |words: &[&str]| heard.iter().find(|line| words.iter().any(|word| line.contains(word)));
    let asking = |name: &str| asked_by(name).map(|place| format!(", which {place} asks for,")).unwrap_or_default();

    if find(&["No space left on device", "os error 28"]).is_some() {
        return Some("the disk is full; `agentctl prune` removes old releases".into());
    }
    // Before «no such package»: pip says that too of an index that it cannot reach.
    let unreachable = [
        "NewConnectionError",
        "Name or service not known",
        "Temporary failure in name resolution",
        "Connection refused",
        "Network is unreachable",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "Read timed out",
        "error sending request",
        "dns error",
        "Failed to fetch",
        "CERTIFICATE_VERIFY_FAILED",
        "ProxyError",
    ];
    if let Some(line) = find(&unreachable) {
        return Some(format!(
            "the package index is out of reach from this host{}: look at its network, proxy and index settings, and at indexes that the requirements name",
            host_in(line)
        ));
    }
    if find(&["DO NOT MATCH THE HASHES", "Hash mismatch for"]).is_some() {
        return Some("what the index serves is not what the hashes name: do not release it before you know why".into());
    }
    if find(&[
        "Hashes are required in --require-hashes mode",
        "all requirements must have their hashes",
        "all requirements must have a hash",
        "all requirements must be pinned upfront",
    ])
    .is_some()
    {
        return Some("some requirements have hashes, so all must have one, those that the packages bring too: lock them anew".into());
    }
    let headers: &[(&[&str], &str)] = &[
        (&["Python.h"], "apt install python3-dev build-essential (the headers of this interpreter)"),
        (&["pg_config"], "apt install libpq-dev build-essential, or ask for psycopg2-binary or psycopg[binary]"),
        (&["mysql_config", "mysqlclient.pc", "MYSQLCLIENT_CFLAGS"], "apt install default-libmysqlclient-dev pkg-config build-essential"),
        (&["ffi.h"], "apt install libffi-dev build-essential"),
        (&["libxml/xmlversion.h", "xslt-config"], "apt install libxml2-dev libxslt1-dev build-essential"),
        (&["lber.h"], "apt install libldap-dev libsasl2-dev build-essential"),
        (&["jpeglib.h", "headers or library files could not be found for jpeg"], "apt install libjpeg-dev zlib1g-dev build-essential"),
        (
            &[
                "command 'gcc' failed: No such file",
                "unable to execute 'gcc'",
                "command 'x86_64-linux-gnu-gcc' failed: No such file",
                "error: command 'cc' failed",
            ],
            "apt install build-essential python3-dev",
        ),
        (
            &["can't find Rust compiler", "requires Rust"],
            "install a Rust compiler, or a newer pip or interpreter for which there is a wheel",
        ),
    ];
    if let Some((_, cure)) = headers.iter().find(|(words, _)| find(words).is_some()) {
        return Some(format!(
            "a package has no wheel for this interpreter and must be compiled, and something for that is missing: {cure}"
        ));
    }
    if let Some(name) = find(&["Failed to build", "Failed building wheel for", "subprocess-exited-with-error", "Build backend failed"]) {
        let name = name_after(name, &["Failed building wheel for ", "Failed to build "]).unwrap_or_default();
        return Some(
            format!(
                "the package {name}{} could not be built; its own lines say why. Is there a version with a wheel for this interpreter?",
                asking(&name)
            )
            .replace("package  ", "package "),
        );
    }
    if let Some(line) = find(&["requires a different Python", "Requires-Python", "does not satisfy Python"]) {
        return Some(format!("this interpreter is not one that the packages are for: {}", line.trim()));
    }
    let missing = [
        "No matching distribution found for ",
        "Because there is no version of ",
        "Because there are no versions of ",
        "Because only ",
        "cause: Because ",
    ];
    if let Some(line) = find(&[
        "No matching distribution found for",
        "was not found in the package registry",
        "was not found in the provided package locations",
        "there is no version of",
        "there are no versions of",
    ]) && let Some(name) = name_after(line, &missing)
    {
        return Some(format!("no such package or version: {name}{} is not in the index as it is asked for", asking(&name)));
    }
    if find(&["ResolutionImpossible", "conflicting dependencies", "No solution found when resolving"]).is_some() {
        return Some("the requirements contradict each other; the lines above say which".into());
    }
    if find(&["externally-managed-environment", "Could not find an activated virtualenv"]).is_some() {
        return Some("the command would install outside of the environment; `python -m pip` is the one inside".into());
    }
    if find(&["lock file is not up to date", "pyproject.toml changed significantly", "needs to be updated"]).is_some() {
        return Some("the lock does not belong to this pyproject.toml: lock anew and commit both".into());
    }
    None
}

fn name_after(line: &str, starts: &[&str]) -> Option<String> {
    let at = starts.iter().find_map(|start| line.find(start).map(|at| at + start.len()))?;
    let rest = line[at..].trim_start_matches(['`', '\'', '"']);
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

fn host_in(line: &str) -> String {
    let url = line.split_whitespace().find(|word| word.contains("://"));
    let host = url.and_then(|url| Some(url.split_once("://")?.1.split(['/', ')', '\'', '"']).next()?.to_owned()));
    let named = line.split_once("host='").and_then(|(_, rest)| Some(rest.split_once('\'')?.0.to_owned()));
    host.or(named).map(|host| format!(" ({host})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(line: &str) -> String {
        hint(&["noise".to_owned(), line.to_owned()], |name| (name == "nosuch").then(|| "requirements.txt, line 3".to_owned()))
            .unwrap_or_default()
    }

    #[test]
    fn what_installers_say_becomes_advice() {
        let pip = hint_of("ERROR: No matching distribution found for nosuch==1");
        assert_eq!(
            pip,
            "no such package or version: nosuch, which requirements.txt, line 3 asks for, is not in the index as it is asked for"
        );
        assert_eq!(hint_of("  cause: Because nosuch was not found in the package registry and you require nosuch==1, we"), pip);
        assert_eq!(hint_of("  cause: Because there is no version of nosuch==1 and you require nosuch==1, we"), pip);
        assert!(hint_of("fatal error: Python.h: No such file or directory").contains("python3-dev"));
        assert!(hint_of("Error: pg_config executable not found.").contains("libpq-dev"));
        assert!(hint_of("  cause: Failed to fetch: http://127.0.0.1:9/simple/six/").contains("(127.0.0.1:9)"));
        assert!(hint_of("ERROR: Failed building wheel for nosuch").contains("requirements.txt, line 3"));
        assert_eq!(hint_of("all is well"), "");
    }

    #[test]
    fn packages_are_told_by_their_directories() {
        let name = |file: &str| Installed::at(PathBuf::from(file)).map(|package| format!("{} {}", package.name, package.version));
        assert_eq!(name("/x/Django-4.2.1.dist-info").unwrap(), "Django 4.2.1");
        assert_eq!(name("/x/old_thing-1.0-py3.8.egg-info").unwrap(), "old_thing 1.0");
        assert_eq!(name("/x/django"), None);
    }
}
