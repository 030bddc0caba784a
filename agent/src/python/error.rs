//! Why an environment cannot be had.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::process::ProgramError;

/// Why an environment cannot be had.
#[derive(Debug, Error)]
pub(crate) enum PythonError {
    /// The interpreter is not there.
    #[error("the interpreter {wanted} is not on this host; {}", those(there))]
    NoInterpreter {
        /// What is set.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// The interpreter does not say what it is.
    #[error("{interpreter} did not answer as an interpreter of Python 3.6 or newer does")]
    OddInterpreter {
        /// What is set.
        interpreter: String,
        /// How it ended.
        #[source]
        source: Option<ProgramError>,
    },
    /// A program that is needed is not there.
    #[error("{needed_by} needs {program}, which is not installed, or not in the agent's PATH")]
    NoTool {
        /// The file or setting that needs it.
        needed_by: String,
        /// Its name.
        program: &'static str,
        /// What to do about it.
        hint: String,
    },
    /// The interpreter cannot make environments that have pip.
    #[error("{interpreter} cannot make virtual environments: its module ensurepip is missing")]
    NoEnsurepip {
        /// Its path.
        interpreter: String,
        /// What to do about it.
        hint: String,
    },
    /// A file that a release names is not in it.
    #[error("{file}, which {by}, is not in the release")]
    NotThere {
        /// Its path in the release.
        file: String,
        /// Who names it.
        by: String,
    },
    /// A file that would be read lies elsewhere.
    #[error("{file} leads out of the release; it was not read")]
    Outside {
        /// Its path in the release.
        file: String,
    },
    /// A file cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        /// Its path in the release.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file asks for something that is refused, or is not what its name says.
    #[error("{file}{} {why}", line.map(|line| format!(", line {line},")).unwrap_or_default())]
    Refused {
        /// Its path in the release.
        file: String,
        /// Where.
        line: Option<usize>,
        /// What.
        why: String,
    },
    /// Nothing says what the project needs.
    #[error("nothing in the release says what it needs: looked for {looked_for}")]
    NothingFound {
        /// The names.
        looked_for: String,
        /// What stands beside a manage.py further down.
        below: Option<PathBuf>,
    },
    /// There is something where the environment is to be.
    #[error("{} is there already; an environment is built where nothing is", .0.display())]
    AlreadyThere(PathBuf),
    /// A file of the environment cannot be written or read.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{act} failed")]
    Program {
        /// What was done.
        act: String,
        /// What to do about it.
        hint: Option<String>,
        /// How it ended.
        #[source]
        source: ProgramError,
    },
    /// The installer was content, and yet nothing is there.
    #[error("nothing was installed, although {asked} packages are asked for: their markers leave out every one of them")]
    NothingInstalled {
        /// How many were asked for.
        asked: usize,
    },
    /// The installer was content, and yet something is missing.
    #[error("the installer succeeded, and yet the environment has no {}", .0.join(", "))]
    Absent(Vec<String>),
    /// The environment is not what it should be.
    #[error("what was built at {} is not a virtual environment: {why}", venv.display())]
    NotAnEnvironment {
        /// Where.
        venv: PathBuf,
        /// What was seen.
        why: String,
    },
}

fn those(there: &[String]) -> String {
    if there.is_empty() { "there is no Python in the agent's PATH".to_owned() } else { format!("there is {}", there.join(", ")) }
}

impl PythonError {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<Cow<'_, str>> {
        let hint = match self {
            Self::Program { hint, source, .. } => hint.as_deref().or(source.hint()),
            Self::NoTool { hint, .. } | Self::NoEnsurepip { hint, .. } => Some(hint.as_str()),
            Self::NoInterpreter { .. } => Some("install it, or set [python] interpreter to one that is there"),
            Self::OddInterpreter { .. } => Some("set [python] interpreter to a Python 3 that runs as the agent's user"),
            Self::NotThere { .. } => Some("is it committed, and is [python] requirements right?"),
            Self::Outside { .. } => Some("put the file itself into the repository instead of a link or a path that leaves it"),
            Self::NothingFound { below: Some(file), .. } => {
                return Some(Cow::from(format!("the project is further down: set [python] requirements = [\"{}\"]", file.display())));
            }
            Self::NothingFound { below: None, .. } => {
                Some("set [python] requirements to the file that says it, or [python] install to the commands that install")
            }
            Self::NothingInstalled { .. } | Self::Absent(_) => {
                Some("look at the markers behind the semicolons, and at the interpreter's version")
            }
            Self::Unreadable { .. } | Self::Refused { .. } | Self::AlreadyThere(_) | Self::File { .. } | Self::NotAnEnvironment { .. } => {
                None
            }
        };
        hint.map(Cow::from)
    }

    /// The last lines of the program that failed.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Program { source, .. } | Self::OddInterpreter { source: Some(source), .. } => source.tail(),
            _ => &[],
        }
    }
}
