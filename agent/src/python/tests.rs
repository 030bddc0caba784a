use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use tempfile::TempDir;

use super::bench::{PYTHON, environment, heard, uv, watched, write};
use super::*;

fn host() -> Host {
    let path = std::env::join_paths([uv(), "/usr/bin".into(), "/bin".into()]).unwrap();
    Host { path, ..Host::here() }
}

fn host_without_uv() -> Host {
    Host { path: "/usr/bin:/bin".into(), ..Host::here() }
}

fn settings() -> Settings {
    Settings {
        interpreter: PYTHON.into(),
        installer: Installer::Auto,
        requirements: Vec::new(),
        packages: Vec::new(),
        install: Vec::new(),
        writable: Vec::new(),
        module: None,
    }
}

/// What makes pip install on a host without uv.
fn by_pip() -> Settings {
    Settings { installer: Installer::Pip, ..settings() }
}

fn release(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(file, text)| write(dir.path(), file, text));
    dir
}

fn want(host: Host, settings: &Settings, release: &TempDir) -> Result<Wanted, PythonError> {
    watched(|watch| wanted_on(host, settings, release.path(), &[], watch))
}

/// Scratch beside the environment, and the caches of whoever runs the tests: so that nothing is fetched twice.
fn place_in(place: &TempDir) -> Place<'_> {
    static CACHES: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let caches = std::env::home_dir().unwrap().join(".cache");
        fs::create_dir_all(&caches).unwrap();
        caches
    });
    Place { scratch: place.path(), caches: &CACHES, hidden: &[] }
}

fn build(wanted: &Wanted, release: &TempDir) -> (Result<Built, PythonError>, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let built = watched(|watch| wanted.build(&place.path().join("venv"), release.path(), place_in(&place), watch, &|_| {}));
    (built, place)
}

fn refusal(files: &[(&str, &str)], settings: &Settings) -> PythonError {
    want(host(), settings, &release(files)).unwrap_err()
}

#[test]
fn a_key_changes_with_each_ingredient_and_only_then() {
    let files = [
        ("requirements.txt", "-r more.txt\n-c pins.txt\nsix\n"),
        ("more.txt", "attrs\n"),
        ("pins.txt", "six==1.16.0\n"),
        ("views.py", "1"),
    ];
    let key_of = |host: Host, settings: Settings, change: Option<(&str, &str)>| {
        let release = release(&files);
        change.into_iter().for_each(|(file, text)| write(release.path(), file, text));
        want(host, &settings, &release).unwrap().key().to_owned()
    };
    let with = |name: &str, value: &str| {
        let mut host = host();
        host.variables.push((name.into(), value.into()));
        host
    };
    let usual = key_of(host(), settings(), None);
    assert_eq!(usual.len(), 32);
    for same in [
        key_of(host(), settings(), None),
        key_of(host(), settings(), Some(("views.py", "2"))),
        key_of(host(), settings(), Some(("uv.toml.bak", "2"))),
        key_of(host(), settings(), Some(("pyproject.toml", "[tool.black]\nline-length = 100\n"))),
        key_of(with("UV_HTTP_TIMEOUT", "7"), settings(), None),
        key_of(with("PIP_INDEX_URL", "https://elsewhere.test/simple"), settings(), None),
        key_of(host(), Settings { interpreter: "/usr/bin/python3.11".into(), ..settings() }, None),
    ] {
        assert_eq!(same, usual);
    }
    let others = [
        usual,
        key_of(host(), settings(), Some(("requirements.txt", "-r more.txt\n-c pins.txt\nsix \n"))),
        key_of(host(), settings(), Some(("more.txt", "attrs>1\n"))),
        key_of(host(), settings(), Some(("pins.txt", "six==1.17.0\n"))),
        key_of(host(), settings(), Some(("pyproject.toml", "[tool.uv]\nconstraint-dependencies = [\"six<2\"]\n"))),
        key_of(host(), settings(), Some(("uv.toml", "no-index = true\n"))),
        key_of(host(), Settings { packages: vec!["gunicorn".into()], ..settings() }, None),
        key_of(host(), Settings { installer: Installer::Pip, ..settings() }, None),
        key_of(host(), Settings { requirements: vec!["more.txt".into()], ..settings() }, None),
        key_of(with("UV_INDEX_URL", "https://elsewhere.test/simple"), settings(), None),
        key_of(with("PIP_INDEX_URL", "https://elsewhere.test/simple"), Settings { installer: Installer::Pip, ..settings() }, None),
        key_of(host(), Settings { install: vec![vec!["true".into()]], ..settings() }, None),
    ];
    assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), others.len(), "{others:#?}");

    let secret = key_of(with("UV_INDEX_URL", "https://u:one@elsewhere.test/simple"), settings(), None);
    assert_eq!(
        secret,
        key_of(with("UV_INDEX_URL", "https://u:two@elsewhere.test/simple"), settings(), None),
        "a new password serves the same"
    );
}

/// A repository at its first commit, and an HTTP server that shows it as plain files (githttp-backend is not needed for that).
struct Served {
    dir: TempDir,
    server: std::process::Child,
    url: String,
}

impl Served {
    fn new() -> Self {
        use std::io::{BufRead, BufReader};
        let dir = tempfile::tempdir().unwrap();
        let mut python = std::process::Command::new(PYTHON);
        python.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]).current_dir(dir.path());
        let mut server = python.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let port = said.split_whitespace().skip_while(|word| *word != "port").nth(1).unwrap().to_owned();
        let served = Self { dir, server, url: format!("http://127.0.0.1:{port}") };
        served.git(&["init", "-q", "--bare", "-b", "main", "tally.git"]);
        served.moves();
        served
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=T", "-c", "user.email=t@example.org"]).args(args).current_dir(self.dir.path());
        let output = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Another commit on its branch; the answer is its id.
    fn moves(&self) -> String {
        let tree = self.git(&["--git-dir", "tally.git", "hash-object", "-t", "tree", "-w", "/dev/null"]);
        let now = format!("at {:?}", Instant::now());
        let commit = self.git(&["--git-dir", "tally.git", "commit-tree", "-m", &now, &tree]);
        self.git(&["--git-dir", "tally.git", "update-ref", "refs/heads/main", &commit]);
        self.git(&["--git-dir", "tally.git", "update-server-info"]);
        commit
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.server.kill().and_then(|()| self.server.wait());
    }
}

#[test]
fn a_requirement_that_names_a_branch_is_another_one_when_the_branch_has_moved() {
    let served = Served::new();
    let url = &served.url;
    let wanted = |line: &str| {
        let release = release(&[("requirements.txt", line)]);
        let wanted = want(host(), &settings(), &release).unwrap();
        (wanted.key().to_owned(), wanted.notes().join("\n"))
    };
    let of_branch = format!("tally @ git+{url}/tally.git@main\n");
    let whole = served.git(&["--git-dir", "tally.git", "rev-parse", "main"]);
    let (of_head, of_commit) = (format!("-e git+{url}/tally.git#egg=tally\n"), format!("tally @ git+{url}/tally.git@{whole}\n"));
    let before = [&of_branch, &of_head, &of_commit].map(|line| wanted(line).0);
    assert_eq!([&of_branch, &of_head, &of_commit].map(|line| wanted(line).0), before, "nothing has moved");
    let moved = served.moves();
    let after = [&of_branch, &of_head, &of_commit].map(|line| wanted(line).0);
    assert!(after[0] != before[0] && after[1] != before[1], "the branch has moved");
    assert_eq!(after[2], before[2], "a commit does not move");
    let note = wanted(&of_branch).1;
    assert_eq!(note, format!("requirements.txt, line 1: tally is at {} in its repository at {url}", &moved[..12]));
    // In a constraint, and in what is set beside the requirements, too.
    let in_settings = |packages: &str| {
        let settings = Settings { packages: vec![packages.trim().into()], ..settings() };
        want(host(), &settings, &release(&[("requirements.txt", "six\n")])).unwrap().key().to_owned()
    };
    let before = in_settings(&of_branch);
    served.moves();
    assert_ne!(in_settings(&of_branch), before);
}

#[test]
fn what_cannot_be_asked_where_it_stands_is_built_for_its_release_alone() {
    let served = Served::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (line, told) in [
        (format!("tally @ git+http://127.0.0.1:{port}/tally.git@main"), "cannot be asked where it stands (fatal: unable to access"),
        (format!("tally @ git+{}/tally.git@no-such-branch", served.url), "has no branch and no tag of that name"),
        ("tally @ hg+https://h.test/tally@tip".to_owned(), "cannot be asked where it stands"),
    ] {
        let (one, other) = (release(&[("requirements.txt", &line)]), release(&[("requirements.txt", &line)]));
        let (one, other) = (want(host(), &settings(), &one).unwrap(), want(host(), &settings(), &other).unwrap());
        assert!(one.key() != other.key(), "{line}");
        let note = one.notes().join("\n");
        assert!(note.contains(told) && note.contains("for this release alone"), "{note}");
    }
    let file = release(&[("requirements.txt", "tally @ https://h.test/tally-1.0.zip\n")]);
    let note = want(host(), &settings(), &file).unwrap().notes().join("\n");
    assert_eq!(note, "requirements.txt, line 1: tally is a file at https://h.test without a hash: it is fetched anew only with --rebuild");
}

#[test]
fn another_interpreter_is_another_key() {
    let tools = tempfile::tempdir().unwrap();
    let key_of = |name: &str, value: &str| {
        let mut probe = serde_json::json!({"real": "/opt/python", "version": "3.12.1", "implementation": "CPython", "abi": "cpython-312",
            "platform": "linux-x86_64", "libc": ["glibc", "2.36"], "pip": "24.0"});
        probe[name] = value.into();
        write(tools.path(), "python", format!("#!/bin/sh\necho '{probe}'\n"));
        succeed(std::process::Command::new("chmod").arg("+x").arg(tools.path().join("python")));
        let settings = Settings { interpreter: tools.path().join("python").display().to_string(), ..settings() };
        want(host(), &settings, &release(&[("requirements.txt", "six\n")])).unwrap().key().to_owned()
    };
    let keys = [
        key_of("pip", "24.0"),
        key_of("real", "/usr/local/bin/python3.12"),
        key_of("version", "3.12.2"),
        key_of("implementation", "PyPy"),
        key_of("abi", "cpython-312d"),
        key_of("platform", "linux-aarch64"),
    ];
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    assert_eq!(key_of("pip", "25.0"), keys[0], "uv does not use the interpreter's pip");
}

#[test]
fn it_is_told_what_is_used() {
    let release = release(&[
        ("requirements.txt", "# all\n-r requirements/base.txt\nsix\n"),
        ("requirements/base.txt", "-c pins.txt\nattrs\nidna\n"),
        ("requirements/pins.txt", "idna<4\n"),
    ]);
    let wanted = want(host(), &Settings { packages: vec!["gunicorn".into()], ..settings() }, &release).unwrap();
    let told = wanted.told();
    assert!(
        told.starts_with("uv 0.") && told.contains(", CPython 3.") && told.ends_with("requirements.txt (3 lines), beside them gunicorn"),
        "{told}"
    );
    assert_eq!(wanted.notes(), ["requirements.txt is used; passed over: requirements/base.txt"]);
}

#[test]
fn what_leaves_the_release_is_refused_unread() {
    let secret = "root:x:0:0";
    let shown = |err: PythonError| {
        let shown = format!("{err} {:?} {err:?}", err.hint());
        assert!(!shown.contains(secret) && shown.contains("leads out of the release"), "{shown}");
        shown
    };
    shown(refusal(&[("requirements.txt", "-r ../../../../../../etc/passwd\n")], &settings()));
    shown(refusal(&[("requirements.txt", "six\n--requirement=/etc/passwd\n")], &settings()));
    shown(refusal(&[("requirements.txt", "-c/etc/passwd\n")], &settings()));
    shown(refusal(&[("requirements.txt", "six\u{c}--requirem /etc/passwd\n")], &settings()));
    shown(refusal(&[], &Settings { requirements: vec!["/etc/passwd".into()], ..settings() }));
    for name in ["requirements.txt", "uv.lock", "Pipfile.lock", "pyproject.toml", "requirements/prod.txt"] {
        let release = release(&[("requirements/x", "")]);
        symlink("/etc/passwd", release.path().join(name)).unwrap();
        shown(want(host(), &settings(), &release).unwrap_err());
    }
    let release = release(&[]);
    symlink("/etc", release.path().join("requirements")).unwrap();
    shown(want(host(), &Settings { requirements: vec!["requirements/passwd".into()], ..settings() }, &release).unwrap_err());
}

#[test]
fn links_within_the_release_are_followed() {
    let release = release(&[("deploy/all.txt", "six\n")]);
    symlink("deploy/all.txt", release.path().join("requirements.txt")).unwrap();
    assert_eq!(want(host(), &settings(), &release).unwrap().reading.asked.len(), 1);
}

#[test]
fn refusals_name_the_file_and_the_line() {
    let err = refusal(&[("requirements.txt", "six\n-r https://u:p@h.test/more.txt\n")], &settings());
    assert!(err.to_string().starts_with("requirements.txt, line 2, includes a URL"), "{err}");
    let err = refusal(&[("requirements.txt", "-r a.txt\n"), ("a.txt", "-r requirements.txt\n")], &settings());
    assert_eq!(err.to_string(), "requirements.txt includes itself");
    let err = refusal(&[("requirements.txt", "-r a.txt\n")], &settings());
    assert_eq!(err.to_string(), "a.txt, which line 1 of requirements.txt includes, is not in the release");
    let err = refusal(&[("README", "")], &settings());
    assert!(err.to_string().contains("looked for uv.lock, poetry.lock, Pipfile.lock, requirements.txt, "), "{err}");
    let err = refusal(&[("pyproject.toml", "[project]\nname = 'x'\ndynamic = ['dependencies']\n")], &settings());
    assert!(err.to_string().contains("dynamic"), "{err}");
    let err = refusal(&[("pyproject.toml", "[project]\nname = 'x'\ndependencies = ['-r /etc/passwd']\n")], &settings());
    assert!(err.to_string().contains("no requirement"), "{err}");
    let err =
        refusal(&[("uv.lock", ""), ("pyproject.toml", "[project]\nname='x'\n")], &Settings { installer: Installer::Pip, ..settings() });
    assert!(err.to_string().contains("only be installed by uv"), "{err}");
    let err = refusal(&[("Pipfile.lock", "{")], &settings());
    assert!(err.to_string().starts_with("Pipfile.lock cannot be understood: "), "{err}");
}

#[test]
fn a_project_further_down_is_pointed_at() {
    let files = [("README", ""), ("front/package.json", "{}"), ("apps/web/manage.py", ""), ("apps/web/requirements.txt", "six\n")];
    let err = refusal(&files, &settings());
    assert_eq!(err.hint().unwrap(), "the project is further down: set [python] requirements = [\"apps/web/requirements.txt\"]");
    // Requirements of something that is no Django project are nobody's.
    let err = refusal(&[("README", ""), ("docs/requirements.txt", "sphinx\n")], &settings());
    assert!(err.hint().unwrap().contains("[python] install"), "{err}");
}

#[test]
fn a_file_that_asks_for_another_interpreter_is_told() {
    let warnings = |wanted: &str| {
        let release = release(&[("requirements.txt", "six\n"), (".python-version", wanted)]);
        want(host(), &settings(), &release).unwrap().warnings().to_vec()
    };
    let said = warnings("# of pyenv\n2.7\n");
    assert!(said.len() == 1 && said[0].starts_with(".python-version asks for 2.7, and [python] interpreter is CPython 3."), "{said:?}");
    let output = std::process::Command::new(PYTHON).args(["-c", "import platform; print(platform.python_version())"]).output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let minor = version.trim().rsplit_once('.').unwrap().0;
    for fits in [version.as_str(), minor, "3", "system", "pypy3.10-7.3.12", ""] {
        assert_eq!(warnings(fits), Vec::<String>::new(), "{fits:?}");
    }
}

#[test]
fn a_missing_program_is_told_with_its_hint() {
    let poetry_project = [("poetry.lock", ""), ("pyproject.toml", "[tool.poetry]\n")];
    let err = want(host_without_uv(), &settings(), &release(&poetry_project)).unwrap_err();
    assert!(err.to_string().starts_with("poetry.lock needs poetry") && err.hint().unwrap().contains("poetry export"), "{err}");
    let err =
        want(host(), &Settings { interpreter: "python3.2".into(), ..settings() }, &release(&[("requirements.txt", "six")])).unwrap_err();
    assert!(err.to_string().contains("/usr/bin/python3"), "{err}");
}

#[test]
fn pip_builds_and_is_not_misled_by_the_project() {
    // Modules at the root of a project must not be taken for those of the standard library.
    let release = release(&[
        ("requirements.txt", "six==1.16.0\npywin32; sys_platform == 'win32'\n"),
        ("typing.py", "raise SystemExit(3)"),
        ("pip.py", "raise SystemExit(4)"),
    ]);
    let wanted = want(host_without_uv(), &by_pip(), &release).unwrap();
    assert!(wanted.told().starts_with("pip "), "{}", wanted.told());
    let (built, place) = build(&wanted, &release);
    assert_eq!(built.unwrap(), Built { packages: 1, warnings: Vec::new() });
    let packages = fs::read_dir(place.path().join("venv/lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    assert!(packages.join("__pycache__").is_dir(), "the packages are compiled");
    assert!(!packages.join("pip").exists(), "pip runs from its copy");
    let says = std::process::Command::new(place.path().join("venv/bin/python")).args(["-c", "import setuptools"]).output().unwrap();
    let version = std::process::Command::new(PYTHON).args(["-c", "import sys; print(sys.version_info < (3, 12))"]).output().unwrap();
    assert_eq!(says.status.success(), version.stdout == b"True\n", "setuptools is there as `python -m venv` has it: {says:?}");
    let again = watched(|watch| wanted.build(&place.path().join("venv"), release.path(), place_in(&place), watch, &|_| {}));
    assert!(matches!(again, Err(PythonError::AlreadyThere(_))));
}

/// An interpreter with a pip.
fn own_pip() -> PathBuf {
    environment("pip", &["pip"])
}

/// An index with one package, which says as the public one does that its files never change.
const INDEX: &str = r#"
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        if self.path.endswith(".whl"):
            self.send_header("Cache-Control", "max-age=365000000, immutable, public")
        super().end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=sys.argv[1]))
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

#[test]
fn pip_downloads_nothing_twice_though_the_home_of_its_builder_is_empty_each_time() {
    use std::io::{BufRead, BufReader};
    let index = tempfile::tempdir().unwrap();
    let wheels = index.path().join("six");
    let mut download = std::process::Command::new(own_pip());
    succeed(download.args(["-m", "pip", "download", "-q", "--no-deps", "six==1.16.0", "-d"]).arg(&wheels));
    let mut server =
        std::process::Command::new(PYTHON).args(["-c", INDEX]).arg(index.path()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();

    let caches = tempfile::tempdir().unwrap();
    let release = release(&[("requirements.txt", "six==1.16.0\n")]);
    let build = |number: u32| {
        let (home, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut host = Host { home: home.path().to_owned(), ..host_without_uv() };
        host.variables.retain(|(name, _)| !name.starts_with("PIP_"));
        host.variables.push(("PIP_INDEX_URL".to_owned(), format!("http://127.0.0.1:{}/", port.trim()).into()));
        // Else pip keeps nothing of an index without TLS.
        host.variables.push(("PIP_TRUSTED_HOST".to_owned(), format!("127.0.0.1:{}", port.trim()).into()));
        let wanted = want(host, &by_pip(), &release).unwrap();
        let place = Place { scratch: scratch.path(), caches: caches.path(), hidden: &[] };
        let venv = scratch.path().join(format!("venv-{number}"));
        let (built, said) = heard(|watch| wanted.build(&venv, release.path(), place, watch, &|_| {}));
        built.unwrap();
        said.join("\n")
    };
    let (first, second) = (build(1), build(2));
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(first.contains("Downloading"), "{first}");
    assert!(second.contains("Using cached") && !second.contains("Downloading"), "{second}");
}

#[test]
fn uv_builds_and_shares_no_file_with_its_cache() {
    use std::os::unix::fs::MetadataExt;
    let release = release(&[("requirements.txt", "six==1.16.0\n")]);
    let wanted = want(host(), &Settings { packages: vec!["idna".into()], ..settings() }, &release).unwrap();
    let (built, place) = build(&wanted, &release);
    assert_eq!(built.unwrap().packages, 2);
    let root = fs::read_dir(place.path().join("venv/lib")).unwrap().next().unwrap().unwrap().path().join("site-packages");
    assert_eq!(fs::metadata(root.join("six.py")).unwrap().nlink(), 1);
    assert!(root.join("__pycache__").is_dir(), "bytecode is compiled");
}

#[test]
fn what_is_named_by_hashes_and_cached_needs_no_index() {
    let release = release(&[("requirements.txt", &format!("six==1.16.0 --hash={SIX_HASH}\n"))]);
    let caches = tempfile::tempdir().unwrap();
    let built = |online: bool| {
        let mut host = host();
        if !online {
            host.variables.retain(|(name, _)| !name.to_lowercase().contains("proxy"));
            let nobody = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name.to_owned(), "http://127.0.0.1:9".into()));
            host.variables.extend(nobody);
        }
        let wanted = want(host, &settings(), &release).unwrap();
        assert!(wanted.tool.to_string().starts_with("uv"));
        let (place, notes) = (tempfile::tempdir().unwrap(), std::cell::RefCell::new(Vec::new()));
        let within = Place { scratch: place.path(), caches: caches.path(), hidden: &[] };
        let built = watched(|watch| {
            wanted.build(&place.path().join("venv"), release.path(), within, watch, &|note| notes.borrow_mut().push(note.to_owned()))
        });
        (built, notes.into_inner().iter().any(|note| note.contains("no index was asked")))
    };
    assert!(built(false).0.is_err(), "nothing is cached yet");
    let (first, from_cache) = built(true);
    assert!(first.is_ok() && !from_cache, "{first:?}");
    let (again, from_cache) = built(false);
    assert!(again.is_ok() && from_cache, "{again:?}");
}

#[test]
fn markers_that_leave_out_everything_are_an_error() {
    let release = release(&[("requirements.txt", "six; sys_platform == 'win32'\nattrs; python_version < '3'\n")]);
    for (host, settings) in [(host(), settings()), (host_without_uv(), by_pip())] {
        let (built, _) = build(&want(host, &settings, &release).unwrap(), &release);
        assert!(matches!(built, Err(PythonError::NothingInstalled { asked: 2 })), "{built:?}");
    }
}

#[test]
fn a_package_that_is_not_there_is_named_with_its_line() {
    let release = release(&[("requirements.txt", "-r more.txt\n"), ("more.txt", "six\n\nsix-nine-of-nothing==1.0\n")]);
    for (host, settings) in [(host(), settings()), (host_without_uv(), by_pip())] {
        let (built, _) = build(&want(host, &settings, &release).unwrap(), &release);
        let err = built.unwrap_err();
        let hint = err.hint().unwrap_or_default();
        assert!(hint.contains("six-nine-of-nothing, which more.txt, line 3 asks for"), "{err} {hint} {:?}", err.tail());
    }
}

#[test]
fn an_index_of_the_project_is_noted_and_one_out_of_reach_is_told() {
    let release = release(&[("requirements.txt", "--index-url http://user:secret@127.0.0.1:9/token/simple\nsix\n")]);
    let mut host = host_without_uv();
    host.variables.retain(|(name, _)| name != "PIP_FIND_LINKS");
    let wanted = want(host, &by_pip(), &release).unwrap();
    assert_eq!(wanted.notes(), ["requirements.txt, line 1, names an index of its own: http://127.0.0.1:9"]);
    let place = tempfile::tempdir().unwrap();
    let (built, lines) = heard(|watch| wanted.build(&place.path().join("venv"), release.path(), place_in(&place), watch, &|_| {}));
    let err = built.unwrap_err();
    assert!(err.hint().unwrap().contains("out of reach"), "{:?} {:?}", err.hint(), err.tail());
    assert!(!format!("{err:?} {lines:?}").contains("secret"), "{err:?} {lines:?}");
}

#[test]
fn code_of_packages_sees_no_variable_of_the_project() {
    let setup =
        "import os, setuptools\nopen('seen', 'w').write('\\n'.join(sorted(os.environ)))\nsetuptools.setup(name='shop', py_modules=[])\n";
    let release = release(&[("requirements.txt", "./shop\n"), ("shop/setup.py", setup)]);
    let wanted = want(host(), &settings(), &release).unwrap();
    assert!(wanted.notes()[0].contains("for this release alone"));
    let (built, _) = build(&wanted, &release);
    built.unwrap();
    let seen = fs::read_to_string(release.path().join("shop/seen")).unwrap();
    // uv brings authorities of its own, and the host may trust another one.
    assert!(seen.lines().any(|name| name == "UV_SYSTEM_CERTS"), "{seen}");
    let allowed = |name: &str| {
        let own = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "RELEASE_RUN_ID", "VIRTUAL_ENV", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
        own.contains(&name)
            || name.starts_with("PIP_")
            || name.starts_with("UV")
            || name.starts_with("PYTHON")
            || name.to_lowercase().ends_with("_proxy")
            || matches!(name, "LC_CTYPE" | "TMPDIR" | "XDG_CACHE_HOME" | "CARGO_HOME")
            || name == "SETUPTOOLS_ENABLE_FEATURES"
    };
    let strangers: Vec<&str> = seen.lines().filter(|name| !allowed(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn an_editable_package_counts_however_it_is_installed() {
    let release = release(&[
        ("requirements.txt", "-e ./shop\n"),
        ("shop/setup.py", "import setuptools\nsetuptools.setup(name='shop', py_modules=[])\n"),
    ]);
    for (host, settings) in [(host(), settings()), (host_without_uv(), by_pip())] {
        let (built, _) = build(&want(host, &settings, &release).unwrap(), &release);
        assert_eq!(built.unwrap().packages, 1);
    }
}

#[test]
fn an_environment_with_paths_belongs_to_its_release() {
    let files = [("requirements.txt", "-e ./shop\n"), ("shop/setup.py", "import setuptools\nsetuptools.setup(name='shop')\n")];
    let (one, two) = (release(&files), release(&files));
    assert_ne!(want(host(), &settings(), &one).unwrap().key(), want(host(), &settings(), &two).unwrap().key());
}

const SIX_HASH: &str = "sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254";

#[test]
fn a_pipfile_lock_needs_no_pipenv() {
    let lock = format!(
        r#"{{"_meta": {{"sources": [{{"name": "pypi", "url": "https://elsewhere.test/simple", "verify_ssl": true}}]}},
            "default": {{"six": {{"version": "==1.16.0", "hashes": ["{SIX_HASH}"], "index": "pypi", "markers": "python_version >= '2.7'"}},
                         "pywin32": {{"version": "==306", "hashes": ["sha256:00"], "markers": "sys_platform == 'win32'"}},
                         "shop": {{"path": "./shop", "editable": true}}}},
            "develop": {{"never-asked-for": {{"version": "==0"}}}}}}"#
    );
    let release =
        release(&[("Pipfile.lock", &lock), ("shop/setup.py", "import setuptools\nsetuptools.setup(name='shop', py_modules=[])\n")]);
    let wanted = want(host(), &Settings { packages: vec!["idna".into()], ..settings() }, &release).unwrap();
    let EnvironmentSource::Requirements { made, .. } = &wanted.way else { panic!("{:?}", wanted.way) };
    assert_eq!(made[0].lines[1], format!("six==1.16.0 ; python_version >= '2.7' --hash={SIX_HASH}"));
    assert!(made[1].lines[0].starts_with("-e /"));
    let (built, _) = build(&wanted, &release);
    assert_eq!(built.unwrap().packages, 3);

    let wrong = release_with_hash(&"0".repeat(64));
    let (built, _) = build(&want(host_without_uv(), &by_pip(), &wrong).unwrap(), &wrong);
    assert!(built.unwrap_err().hint().unwrap().contains("not what the hashes name"));
}

fn release_with_hash(hash: &str) -> TempDir {
    release(&[("Pipfile.lock", &format!(r#"{{"default": {{"six": {{"version": "==1.16.0", "hashes": ["sha256:{hash}"]}}}}}}"#))])
}

#[test]
fn packages_are_installed_beside_hashed_requirements() {
    let release = release(&[("requirements.txt", &format!("six==1.16.0 --hash={SIX_HASH}\n"))]);
    for (host, settings) in [(host(), settings()), (host_without_uv(), by_pip())] {
        let wanted = want(host, &Settings { packages: vec!["idna".into(), "six".into()], ..settings.clone() }, &release).unwrap();
        let (built, _) = build(&wanted, &release);
        assert_eq!(built.unwrap().packages, 2);
    }
}

#[test]
fn a_pyproject_gives_its_dependencies_and_is_not_installed() {
    let project = "[build-system]\nrequires = ['no-such-backend']\n[project]\nname = 'shop'\ndependencies = ['six==1.16.0']\n";
    let release = release(&[("pyproject.toml", project)]);
    let wanted = want(host(), &settings(), &release).unwrap();
    assert!(wanted.told().ends_with("pyproject.toml (1 line)"), "{}", wanted.told());
    let (built, _) = build(&wanted, &release);
    assert_eq!(built.unwrap().packages, 1);
}

#[test]
fn a_uv_lock_is_synced() {
    let release = release(&[(
        "pyproject.toml",
        "[project]\nname = 'shop'\nversion = '1'\nrequires-python = '>=3.8'\ndependencies = ['six==1.16.0']\n[dependency-groups]\ndev = ['attrs']\n",
    )]);
    let locked = std::process::Command::new(uv().join("uv")).args(["lock", "-q"]).current_dir(release.path()).status().unwrap();
    assert!(locked.success());
    let wanted = want(host(), &Settings { packages: vec!["idna".into()], ..settings() }, &release).unwrap();
    assert!(wanted.told().contains("uv.lock (2 packages)") && wanted.notes().is_empty(), "{} {:?}", wanted.told(), wanted.notes());
    let (built, _) = build(&wanted, &release);
    assert_eq!(built.unwrap(), Built { packages: 2, warnings: Vec::new() });
    assert!(!release.path().join(".venv").exists());
}

#[test]
fn poetry_is_called_with_the_environment_active() {
    let release = release(&[
        ("poetry.lock", "[[package]]\nname = 'six'\nversion = '1.16.0'\ngroups = ['main']\n"),
        ("pyproject.toml", "[tool.poetry]\n"),
    ]);
    let tools = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Poetry (version 2.1.0)'; exit; fi\necho \"$@\"\necho \"$VIRTUAL_ENV\"\nuv pip install -q six\n";
    write(tools.path(), "poetry", script);
    succeed(std::process::Command::new("chmod").arg("+x").arg(tools.path().join("poetry")));
    let mut host = host();
    host.path = std::env::join_paths([tools.path().to_owned(), uv(), "/usr/bin".into(), "/bin".into()]).unwrap();
    let wanted = want(host, &settings(), &release).unwrap();
    let venv = tools.path().join("venv");
    let (built, lines) = heard(|watch| wanted.build(&venv, release.path(), place_in(&tools), watch, &|_| {}));
    assert_eq!(built.unwrap().packages, 1);
    assert!(lines.contains(&"install --no-root --only main --no-interaction --no-ansi".to_owned()), "{lines:?}");
    assert!(lines.contains(&venv.display().to_string()), "{lines:?}");
}

fn succeed(command: &mut std::process::Command) {
    assert!(command.status().unwrap().success());
}

#[test]
fn commands_of_the_operator_run_inside_the_environment() {
    let release = release(&[("requirements.txt", "six==1.16.0\n")]);
    let install = vec![
        vec!["pip".into(), "install".into(), "-r".into(), "requirements.txt".into()],
        vec!["sh".into(), "-c".into(), "echo \"in $VIRTUAL_ENV\"".into()],
    ];
    let wanted = want(host(), &Settings { install, ..settings() }, &release).unwrap();
    let place = tempfile::tempdir().unwrap();
    let venv = place.path().join("venv");
    let (built, lines) = heard(|watch| wanted.build(&venv, release.path(), place_in(&place), watch, &|_| {}));
    assert_eq!(built.unwrap().packages, 1);
    assert!(lines.contains(&format!("in {}", venv.display())), "{lines:?}");
}

#[test]
fn what_does_not_fit_together_is_a_warning() {
    let lock = r#"{"default": {"requests": {"version": "==2.31.0"}}}"#;
    let release = release(&[("Pipfile.lock", lock)]);
    for (host, settings) in [(host(), settings()), (host_without_uv(), by_pip())] {
        let (built, _) = build(&want(host, &settings, &release).unwrap(), &release);
        let warnings = built.unwrap().warnings;
        assert!(warnings.iter().any(|line| line.contains("certifi")), "{warnings:?}");
        assert!(warnings.iter().all(|line| line.contains("requests")), "{warnings:?}");
    }
}

#[test]
fn the_agent_brings_a_uv_of_its_own_and_the_hosts_changes_nothing() {
    let release = release(&[("requirements.txt", "six==1.16.0\n")]);
    let (caches, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = Place { scratch: scratch.path(), caches: caches.path(), hidden: &[] };
    let wanted = want(host_without_uv(), &settings(), &release).unwrap();
    assert!(wanted.told().starts_with(&format!("uv {}, ", own::VERSION)), "{}", wanted.told());
    assert!(wanted.lacks_its_installer(caches.path()));
    // What an older agent had fetched goes.
    write(caches.path(), "agent-uv/0.0.1/bin/uv", "");
    let built = watched(|watch| wanted.build(&scratch.path().join("venv"), release.path(), place, watch, &|_| {}));
    assert_eq!(built.unwrap().packages, 1);
    assert!(!wanted.lacks_its_installer(caches.path()) && !caches.path().join("agent-uv/0.0.1").exists());
    let said = std::process::Command::new(own::program(caches.path())).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).starts_with(&format!("uv {}", own::VERSION)), "{said:?}");

    // Another uv of the host's is not used, and one that is the same makes the same key.
    let other = tempfile::tempdir().unwrap();
    let uv_that_is = |version: &str| {
        write(other.path(), "uv", format!("#!/bin/sh\necho uv {version}\n"));
        fs::set_permissions(other.path().join("uv"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::join_paths([other.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        want(Host { path, ..Host::here() }, &settings(), &release).unwrap()
    };
    let (another, same) = (uv_that_is("0.0.1"), uv_that_is(own::VERSION));
    assert_eq!((another.key(), same.key()), (wanted.key(), wanted.key()));
    assert!(!same.lacks_its_installer(scratch.path()) && another.lacks_its_installer(scratch.path()));
}

#[test]
fn an_index_without_uv_is_not_asked_for_it_again_at_once() {
    let release = release(&[("requirements.txt", "six==1.16.0\n")]);
    let (caches, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = Place { scratch: scratch.path(), caches: caches.path(), hidden: &[] };
    let mut host = host_without_uv();
    host.variables.retain(|(name, _)| !["PIP_INDEX_URL", "PIP_FIND_LINKS"].contains(&name.as_str()));
    // Nothing listens there.
    host.variables.extend([("PIP_INDEX_URL".to_owned(), "http://127.0.0.1:9/simple".into()), ("PIP_RETRIES".to_owned(), "0".into())]);
    let wanted = want(host, &settings(), &release).unwrap();
    assert!(!installer_was_refused(caches.path()));
    let err = watched(|watch| wanted.fetch_installer(place, watch)).unwrap_err();
    assert!(err.to_string().contains("by which the agent installs"), "{err}");
    assert!(wanted.lacks_its_installer(caches.path()) && installer_was_refused(caches.path()));
}
