//! The environment of an app's programs, made in one place: every hook, manage.py, worker and server of a release has these variables, whoever starts it.

use super::App;
use crate::django;

/// The variable that names Django's settings module.
pub(crate) const SETTINGS_MODULE: &str = "DJANGO_SETTINGS_MODULE";
/// What to do about two names for it.
pub(super) const NAME_IT_ONCE: &str = "name the settings module once";

/// The settings module that `[django]` names, or else `[env]`.
pub(super) fn module<'a>(django: Option<&'a django::Settings>, env: &'a [(String, String)]) -> Option<&'a str> {
    let in_env = || env.iter().find(|(name, _)| name == SETTINGS_MODULE).map(|(_, value)| value.as_str());
    django.and_then(|django| django.settings.as_deref()).or_else(in_env)
}

impl App {
    /// Django's settings module, where the app's file names one.
    pub(crate) fn settings_module(&self) -> Option<&str> {
        module(self.django.as_ref(), &self.env)
    }

    /// The variables that are no secret: `[env]`, and the settings module of `[django]`.
    pub(crate) fn plain_variables(&self) -> Vec<(String, String)> {
        self.variables(Vec::new())
    }

    /// All of them: `[env]`, then secrets, then the settings module, which is the one that the database is migrated with. Each name stands once.
    pub(crate) fn variables(&self, secrets: Vec<(String, String)>) -> Vec<(String, String)> {
        let module = self.settings_module().map(|module| (SETTINGS_MODULE.to_owned(), module.to_owned()));
        let mut variables: Vec<(String, String)> = Vec::new();
        for (name, value) in self.env.iter().cloned().chain(secrets).chain(module) {
            variables.retain(|(other, _)| *other != name);
            variables.push((name, value));
        }
        variables
    }
}
