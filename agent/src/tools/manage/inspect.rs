//! Asks a project what it is, by a script that runs inside its own interpreter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use agent_wire::event::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::{ProgramError, Watch};
use super::error::{hint, missing_module, missing_variable};
use super::{Database, Django, Inspection, ManageError, Schema};

const SCRIPT: &str = include_str!("inspect.py");

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Failed { failed: Failure },
    Told(T),
}

#[derive(Deserialize)]
struct Failure {
    stage: String,
    kind: String,
    message: String,
    missing: Option<String>,
    trace: Vec<String>,
}

#[derive(Deserialize)]
struct Told {
    version: String,
    settings_module: String,
    static_root: Option<PathBuf>,
    staticfiles: bool,
    wsgi_application: Option<String>,
    databases: BTreeMap<String, ToldDatabase>,
    schema: ToldSchema,
}

#[derive(Deserialize)]
struct ToldDatabase {
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
enum ToldSchema {
    Failed { failed: String },
    Known(Schema),
}

#[derive(Deserialize)]
struct Loaded {
    warnings: Vec<String>,
}

impl Django<'_> {
    /// What the project says of itself; changes nothing.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded. A database that cannot be reached is told in [`Inspection::schema`].
    pub(crate) fn inspect(&self, watch: &Watch<'_>) -> Result<Inspection, ManageError> {
        let Told { version, settings_module, static_root, staticfiles, wsgi_application, databases, schema } =
            self.ask("inspect", watch)?;
        let databases = databases.into_iter().map(|(alias, told)| {
            let ToldDatabase { vendor, name, host, port, user, password, options } = told;
            (alias.clone(), Database { alias, vendor, name, host, port, user, password, options })
        });
        let schema = match schema {
            ToldSchema::Known(schema) => Ok(schema),
            ToldSchema::Failed { failed } => Err(failed),
        };
        Ok(Inspection { version, settings_module, static_root, staticfiles, wsgi_application, databases: databases.collect(), schema })
    }

    /// Imports the WSGI application and the URLs, as a server would; tells what people should know.
    ///
    /// # Errors
    /// [`ManageError`] when they cannot be imported.
    pub(crate) fn load(&self, watch: &Watch<'_>) -> Result<Vec<String>, ManageError> {
        self.ask("load", watch).map(|Loaded { warnings }| warnings)
    }

    fn ask<T: DeserializeOwned>(&self, mode: &str, watch: &Watch<'_>) -> Result<T, ManageError> {
        let mut program = self.interpreter()?;
        if !self.env.iter().any(|(name, _)| name == "PGCONNECT_TIMEOUT") {
            program = program.env("PGCONNECT_TIMEOUT", "10");
        }
        let program = program
            .args(["-c", SCRIPT, mode])
            .arg(self.manage_path())
            .arg(self.settings.settings.as_deref().unwrap_or_default())
            .arg(&self.settings.database);
        let said = RefCell::new(Vec::new());
        let lines = |stream: Stream, line: &str| {
            (watch.lines)(stream, line);
            said.borrow_mut().push(line.to_owned());
        };
        let finished = match program.capture(&Watch { lines: &lines, ..*watch }) {
            Ok(finished) => finished,
            Err(ProgramError::Failed { program, status, tail }) => {
                return Err(ManageError::NoAnswer { source: Some(ProgramError::Failed { program, status, tail }) });
            }
            Err(source) => return Err(ManageError::command(mode, source, &said.into_inner())),
        };
        // The script moves what the project prints elsewhere; what comes before the last line was there earlier still.
        let answer = finished.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        match serde_json::from_slice(answer) {
            Ok(Answer::Told(told)) => Ok(told),
            Ok(Answer::Failed { failed }) => Err(failed.into()),
            Err(_) => Err(ManageError::NoAnswer { source: None }),
        }
    }
}

impl From<Failure> for ManageError {
    fn from(failure: Failure) -> Self {
        let Failure { stage, kind, message, missing, trace } = failure;
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
            (Some(module), ..) => Some(missing_module(&module)),
            // os.environ["NAME"] raises with the name in quotes.
            (None, "KeyError", "settings" | "manage") => Some(missing_variable(message.trim_matches(['\'', '"']))),
            _ => hint(&message),
        };
        let message = message.lines().next().unwrap_or_default().to_owned();
        Self::Project { act, kind, message, hint, trace }
    }
}
