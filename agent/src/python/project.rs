//! Which way a project says what it needs.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::host::Interpreter;
use super::key::Key;
use super::requirements::{LINE_ENDS, Reading, Tree, WantedPackage, index_of, package_of};
use super::{PythonError, Settings};

/// What is looked for, first one first, when nothing is set.
const LOOKED_FOR: &[&str] = &[
    "uv.lock",
    "poetry.lock",
    "Pipfile.lock",
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "pyproject.toml",
];

/// How an environment is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EnvironmentSource {
    /// Requirement files, and lines that were made of other files.
    Requirements {
        /// By their paths in the release.
        files: Vec<PathBuf>,
        /// Made of Pipfile.lock and pyproject.toml.
        made: Vec<Made>,
    },
    /// `uv sync --frozen` in this directory of the release.
    UvLock {
        /// Where uv.lock is.
        dir: PathBuf,
    },
    /// `poetry install` in this directory of the release.
    PoetryLock {
        /// Where poetry.lock is.
        dir: PathBuf,
    },
    /// The commands that are set.
    Commands(Vec<Vec<String>>),
    /// Only the packages that are set.
    PackagesOnly,
}

/// Requirement lines made of a file of another kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    /// The file that they were made of.
    pub from: PathBuf,
    /// The lines.
    pub lines: Vec<String>,
    /// Whether the lines name all that is needed, so that nothing else may be installed.
    pub closure: Closure,
}

/// Whether lines name all that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closure {
    /// A lock: what the packages ask for themselves is in it.
    Complete,
    /// Only what the project asks for directly.
    Direct,
}

impl EnvironmentSource {
    /// For people.
    pub(super) fn told(&self, reading: &Reading) -> Vec<String> {
        let count = |file: &Path| {
            let file = file.display().to_string();
            reading.asked.iter().filter(|asked| asked.file == file).count()
        };
        let packages = |file: PathBuf| match count(&file) {
            1 => format!("{} (1 package)", file.display()),
            several => format!("{} ({several} packages)", file.display()),
        };
        match self {
            Self::Requirements { files, made } => {
                let named: Vec<&PathBuf> = files.iter().chain(made.iter().map(|made| &made.from)).collect();
                // Lines of included files are told with the first file.
                let included = reading.asked.len()
                    - reading.asked.iter().filter(|asked| named.iter().any(|file| asked.file == file.display().to_string())).count();
                let lines = |(index, file): (usize, &&PathBuf)| {
                    let lines = count(file) + if index == 0 { included } else { 0 };
                    format!("{} ({lines} {})", file.display(), if lines == 1 { "line" } else { "lines" })
                };
                let mut told: Vec<String> = named.iter().enumerate().map(lines).collect();
                told.dedup();
                told
            }
            Self::UvLock { dir } => vec![packages(dir.join("uv.lock"))],
            Self::PoetryLock { dir } => vec![packages(dir.join("poetry.lock"))],
            Self::Commands(commands) => commands.iter().map(|argv| argv.join(" ")).collect(),
            Self::PackagesOnly => Vec::new(),
        }
    }

    /// Adds what decides the result and is in no file.
    pub(super) fn add_to(&self, key: &mut Key) {
        let name = match self {
            Self::Requirements { .. } => "requirements",
            Self::UvLock { .. } => "uv.lock",
            Self::PoetryLock { .. } => "poetry.lock",
            Self::Commands(_) => "commands",
            Self::PackagesOnly => "packages",
        };
        key.add("way", name);
        if let Self::Commands(commands) = self {
            for argv in commands {
                key.add("command", "");
                argv.iter().for_each(|arg| key.add("argument", arg));
            }
        }
    }
}

/// Finds the way, reading what belongs to it.
pub(super) fn find(settings: &Settings, tree: &Tree, reading: &mut Reading) -> Result<EnvironmentSource, PythonError> {
    if !settings.install.is_empty() {
        return Ok(commands(settings, reading));
    }
    if !settings.requirements.is_empty() {
        return named(&settings.requirements, tree, reading);
    }
    let mut there: Vec<&str> = LOOKED_FOR.iter().copied().filter(|name| tree.has(Path::new(name))).collect();
    // A pyproject.toml without [project] belongs to other tools.
    if there.contains(&"pyproject.toml") && !has_project(tree)? {
        there.retain(|name| *name != "pyproject.toml");
    }
    let Some((first, others)) = there.split_first() else {
        if settings.packages.is_empty() {
            return Err(PythonError::NothingFound { looked_for: LOOKED_FOR.join(", "), below: below(tree) });
        }
        reading.notes.push("the release has no requirements; only the packages that are set are installed".into());
        return Ok(EnvironmentSource::PackagesOnly);
    };
    // A lock stands beside the pyproject.toml that it was made of.
    let passed: Vec<&str> = others.iter().copied().filter(|name| !(*name == "pyproject.toml" && first.ends_with(".lock"))).collect();
    if !passed.is_empty() {
        reading.notes.push(format!("{first} is used; passed over: {}", passed.join(", ")));
    }
    named(&[PathBuf::from(first)], tree, reading)
}

/// That `.python-version` asks for another interpreter than the one that is set, which is the one that counts.
pub(super) fn other_interpreter(tree: &Tree, interpreter: &Interpreter) -> Option<String> {
    let file = Path::new(".python-version");
    let bytes = tree.read_if_there(file).ok().flatten()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let wanted = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    // Only a plain version can be compared; pyenv knows names and `system`, too.
    if !wanted.starts_with(|c: char| c.is_ascii_digit()) || !wanted.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()) {
        return None;
    }
    let fits = interpreter.version == wanted || interpreter.version.starts_with(&format!("{wanted}."));
    (!fits).then(|| {
        format!(".python-version asks for {wanted}, and [python] interpreter is {interpreter}, which is what counts; set `interpreter` to the other one, or change the file")
    })
}

/// The first of the files that stands beside a manage.py further down, as in a repository of several projects.
fn below(tree: &Tree) -> Option<PathBuf> {
    let in_project = |dir: &PathBuf| dir.join("manage.py").is_file();
    directories(tree.root(), DEEPEST).into_iter().filter(in_project).find_map(|dir| {
        let file = LOOKED_FOR.iter().map(|name| dir.join(name)).find(|file| file.is_file())?;
        Some(file.strip_prefix(tree.root()).ok()?.to_owned())
    })
}

/// How many directories down a project is looked for.
const DEEPEST: usize = 3;

/// The directories in one, those near it first. What cannot be read is passed over: this only makes a hint better.
fn directories(root: &Path, deepest: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..deepest {
        let entries = level.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        let mut next: Vec<PathBuf> =
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
        next.sort();
        found.extend(next.iter().cloned());
        level = next;
    }
    found
}

fn has_project(tree: &Tree) -> Result<bool, PythonError> {
    let file = Path::new("pyproject.toml");
    let Some(bytes) = tree.read_if_there(file)? else { return Ok(false) };
    Ok(pyproject(file, &bytes)?.project.is_some())
}

/// What the commands read and install is theirs to know: any file of the release, so that no other release can use what they made.
fn commands(settings: &Settings, reading: &mut Reading) -> EnvironmentSource {
    reading.tied = true;
    reading.notes.push("[python] install may read any file of the release: the environment is built for this release alone".into());
    EnvironmentSource::Commands(settings.install.clone())
}

fn named(files: &[PathBuf], tree: &Tree, reading: &mut Reading) -> Result<EnvironmentSource, PythonError> {
    let mut plain = Vec::new();
    let mut made = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_str().unwrap_or_default();
        let dir = file.parent().unwrap_or(Path::new("")).to_owned();
        if matches!(name, "uv.lock" | "poetry.lock") && files.len() > 1 {
            let why = "cannot be used together with other files; name it alone in [python] requirements".to_owned();
            return Err(PythonError::Refused { file: file.display().to_string(), line: None, why });
        }
        match name {
            "uv.lock" => {
                uv_lock(tree, file, reading)?;
                return Ok(EnvironmentSource::UvLock { dir });
            }
            "poetry.lock" => {
                poetry_lock(tree, file, reading)?;
                return Ok(EnvironmentSource::PoetryLock { dir });
            }
            "Pipfile.lock" => made.extend(pipfile_lock(tree, file, reading)?),
            "pyproject.toml" => made.push(pyproject_lines(tree, file, reading)?),
            _ => {
                reading.requirements(tree, file)?;
                plain.push(file.clone());
            }
        }
    }
    Ok(EnvironmentSource::Requirements { files: plain, made })
}

fn malformed(file: &Path, why: impl std::fmt::Display) -> PythonError {
    // The first line of a parser's message says what and where; those below it show the file.
    let why = why.to_string();
    let first = why.lines().next().unwrap_or_default().to_owned();
    PythonError::Refused { file: file.display().to_string(), line: None, why: format!("cannot be understood: {first}") }
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, PythonError> {
    std::str::from_utf8(bytes).map_err(|err| malformed(file, err))
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    #[serde(default)]
    source: toml::Table,
    /// Of poetry.
    #[serde(default)]
    groups: Vec<String>,
    /// Of older poetry.
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    optional: bool,
}

/// Keeps that a lock names a package. It may do so in several versions; which of them fit here, if any, is for the installer to say.
fn locked(name: &str, file: &Path, reading: &mut Reading) {
    let asked = WantedPackage {
        name: Some(super::requirements::normalised(name)),
        file: file.display().to_string(),
        line: None,
        conditional: true,
    };
    if !reading.asked.contains(&asked) {
        reading.asked.push(asked);
    }
}

fn uv_lock(tree: &Tree, file: &Path, reading: &mut Reading) -> Result<(), PythonError> {
    let bytes = tree.read(file, "[python] requirements names")?;
    let lock: Lock = toml::from_str(text(file, &bytes)?).map_err(|err| malformed(file, err))?;
    let beside = file.with_file_name("pyproject.toml");
    let project = tree.read(&beside, "uv.lock belongs to")?;
    for package in &lock.package {
        let place = ["virtual", "editable", "directory", "path"].iter().find_map(|kind| package.source.get(*kind)?.as_str());
        match place {
            // The project itself is not installed.
            Some(".") => {}
            Some(_) => {
                reading.tie(&file.display().to_string(), None);
                locked(&package.name, file, reading);
            }
            None => locked(&package.name, file, reading),
        }
    }
    reading.keep(file, bytes);
    reading.keep(&beside, project);
    Ok(())
}

fn poetry_lock(tree: &Tree, file: &Path, reading: &mut Reading) -> Result<(), PythonError> {
    let bytes = tree.read(file, "[python] requirements names")?;
    let lock: Lock = toml::from_str(text(file, &bytes)?).map_err(|err| malformed(file, err))?;
    let beside = file.with_file_name("pyproject.toml");
    let project = tree.read(&beside, "poetry.lock belongs to")?;
    for package in &lock.package {
        let is_main = package.groups.is_empty() || package.groups.iter().any(|group| group == "main");
        if !is_main || package.optional || package.category.as_deref() == Some("dev") {
            continue;
        }
        if package.source.get("type").and_then(toml::Value::as_str).is_some_and(|kind| matches!(kind, "directory" | "file")) {
            reading.tie(&file.display().to_string(), None);
        }
        locked(&package.name, file, reading);
    }
    reading.keep(file, bytes);
    reading.keep(&beside, project);
    // Poetry's own settings in the project.
    let settings = file.with_file_name("poetry.toml");
    if let Some(bytes) = tree.read_if_there(&settings)? {
        reading.keep(&settings, bytes);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Pyproject {
    project: Option<Project>,
}

#[derive(Deserialize)]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    dynamic: Vec<String>,
}

fn pyproject(file: &Path, bytes: &[u8]) -> Result<Pyproject, PythonError> {
    toml::from_str(text(file, bytes)?).map_err(|err| malformed(file, err))
}

fn pyproject_lines(tree: &Tree, file: &Path, reading: &mut Reading) -> Result<Made, PythonError> {
    let refused = |why: &str| PythonError::Refused { file: file.display().to_string(), line: None, why: why.to_owned() };
    let bytes = tree.read(file, "[python] requirements names")?;
    let project = pyproject(file, &bytes)?.project.ok_or_else(|| refused("has no [project] that could say what is needed"))?;
    if project.dynamic.iter().any(|field| field == "dependencies") {
        return Err(refused(
            "leaves its dependencies to its build system (dynamic): name the file that holds them in [python] requirements",
        ));
    }
    for line in &project.dependencies {
        checked_line(file, line)?;
        let package = package_of(line);
        reading.names(&package, &file.display().to_string(), None);
        if package.local {
            reading.tie(&file.display().to_string(), None);
        }
        reading.asked.push(WantedPackage {
            name: package.name,
            file: file.display().to_string(),
            line: None,
            conditional: package.conditional,
        });
    }
    // What else stands in the file decides nothing.
    reading.keep(file, project.dependencies.join("\n").into_bytes());
    Ok(Made { from: file.to_owned(), lines: project.dependencies, closure: Closure::Direct })
}

/// A line that is put into a requirement file must be a requirement, and not an option or more than one line.
fn checked_line(file: &Path, line: &str) -> Result<(), PythonError> {
    if line.trim_start().starts_with('-') || line.contains(LINE_ENDS) {
        return Err(malformed(file, "a dependency in it is no requirement"));
    }
    Ok(())
}

#[derive(Deserialize)]
struct PipfileLock {
    #[serde(rename = "_meta", default)]
    meta: PipfileMeta,
    #[serde(default)]
    default: std::collections::BTreeMap<String, PipfilePackage>,
}

#[derive(Deserialize, Default)]
struct PipfileMeta {
    #[serde(default)]
    sources: Vec<PipfileSource>,
}

#[derive(Deserialize)]
struct PipfileSource {
    #[serde(default)]
    name: String,
    url: String,
}

#[derive(Deserialize)]
struct PipfilePackage {
    version: Option<String>,
    #[serde(default)]
    extras: Vec<String>,
    #[serde(default)]
    hashes: Vec<String>,
    markers: Option<String>,
    git: Option<String>,
    #[serde(rename = "ref")]
    revision: Option<String>,
    subdirectory: Option<String>,
    file: Option<String>,
    path: Option<String>,
    #[serde(default)]
    editable: bool,
}

/// The `default` section as requirement lines: those with hashes apart from those that cannot have any.
fn pipfile_lock(tree: &Tree, file: &Path, reading: &mut Reading) -> Result<Vec<Made>, PythonError> {
    let bytes = tree.read(file, "[python] requirements names")?;
    let lock: PipfileLock = serde_json::from_slice(&bytes).map_err(|err| malformed(file, err))?;
    let indexes = pipfile_indexes(file, &lock.meta.sources, reading)?;
    let (mut hashed, mut bare) = (indexes.clone(), indexes.clone());
    for (name, package) in &lock.default {
        let line = pipfile_line(tree, name, package);
        match &package.path {
            // The only lines that are options, and written here.
            Some(path) if path.contains(char::is_whitespace) => return Err(malformed(file, "a path in it holds white space")),
            Some(_) if package.editable => {}
            _ => checked_line(file, &line)?,
        }
        if package.path.is_some() {
            reading.tie(&file.display().to_string(), None);
        } else if package.hashes.is_empty() {
            reading.names(&package_of(&line), &file.display().to_string(), None);
        }
        reading.asked.push(WantedPackage {
            name: Some(super::requirements::normalised(name)),
            file: file.display().to_string(),
            line: None,
            conditional: package.markers.is_some() || package.path.is_some(),
        });
        if package.hashes.is_empty() || package.git.is_some() || package.path.is_some() { bare.push(line) } else { hashed.push(line) }
    }
    reading.keep(file, bytes);
    let made = [hashed, bare].into_iter().filter(|lines| lines.len() > indexes.len());
    Ok(made.map(|lines| Made { from: file.to_owned(), lines, closure: Closure::Complete }).collect())
}

/// Indexes of the lock as options. The one that is called `pypi`, as pipenv calls its default, is the host's to choose.
fn pipfile_indexes(file: &Path, sources: &[PipfileSource], reading: &mut Reading) -> Result<Vec<String>, PythonError> {
    let own: Vec<&PipfileSource> = sources.iter().filter(|source| source.name != "pypi").collect();
    let mut lines = Vec::new();
    for (index, source) in own.iter().enumerate() {
        if source.url.contains(char::is_whitespace) {
            return Err(malformed(file, "the URL of a source holds white space"));
        }
        let option = if index == 0 && own.len() == sources.len() { "--index-url" } else { "--extra-index-url" };
        lines.push(format!("{option} {}", source.url));
        reading.notes.push(format!("{} names an index of its own: {}", file.display(), index_of(&source.url)));
    }
    Ok(lines)
}

fn pipfile_line(tree: &Tree, name: &str, package: &PipfilePackage) -> String {
    let extras = if package.extras.is_empty() { String::new() } else { format!("[{}]", package.extras.join(",")) };
    let marker = package.markers.as_ref().map(|markers| format!(" ; {markers}")).unwrap_or_default();
    let fragment = package.subdirectory.as_ref().map(|dir| format!("#subdirectory={dir}")).unwrap_or_default();
    if let Some(git) = &package.git {
        let scheme = if git.starts_with("git+") { "" } else { "git+" };
        let revision = package.revision.as_ref().map(|revision| format!("@{revision}")).unwrap_or_default();
        return format!("{name}{extras} @ {scheme}{git}{revision}{fragment}{marker}");
    }
    if let Some(path) = &package.path {
        let path = tree.root().join(path);
        return if package.editable {
            format!("-e {}{extras}", path.display())
        } else {
            format!("{name}{extras} @ file://{}{marker}", path.display())
        };
    }
    let mut line = match &package.file {
        Some(url) => format!("{name}{extras} @ {url}{fragment}"),
        None => format!("{name}{extras}{}", package.version.as_deref().filter(|version| *version != "*").unwrap_or_default()),
    };
    line.push_str(&marker);
    for hash in &package.hashes {
        line.push_str(" --hash=");
        line.push_str(hash);
    }
    line
}
