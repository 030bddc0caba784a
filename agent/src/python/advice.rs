//! What to do about a failed install, by what pip, uv, poetry, git and compilers are known to say. The lines in the tests are theirs, word for word.

/// What to do; nothing where no line is known.
pub(super) fn hint(heard: &[String], asked_by: impl Fn(&str) -> Option<String>) -> Option<String> {
    let said = Said { heard, asked_by: &asked_by };
    // A cause goes before what follows from it: pip calls a package missing when its index is out of reach, wants a login, or has it for others only.
    let causes: &[&dyn Fn() -> Option<String>] = &[
        &|| said.full_disk(),
        &|| said.no_tls(),
        &|| said.git_host(),
        &|| said.login(),
        &|| said.certificate(),
        &|| said.out_of_reach(),
        &|| said.hashes(),
        &|| said.platform(),
        &|| said.interpreter(),
        &|| said.missing(),
        &|| said.headers(),
        &|| said.build(),
        &|| said.conflict(),
        &|| said.lock(),
    ];
    causes.iter().find_map(|cause| cause())
}

/// How many lines of an error are shown before what an installer said last.
const MOST_OF_AN_ERROR: usize = 4;

/// Puts the line with which the error began before the last lines of an installer, where it is not among them: what follows it may be long.
pub(super) fn begin_with_the_error(tail: &mut Vec<String>, heard: &[String]) {
    let begins = |line: &String| ["error: ", "ERROR: ", "× "].iter().any(|start| line.trim_start().starts_with(start));
    if tail.iter().any(begins) {
        return;
    }
    if let Some(place) = heard.iter().rposition(begins) {
        let said_last = std::mem::take(tail);
        tail.extend(heard[place..].iter().take(MOST_OF_AN_ERROR).cloned());
        tail.push("[...]".to_owned());
        tail.extend(said_last);
    }
}

struct Said<'a> {
    heard: &'a [String],
    asked_by: &'a dyn Fn(&str) -> Option<String>,
}

impl Said<'_> {
    fn no_tls(&self) -> Option<String> {
        self.find(&["the ssl module in Python is not available"])?;
        Some("this interpreter has no ssl module, and so reaches no index: set [python] interpreter to one that has it".to_owned())
    }

    fn find(&self, words: &[&str]) -> Option<&str> {
        self.heard.iter().find(|line| words.iter().any(|word| line.contains(word))).map(String::as_str)
    }

    fn asking(&self, name: &str) -> String {
        (self.asked_by)(name).map(|place| format!(", which {place} asks for,")).unwrap_or_default()
    }

    fn full_disk(&self) -> Option<String> {
        self.find(&["No space left on device", "os error 28"])?;
        Some("the disk is full; `agentctl prune` removes old releases".to_owned())
    }

    /// A requirement that comes from git: its host is no index.
    fn git_host(&self) -> Option<String> {
        self.find(&["Git operation failed", "git clone ", "git fetch "])?;
        let host = self.find(&["ssh://", "git+", "https://", "http://"]).map(host_in).unwrap_or_default();
        if self.find(&["Host key verification failed"]).is_some() {
            return Some(format!(
                "the host of a requirement from git{host} is not known to ssh: put its key into ~/.ssh/known_hosts of the user who installs"
            ));
        }
        if self.find(&["Permission denied (publickey", "Authentication failed", "could not read Username"]).is_some() {
            return Some(format!(
                "the host of a requirement from git{host} lets the user who installs not in: that user needs a key or a login of its own; `ssh_key` is for the app's repository alone"
            ));
        }
        if self
            .find(&["Could not resolve host", "Connection refused", "Connection timed out", "No route to host", "unable to access"])
            .is_some()
        {
            return Some(format!("the host of a requirement from git{host} is out of reach from this host"));
        }
        if self
            .find(&["not found in upstream", "couldn't find remote ref", "did not match any file", "failed to fetch branch or tag"])
            .is_some()
        {
            return Some(format!("a requirement from git{host} names a branch, tag or commit that is not there"));
        }
        None
    }

    fn login(&self) -> Option<String> {
        let login =
            "a login goes into ~/.netrc of the user who installs; a variable in the requirements is empty, since installers get no secrets";
        if let Some(line) = self.find(&["(401 Unauthorized)", "(403 Forbidden)", "401 Client Error", "403 Client Error"]) {
            return Some(format!("the package index{} wants a login that it was not given: {login}", host_in(line)));
        }
        // pip says nothing of it without --verbose.
        let line = self.find(&["(from versions: none)"])?;
        if self.find(UNREACHABLE).is_some()
            || self.find(CERTIFICATE).is_some()
            || self.find(&["require a different python version"]).is_some()
        {
            return None;
        }
        let name = name_after(line, &["satisfies the requirement "])?;
        let host = self.find(&["Looking in indexes: "]).map(host_in).unwrap_or_default();
        Some(format!(
            "no such package or version: {name}{} is not in the index{host} as it is asked for; if the index wants a login, pip does not say so: {login}",
            self.asking(&name)
        ))
    }

    fn certificate(&self) -> Option<String> {
        let line = self.find(CERTIFICATE)?;
        let host = self.find(&["https://", "host='"]).map_or_else(|| host_in(line), host_in);
        Some(format!(
            "no authority that this host trusts has issued the certificate of the package index{host}: name a file with the right one in SSL_CERT_FILE of the agent's unit (pip: PIP_CERT)"
        ))
    }

    fn out_of_reach(&self) -> Option<String> {
        let line = self.find(UNREACHABLE)?;
        Some(format!(
            "the package index is out of reach from this host{}: look at its network, proxy and index settings, and at indexes that the requirements name",
            host_in(line)
        ))
    }

    fn hashes(&self) -> Option<String> {
        if self.find(&["DO NOT MATCH THE HASHES", "Hash mismatch for"]).is_some() {
            return Some("what the index serves is not what the hashes name: do not release it before you know why".to_owned());
        }
        self.find(&[
            "Hashes are required in --require-hashes mode",
            "all requirements must have their hashes",
            "all requirements must have a hash",
            "all requirements must be pinned upfront",
        ])?;
        Some("some requirements have hashes, so all must have one, those that the packages bring too: lock them anew".to_owned())
    }

    fn platform(&self) -> Option<String> {
        let words =
            ["has no wheels with a matching", "has no usable wheels", "is not a supported wheel on this platform", "no compatible wheels"];
        let line = self.find(&words)?;
        let name = name_after(line, &["Because ", "ERROR: "]).unwrap_or_default();
        let there = self.find(&["Wheels are available for"]).and_then(|line| line.split_once(": ")).map(|(_, rest)| rest.trim().to_owned());
        let tags = |rest: &str| rest.split_once(": ").map_or(rest, |(_, tags)| tags).trim().to_owned();
        let there = there.map(|rest| format!("; there are wheels for {}", tags(&rest)));
        Some(format!(
            "{name}{} has no wheel for this platform{}: a marker (`; sys_platform == \"win32\"`) leaves it out here",
            self.asking(&name),
            there.unwrap_or_default()
        ))
    }

    /// Only where what was asked for is for another interpreter: pip lists newer versions of anything that is for newer ones, too.
    fn interpreter(&self) -> Option<String> {
        if let Some(line) = self.find(&["does not satisfy Python", "requires a different Python"]) {
            let needs = line.split_once("does not satisfy Python").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
            let needs = needs.map(|needs| format!(" (Python {needs})")).unwrap_or_default();
            return Some(format!("the requirements are for another interpreter{needs}: set [python] interpreter to one that fits"));
        }
        let ignored = self.find(&["require a different python version"])?;
        let (_, versions) = ignored.split_once("version: ")?;
        let asked = self.find(&["No matching distribution found for "])?;
        let (_, asked) = asked.split_once("found for ")?;
        let (name, version) = asked.split_once("==")?;
        let needs =
            versions.split(';').find_map(|entry| entry.trim().strip_prefix(version.trim())?.trim().strip_prefix("Requires-Python "))?;
        Some(format!(
            "{name} {}{} is for another interpreter (Python {needs}): set [python] interpreter to one that fits",
            version.trim(),
            self.asking(name)
        ))
    }

    fn missing(&self) -> Option<String> {
        let line = self.find(&[
            "No matching distribution found for",
            "was not found in the package registry",
            "was not found in the provided package locations",
            "there is no version of",
            "there are no versions of",
        ])?;
        let starts = [
            "No matching distribution found for ",
            "Because there is no version of ",
            "Because there are no versions of ",
            "Because only ",
            "Because ",
        ];
        let name = name_after(line, &starts)?;
        Some(format!("no such package or version: {name}{} is not in the index as it is asked for", self.asking(&name)))
    }

    fn headers(&self) -> Option<String> {
        let (_, hint) = HEADERS.iter().find(|(words, _)| self.find(words).is_some())?;
        Some(format!("a package has no wheel for this interpreter and must be compiled, and something for that is missing: {hint}"))
    }

    fn build(&self) -> Option<String> {
        let line = self.find(&["Failed to build", "Failed building wheel for", "subprocess-exited-with-error", "Build backend failed"])?;
        let name = name_after(line, &["Failed building wheel for ", "Failed to build "]);
        let package = name.map_or_else(|| "a package".to_owned(), |name| format!("the package {name}{}", self.asking(&name)));
        Some(format!("{package} could not be built; its own lines say why. Is there a version with a wheel for this interpreter?"))
    }

    fn conflict(&self) -> Option<String> {
        if self.find(&["ResolutionImpossible", "conflicting dependencies", "No solution found when resolving"]).is_some() {
            return Some("the requirements contradict each other; the lines above say which".to_owned());
        }
        self.find(&["externally-managed-environment", "Could not find an activated virtualenv"])?;
        Some("the command would install outside of the environment; `python -m pip` is the one inside".to_owned())
    }

    fn lock(&self) -> Option<String> {
        self.find(&["lock file is not up to date", "pyproject.toml changed significantly", "needs to be updated"])?;
        Some("the lock does not belong to this pyproject.toml: lock anew and commit both".to_owned())
    }
}

const UNREACHABLE: &[&str] = &[
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
    "ProxyError",
    // Of poetry.
    "All attempts to connect to",
];

const CERTIFICATE: &[&str] = &["CERTIFICATE_VERIFY_FAILED", "invalid peer certificate"];

/// What must be there for a package to be compiled, by what misses it.
const HEADERS: &[(&[&str], &str)] = &[
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
    (&["can't find Rust compiler", "requires Rust"], "install a Rust compiler, or a newer pip or interpreter for which there is a wheel"),
];

fn name_after(line: &str, starts: &[&str]) -> Option<String> {
    let at = starts.iter().find_map(|start| line.find(start).map(|at| at + start.len()))?;
    let rest = line[at..].trim_start_matches(['`', '\'', '"']);
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// The host of the first address in a line, in brackets, without who logs in there.
fn host_in(line: &str) -> String {
    let url = line.split_once("://").map(|(_, rest)| rest.split(['/', ')', '\'', '"', ' ', '`']).next().unwrap_or_default());
    let host = url.map(|authority| authority.rsplit('@').next().unwrap_or_default().to_owned());
    let named = line.split_once("host='").and_then(|(_, rest)| Some(rest.split_once('\'')?.0.to_owned()));
    host.or(named).filter(|host| !host.is_empty()).map(|host| format!(" ({host})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(said: &str) -> String {
        let heard: Vec<String> = said.lines().map(str::to_owned).collect();
        hint(&heard, |name| (name == "nosuch").then(|| "requirements.txt, line 3".to_owned())).unwrap_or_default()
    }

    #[track_caller]
    fn says(said: &str, words: &[&str]) {
        let advice = advice(said);
        assert!(words.iter().all(|word| advice.contains(word)), "{advice}");
    }

    #[test]
    fn what_installers_say_becomes_advice() {
        let missing = "no such package or version: nosuch, which requirements.txt, line 3 asks for, is not in the index as it is asked for";
        assert_eq!(
            advice(
                "ERROR: Could not find a version that satisfies the requirement nosuch==1 (from versions: 2, 3)\nERROR: No matching distribution found for nosuch==1"
            ),
            missing
        );
        assert_eq!(
            advice(
                "error: No solution found when resolving dependencies\n  cause: Because nosuch was not found in the package registry and you require nosuch==1, we"
            ),
            missing
        );
        assert_eq!(
            advice(
                "error: No solution found when resolving dependencies\n  cause: Because there is no version of nosuch==1 and you require nosuch==1, we"
            ),
            missing
        );
        says("fatal error: Python.h: No such file or directory", &["python3-dev"]);
        says("Error: pg_config executable not found.", &["libpq-dev"]);
        says("  cause: Failed to fetch: http://127.0.0.1:9/simple/six/", &["out of reach", "(127.0.0.1:9)"]);
        says("  All attempts to connect to pypi.org failed.", &["out of reach"]);
        says("ERROR: Failed building wheel for nosuch", &["requirements.txt, line 3"]);
        says("error: subprocess-exited-with-error", &["a package could not be built"]);
        assert_eq!(advice("all is well"), "");
    }

    #[test]
    fn an_index_that_wants_a_login_is_told_from_one_that_lacks_a_package() {
        let uv = "error: No solution found when resolving dependencies
  cause: Because six was not found in the package registry and you require six, we can conclude that your requirements are unsatisfiable.

hint: An index URL (http://127.0.0.1:54388/simple/) could not be queried due to a lack of valid authentication credentials (401 Unauthorized)";
        says(uv, &["(127.0.0.1:54388) wants a login", ".netrc"]);
        let pip = "Looking in indexes: http://127.0.0.1:54388/simple/
ERROR: Could not find a version that satisfies the requirement nosuch (from versions: none)
ERROR: No matching distribution found for nosuch";
        says(pip, &["nosuch, which requirements.txt, line 3 asks for, is not in the index (127.0.0.1:54388)", "wants a login"]);
    }

    #[test]
    fn a_requirement_from_git_is_told_from_an_index() {
        let refused = "error: Failed to download and build `tally @ git+ssh://git@127.0.0.1:54377/acme/tally.git@v1`
  cause: Git operation failed
         ssh: connect to host 127.0.0.1 port 54377: Connection refused
         fatal: Could not read from remote repository.";
        says(refused, &["requirement from git (127.0.0.1:54377) is out of reach"]);
        let pip = "  × git clone --filter=blob:none --quiet 'ssh://****@127.0.0.1:54377/acme/tally.git' /tmp/pip-install did not run successfully.
ssh: connect to host 127.0.0.1 port 54377: Connection refused
error: subprocess-exited-with-error";
        says(pip, &["requirement from git (127.0.0.1:54377) is out of reach"]);
        says(&refused.replace("Connection refused", "x\nHost key verification failed."), &["known_hosts"]);
        says(&refused.replace("Connection refused", "x\ngit@127.0.0.1: Permission denied (publickey)."), &["a key or a login", "ssh_key"]);
    }

    #[test]
    fn certificates_platforms_and_interpreters_are_told_apart() {
        let issuer = "error: Failed to fetch: https://localhost:54389/simple/six/
  cause: error sending request for url (https://localhost:54389/simple/six/)
  cause: invalid peer certificate: UnknownIssuer";
        says(issuer, &["certificate of the package index (localhost:54389)", "SSL_CERT_FILE"]);
        let platform = "  cause: Because pywin32==306 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`) and you require pywin32==306, we

hint: Wheels are available for `pywin32` (v306) on the following platforms: `win32`, `win_amd64`, `win_arm64`";
        says(platform, &["pywin32 has no wheel for this platform", "`win_arm64`", "marker"]);
        let ignored = "ERROR: Ignored the following versions that require a different python version: 6.0 Requires-Python >=3.12; 6.0.1 Requires-Python >=3.12
ERROR: Could not find a version that satisfies the requirement django==VERSION (from versions: 1.1.3, 1.1.4)
ERROR: No matching distribution found for django==VERSION";
        says(&ignored.replace("VERSION", "6.0"), &["django 6.0 is for another interpreter (Python >=3.12)"]);
        says(&ignored.replace("VERSION", "99.1"), &["no such package or version: django"]);
        let bare = "WARNING: pip is configured with locations that require TLS/SSL, however the ssl module in Python is not available.\nERROR: No matching \
                    distribution found for django==4.2";
        says(bare, &["no ssl module", "[python] interpreter"]);
        let uv = "  cause: Because the current Python version (3.11.2) does not satisfy Python>=3.12 and django==6.0 depends on Python>=3.12, we";
        says(uv, &["another interpreter (Python >=3.12)"]);
        let conflict = "error: No solution found when resolving dependencies
  cause: Because django==4.2.16 depends on asgiref>=3.6.0,<4 and you require django==4.2.16, we can conclude that you require asgiref>=3.6.0,<4.
         And because you require asgiref==2.0, we can conclude that your requirements are unsatisfiable.";
        says(conflict, &["contradict each other"]);
    }

    #[test]
    fn the_last_lines_begin_with_the_error() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let heard = lines("Updating\nerror: Git operation failed\n  cause: a\nb\nc\nd\ne\nf");
        let mut tail = lines("e\nf");
        begin_with_the_error(&mut tail, &heard);
        assert_eq!(tail, lines("error: Git operation failed\n  cause: a\nb\nc\n[...]\ne\nf"));
        let mut tail = lines("error: it\nf");
        begin_with_the_error(&mut tail, &heard);
        assert_eq!(tail, lines("error: it\nf"));
    }
}
