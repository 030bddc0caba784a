//! `auto`, `auto_pause`, `[[webhook]]`: the branch that an app follows, and who may say that it has moved.

use std::path::PathBuf;
use std::time::Duration;

use agent_model::grant::RefPattern;
use agent_model::names::RefName;
use toml::de::DeValue;

use crate::settings::kinds::{absolute, duration, one_of, parsed, some_list, some_text};
use crate::settings::reader::{Section, Value, shown};
use crate::settings::{WebhookFile, defaults, refs};
use crate::trust::webhook::Source;

/// What is set of it.
pub(super) struct Auto {
    pub follows: Option<RefName>,
    pub pause: Duration,
    pub paths: Vec<String>,
    pub webhook_files: Vec<WebhookFile>,
}

/// A look takes a connection to the repository: no more than one each second, and what nobody waits for any more is none.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// What `auto` can be.
enum Word {
    Off,
    FirstBranch,
    Branch(RefName),
}

/// Reads it; `refs` is what the app may be released from, branches first, where that is set and right.
pub(super) fn read(top: &Section<'_>, refs: Option<&[RefPattern]>) -> Auto {
    let pause = top.get("auto_pause", duration(PAUSES)).unwrap_or(defaults::AUTO_PAUSE);
    let follows = match top.get("auto", word) {
        None | Some(Word::Off) => None,
        Some(Word::FirstBranch) => first_of(top, refs),
        Some(Word::Branch(branch)) => {
            if refs.is_some_and(|refs| !refs.iter().any(|pattern| pattern.fits_ref(&branch))) {
                let says = format!("{:?} fits none of the refs that the app may be released from", shown(branch.short()));
                top.complain("auto", says, "add it to `branches`, or name one that is there");
            }
            Some(branch)
        }
    };
    let paths = top.get("auto_paths", some_list("nothing would be released by itself", parsed(parse_path_pattern))).unwrap_or_default();
    if top.has("auto_paths") && !top.has("auto") {
        top.complain("auto_paths", "says what a webhook releases, and the app follows no branch", "add auto = \"main\"");
    }
    let sections = top.tables("webhook");
    if let Some(first) = sections.first().filter(|_| !top.has("auto")) {
        first.complain("", "says who may send webhooks, and the app follows no branch", "add auto = \"main\" at the top of the file");
    }
    let webhook_files = sections.iter().filter_map(webhook_file).collect();
    Auto { follows, pause, paths, webhook_files }
}

/// A pattern of gitglossary(7), "pathspec", with `:(glob)` in front: `*` stays within a directory, `**` does not.
fn parse_path_pattern(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.starts_with(['/', ':']) || text.split('/').any(|part| part == ".." || part == ".") {
        return Err("must be a path or a pattern within the repository, such as \"backend/**\" or \"requirements.txt\"");
    }
    if text.chars().any(char::is_control) { Err("must not hold control characters") } else { Ok(text.to_owned()) }
}

fn word(value: &Value<'_>) -> Option<Word> {
    match value.item() {
        DeValue::Boolean(false) => Some(Word::Off),
        DeValue::Boolean(true) => Some(Word::FirstBranch),
        DeValue::String(_) => {
            let text = some_text(value)?;
            let branch = text.strip_prefix("refs/heads/").unwrap_or(&text);
            match format!("refs/heads/{branch}").parse() {
                Ok(branch) if !text.starts_with("refs/tags/") => Some(Word::Branch(branch)),
                _ => value.complain(format!("{:?} must be the whole name of a branch", shown(&text)), None),
            }
        }
        _ => value.mistaken("true, false or the name of a branch", None),
    }
}

/// `auto = true`
fn first_of(top: &Section<'_>, refs: Option<&[RefPattern]>) -> Option<RefName> {
    let first = refs.and_then(|refs| refs.first());
    let branch = first.and_then(RefPattern::only).filter(|only| !only.is_tag());
    // Whoever wrote those wrongly is told so there.
    if branch.is_none() && (first.is_some() || !refs::is_set(top)) {
        let says = "follows the first of `branches`, and that is not the whole name of a branch";
        top.complain("auto", says, "write auto = \"main\", or begin `branches` with the whole name of one");
    }
    branch
}

fn webhook_file(section: &Section<'_>) -> Option<WebhookFile> {
    let from = section.need(
        "from",
        one_of(&[
            ("github", Source::Github),
            ("gitlab", Source::Gitlab),
            ("gitlab-token", Source::GitlabToken),
            ("docker-hub", Source::DockerHub),
            ("generic", Source::Generic),
        ]),
    );
    let secret_file: Option<PathBuf> = section.need("secret_file", absolute);
    Some(WebhookFile { from: from?, secret_file: secret_file? })
}
