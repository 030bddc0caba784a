//! Asks a project what it is, and has it checked and its static files collected, by a script that runs inside its own interpreter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_wire::event::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{hint, missing_module, missing_variable};
use super::facts::Facts;
use super::{Collected, Deploy, Django, Grounds, Inspection, ManageError, Others, Schema, SchemaUnknown, unmade_of};
use crate::database::{Database, Reached};
use crate::process::{ProgramError, Watch};

/// Questions to servers, what is asked beside, and the script itself: one text, for one interpreter.
const SCRIPT: &str = concat!(
    "IDENTITY = \"\"\"",
    include_str!("../database/identity.sql"),
    "\"\"\"\n",
    include_str!("facts.py"),
    include_str!("schema.py"),
    include_str!("contract.py"),
    include_str!("reversal.py"),
    include_str!("project.py")
);

/// Said where the checks for deployment fail before the first migrate: which ones, where that is known. Why they fail, nobody has looked at.
fn not_deployed(ids: &[String]) -> String {
    let which = if ids.is_empty() { String::new() } else { format!(" ({})", ids.join(", ")) };
    format!(
        "check --deploy fails{which}, and no migration is applied yet, which may be why: check passes without --deploy, and the next release must pass all of it"
    )
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FactsAnswer<T> {
    Failed { failed: Failure },
    Said(T),
}

#[derive(Deserialize)]
struct Failure {
    stage: String,
    kind: String,
    message: String,
    missing: Option<String>,
    trace: Vec<String>,
    #[serde(default)]
    settings: Option<Box<NoSuchSettings>>,
}

/// The settings module is not there.
#[derive(Deserialize)]
struct NoSuchSettings {
    module: String,
    /// The part of its name that was looked for in vain, and the package in which.
    missing: String,
    package: String,
    /// What the package has instead.
    there: Vec<String>,
}

impl NoSuchSettings {
    fn hint(&self) -> String {
        let Self { module, missing, package, there } = self;
        let place = if package.is_empty() { "the directory of manage.py" } else { package.as_str() };
        let has = if there.is_empty() { "is a module, and no package".to_owned() } else { format!("has {}", there.join(", ")) };
        format!("{place} {has}; no {missing}: correct the settings module {module} in [django] settings, or in manage.py")
    }
}

#[derive(Deserialize)]
struct ProjectFacts {
    version: String,
    settings_module: String,
    wsgi_application: Option<String>,
    chosen_by_default: Option<String>,
    databases: BTreeMap<String, DatabaseFacts>,
    schema: SchemaFacts,
    facts: Facts,
}

#[derive(Deserialize)]
struct DatabaseFacts {
    vendor: String,
    name: String,
    host: String,
    port: String,
    user: String,
    password: String,
    options: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SchemaFacts {
    Failed {
        failed: String,
        #[serde(default)]
        hint: Option<String>,
    },
    Known(Box<Schema>),
}

#[derive(Deserialize)]
struct Loaded {
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Examined {
    /// It has threads or connections as soon as it is loaded, of which a fork would get no copy.
    Alone {
        #[serde(rename = "alone")]
        _alone: bool,
    },
    Facts {
        unmade: Unmade,
        /// Where the checks for deployment fail before the first migrate: which ones.
        not_deployed: Option<Vec<String>>,
        #[serde(flatten)]
        told: Box<ProjectFacts>,
    },
}

#[derive(Deserialize)]
struct Unmade {
    status: i32,
    lines: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ToldCollected {
    Nothing { nothing: String },
    Outside { outside: PathBuf },
    Into { root: Option<PathBuf>, read: Vec<PathBuf>, elsewhere: Vec<(PathBuf, String)>, unsure: Option<String> },
}

impl Django<'_> {
    /// What the project says of itself; changes nothing.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded. A database that cannot be reached is told in [`Inspection::schema`].
    pub(crate) fn inspect(&self, watch: &Watch<'_>) -> Result<Inspection, ManageError> {
        self.ask("inspect", &self.kept_by(), watch).map(ProjectFacts::into)
    }

    /// `manage.py check --deploy --fail-level ERROR`, what people should know (a sentence each), and what the project says of itself. Checks for
    /// deployment may ask for tables: before the first migrate, those that fail are left out. One process loads the project, and does each in a copy of itself; where such a copy would not be the same, each has its own.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded, or the check finds an error.
    pub(crate) fn examine(&self, watch: &Watch<'_>) -> Result<(Inspection, Vec<String>), ManageError> {
        match self.ask("examine", &self.kept_by(), watch)? {
            Examined::Facts { unmade, not_deployed: left_out, told } => {
                let unmade = (unmade.status != 0).then(|| unmade_of(&unmade.lines));
                Ok(((*told).into(), left_out.map(|ids| not_deployed(&ids)).into_iter().chain(unmade).collect()))
            }
            Examined::Alone { .. } => {
                let checked = self.check(Deploy::Yes, watch);
                let inspection = self.inspect(watch)?;
                let is_new = inspection.schema.as_ref().is_ok_and(|schema| schema.applied.is_empty());
                let warning = match checked {
                    Err(ManageError::Command { .. }) if is_new => {
                        self.check(Deploy::No, watch)?;
                        Some(not_deployed(&[]))
                    }
                    checked => checked.map(|()| None)?,
                };
                Ok((inspection, warning.into_iter().chain(self.unmade_migrations(watch)?).collect()))
            }
        }
    }

    /// `manage.py collectstatic --noinput`, where the static files go into the release or into one of these other directories.
    ///
    /// # Errors
    /// [`ManageError`] when it fails, or they would go elsewhere.
    pub(crate) fn collect(&self, others: &[PathBuf], watch: &Watch<'_>) -> Result<Collected, ManageError> {
        let places: Vec<_> = std::iter::once(self.release).chain(others.iter().map(PathBuf::as_path)).collect();
        Ok(match self.ask("collect", &places, watch)? {
            ToldCollected::Nothing { nothing } => Collected::Nothing(nothing),
            ToldCollected::Outside { outside } => return Err(ManageError::Outside(outside)),
            ToldCollected::Into { root: None, .. } => Collected::Elsewhere,
            ToldCollected::Into { root: Some(root), read, elsewhere, unsure } => {
                Collected::Within(Grounds { root, read: read.into_iter().collect(), elsewhere, unsure })
            }
        })
    }

    /// Imports the WSGI application and the URLs, as a server would; tells what people should know.
    ///
    /// # Errors
    /// [`ManageError`] when they cannot be imported.
    pub(crate) fn load(&self, watch: &Watch<'_>) -> Result<Vec<String>, ManageError> {
        self.ask("load", &[], watch).map(|Loaded { warnings }| warnings)
    }

    /// Where what a release keeps would be looked for, and whether migrations are applied.
    fn kept_by(&self) -> [&Path; 2] {
        [self.release, Path::new(if self.settings.migrate { "migrates" } else { "" })]
    }

    pub(super) fn ask<T: DeserializeOwned>(&self, mode: &'static str, places: &[&Path], watch: &Watch<'_>) -> Result<T, ManageError> {
        // Ending badly is what the script does in the name of a command that failed.
        let command = match mode {
            "examine" => Some("check"),
            "collect" => Some("collectstatic"),
            _ => None,
        };
        let mut program = self.interpreter()?;
        if !self.env.iter().any(|(name, _)| name == "PGCONNECT_TIMEOUT") {
            program = program.env("PGCONNECT_TIMEOUT", "10");
        }
        let program = program
            .args(["-c", SCRIPT, mode])
            .arg(self.manage_path())
            .arg(self.settings.settings.as_deref().unwrap_or_default())
            .arg(&self.settings.database)
            .arg(match &self.settings.others {
                Others::Kept => "*".to_owned(),
                Others::These(aliases) => aliases.join(","),
            })
            .args(places)
            .unshown();
        let said = RefCell::new(Vec::new());
        let lines = |stream: Stream, line: &str| {
            (watch.lines)(stream, line);
            said.borrow_mut().push(line.to_owned());
        };
        let finished = match program.capture(&Watch { lines: &lines, ..*watch }) {
            Ok(finished) => finished,
            Err(source @ ProgramError::Failed { .. }) if command.is_none() => return Err(ManageError::NoAnswer { source: Some(source) }),
            Err(source) => return Err(ManageError::command(command.unwrap_or(mode), source, &said.into_inner())),
        };
        // The script moves what the project prints elsewhere; what comes before the last line was there earlier still.
        let answer = finished.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        match serde_json::from_slice(answer) {
            Ok(FactsAnswer::Said(told)) => Ok(told),
            Ok(FactsAnswer::Failed { failed }) => Err(failed.into()),
            Err(_) => Err(ManageError::NoAnswer { source: None }),
        }
    }
}

impl From<ProjectFacts> for Inspection {
    fn from(told: ProjectFacts) -> Self {
        let ProjectFacts { version, settings_module, wsgi_application, chosen_by_default, databases, schema, facts } = told;
        let Facts { alias: asked, reached, kept, empty } = facts;
        let vendor = databases.get(&asked).map(|told| told.vendor.clone()).unwrap_or_default();
        let databases = databases.into_iter().map(|(alias, told)| {
            let DatabaseFacts { vendor, name, host, port, user, password, options } = told;
            let reached = if alias == asked { reached.clone() } else { Reached::default() };
            (alias.clone(), Database { alias, vendor, name, host, port, user, password, options, reached })
        });
        let schema = match schema {
            SchemaFacts::Known(schema) => Ok(*schema),
            SchemaFacts::Failed { failed, hint } => Err(SchemaUnknown { why: failed, hint }),
        };
        Self { version, settings_module, wsgi_application, chosen_by_default, databases: databases.collect(), schema, vendor, kept, empty }
    }
}

impl From<Failure> for ManageError {
    fn from(failure: Failure) -> Self {
        let Failure { stage, kind, message, missing, trace, settings } = failure;
        let act = match stage.as_str() {
            "unset" => return Self::NoSettings,
            "django" => "importing Django",
            "manage" => "running manage.py",
            "settings" => "loading the settings",
            "databases" => "loading the databases of the settings",
            "wsgi" => "importing WSGI_APPLICATION",
            "urls" => "importing the URLs of ROOT_URLCONF",
            _ => "asking the project",
        };
        let module = missing.filter(|_| kind == "ModuleNotFoundError").and_then(|module| module.split('.').next().map(str::to_owned));
        let hint = match (module, kind.as_str(), stage.as_str()) {
            _ if settings.is_some() => settings.map(|settings| settings.hint()),
            (Some(module), ..) => Some(missing_module(&module)),
            // os.environ["NAME"] raises with the name in quotes.
            (None, "KeyError", "settings" | "manage") => Some(missing_variable(message.trim_matches(['\'', '"']))),
            _ => hint(&message),
        };
        let message = message.lines().next().unwrap_or_default().to_owned();
        Self::Project { act, kind, message, hint, trace }
    }
}
