//! `agentctl setup app` on a booted machine: what it makes, what it refuses, that it does nothing twice, and that a release goes live by it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use agent_tests::{Booted, Done, Repo, build_package, get, project, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// The demo, in a plain unit that is restarted in place.
const SHOP: &str = r#"
repository = "/srv/shop"
allow_local = true

[python]
interpreter = "/usr/bin/python3"
packages = ["gunicorn==27.0.1"]

[django]
settings = "noticeboard.settings"

[env]
ALLOWED_HOSTS = "localhost,shop.example.com"
DATABASE_PATH = "/var/shop/shared/data/db.sqlite3"

[build_env]
SECRET_KEY = "only-for-collectstatic-only-for-collectstatic-only-for-collectstatic"

[secrets]
files = ["/etc/release-agent/apps/shop.env"]

[shared]
dirs = ["data", "media/thumbs"]
files = ["local.ini"]

[restart]
strategy = "systemd"
unit = "shop.service"
action = "restart"
watch = "1s"

[[check]]
url = "unix:/run/shop/web.sock:/healthz"
contains = "ok"
release_header = "X-Release"
stable = "500ms"

[[worker]]
unit = "shop-worker.service"
watch = "1s"
"#;

const HANDOVER: &str = "[restart]\nstrategy = \"handover\"\nslots = [\"blue\", \"green\"]\n";

const UNIT: &str = "[Service]\nType=notify\nUser=shop\nWorkingDirectory=/var/shop/app\nRuntimeDirectory=shop\n\
                    EnvironmentFile=/etc/release-agent/apps/shop.env\nEnvironment=ALLOWED_HOSTS=localhost,shop.example.com \
                    DATABASE_PATH=/var/shop/shared/data/db.sqlite3\n\
                    ExecStart=/var/shop/app/venv/bin/gunicorn --bind unix:/run/shop/web.sock noticeboard.wsgi\n";
const WORKER: &str = "[Service]\nUser=shop\nExecStart=/bin/sleep infinity\n";

const SECRET: &str = "SECRET_KEY=the-secret-of-the-site-the-secret-of-the-site-0123456789\n";

/// A machine as the package leaves it, with the demo's repository and the app's file.
fn machine(name: &str, file: &str) -> (Booted, Repo) {
    let machine = Booted::new(name);
    machine.run(["rm", "-rf", "/var/shop", "/etc/shop"]).expect(0);
    let repo = machine.demo_repo("shop", 3);
    machine.run(["chown", "--recursive", "release-agent", "/srv/shop"]).expect(0);
    machine.write("/etc/release-agent/agent.toml", "executor = \"units\"\n");
    machine.systemctl(["start", "release-agent.service"]);
    machine.write("/etc/release-agent/apps/shop.toml", file);
    (machine, repo)
}

fn setup(machine: &Booted, more: &[&str]) -> Done {
    machine.ctl(["setup", "app", "shop"].into_iter().chain(more.iter().copied()))
}

/// `user:group mode` of a path.
#[track_caller]
fn stands(machine: &Booted, path: &str) -> String {
    machine.run(["stat", "--format=%U:%G %a", path]).expect(0).stdout.trim().to_owned()
}

/// Asked again, there is nothing to do, and nothing has changed meanwhile.
#[track_caller]
fn assert_nothing_to_do(machine: &Booted) {
    let invocation = machine.property("release-agent.service", "InvocationID");
    let again = setup(machine, &["--yes"]).expect(0);
    assert!(again.stderr.contains("nothing to do: the app shop is set up"), "{}", again.stderr);
    assert!(!again.stderr.contains("  + "), "{}", again.stderr);
    assert_eq!(machine.property("release-agent.service", "InvocationID"), invocation, "the agent was left alone");
}

#[test]
fn one_setup_makes_what_a_release_by_units_needs_and_a_second_one_has_nothing_to_do() {
    let (machine, repo) = machine("setup", SHOP);
    machine.write("/etc/systemd/system/shop.service", UNIT);

    let shown = setup(&machine, &["--dry-run"]).expect(0);
    for words in ["make the system user shop-build", "/var/shop/releases, release-agent:shop-build, mode 2755", "nothing was done"] {
        assert!(shown.stderr.contains(words), "{words}: {}", shown.stderr);
    }
    assert!(shown.stderr.contains("! the unit shop-worker.service, which the app's file names, is missing"), "{}", shown.stderr);
    assert_eq!(shown.stdout, "");
    machine.run(["id", "shop"]).expect(1);
    assert!(!machine.path("/var/shop").exists());

    machine.write("/etc/systemd/system/shop-worker.service", WORKER);
    let done = setup(&machine, &["--yes"]).expect(0);
    assert!(done.stderr.contains("it is restarted; runs under way are finished first"), "{}", done.stderr);
    for (path, how) in [
        ("/var/shop", "release-agent:release-agent 755"),
        ("/var/shop/releases", "release-agent:shop-build 2755"),
        ("/var/shop/environments", "release-agent:shop-build 2755"),
        ("/var/shop/shared", "release-agent:release-agent 755"),
        ("/var/shop/shared/data", "shop:shop 755"),
        ("/var/shop/shared/media", "release-agent:release-agent 755"),
        ("/var/shop/shared/media/thumbs", "shop:shop 755"),
        ("/var/shop/shared/local.ini", "root:shop 640"),
        ("/var/shop/slots", "release-agent:release-agent 755"),
        ("/var/shop/backups", "release-agent:release-agent 700"),
        ("/var/shop/.agent", "release-agent:release-agent 700"),
        ("/var/shop/git_cache", "release-agent:release-agent 700"),
        ("/etc/release-agent/apps/shop.env", "root:root 600"),
        ("/etc/release-agent/apps/shop.toml", "root:root 644"),
        ("/etc/systemd/system/release-agent.service.d/app-shop.conf", "root:root 644"),
    ] {
        assert_eq!(stands(&machine, path), how, "{path}");
    }
    for user in ["shop", "shop-build"] {
        let line = machine.run(["getent", "passwd", user]).expect(0).stdout;
        assert!(line.trim().ends_with(":/var/shop:/usr/sbin/nologin"), "{line}");
    }
    assert!(machine.run(["id", "-Gn", "release-agent"]).stdout.split_whitespace().any(|group| group == "shop-build"));
    assert!(!machine.run(["id", "-Gn", "shop"]).stdout.contains("build"));
    for unit in [
        "release-agent-build@shop.socket",
        "release-agent-app@shop.socket",
        "release-agent-restart@shop.service.socket",
        "release-agent-reload@shop.service.socket",
        "release-agent-restart@shop-worker.service.socket",
    ] {
        assert_eq!(machine.property(unit, "ActiveState"), "active", "{unit}");
        machine.systemctl(["is-enabled", unit]);
    }
    let granted = machine.run(["ls", "/run/release-agent-helpers"]).expect(0).stdout;
    assert_eq!(
        granted.split_whitespace().collect::<Vec<_>>(),
        ["reload.shop.service", "restart.shop-worker.service", "restart.shop.service"]
    );
    assert_nothing_to_do(&machine);

    machine.write("/etc/release-agent/apps/shop.env", SECRET);
    machine.run(["chmod", "600", "/etc/release-agent/apps/shop.env"]).expect(0);
    machine.ctl(["release", "v1"]).expect(0);
    let answer = get(&machine.socket("/run/shop/web.sock"), "/healthz").unwrap();
    assert_eq!((answer.status, answer.header("x-release")), (200, Some(repo.id("v1").as_str())));
    assert_eq!(machine.property("shop.service", "User"), "shop");

    // Root's commands run as the app's user, with its secrets, and never on root's terminal.
    let live = format!("/var/shop/releases/{}", machine.live("shop").unwrap());
    let told = machine.ctl(["exec", "--", "sh", "-c", "id -un; id -Gn; echo ${SECRET_KEY:+a secret}; pwd -P; exit 3"]).expect(3).stdout;
    assert_eq!(told.lines().collect::<Vec<_>>(), ["shop", "shop", "a secret", &live]);
    assert!(machine.ctl(["manage", "showmigrations", "board"]).expect(0).stdout.contains("[X] 0001"));
    let script = "tty > /tmp/of-root; agentctl exec -- sh -c 'id -un; tty; exit 5'";
    let told = machine.run(["script", "--quiet", "--return", "--command", script, "/dev/null"]).expect(5).stdout;
    let told: Vec<&str> = told.lines().map(str::trim).collect();
    let of_root = machine.read("/tmp/of-root");
    // `script` has no standard input here, and types the end of it.
    assert!(told[0].ends_with("shop") && told[1].starts_with("/dev/pts/") && told[1] != of_root.trim(), "{told:?}, root's is {of_root}");
    let run = machine.ctl(["runs", "--json"]).stdout;
    assert!(run.contains("\"action\":\"exec\"") && run.contains("unix:root"), "{run}");

    // What was taken away or changed by hand is put right, and only that.
    machine.run(["chmod", "777", "/var/shop/releases"]).expect(0);
    machine.run(["gpasswd", "--delete", "release-agent", "shop-build"]).expect(0);
    machine.systemctl(["disable", "--now", "release-agent-app@shop.socket"]);
    let again = setup(&machine, &["--yes"]).expect(0);
    let done: Vec<&str> = again.stderr.lines().filter(|line| line.starts_with("  + ")).collect();
    assert_eq!(done.len(), 4, "{}", again.stderr);
    assert!(again.stderr.contains("(is release-agent:shop-build 2777)"), "{}", again.stderr);
    assert_nothing_to_do(&machine);

    // A setup that was cut off right before the agent was told is gone on with.
    machine.run(["touch", "/etc/systemd/system/release-agent.service.d/app-shop.conf"]).expect(0);
    machine.systemctl(["daemon-reload"]);
    let invocation = machine.property("release-agent.service", "InvocationID");
    let again = setup(&machine, &["--yes"]).expect(0);
    let done: Vec<&str> = again.stderr.lines().filter(|line| line.starts_with("  + ")).collect();
    assert_eq!(done, ["  + tell release-agent.service of what is new (it is restarted; runs under way are finished first)"]);
    assert_ne!(machine.property("release-agent.service", "InvocationID"), invocation);
    assert_nothing_to_do(&machine);
    machine.ctl(["release", "v2"]).expect(0);
    assert_eq!(get(&machine.socket("/run/shop/web.sock"), "/healthz").unwrap().header("x-release"), Some(repo.id("v2").as_str()));
}

#[test]
fn a_missing_unit_is_written_and_the_root_may_be_a_link_and_the_users_others() {
    let (head, rest) = SHOP.split_once("[restart]").unwrap();
    let check = rest.split_once("[[check]]").unwrap().1.split_once("[[worker]]").unwrap().0;
    let file = format!("{head}{HANDOVER}\n[[check]]{check}");
    let (machine, repo) = machine("handover", &file);
    machine.run(["useradd", "--create-home", "deploy"]).expect(0);
    machine.run(["useradd", "--create-home", "maker"]).expect(0);
    machine.run(["install", "-d", "/data/sites/shop"]).expect(0);
    symlink("/data/sites/shop", machine.path("/var/shop")).unwrap();
    // As an executor that is the agent itself has left it.
    machine.run(["install", "-d", "-o", "release-agent", "-g", "release-agent", "/data/sites/shop/releases/old"]).expect(0);
    machine.run(["install", "-d", "-o", "release-agent", "-g", "release-agent", "/run/shop"]).expect(0);
    machine.write("/etc/release-agent/apps/shop.env", SECRET);

    let done = setup(&machine, &["--user", "deploy", "--build-user", "maker", "--yes"]).expect(0);
    assert!(done.stderr.contains("loads noticeboard.wsgi:application, which is a guess"), "{}", done.stderr);
    assert_eq!(stands(&machine, "/data/sites/shop/releases"), "release-agent:maker 2755");
    assert_eq!(stands(&machine, "/data/sites/shop/releases/old"), "release-agent:release-agent 755", "what was there is left as it was");
    assert_eq!(stands(&machine, "/data/sites/shop/shared/data"), "deploy:deploy 755");
    assert_eq!(stands(&machine, "/run/shop"), "deploy:release-agent 775");
    let granted = machine.run(["ls", "/run/release-agent-helpers"]).expect(0).stdout;
    let slots = ["start.shop@blue.service", "start.shop@green.service", "stop.shop@blue.service", "stop.shop@green.service"];
    assert_eq!(granted.split_whitespace().collect::<Vec<_>>(), slots);
    // The users are remembered.
    assert_nothing_to_do(&machine);

    machine.run(["rmdir", "/data/sites/shop/releases/old"]).expect(0);
    machine.ctl(["release", "v1"]).expect(0);
    let serving = || get(&machine.socket("/run/shop/web.sock"), "/healthz").unwrap().header("x-release").map(str::to_owned);
    assert_eq!(serving(), Some(repo.id("v1")));
    assert_eq!(machine.property("shop@blue.service", "User"), "deploy");
    machine.ctl(["release", "v2"]).expect(0);
    assert_eq!(serving(), Some(repo.id("v2")));
    assert_eq!(machine.property("shop@green.service", "ActiveState"), "active");
    machine.ctl(["doctor"]).expect(0);

    // With other variables the same release takes the other slot, and the unit reads what the agent has written down for it.
    machine.write("/etc/release-agent/apps/shop.toml", file.replace("[env]\n", "[env]\nGREETING = \"hello\"\n"));
    machine.systemctl(["restart", "release-agent.service"]);
    for (slot, former) in [("blue", "green"), ("green", "blue")] {
        machine.ctl(["restart"]).expect(0);
        assert_eq!(serving(), Some(repo.id("v2")));
        let state = |slot: &str| machine.property(&format!("shop@{slot}.service"), "ActiveState");
        assert_eq!((state(slot), state(former)), ("active".to_owned(), "inactive".to_owned()));
        let environ = std::fs::read_to_string(format!("/proc/{}/environ", machine.main_process(&format!("shop@{slot}.service")))).unwrap();
        assert!(["GREETING=hello", "SECRET_KEY="].iter().all(|set| environ.split('\0').any(|found| found.starts_with(set))), "{environ}");
    }
    machine.write("/etc/release-agent/apps/shop.toml", &file);
    machine.systemctl(["restart", "release-agent.service"]);

    // A unit that a person changed is a person's; helpers that nobody asks for any more are told.
    let unit = machine.read("/etc/systemd/system/shop@.service").replace("--workers 4", "--workers 1");
    machine.write("/etc/systemd/system/shop@.service", &unit);
    machine.systemctl(["daemon-reload"]);
    machine.write("/etc/release-agent/apps/shop.toml", file.replace("\"green\"", "\"red\""));
    let again = setup(&machine, &["--yes"]).expect(0);
    assert!(
        again.stderr.contains("release-agent-stop@shop@green.service.socket lets the agent act, and no app's file"),
        "{}",
        again.stderr
    );
    assert_eq!(machine.read("/etc/systemd/system/shop@.service"), unit);
    assert_eq!(machine.property("release-agent-start@shop@red.service.socket", "ActiveState"), "active");
}

#[test]
fn what_root_must_not_do_is_refused_before_anything_is_done() {
    let (machine, _repo) = machine("refusals", SHOP);
    let root = |script: &str| drop(machine.run(["sh", "-euc", script]).expect(0));
    let refused = |more: &[&str], code: i32, words: &[&str]| {
        let said = setup(&machine, more).expect(code).stderr;
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
        machine.run(["id", "shop-build"]).expect(1);
        assert!(!machine.path("/etc/systemd/system/release-agent.service.d/app-shop.conf").exists());
    };
    refused(&[], 4, &["standard input is no terminal", "add --yes"]);
    refused(&["--user", "root", "--yes"], 4, &["root's rights", "--user NAME"]);
    refused(&["--build-user", "release-agent", "--yes"], 4, &["--build-user NAME"]);
    refused(&["--build-user", "shop", "--yes"], 4, &["one user"]);
    refused(&["--user", "-x", "--yes"], 2, &[]);
    refused(&["--user=-x", "--yes"], 4, &["cannot be the name of a user"]);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "agentctl", "setup", "app", "shop", "--yes"];
    assert!(machine.run(nobody).expect(4).stderr.contains("only root"));
    machine.ctl(["setup", "app", "nosuch", "--yes"]).expect(2);

    let with_root = |root: &str| machine.write("/etc/release-agent/apps/shop.toml", format!("root = {root:?}\n{SHOP}"));
    root("install -d -m 0777 /srv/sites");
    with_root("/srv/sites/shop");
    refused(&["--yes"], 4, &["/srv/sites can be written by others than root (it is root:root 0777)"]);
    root("ln -s /srv/sites /opt/sites");
    with_root("/opt/sites/shop");
    refused(&["--yes"], 4, &["sites can be written by others than root"]);
    with_root("/home/shop");
    refused(&["--yes"], 4, &["ProtectHome="]);
    machine.write("/etc/release-agent/apps/shop.toml", SHOP);

    root("install -d -o release-agent /var/shop; install -d /etc/elsewhere; ln -s /etc/elsewhere /var/shop/shared");
    refused(&["--yes"], 4, &["/var/shop/shared is a link"]);
    assert_eq!(stands(&machine, "/etc/elsewhere"), "root:root 755");
    root(
        "rm /var/shop/shared; install -d -o release-agent /var/shop/shared; install -m 0644 /dev/null /etc/other; ln /etc/other /var/shop/shared/local.ini",
    );
    refused(&["--yes"], 4, &["/var/shop/shared/local.ini has a second name"]);
    assert_eq!(machine.path("/etc/other").metadata().unwrap().mode() & 0o7777, 0o644);
    root("rm /var/shop/shared/local.ini; install -d -o release-agent /var/shop/releases; install -d /var/shop/releases/theirs");
    refused(&["--yes"], 4, &["/var/shop/releases/theirs belongs to root", "chown -hR release-agent:"]);
    root("rm -r /var/shop/releases");

    root("useradd --system --home-dir /nonexistent shop");
    refused(&["--yes"], 4, &["the user shop is there already, with the home /nonexistent", "--user shop"]);
    root("usermod --append --groups release-agent shop");
    refused(&["--user", "shop", "--yes"], 4, &["shop is in the group release-agent"]);
    root("userdel shop");
    root(
        "install -d /etc/systemd/system/release-agent-app@shop.service.d; echo '[Service]' >/etc/systemd/system/release-agent-app@shop.service.d/setup.conf",
    );
    refused(&["--yes"], 4, &["setup.conf is there, and no setup has written it"]);
    root("rm -r /etc/systemd/system/release-agent-app@shop.service.d");
    machine.write("/etc/release-agent/agent.toml", "");
    refused(&["--yes"], 2, &["executor = \"units\""]);
    machine.write("/etc/release-agent/agent.toml", "executor = \"units\"\nexecuter = 1\n");
    refused(&["--yes"], 2, &["executer"]);
    machine.write("/etc/release-agent/agent.toml", "executor = \"units\"\n");

    let answered = |answer: &str| machine.run(["sh", "-c", &format!("echo {answer} | script -qec 'agentctl setup app shop' /dev/null")]);
    let no = answered("n").expect(4);
    assert!(no.stdout.contains("Go on? [y/N]") && no.stdout.contains("nothing was done"), "{}", no.stdout);
    machine.run(["id", "shop-build"]).expect(1);
    let yes = answered("y").expect(0);
    assert!(yes.stdout.contains("done: "), "{}", yes.stdout);
    wait_until("the agent is up", LONG, || machine.property("release-agent.service", "ActiveState") == "active");
    assert_nothing_to_do(&machine);
}

/// The commands of a guide, in their order: what stands in each block that begins so.
#[track_caller]
fn commands(guide: &str, fence: &str) -> Vec<String> {
    let text = fs::read_to_string(project("packaging/docs").join(guide)).unwrap();
    let mut commands: Vec<String> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(words), None) if words == fence => {
                commands.push(String::new());
                inside = Some(indent);
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(indent)) => {
                let command = commands.last_mut().unwrap();
                command.push_str(line.get(indent..).unwrap_or_default());
                command.push('\n');
            }
            _ => {}
        }
    }
    commands
}

/// The first command of the guide, with the package made of what is tested. What else it names is on this machine already.
fn install_package(machine: &Booted, command: &str) {
    let directory = tempfile::tempdir().unwrap();
    let package = build_package(directory.path(), &[]);
    let name = package.file_name().unwrap();
    fs::copy(&package, machine.path("/srv").join(name)).unwrap();
    run(machine, "cd /srv", command);
    machine.run(["chown", "--recursive", "release-agent", "/srv/shop"]).expect(0);
}

/// One command of a guide, by a shell as root has it.
#[track_caller]
fn run(machine: &Booted, before: &str, command: &str) -> Done {
    let script = format!("export DEBIAN_FRONTEND=noninteractive\n{before}\n{command}");
    machine.run(["bash", "-euo", "pipefail", "-c", &script]).expect(0)
}

/// The demo as the guide has its project: called `shop`, on PostgreSQL, by the name of the database alone.
fn project_of_the_guide(machine: &Booted) -> Repo {
    let repo = machine.demo_repo("shop", 2);
    let rename = "git mv noticeboard shop && grep -rlF noticeboard --exclude-dir=.git . | xargs sed -i s/noticeboard/shop/g";
    let shell = std::process::Command::new("sh").args(["-euc", rename]).current_dir(repo.path()).status().unwrap();
    assert!(shell.success());
    let settings = fs::read_to_string(repo.path().join("shop/settings.py")).unwrap();
    let database = "\nDATABASES = {\"default\": {\"ENGINE\": \"django.db.backends.postgresql\", \"NAME\": \"shop\"}}\n";
    repo.write("shop/settings.py", settings + database);
    let requirements = fs::read_to_string(repo.path().join("requirements.txt")).unwrap();
    repo.write("requirements.txt", requirements + "psycopg[binary]==3.2.*\n").commit("Call it shop, on PostgreSQL");
    repo
}

/// This machine's network is the booted one's, too: nobody listens on a port there.
fn without_ports(command: &str) -> String {
    command
        .replace("listen 80;", "listen unix:/run/nginx-shop.sock;")
        .replace("http://127.0.0.1/", "--unix-socket /run/nginx-shop.sock http://127.0.0.1/")
}

#[test]
fn the_guides_lead_from_a_bare_host_to_a_release_and_back_from_a_backup() {
    let machine = Booted::bare("guide");
    let repo = project_of_the_guide(&machine);
    // Servers as their packages leave them: empty, and running. Their ports are those of this machine, where somebody else may listen.
    run(
        &machine,
        "",
        "rm -rf /var/shop /etc/nginx/sites-enabled/default; v=$(ls /usr/lib/postgresql | tail -1); pg_dropcluster --stop $v main || true; pg_createcluster --port 5432 $v main; pg_conftool $v main set listen_addresses ''; pg_ctlcluster $v main start",
    );
    machine.systemctl(["start", "nginx.service"]);

    let install = commands("install.md", "sh run");
    assert_eq!(install.len(), 10, "ten commands");
    for (at, command) in install.iter().enumerate() {
        let command = without_ports(command).replace("https://github.com/acme/shop.git", "/srv/shop");
        eprintln!("--- {command}");
        match at {
            0 => install_package(&machine, &command),
            1 => {
                run(&machine, "", &command).says(&["agentctl setup app shop"]);
                // The repository is a directory of this host.
                run(&machine, "", "sed -i '/^repository/ a allow_local = true' /etc/release-agent/apps/shop.toml");
            }
            9 => assert!(run(&machine, "", &command).stdout.contains("The pinboard")),
            _ => drop(run(&machine, "", &command)),
        }
    }
    let live = machine.live("shop").unwrap();
    assert_eq!(machine.property("shop@blue.service", "User"), "shop");
    assert_eq!(get(&machine.socket("/run/shop/web.sock"), "/healthz").unwrap().header("x-release"), Some(repo.head().as_str()));
    assert_eq!(machine.run(["sh", "-c", "find /var/shop/app/ ! -user release-agent | head -3"]).stdout, "");
    machine.ctl(["doctor"]).expect(0);
    assert_nothing_to_do(&machine);

    eprintln!("--- a backup");
    let sql = |text: &str| {
        machine.run(["runuser", "-u", "shop", "--", "psql", "--tuples-only", "--no-align", "shop", "--command", text]).expect(0).stdout
    };
    sql("INSERT INTO board_notice (text, name, posted, colour) VALUES ('kept', 'anna', now(), 'pink')");
    machine.write("/var/shop/shared/upload", "kept");
    for command in commands("backup-and-restore.md", "sh run") {
        run(&machine, "", &command);
    }
    wait_until("the agent answers", LONG, || machine.ctl(["status"]).code == 0);

    eprintln!("--- a host that has nothing");
    run(
        &machine,
        "",
        "cp --archive --parents /etc/systemd/system/release-agent*.service.d/tests.conf /root
         systemctl stop 'shop@*' 'release-agent*'; dpkg --purge release-agent; cp --archive /root/etc/. /etc; rm -rf /run/shop /var/shop /etc/release-agent /var/lib/release-agent /etc/nginx/conf.d/shop.conf
         rm -f /etc/systemd/system/shop@.service /etc/tmpfiles.d/release-agent-shop.conf; systemctl daemon-reload
         su postgres -c 'dropdb shop && dropuser shop'; userdel shop; userdel shop-build; useradd --system another; useradd --system one-more",
    );
    install_package(&machine, &install[0]);
    let restore = commands("backup-and-restore.md", "sh restore");
    assert!(restore.len() > 5, "{restore:?}");
    for command in restore {
        eprintln!("--- {command}");
        run(&machine, "", &command);
    }
    assert_eq!(sql("SELECT text FROM board_notice"), "kept\n");
    assert_eq!(machine.read("/var/shop/shared/upload"), "kept");
    let runs = machine.ctl(["runs", "--json"]).expect(0).json()["runs"].as_array().unwrap().len();
    assert_eq!(runs, 2, "the journal knows of the release before");
    assert_ne!(machine.live("shop").unwrap(), live);
    assert!(run(&machine, "", &without_ports(&install[9])).stdout.contains("The pinboard"));
    assert_nothing_to_do(&machine);
}

#[test]
fn the_guide_from_capistrano_leaves_what_serves_alone() {
    let (machine, _repo) = machine("capistrano", "repository = \"https://example.com/x.git\"\n");
    run(
        &machine,
        "",
        "rm /etc/release-agent/apps/shop.toml; useradd --create-home deploy; install -d /var/www
         install -d -o deploy -g deploy /var/www/shop /var/www/shop/{repo,releases,shared} /var/www/shop/releases/20261120224523 /var/www/shop/shared/media
         echo old >/var/www/shop/releases/20261120224523/page; echo secret >/var/www/shop/shared/.env; echo photo >/var/www/shop/shared/media/photo
         ln -s /var/www/shop/releases/20261120224523 /var/www/shop/current; chown -hR deploy:deploy /var/www/shop",
    );
    let commands = commands("from-capistrano.md", "sh move");
    assert_eq!(commands.len(), 4);
    for (at, command) in commands.iter().enumerate() {
        if at == 2 {
            let refused = setup(&machine, &["--user", "deploy", "--yes"]).expect(4);
            assert!(refused.stderr.contains("/var/www/shop/releases/20261120224523 belongs to deploy"), "{}", refused.stderr);
        }
        run(&machine, "", command);
    }
    // By the path that it had when its server started, too.
    for page in ["/var/www/shop/current/page", "/var/www/shop/releases/20261120224523/page"] {
        assert_eq!(machine.run(["cat", page]).expect(0).stdout, "old\n");
    }
    assert_eq!(machine.ctl(["list"]).expect(0).stdout.trim(), "no release yet; the first one is made with: agentctl release REF");
    for (path, how) in [
        ("/var/www/shop", "release-agent:release-agent 755"),
        ("/var/www/shop/releases", "release-agent:shop-build 2755"),
        ("/var/www/shop/releases.before/20261120224523/page", "deploy:deploy 644"),
        ("/var/www/shop/shared/media", "deploy:deploy 755"),
        ("/var/www/shop/shared/media/photo", "deploy:deploy 644"),
        ("/var/www/shop/shared/.env", "root:deploy 640"),
    ] {
        assert_eq!(stands(&machine, path), how, "{path}");
    }
    assert_eq!(machine.read("/var/www/shop/shared/.env"), "secret\n");
    assert_nothing_to_do(&machine);
}
