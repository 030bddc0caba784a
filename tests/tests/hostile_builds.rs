//! What packages may do while they are installed: each case shows that the attack works where nobody holds it, that here it fails its own release at
//! the most, and that the same thing in a harmless form passes.
//!
//! The packages are made here, with a build system of their own that needs nothing from any index: it runs `attack.py` whenever it is asked for
//! something, as every `setup.py` can.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, Hostile, Process, is_root, processes_about, wait_until};

/// The build system of every package here (PEP 517).
const BACKEND: &str = r#"
import base64, hashlib, io, os, tarfile, zipfile
try:
    import tomllib
except ImportError:
    tomllib = None
name, version = open("NAME").read().split()
exec(compile(open("attack.py").read(), "attack.py", "exec"))
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    info = f"{name}-{version}.dist-info"
    os.mkdir(os.path.join(directory, info))
    with open(os.path.join(directory, info, "METADATA"), "w") as file:
        file.write(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info
def build_wheel(directory, config_settings=None, metadata_directory=None):
    file = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    parts = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    for path in os.listdir("files"):
        parts[path] = open(os.path.join("files", path)).read()
    parts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in parts) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(os.path.join(directory, file), "w") as wheel:
        for path, text in parts.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
    return file
"#;

/// What attacks share: they try, write down how it went, and go on. The record lies in the release, which is theirs to write in.
const TRIES: &str = r#"
import json, os, sys
RECORD = os.environ.get("RECORD") or os.path.join(os.getcwd(), "record.json")
tried = {}
def attempt(what, act):
    try:
        answer = act()
        tried[what] = "done" if answer is None else str(answer)
    except BaseException as err:
        tried[what] = type(err).__name__
    with open(RECORD, "w") as file:
        json.dump(tried, file)
def put(path):
    with open(path, "w") as file:
        file.write("bad")
"#;

/// A package in a directory: its name and version, what it runs when it is built, and its modules.
fn package(dir: &Path, name: &str, version: &str, attack: &str, files: &[(&str, &str)]) {
    fs::create_dir_all(dir.join("files")).unwrap();
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let project = format!("{project}[project]\nname = \"{name}\"\nversion = \"{version}\"\n");
    for (file, text) in [("pyproject.toml", project.as_str()), ("backend.py", BACKEND), ("NAME", &format!("{name} {version}"))] {
        fs::write(dir.join(file), text).unwrap();
    }
    fs::write(dir.join("attack.py"), format!("{TRIES}\n{attack}")).unwrap();
    for (file, text) in [(format!("{name}.py"), "")].iter().map(|(file, text)| (file.as_str(), *text)).chain(files.iter().copied()) {
        fs::write(dir.join("files").join(file), text).unwrap();
    }
}

/// Makes a wheel, or an archive of sources, of such a package; the answer is its file.
fn packed(hostile: &Bench, kind: &str, dir: &Path, into: &Path) -> PathBuf {
    fs::create_dir_all(into).unwrap();
    let name = fs::read_to_string(dir.join("NAME")).unwrap().replace(' ', "-");
    let file = if kind == "wheel" { format!("{name}-py3-none-any.whl") } else { format!("{name}.tar.gz") };
    let script = match kind {
        "wheel" => format!("import sys; sys.path.insert(0, '.'); import backend; backend.build_wheel({:?})", into.display().to_string()),
        _ => format!(
            "import os, tarfile; t = tarfile.open({:?}, 'w:gz'); t.add('.', {name:?}); \
             open('PKG-INFO', 'w').write('Metadata-Version: 2.1\\nName: {}\\nVersion: {}\\n'); t.add('PKG-INFO', {:?}); t.close()",
            into.join(&file).display().to_string(),
            name.rsplit_once('-').unwrap().0,
            name.rsplit_once('-').unwrap().1,
            format!("{name}/PKG-INFO")
        ),
    };
    let mut python = hostile.command("/usr/bin/python3");
    python.args(["-c", &script]).current_dir(dir).env("RECORD", "/dev/null");
    hostile.begin(python).finish(Duration::from_secs(60)).expect(0);
    into.join(file)
}

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

const PYTHON: &str = "[python]\ninterpreter = \"/usr/bin/python3\"\n";

/// A bench whose app has an environment already, in its first release.
fn ready(bench: Bench, more: &str) -> Hostile {
    bench.write("repos/plain/requirements.txt", "./ok\n");
    package(&bench.path("repos/plain/ok"), "ok", "1.0", "", &[]);
    Hostile::on(bench, more)
}

/// Puts an attack into the next commit: the requirements ask for a package in the release.
fn attacks(hostile: &Hostile, attack: &str, files: &[(&str, &str)]) {
    package(&hostile.repo.path().join("pkg"), "bad", "1.0", attack, files);
    hostile.repo.write("requirements.txt", "./pkg\n").commit("Attack");
}

/// How the tries of an attack went, by the record that it left in the release.
fn record(release: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(release.join("pkg/record.json")).expect("the attack has run")).unwrap()
}

/// Has the same attack run where nobody holds it, with the bench's canary tree as its prey, and gives its record.
fn unheld(hostile: &Hostile, attack: &str) -> serde_json::Value {
    let dir = hostile.bench.path("unheld/pkg");
    package(&dir, "bad", "1.0", attack, &[]);
    let mut python = hostile.bench.command("/usr/bin/python3");
    python.args(["-c", "import backend"]).current_dir(&dir).env("PYTHONPATH", ".");
    hostile.bench.begin(python).finish(Duration::from_secs(60));
    record(&hostile.bench.path("unheld"))
}

#[track_caller]
fn tried(record: &serde_json::Value, what: &str, how: &str) {
    assert_eq!(record[what], how, "{what}: {record:#}");
}

#[test]
fn bld_01_a_build_reads_what_is_secret() {
    let bench = Bench::new("bld 01");
    let secrets = bench.write("plain.env", "TOKEN=s3cr3t-of-the-app\n");
    fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    bench.write("apps/plain/shared/.env", "PASSWORD=s3cr3t-of-the-app\n");
    let more = format!(
        "{PYTHON}packages = []\n[env]\nSETTING = \"s3cr3t-of-the-app\"\n[secrets]\nfiles = [{secrets:?}]\n[shared]\nfiles = [\".env\"]\n"
    );
    let hostile = ready(bench, &more);
    // A server of the app, with its secrets in its environment.
    let mut server = hostile.bench.command("sleep");
    server.arg("1000").env("TOKEN", "s3cr3t-of-the-app");
    let server = hostile.bench.begin(server);
    let attack = r#"
def environments():
    found = 0
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                found += b"s3cr3t-of-the-app" in open(f"/proc/{pid}/environ", "rb").read()
            except OSError:
                pass
    return found
attempt("variables", lambda: "s3cr3t-of-the-app" in str(os.environ))
attempt("path", lambda: "PATH" in os.environ)
attempt("processes", environments)
for what, path in {"secrets": "BENCH/plain.env", "shared": "BENCH/apps/plain/shared/.env", "through": "../.env", "app": "BENCH/config/apps/plain.toml",
                   "journal": "BENCH/state/journal.db", "own": "attack.py", "host": "/etc/passwd"}.items():
    attempt(what, lambda: open(path, "rb").read(1) and None)
attempt("list", lambda: os.listdir("BENCH/state") and None)
"#
    .replace("BENCH", &hostile.bench.path("").display().to_string());
    let free = unheld(&hostile, &attack);
    for what in ["secrets", "shared", "app", "journal", "list"] {
        tried(&free, what, "done");
    }
    tried(&free, "processes", "1");
    attacks(&hostile, &attack, &[]);
    let held = record(&hostile.releases());
    for what in ["secrets", "shared", "through", "app", "journal", "list"] {
        tried(&held, what, "PermissionError");
    }
    tried(&held, "variables", "False");
    tried(&held, "processes", "0");
    // What a build needs is there.
    for (what, how) in [("path", "True"), ("own", "done"), ("host", "done")] {
        tried(&held, what, how);
    }
    drop(server);
    hostile.bench.ctl(["doctor"]).expect(0).says(&["kernel holds installers"]);
}

/// What an attack tries outside of its own directories, and what only looks like it.
const OUTSIDE: &str = r#"
import signal, tempfile, shutil
def link():
    os.symlink("/tmp", "BENCH/apps/plain/app.new")
    os.rename("BENCH/apps/plain/app.new", "BENCH/apps/plain/app")
attempt("write", lambda: put("CANARY/page.html"))
attempt("make", lambda: put("CANARY/new"))
attempt("remove", lambda: os.unlink("CANARY/page.html"))
attempt("rename", lambda: os.rename("CANARY/inner", "CANARY/outer"))
attempt("truncate", lambda: os.truncate("CANARY/page.html", 0))
attempt("mkdir", lambda: os.mkdir("CANARY/dir"))
attempt("hard link out", lambda: os.link("attack.py", "CANARY/link"))
attempt("hard link in", lambda: os.link("CANARY/page.html", "mine"))
attempt("through a link", lambda: (os.path.lexists("way") or os.symlink("CANARY", "way"), put("way/new")) and None)
attempt("own", lambda: put("here"))
attempt("temporary", lambda: put(tempfile.mkstemp()[1]))
"#;

#[test]
fn bld_02_a_build_writes_outside() {
    let hostile = ready(Bench::new("bld 02"), PYTHON);
    let prey = hostile.bench.path("prey");
    fs::create_dir_all(prey.join("inner")).unwrap();
    fs::write(prey.join("page.html"), "prey").unwrap();
    let free = unheld(&hostile, &OUTSIDE.replace("CANARY", &prey.display().to_string()));
    for what in ["write", "make", "rename", "mkdir", "through a link", "own"] {
        tried(&free, what, "done");
    }
    let more = r#"
attempt("link", link)
attempt("state", lambda: put("BENCH/state/new"))
attempt("settings", lambda: put("BENCH/config/apps/mine.toml"))
attempt("home", lambda: put(os.path.expanduser("~/.bad")))
attempt("shared", lambda: put("BENCH/apps/plain/shared/new"))
attempt("cache", lambda: put("BENCH/apps/plain/git_cache/config"))
attempt("program", lambda: put("BENCH/bin/git"))
attempt("agent", lambda: os.kill(AGENT, signal.SIGKILL))
"#;
    let attack = format!("{OUTSIDE}{more}")
        .replace("CANARY", &hostile.canary("").display().to_string())
        .replace("BENCH", &hostile.bench.path("").display().to_string())
        .replace("AGENT", &hostile.bench.agent_pid().unwrap().to_string());
    attacks(&hostile, &attack, &[]);
    let held = record(&hostile.releases());
    for (what, how) in held.as_object().unwrap() {
        let expected = match what.as_str() {
            "own" | "temporary" => "done",
            // A link between directories of different rights is not told from one between file systems.
            "hard link out" | "hard link in" | "rename" if how == "OSError" => "OSError",
            _ => "PermissionError",
        };
        tried(&held, what, expected);
    }
    assert!(held.as_object().unwrap().len() > 17, "{held:#}");
    assert!(!hostile.bench.path("config/apps/mine.toml").exists() && !hostile.bench.path("state/new").exists());
    assert!(hostile.bench.is_running());
    // What an operator allows is allowed.
    hostile.set(&format!("{PYTHON}writable = [{:?}]", prey.display().to_string()));
    attacks(&hostile, &OUTSIDE.replace("CANARY", &prey.display().to_string()).replace("(\"make\"", "(\"again\""), &[]);
    tried(&record(&hostile.releases()), "again", "done");
}

#[test]
fn bld_02_a_build_asks_the_agent_itself() {
    let hostile = ready(Bench::new("bld 02 asks"), PYTHON);
    let asks = r#"
def ask():
    import socket
    agent = socket.socket(socket.AF_UNIX)
    agent.connect("BENCH/run/control.sock")
    agent.sendall(b"GET /v1/apps HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
    answer = agent.recv(4096)
    return "heard" if b"200 OK" in answer else "unheard"
attempt("ask", ask)
"#
    .replace("BENCH", &hostile.bench.path("").display().to_string());
    // Whoever is not held, and is the same user, is heard.
    tried(&unheld(&hostile, &asks), "ask", "heard");
    attacks(&hostile, &asks, &[]);
    let held = record(&hostile.releases());
    // From version 9 of Landlock on it does not even come to the socket.
    assert!(["unheard", "PermissionError", "ConnectionResetError", "BrokenPipeError"].contains(&held["ask"].as_str().unwrap()), "{held}");
}

#[test]
fn bld_03_a_download_runs_code_too() {
    let hostile = Hostile::new("bld 03", "");
    let download =
        |package: &str| format!("[\"pip\", \"download\", \"--no-deps\", \"--no-build-isolation\", \"--dest\", \"dl\", \"{package}\"]");
    package(&hostile.repo.path().join("ok"), "ok", "1.0", "attempt('ran', lambda: None)", &[]);
    let attack = format!("attempt('ran', lambda: None)\nattempt('out', lambda: put({:?}))\n", hostile.canary("new").display().to_string());
    attacks(&hostile, &attack, &[]);
    hostile.set(&format!("{PYTHON}install = [{}, {}]\n", download("./pkg"), download("./ok")));
    let live = hostile.releases();
    let held = record(&live);
    tried(&held, "ran", "done");
    tried(&held, "out", "PermissionError");
    assert!(live.join("ok/record.json").exists(), "the other was downloaded, too");
}

/// Wheels in a directory of the release, and requirements that name them by their hashes.
fn hashed(name: &str, requirements: impl Fn(&str, &str) -> String, parts: &[&str]) {
    let hostile = ready(Bench::new(name), PYTHON);
    let trace = hostile.bench.path("trace");
    let starts = format!("import os; open({:?}, 'w')\n", trace.display().to_string());
    let wheels = hostile.repo.path().join("wheels");
    for name in ["one", "two"] {
        let dir = hostile.bench.path("made").join(name);
        package(&dir, name, "1.0", "", &[("starts.pth", if name == "one" { starts.as_str() } else { "" })]);
        packed(&hostile.bench, "wheel", &dir, &wheels);
    }
    let hash = |name: &str| format!("--hash=sha256:{}", sha256(&wheels.join(format!("{name}-1.0-py3-none-any.whl"))));
    let head = "--no-index\n--find-links ./wheels\n";
    let (one, two) = (hash("one"), hash("two"));
    let before = fs::read_dir(hostile.bench.path("apps/plain/environments")).unwrap().count();
    hostile.repo.write("requirements.txt", format!("{head}{}", requirements(&one, &two))).commit("Bad hashes");
    hostile.fails(&["release", "main"], parts);
    assert!(!trace.exists(), "what was refused ran");
    assert_eq!(
        fs::read_dir(hostile.bench.path("apps/plain/environments")).unwrap().count(),
        before,
        "something is left of the environment"
    );
    hostile.repo.write("requirements.txt", format!("{head}one==1.0 {one}\ntwo==1.0 {two}\n")).commit("Good hashes");
    let live = hostile.releases();
    assert!(fs::read_dir(live.join("venv/lib")).unwrap().flatten().any(|entry| entry.path().join("site-packages/one.py").exists()));
}

#[test]
fn bld_04_a_hash_that_is_another() {
    hashed("bld 04", |one, two| format!("one==1.0 {two}\ntwo==1.0 {one}\n"), &["hashes"]);
}

#[test]
fn bld_05_a_hash_that_is_missing() {
    hashed("bld 05", |_, two| format!("--require-hashes\none==1.0\ntwo==1.0 {two}\n"), &["all must have one"]);
}

#[test]
fn bld_06_sources_where_only_wheels_are_taken() {
    let hostile = ready(Bench::new("bld 06"), PYTHON);
    let (made, place) = (hostile.bench.path("made/bad"), hostile.repo.path().join("dist"));
    let trace = hostile.bench.path("trace");
    package(&made, "bad", "1.0", "", &[]);
    let wheel = packed(&hostile.bench, "wheel", &made, &hostile.bench.path("wheels"));
    fs::write(
        made.join("attack.py"),
        format!("print('built here')\n{TRIES}\nattempt('out', lambda: put({:?}))\n", trace.display().to_string()),
    )
    .unwrap();
    packed(&hostile.bench, "sdist", &made, &place);
    let asks = |only: &str| format!("--no-index\n--find-links ./dist\n{only}bad==1.0\n");
    hostile.repo.write("requirements.txt", asks("--only-binary :all:\n")).commit("Only wheels");
    let done = hostile.fails(&["release", "main"], &["bad"]);
    assert!(!done.stderr.contains("built here"), "it was built: {}", done.stderr);
    // Without that line it is built, and so its code runs.
    hostile.repo.write("requirements.txt", asks("")).commit("Sources, too");
    hostile.releases();
    fs::copy(&wheel, place.join(wheel.file_name().unwrap())).unwrap();
    hostile.repo.write("requirements.txt", asks("--only-binary :all:\n# again\n")).commit("A wheel");
    hostile.releases();
    assert!(!trace.exists());
}

#[test]
fn bld_07_a_wheel_that_runs_at_every_start() {
    let hostile = ready(Bench::new("bld 07"), PYTHON);
    let made = hostile.bench.path("made");
    let (trace, out) = (hostile.bench.path("trace"), hostile.canary("new").display().to_string());
    let starts = format!(
        "import os, sys\nfor path in (os.path.join(sys.prefix, 'ran'), {out:?}, {:?}):\n    try:\n        open(path, 'w').close()\n    except OSError:\n        pass\n",
        trace.display().to_string()
    );
    package(&made, "bad", "1.0", "", &[("starts.pth", "import bad_start\n"), ("bad_start.py", &starts)]);
    packed(&hostile.bench, "wheel", &made, &hostile.repo.path().join("wheels"));
    hostile.repo.write("requirements.txt", "--no-index\n--find-links ./wheels\nbad\n").commit("A wheel");
    let live = hostile.releases();
    assert!(live.join("venv/ran").exists(), "the wheel did not run while the environment was made");
    assert!(!trace.exists(), "it wrote where it may not");
    // Where nobody holds it, isolation does not help.
    let python = live.join("venv/bin/python");
    hostile.beside(&[python.to_str().unwrap(), "-I", "-c", "pass"], &[]).expect(0);
    assert!(trace.exists(), "such a wheel runs even with -I");
    fs::remove_file(hostile.canary("new")).unwrap();
    hostile.holds();
}

/// The processes that a build wrote down.
fn left(release: &Path) -> Vec<i32> {
    let text = fs::read_to_string(release.join("pkg/pids")).expect("the build wrote its processes down");
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Leaves a process behind, as daemons do it.
const DAEMON: &str = r#"
import time
def daemon(act):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):
                os.close(number)
            with open("pids", "a") as file:
                file.write(f"{os.getpid()}\n")
            act()
        os._exit(0)
    os.wait()
def written():
    return len(open("pids").readlines()) if os.path.exists("pids") else 0
before = written()
daemon(lambda: time.sleep(1000))
daemon(lambda: os.execve("/bin/sleep", ["sleep", "1000"], {}))
while written() < before + 2:
    time.sleep(0.01)
"#;

#[test]
fn bld_08_a_build_leaves_a_daemon() {
    let hostile = ready(Bench::new("bld 08"), PYTHON);
    unheld(&hostile, &format!("{DAEMON}\nattempt('ran', lambda: None)"));
    let free = left(&hostile.bench.path("unheld"));
    assert!(free.iter().all(|pid| is_alive(*pid)), "a daemon outlives its build where nobody ends it");
    for pid in free {
        Process { pid, command: String::new(), environment: Vec::new() }.signal(nix::sys::signal::Signal::SIGKILL);
    }
    attacks(&hostile, DAEMON, &[]);
    let live = hostile.releases();
    let pids = left(&live);
    assert!(pids.len() >= 2, "{pids:?}");
    wait_until("the daemons are gone", Duration::from_secs(10), || !pids.iter().any(|pid| is_alive(*pid)));
    // One that is waited for is a build like any.
    attacks(&hostile, "import subprocess\nsubprocess.run(['true'], check=True)", &[]);
    hostile.releases();
}

#[test]
fn bld_09_a_build_listens() {
    let hostile = ready(Bench::new("bld 09"), PYTHON);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let attack = format!(
        r#"
import socket
def listen(family, address):
    server = socket.socket(family)
    server.bind(address)
    server.listen()
attempt("listen", lambda: listener(socket.AF_INET, ("127.0.0.1", 0)))
attempt("v4", lambda: listen(socket.AF_INET, ("127.0.0.1", 0)))
attempt("any", lambda: listen(socket.AF_INET, ("0.0.0.0", 0)))
attempt("v6", lambda: listen(socket.AF_INET6, ("::1", 0)))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port})).send(b"hello") and None)
"#
    );
    let free = unheld(&hostile, &attack);
    tried(&free, "v4", "done");
    listener.accept().unwrap();
    attacks(&hostile, &attack, &[]);
    let held = record(&hostile.releases());
    for what in ["v4", "any"] {
        tried(&held, what, "PermissionError");
    }
    assert_ne!(held["v6"], "done", "{held:#}");
    // An index must be reached.
    tried(&held, "connect", "done");
    let (mut heard, _) = listener.accept().unwrap();
    let mut text = String::new();
    heard.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn bld_10_a_build_that_forks_without_end() {
    if !is_root("that a build of an ordinary user has a limit of processes") {
        return;
    }
    // The kernel holds no root to a number of processes.
    let bench = Bench::new("bld 10");
    let home = bench.path("home");
    fs::create_dir_all(&home).unwrap();
    bench.variable("HOME", home.to_str().unwrap()).without_variable("PIP_CACHE_DIR").without_variable("UV_CACHE_DIR");
    for dir in ["apps/plain/shared", "apps/second/shared"] {
        fs::create_dir_all(bench.path(dir)).unwrap();
    }
    bench.repo("plain");
    bench.repo("second");
    bench.give_to(1);
    let hostile = ready(bench, PYTHON);
    let repo = hostile.bench.repo("second");
    repo.write("page.html", "second").commit("Second");
    hostile.bench.app("second", &format!("repository = {:?}\n", repo.path())).reload();
    let go = hostile.bench.path("go");
    let attack = format!(
        r#"
import time
count = 0
try:
    while count < 3000:
        if os.fork() == 0:
            os.setsid()
            for number in range(3):
                os.close(number)
            time.sleep(1000)
            os._exit(0)
        count += 1
except OSError as err:
    attempt("end", lambda: type(err).__name__)
attempt("count", lambda: count)
while not os.path.exists({:?}):
    time.sleep(0.05)
"#,
        go.display().to_string()
    );
    attacks(&hostile, &attack, &[]);
    let bomb = hostile.bench.ctl_begin(["--app", "plain", "release", "main"]);
    let record_of = || {
        let releases = fs::read_dir(hostile.bench.path("apps/plain/releases")).unwrap().flatten();
        releases.map(|entry| entry.path().join("pkg/record.json")).find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default()
    };
    wait_until("the build cannot fork any more", Duration::from_secs(60), || record_of().contains("count"));
    let held: serde_json::Value = serde_json::from_str(&record_of()).unwrap();
    tried(&held, "end", "BlockingIOError");
    let count: u32 = held["count"].as_str().unwrap().parse().unwrap();
    assert!((100..1100).contains(&count), "{count}");
    // Meanwhile others are served.
    hostile.bench.ctl(["--app", "second", "release", "main"]).expect(0);
    fs::write(&go, "").unwrap();
    // With all of its processes in use, nothing more of its own can be started.
    bomb.finish(Duration::from_secs(120)).expect(1);
    wait_until("nothing of it is left", Duration::from_secs(20), || {
        !processes_about(&hostile.bench.path("")).iter().any(|process| process.has_variable("RELEASE_RUN_ID"))
    });
    hostile.holds();
    attacks(&hostile, "import subprocess\nfor child in [subprocess.Popen(['sleep', '0.1']) for _ in range(30)]:\n    child.wait()\n", &[]);
    hostile.bench.ctl(["--app", "plain", "release", "main"]).expect(0);
    hostile.holds();
}

/// A program without any library that a wheel brings as its `python`, in the place of the interpreter's. It forks at once, and goes on forking; each
/// process asks the agent who it is, and says in the directory `open` that it was there, and what it was told. Its first process becomes what was asked for.
const FORKING_PYTHON: &str = r#"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static const char request[] = "GET /v1/whoami HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
static void ask(int record) {
    struct sockaddr_un agent = { .sun_family = AF_UNIX, .sun_path = "BENCH/run/control.sock" };
    char answer[4096];
    int line = socket(AF_UNIX, SOCK_STREAM, 0);
    ssize_t count = -1, more = 0;
    if (!connect(line, (struct sockaddr *) &agent, sizeof agent) && write(line, request, sizeof request - 1) > 0)
        for (count = 0; count < 4000 && (more = read(line, answer + count, 4000 - count)) > 0; count += more);
    answer[count < 0 ? 0 : count] = 0;
    const char *told = count < 0 ? "no connection\n" : strstr(answer, " 200 ") ? "heard\n" : "unheard\n";
    if (write(record, told, strlen(told)) < 0) _exit(4);
    close(line);
}
int main(int argc, char **argv) {
    int record = open("BENCH/open/record", O_WRONLY | O_APPEND | O_CREAT, 0666);
    int steps = open("BENCH/open/steps", O_WRONLY | O_APPEND | O_CREAT, 0666);
    for (int at = 0; at < 5; at++)
        if (!fork()) {
            char *none[] = { 0 };
            environ = none;
            setsid(); close(0); close(1); close(2);
            ask(record);
            for (;;) { if (write(steps, ".", 1) != 1) _exit(5); if (fork()) _exit(0); setsid(); usleep(500); }
        }
    if (argc > 1) execv("/usr/bin/python3", argv);
    return 0;
}
"#;

#[test]
fn bld_15_a_program_of_a_wheel_that_forks_at_once() {
    let hostile = ready(Bench::new("bld 15"), PYTHON);
    let bench = &hostile.bench;
    let open = bench.path("open");
    fs::create_dir_all(&open).unwrap();
    let made = bench.path("made");
    let source = FORKING_PYTHON.replace("BENCH", bench.path("").display().to_string().trim_end_matches('/'));
    let source = source.replace("#include <fcntl.h>", "#define _GNU_SOURCE\n#include <fcntl.h>");
    bench.write("made/python.c", source);
    let compiled = Command::new("gcc").args(["-O1", "-static", "-o", "python", "python.c"]).current_dir(&made).status().unwrap();
    assert!(compiled.success());
    let wheel = r#"
import zipfile
info = "bad-1.0.dist-info"
with zipfile.ZipFile("bad-1.0-py3-none-any.whl", "w") as wheel:
    wheel.write("python", "bad-1.0.data/scripts/python")
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", f"bad-1.0.data/scripts/python,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
"#;
    let mut python = bench.command("/usr/bin/python3");
    python.args(["-c", wheel]).current_dir(&made);
    bench.begin(python).finish(Duration::from_secs(60)).expect(0);
    let record = || fs::read_to_string(open.join("record")).unwrap_or_default();
    let steps = || fs::metadata(open.join("steps")).map_or(0, |meta| meta.len());
    // Where nobody holds it, it is the agent's own user.
    let free = Command::new(made.join("python")).status().unwrap();
    assert!(free.success());
    wait_until("it was heard", Duration::from_secs(20), || record().contains("heard\n"));
    assert!(!record().contains("unheard"), "{}", record());
    wait_until("it is ended", Duration::from_secs(60), || {
        let of_it = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        of_it.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == made.join("python"))).for_each(|pid| {
            Process { pid, command: String::new(), environment: Vec::new() }.signal(nix::sys::signal::Signal::SIGKILL);
        });
        let before = steps();
        std::thread::sleep(Duration::from_millis(100));
        steps() == before
    });
    for file in ["record", "steps"] {
        fs::remove_file(open.join(file)).unwrap();
    }
    // uv installs no script of this name.
    hostile.set(&format!("{PYTHON}installer = \"pip\"\nwritable = [{open:?}]\n"));
    fs::create_dir_all(hostile.repo.path().join("wheels")).unwrap();
    fs::copy(made.join("bad-1.0-py3-none-any.whl"), hostile.repo.path().join("wheels/bad-1.0-py3-none-any.whl")).unwrap();
    hostile.repo.write("requirements.txt", "./wheels/bad-1.0-py3-none-any.whl\n").commit("Attack");
    // Whether the release goes live is of no account here.
    drop(bench.ctl(["release", "main"]));
    assert!(steps() > 0, "the attack has not run");
    let before = steps();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(steps(), before, "something of it still runs");
    assert!(!record().lines().any(|line| line == "heard"), "a package was taken for the agent's own user: {}", record());
    assert!(record().lines().count() > 0);
}

/// A file system in memory, mounted for as long as the value lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).status().unwrap();
        assert!(done.success(), "root may mount");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the agent may still have files open in it when the test fails.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn bld_11_a_build_that_fills_the_disk() {
    if !is_root("what a build that fills the disk does") {
        return;
    }
    let bench = Bench::new("bld 11");
    let mounted = Mounted::new(bench.root_of("plain"), "size=60m");
    let hostile = ready(bench, PYTHON);
    let attack = r#"
def fill():
    with open(os.path.join(os.environ["TMPDIR"], "fill"), "wb") as one, open("fill", "wb") as two:
        for file in (one, two):
            while file.write(bytes(1 << 20)):
                pass
attempt("fill", fill)
try:
    fill()
except OSError as err:
    sys.exit(f"filled: {err}")
"#;
    package(&hostile.repo.path().join("pkg"), "bad", "1.0", &attack.replace("attempt(\"fill\", fill)", ""), &[]);
    hostile.repo.write("requirements.txt", "./pkg\n").commit("Attack");
    hostile.fails(&["release", "main"], &["filled", "No space left"]);
    let free = || nix::sys::statvfs::statvfs(&mounted.0).map(|stat| stat.blocks_available() * stat.fragment_size()).unwrap();
    assert!(free() > 30 << 20, "{} bytes are free: what it wrote is still there", free());
    hostile.bench.ctl(["status"]).expect(0);
    attacks(&hostile, "open('small', 'wb').write(bytes(1 << 20))", &[]);
    hostile.releases();
    hostile.bench.stop();
}

#[test]
fn bld_12_a_build_that_rewrites_an_older_release() {
    let hostile = ready(Bench::new("bld 12"), &format!("{PYTHON}packages = []\n"));
    attacks(&hostile, "", &[("mine.py", "GOOD = True\n")]);
    let former = hostile.releases();
    let environment = former.join("venv").canonicalize().unwrap();
    let module = fs::read_dir(environment.join("lib"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("site-packages/mine.py"))
        .find(|path| path.exists());
    let module = module.unwrap();
    let attack = r#"
attempt("page", lambda: put("FORMER/page.html"))
attempt("new", lambda: put("FORMER/new"))
attempt("remove", lambda: os.unlink("FORMER/page.html"))
attempt("rename", lambda: os.rename("FORMER", "FORMER-1"))
attempt("manifest", lambda: put("FORMER/.release/manifest.json"))
attempt("module", lambda: (os.chmod("MODULE", 0o644), put("MODULE")) and None)
attempt("environment", lambda: put("ENVIRONMENT/new"))
attempt("by the link", lambda: put("../../../app/page.html"))
attempt("link in", lambda: os.link("MODULE", "module"))
attempt("exchange", lambda: os.rename("page", "FORMER/page.html"))
"#;
    let attack = attack.replace("FORMER", former.to_str().unwrap()).replace("MODULE", module.to_str().unwrap());
    let attack = attack.replace("ENVIRONMENT", environment.to_str().unwrap());
    let prey = hostile.bench.path("prey");
    fs::create_dir_all(prey.join(".release")).unwrap();
    fs::write(prey.join("page.html"), "x").unwrap();
    // Where it goes on without being held it would have nothing left to try.
    let gentle: String = attack.lines().filter(|line| !line.contains("\"rename\"")).map(|line| format!("{line}\n")).collect();
    let free = unheld(
        &hostile,
        &gentle
            .replace(former.to_str().unwrap(), prey.to_str().unwrap())
            .replace(module.to_str().unwrap(), prey.join("page.html").to_str().unwrap())
            .replace(environment.to_str().unwrap(), prey.to_str().unwrap()),
    );
    for what in ["page", "new", "manifest", "environment"] {
        tried(&free, what, "done");
    }
    // Landlock knows no chmod: the mode is another, and what the file holds is not.
    hostile.knows(&["has the mode 644, and was sealed with 444"]);
    attacks(&hostile, &attack, &[]);
    let live = hostile.releases();
    let held = record(&live);
    for (what, how) in held.as_object().unwrap() {
        assert!(["PermissionError", "OSError", "FileNotFoundError"].contains(&how.as_str().unwrap()), "{what}: {held:#}");
    }
    assert_eq!(fs::read_to_string(former.join("page.html")).unwrap(), "good");
    assert_eq!(fs::read_to_string(&module).unwrap(), "GOOD = True\n");
    hostile.passes(&["rollback"]);
    assert_eq!(hostile.live(), former);
}

/// Two apps that install the same package, one of which spoils every cache that it can write in.
fn spoilt(bench: Bench) -> (bool, Hostile) {
    let dist = bench.path("dist");
    let made = bench.path("made/victim");
    package(&made, "victim", "1.0", "", &[("victim.py", "GOOD = True\n")]);
    packed(&bench, "sdist", &made, &dist);
    let asks = format!("--no-index\n--find-links {}\nvictim==1.0\n", dist.display());
    let second = bench.repo("second");
    second.write("requirements.txt", &asks).commit("Second");
    bench.app("second", &format!("repository = {:?}\n{PYTHON}", second.path()));
    bench.write("repos/plain/requirements.txt", &asks);
    bench.app("plain", &format!("repository = {:?}\n{PYTHON}", bench.path("repos/plain")));
    let repo = bench.repo("plain");
    repo.write("page.html", "good").commit("Good");
    bench.start();
    bench.ctl(["--app", "second", "release", "main"]).expect(0);
    bench.ctl(["--app", "plain", "release", "main"]).expect(0);
    let attack = r#"
import glob, zipfile
places = {os.environ.get(name) for name in ("XDG_CACHE_HOME", "UV_CACHE_DIR", "PIP_CACHE_DIR")}
places |= {os.path.expanduser("~/.cache")} | set(glob.glob("BENCH/apps/*/.agent/caches"))
def spoil():
    count = 0
    for place in filter(None, places):
        for at, _, names in os.walk(place):
            for name in names:
                if name == "victim.py":
                    try:
                        path = os.path.join(at, name)
                        os.chmod(path, 0o644)
                        with open(path, "w") as file:
                            file.write("GOOD = False\n")
                        count += 1
                    except OSError:
                        pass
    return count
attempt("spoilt", spoil)
"#;
    let attack = attack.replace("BENCH", &bench.path("").display().to_string());
    package(&repo.path().join("pkg"), "bad", "1.0", &attack, &[]);
    repo.write("requirements.txt", format!("{asks}./pkg\n")).commit("Attack");
    bench.ctl(["--app", "plain", "release", "main"]).expect(0);
    let held = record(&bench.root_of("plain").join("app").canonicalize().unwrap());
    assert_ne!(held["spoilt"], "0", "there was nothing to spoil: {held:#}");
    second.write("page.html", "two").write("requirements.txt", format!("{asks}# again\n")).commit("Again");
    bench.ctl(["--app", "second", "release", "main"]).expect(0);
    let environment = bench.root_of("second").join("app/venv/lib");
    let module =
        fs::read_dir(environment).unwrap().flatten().map(|entry| entry.path().join("site-packages/victim.py")).find(|path| path.exists());
    let is_spoilt = fs::read_to_string(module.unwrap()).unwrap().contains("False");
    bench.assert_sound();
    let _ = repo;
    (is_spoilt, Hostile::idle(bench))
}

#[test]
fn bld_13_a_build_that_spoils_the_cache() {
    let bench = Bench::new("bld 13");
    bench.write("home/.config/x", "");
    bench.variable("HOME", bench.path("home").to_str().unwrap()).without_variable("PIP_CACHE_DIR").without_variable("UV_CACHE_DIR");
    let (is_spoilt, hostile) = spoilt(bench);
    assert!(!is_spoilt, "one app installed what another had left in its cache");
    // The app itself comes by a clean one when it builds anew.
    hostile.bench.ctl(["--app", "plain", "release", "--rebuild", "main"]).expect(0);
    drop(hostile);
    // An operator who gives all apps one cache is told what that means; and it does mean that.
    let bench = Bench::new("bld 13, shared");
    bench.variable("UV_CACHE_DIR", bench.path("caches").to_str().unwrap());
    let (is_spoilt, hostile) = spoilt(bench);
    assert!(is_spoilt, "the attack does not work where the cache is shared");
    hostile.bench.ctl(["--app", "second", "doctor"]).expect(0).says(&["share", "caches", "UV_CACHE_DIR"]);
}

/// An index with one package, on the loopback interface; tells which paths were asked for.
fn index(wheel: PathBuf, hits: std::sync::Arc<std::sync::Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let file = wheel.file_name().unwrap().to_str().unwrap().to_owned();
            let (status, kind, body) = match path.as_str() {
                path if path.ends_with(".whl") => ("200 OK", "application/zip", fs::read(&wheel).unwrap()),
                path if path.contains("/bad") => ("200 OK", "text/html", format!("<a href=\"/{file}\">{file}</a>").into_bytes()),
                _ => ("404 Not Found", "text/plain", Vec::new()),
            };
            hits.lock().unwrap().push(head);
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    port
}

#[test]
fn bld_14_requirements_that_name_an_index_of_their_own() {
    let bench = Bench::new("bld 14");
    let (own, made) = (bench.path("dist"), bench.path("made/bad"));
    package(&made, "bad", "1.0", "", &[("bad.py", "VERSION = 1\n")]);
    let good = packed(&bench, "wheel", &made, &own);
    package(&made, "bad", "2.0", "", &[("bad.py", "VERSION = 2\n")]);
    let foreign = packed(&bench, "wheel", &made, &bench.path("foreign"));
    let hits = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let port = index(foreign, hits.clone());
    let hits = move || hits.lock().unwrap().len();
    let home = index(good, std::sync::Arc::default());
    let second = bench.repo("second");
    second.write("requirements.txt", "bad\n").commit("Second");
    bench.variable("UV_DEFAULT_INDEX", &format!("http://127.0.0.1:{home}/simple"));
    bench.app("second", &format!("repository = {:?}\n{PYTHON}", second.path()));
    bench.app("plain", &format!("repository = {:?}\n{PYTHON}", bench.path("repos/plain")));
    let repo = bench.repo("plain");
    repo.write("page.html", "good").write("requirements.txt", "bad\n").commit("Good");
    bench.start();
    let version = |app: &str| {
        let lib = fs::read_dir(bench.root_of(app).join("app/venv/lib")).unwrap().flatten().next().unwrap().path();
        fs::read_to_string(lib.join("site-packages/bad.py")).unwrap().trim().to_owned()
    };
    bench.ctl(["--app", "plain", "release", "main"]).expect(0);
    assert_eq!((version("plain").as_str(), hits()), ("VERSION = 1", 0));
    repo.write("requirements.txt", format!("--extra-index-url http://user:hunter2@127.0.0.1:{port}/simple\nbad\n")).commit("Another index");
    let done = bench
        .ctl(["--app", "plain", "release", "main"])
        .expect(0)
        .says(&["line 1, names an index of its own", &format!("127.0.0.1:{port}")]);
    assert!(!done.stderr.contains("hunter2") && !done.stdout.contains("hunter2"), "a password is repeated");
    assert_eq!(version("plain"), "VERSION = 2", "the attack does not work at all");
    assert!(hits() > 0);
    // Its own release has it, and nobody else: an app that asks for the same without that line gets what the host's index has.
    let before = hits();
    bench.ctl(["--app", "second", "release", "main"]).expect(0);
    assert_eq!((version("second").as_str(), hits()), ("VERSION = 1", before));
    bench.ctl(["--app", "plain", "rollback"]).expect(0);
    assert_eq!(version("plain"), "VERSION = 1");
    bench.assert_sound();
}
