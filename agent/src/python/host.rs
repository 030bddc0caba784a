//! What this host has for building environments: interpreters, installers, and the settings of their indexes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::answer_cache::{AnswerCache, file_of};
use super::key::{Key, without_userinfo};
use super::own;
use super::project::EnvironmentSource;
use super::requirements::Tree;
use super::{Installer, PythonError};
use crate::process::{Program, ProgramError, Watch};

/// The agent's own surroundings, as far as installers see them.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// `PATH`
    pub path: OsString,
    /// `HOME`
    pub home: PathBuf,
    /// The variables that installers are given beside the fixed environment. What `[env]` and `[secrets]` set is never among them: code of
    /// the packages runs while they are installed.
    pub variables: Vec<(String, OsString)>,
}

/// Variables that would install into another place, or nothing at all.
const MISLEADING: &[&str] = &[
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_USER",
    "PIP_PYTHON",
    "PIP_DRY_RUN",
    "PIP_REQUIREMENT",
    "PIP_EDITABLE",
    "PIP_SRC",
    "PIP_LOG",
    "PIP_REPORT",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PROJECT",
    "UV_WORKING_DIRECTORY",
    "UV_LINK_MODE",
    "UV_DRY_RUN",
    "UV_NO_SYNC",
];

fn is_passed_on(name: &str) -> bool {
    let installers = ["PIP_", "UV_", "POETRY_"].iter().any(|prefix| name.starts_with(prefix)) && !MISLEADING.contains(&name);
    installers || name.to_ascii_lowercase().ends_with("_proxy") || matches!(name, "SSL_CERT_FILE" | "REQUESTS_CA_BUNDLE")
}

/// Variables that say how to reach an index, and not what is installed from it.
fn decides_nothing(name: &str) -> bool {
    const WORDS: &[&str] = &[
        "CACHE",
        "TIMEOUT",
        "RETRIES",
        "CERT",
        "PROXY",
        "PASSWORD",
        "USERNAME",
        "TOKEN",
        "INPUT",
        "COLOR",
        "PROGRESS",
        "CONCURRENT",
        "VERBOSE",
        "QUIET",
    ];
    WORDS.iter().any(|word| name.contains(word)) || name == "PIP_DISABLE_PIP_VERSION_CHECK"
}

static INTERPRETERS: AnswerCache<Probe> = AnswerCache::new();
static UVS: AnswerCache<Tool> = AnswerCache::new();

/// What the probe prints.
#[derive(Debug, Clone, Deserialize)]
struct Probe {
    real: PathBuf,
    version: String,
    implementation: String,
    abi: Option<String>,
    platform: String,
    libc: Vec<String>,
    pip: Option<String>,
    /// The files that decide the rest beside the interpreter's own; none where pip may come to be there.
    #[serde(default)]
    files: Vec<PathBuf>,
}

const PROBE: &str = r#"
import json, os, platform, sys, sysconfig
try:
    import ensurepip, venv
    pip = ensurepip.version()
    wheels = getattr(ensurepip, "_WHEEL_PKG_DIR", None) or os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    files = [os.__file__, ensurepip.__file__, venv.__file__, wheels]
except Exception:
    pip, files = None, []
print(json.dumps({
    "real": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": platform.python_version(),
    "implementation": platform.python_implementation(),
    "abi": sysconfig.get_config_var("SOABI"),
    "platform": sysconfig.get_platform(),
    "libc": platform.libc_ver(),
    "pip": pip,
    "files": files,
}))
"#;

/// An interpreter that answered.
#[derive(Debug, Clone)]
pub(super) struct Interpreter {
    /// Its real path: not a link, not a shim, not that of an environment.
    pub real: PathBuf,
    /// `3.11.2`
    pub version: String,
    implementation: String,
    binary: String,
    /// The version of the pip that its environments get.
    pip: Option<String>,
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.implementation, self.version)
    }
}

impl Interpreter {
    /// Everything of it that decides what an environment will hold.
    pub(super) fn identity(&self) -> String {
        format!("{}\n{}\n{}\n{}", self.implementation, self.version, self.binary, self.real.display())
    }

    /// `3.11`
    fn minor(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    fn no_ensurepip(&self) -> PythonError {
        let hint = format!("apt install python{}-venv (or python3-venv), or install uv, which does without", self.minor());
        PythonError::NoEnsurepip { interpreter: self.real.display().to_string(), hint }
    }
}

/// The program that makes the environment and fills it, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tool {
    /// uv of this version.
    Uv(String, Whose),
    /// The pip that venv brings.
    Pip(String),
}

/// Whose uv it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The one in the agent's PATH.
    Hosts,
    /// The agent's own.
    Agents,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uv(version, _) => write!(f, "uv {version}"),
            Self::Pip(version) => write!(f, "pip {version}"),
        }
    }
}

impl Host {
    /// This one.
    pub(super) fn here() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self {
            path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            home: std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| "/".into()),
            variables: variables.filter(|(name, _)| is_passed_on(name)).collect(),
        }
    }

    /// A program with the environment of installers.
    pub(super) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Program {
        Program::new(program)
            .env("PATH", &self.path)
            .env("HOME", &self.home)
            // A dead index is told in time; what the operator sets goes before.
            .env("PIP_RETRIES", "2")
            .env("UV_PYTHON_DOWNLOADS", "never")
            // What this host trusts, as its pip does: an authority of one's own is not among those that uv brings. Older versions know the other name.
            .env("UV_SYSTEM_CERTS", "1")
            .env("UV_NATIVE_TLS", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("PIP_NO_INPUT", "1")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    }

    /// The caches that the operator set for all apps.
    pub(super) fn shared_caches(&self) -> Vec<PathBuf> {
        let names_one = |name: &str| matches!(name, "PIP_CACHE_DIR" | "UV_CACHE_DIR" | "POETRY_CACHE_DIR");
        let set = self.variables.iter().filter(|(name, _)| names_one(name)).map(|(_, value)| PathBuf::from(value));
        set.filter(|path| path.is_absolute()).collect()
    }

    /// The interpreter that is set.
    pub(super) fn interpreter(&self, wanted: &str, watch: &Watch<'_>) -> Result<Interpreter, PythonError> {
        let file = file_of(wanted, &self.path);
        let probe = match file.as_ref().and_then(|file| INTERPRETERS.get(file)) {
            Some(known) => known,
            None => {
                let probe = self.probe(wanted, watch)?;
                if let Some(file) = file.filter(|_| !probe.files.is_empty()) {
                    INTERPRETERS.keep(file, &probe.files, probe.clone());
                }
                probe
            }
        };
        let Probe { real, version, implementation, abi, platform, libc, pip, .. } = probe;
        let binary = format!("{} {platform} {} {}", abi.unwrap_or_default(), libc.join(" "), system());
        Ok(Interpreter { real, version, implementation, binary, pip })
    }

    fn probe(&self, wanted: &str, watch: &Watch<'_>) -> Result<Probe, PythonError> {
        let odd = |source| PythonError::OddInterpreter { interpreter: wanted.to_owned(), source };
        match self.program(wanted).args(["-I", "-c", PROBE]).quiet().capture(watch) {
            Ok(finished) => serde_json::from_slice(&finished.stdout).map_err(|_| odd(None)),
            Err(ProgramError::Missing(_) | ProgramError::NotThere(_)) => {
                Err(PythonError::NoInterpreter { wanted: wanted.to_owned(), there: self.pythons() })
            }
            // A version manager's shim is there for versions that are not.
            Err(ProgramError::Failed { status, .. }) if status.code() == Some(127) => {
                Err(PythonError::NoInterpreter { wanted: wanted.to_owned(), there: self.pythons() })
            }
            Err(err) => Err(odd(Some(err))),
        }
    }

    fn pythons(&self) -> Vec<String> {
        let is_python =
            |name: &str| name.strip_prefix("python3").is_some_and(|rest| rest.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()));
        let dirs = std::env::split_paths(&self.path).filter_map(|dir| Some((std::fs::read_dir(&dir).ok()?, dir)));
        let found = dirs.flat_map(|(entries, dir)| {
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| is_python(name)).map(|name| dir.join(name).display().to_string()).collect::<Vec<_>>()
        });
        found.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The program that makes the environment.
    pub(super) fn tool(
        &self,
        installer: Installer,
        way: &EnvironmentSource,
        interpreter: &Interpreter,
        watch: &Watch<'_>,
    ) -> Result<Tool, PythonError> {
        let pip = || interpreter.pip.clone().map(Tool::Pip).ok_or_else(|| interpreter.no_ensurepip());
        // It is fetched by the pip that the interpreter carries.
        let own = interpreter.pip.is_some().then(|| Tool::Uv(own::VERSION.to_owned(), Whose::Agents));
        let missing = |needed_by: String, hint: &str| PythonError::NoTool { needed_by, program: "uv", hint: hint.to_owned() };
        let uv_lock = "install uv for the agent's user or for all (pipx install uv), or name a requirements file in [python] requirements";
        match (installer, way) {
            (Installer::Pip, EnvironmentSource::UvLock { dir }) => Err(PythonError::Refused {
                file: dir.join("uv.lock").display().to_string(),
                line: None,
                why: "can only be installed by uv, and [python] installer is \"pip\"".into(),
            }),
            (Installer::Uv, EnvironmentSource::UvLock { dir }) => {
                self.uv(watch)?.or(own).ok_or_else(|| missing(dir.join("uv.lock").display().to_string(), uv_lock))
            }
            (Installer::Auto, EnvironmentSource::UvLock { dir }) => {
                let uv = self.usual_uv(own, watch)?;
                uv.ok_or_else(|| missing(dir.join("uv.lock").display().to_string(), uv_lock))
            }
            // Whoever sets it means the one that is there.
            (Installer::Uv, _) => self
                .uv(watch)?
                .or(own)
                .ok_or_else(|| missing("installer = \"uv\"".into(), "install uv (pipx install uv), or set [python] installer = \"auto\"")),
            (Installer::Pip, _) => pip(),
            // Commands may call pip, which an environment made by uv has not.
            (Installer::Auto, EnvironmentSource::Commands(_)) if interpreter.pip.is_some() => pip(),
            (Installer::Auto, _) => match self.usual_uv(own, watch)? {
                Some(uv) => Ok(uv),
                None => pip(),
            },
        }
    }

    /// The uv of the version that the agent knows. One of the host's that is the same saves fetching it; another one serves only where the agent's own cannot
    /// be had, for want of a pip.
    fn usual_uv(&self, own: Option<Tool>, watch: &Watch<'_>) -> Result<Option<Tool>, PythonError> {
        let hosts = self.uv(watch)?;
        let is_the_same = matches!(&hosts, Some(Tool::Uv(version, _)) if version == own::VERSION);
        Ok(if is_the_same { hosts } else { own.or(hosts) })
    }

    fn uv(&self, watch: &Watch<'_>) -> Result<Option<Tool>, PythonError> {
        let file = file_of("uv", &self.path);
        if let Some(known) = file.as_ref().and_then(|file| UVS.get(file)) {
            return Ok(Some(known));
        }
        match self.program("uv").arg("--version").quiet().capture(watch) {
            Ok(finished) => {
                let uv = Tool::Uv(finished.text().split_whitespace().nth(1).unwrap_or("?").to_owned(), Whose::Hosts);
                if let Some(file) = file {
                    UVS.keep(file, &[], uv.clone());
                }
                Ok(Some(uv))
            }
            Err(ProgramError::Missing(_) | ProgramError::NotThere(_)) => Ok(None),
            Err(source) => Err(PythonError::Program { act: "asking uv for its version".into(), hint: None, source }),
        }
    }

    /// The version of poetry.
    pub(super) fn poetry(&self, watch: &Watch<'_>) -> Result<String, PythonError> {
        match self.program("poetry").args(["--version", "--no-ansi"]).quiet().capture(watch) {
            Ok(finished) => Ok(finished.text()),
            Err(ProgramError::Missing(_) | ProgramError::NotThere(_)) => Err(PythonError::NoTool {
                needed_by: "poetry.lock".into(),
                program: "poetry",
                hint: "install poetry (pipx install poetry), or commit what `poetry export -o requirements.txt` writes and name it in [python] requirements"
                    .into(),
            }),
            Err(source) => Err(PythonError::Program { act: "asking poetry for its version".into(), hint: None, source }),
        }
    }

    /// Adds what decides where packages come from: variables, configuration files of the host, and those in the release that the tool reads.
    pub(super) fn add_indexes_to(&self, key: &mut Key, tool: &Tool, way: &EnvironmentSource, tree: &Tree) -> Result<(), PythonError> {
        let prefixes: &[&str] = match (way, tool) {
            (EnvironmentSource::Commands(_), _) => &["PIP_", "UV_", "POETRY_"],
            (EnvironmentSource::PoetryLock { .. }, _) => &["POETRY_", "PIP_", "UV_"],
            (_, Tool::Uv(..)) => &["UV_"],
            (_, Tool::Pip(_)) => &["PIP_"],
        };
        let mut variables: Vec<_> =
            self.variables.iter().filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
        variables.sort();
        for (name, value) in variables.into_iter().filter(|(name, _)| !decides_nothing(name)) {
            key.add(name, without_userinfo(&value.to_string_lossy()));
            for file in value.to_string_lossy().split_whitespace().map(Path::new).filter(|path| path.is_absolute()) {
                add_config(key, file);
            }
        }
        if prefixes.contains(&"PIP_") {
            for file in [
                "/etc/xdg/pip/pip.conf".into(),
                "/etc/pip.conf".into(),
                self.home.join(".pip/pip.conf"),
                self.home.join(".config/pip/pip.conf"),
            ] {
                add_config(key, &file);
            }
        }
        if prefixes.contains(&"UV_") {
            for file in ["/etc/uv/uv.toml".into(), self.home.join(".config/uv/uv.toml")] {
                add_config(key, &file);
            }
            // uv reads these from where it runs, whatever it installs.
            let dir = if let EnvironmentSource::UvLock { dir } = way { dir.as_path() } else { Path::new("") };
            for name in ["uv.toml", "pyproject.toml"] {
                if let Some(settings) = tree.read_if_there(&dir.join(name))?.and_then(|bytes| uv_settings(name, bytes)) {
                    key.add(name, settings);
                }
            }
        }
        Ok(())
    }
}

/// Of a pyproject.toml only what uv takes from it is of interest; the rest is about other tools.
fn uv_settings(name: &str, bytes: Vec<u8>) -> Option<Vec<u8>> {
    if name != "pyproject.toml" {
        return Some(bytes);
    }
    let table = std::str::from_utf8(&bytes).ok()?.parse::<toml::Table>().ok()?;
    Some(table.get("tool")?.get("uv")?.to_string().into_bytes())
}

/// Adds a configuration file of the host, when it can be read; the installer runs as the same user.
fn add_config(key: &mut Key, file: &Path) {
    if let Ok(text) = std::fs::read_to_string(file) {
        key.add(&file.display().to_string(), without_userinfo(&text));
    }
}

/// The distribution and its release: packages without a wheel are compiled against its libraries.
fn system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_ID=")).collect::<Vec<_>>().join(" ")
}
