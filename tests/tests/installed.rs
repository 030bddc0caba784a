//! The package as an operator has it: an app of Django on PostgreSQL, with Celery, behind nginx, set up once, with users and units of its own; and what
//! may happen to it. Visitors come all the while.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Booted, Place, Repo, Stages, Visitors, build_package, example, get, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_secs(90);

const FILE: &str = r#"
repository = "/srv/shop"
allow_local = true
keep_releases = 3

[python]
interpreter = "/usr/bin/python3"
packages = ["gunicorn==27.0.1", "celery==5.5.3"]

[django]
settings = "noticeboard.settings"

[env]
ALLOWED_HOSTS = "localhost,shop.example.com"

[build_env]
SECRET_KEY = "only-for-collectstatic-only-for-collectstatic-only-for-collectstatic"

[secrets]
files = ["/etc/release-agent/apps/shop.env"]

[shared]
dirs = ["media"]

[backup]
database = "postgres"

[restart]
strategy = "handover"
keep_warm = true
drain = "5s"

[[check]]
url = "unix:/run/shop/web.sock:/healthz"
contains = "ok"
release_header = "X-Release"
stable = "500ms"

[[worker]]
unit = "shop-celery@.service"
watch = "1s"

# What is held up while there is a file that says so.
[[hook]]
before = "seal"
run = ["sh", "-c", "touch held; while [ -e /run/hold ]; do sleep 0.1; done; rm held"]
"#;

const CELERY: &str = "import os\nfrom celery import Celery\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\n\
                      app = Celery('noticeboard', broker='memory://')\n";

struct Shop {
    machine: Booted,
    repo: Repo,
    stages: Stages,
}

impl Shop {
    fn installed() -> Self {
        let machine = Booted::bare("installed");
        let repo = machine.demo_repo("shop", 3);
        repo.reset("v2");
        // The database by its name alone: PostgreSQL knows who asks by what the kernel says.
        let settings = fs::read_to_string(repo.path().join("noticeboard/settings.py")).unwrap();
        repo.write(
            "noticeboard/settings.py",
            settings + "\nDATABASES = {\"default\": {\"ENGINE\": \"django.db.backends.postgresql\", \"NAME\": \"shop\"}}\n",
        );
        let requirements = fs::read_to_string(repo.path().join("requirements.txt")).unwrap();
        repo.write("requirements.txt", requirements + "psycopg[binary]==3.2.*\n");
        repo.write("noticeboard/celery.py", CELERY).commit("On PostgreSQL, with Celery");
        let shop = Self { machine, repo, stages: Stages::default() };
        let package = shop.package("0.1.0-1");
        shop.root(
            "rm -rf /var/shop /etc/nginx/sites-enabled/default; v=$(ls /usr/lib/postgresql | tail -1); pg_dropcluster --stop $v main || true
             pg_createcluster --start $v main; su postgres -c 'createuser shop && createdb --owner shop shop'",
        );
        shop.machine.leave_the_index_of_pages();
        shop.machine.run(["dpkg", "--install", &package]).expect(0);
        shop.published();
        shop.machine.write("/etc/release-agent/apps/shop.env", "SECRET_KEY=the-secret-of-the-site-the-secret-of-the-site-0123456789\n");
        shop.machine.write("/etc/release-agent/apps/shop.toml", FILE);
        let worker = example("shop-celery@.service").replace("/etc/shop/shop.env", "/etc/release-agent/apps/shop.env");
        shop.machine.write(
            "/etc/systemd/system/shop-celery@.service",
            worker.replace("EnvironmentFile=", "Environment=ALLOWED_HOSTS=localhost\nEnvironmentFile="),
        );
        shop.machine.ctl(["setup", "app", "shop", "--yes"]).expect(0);
        shop.machine
            .write("/etc/nginx/conf.d/shop.conf", example("nginx-shop.conf").replace("listen 80;", "listen unix:/run/nginx-shop.sock;"));
        shop.machine.systemctl(["restart", "nginx.service"]);
        shop
    }

    fn package(&self, version: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let inside = format!("/srv/{version}.deb");
        fs::copy(build_package(directory.path(), &["--version", version]), self.machine.path(&inside)).unwrap();
        inside
    }

    #[track_caller]
    fn root(&self, script: &str) -> String {
        self.machine.run(["bash", "-euo", "pipefail", "-c", script]).expect(0).stdout
    }

    /// The agent takes the repository for its own user's.
    fn published(&self) {
        self.machine.run(["chown", "--recursive", "release-agent", "/srv/shop"]).expect(0);
    }

    fn commit(&self, page: &str) -> String {
        let id = self.repo.write("board/templates/board/more.html", page).commit(page);
        self.published();
        id
    }

    fn front(&self) -> Place {
        self.machine.socket("/run/nginx-shop.sock")
    }

    #[track_caller]
    fn serving(&self) -> String {
        get(&self.front(), "/healthz").unwrap().header("x-release").unwrap().to_owned()
    }

    /// Begins a release, and waits until it stands before its seal.
    fn held(&self) -> agent_tests::Inside {
        self.machine.write("/run/hold", "");
        let run = self.machine.begin(["agentctl", "release", "main"]);
        wait_until("the release stands before its seal", LONG, || self.machine.run(["sh", "-c", "ls /var/shop/releases/*/held"]).code == 0);
        run
    }

    fn let_go(&self) {
        fs::remove_file(self.machine.path("/run/hold")).unwrap();
    }

    /// Moves the root to another disk while nothing runs; the agent makes the live release serve again.
    fn moved(&self, change_disks: &str) {
        self.root(&format!(
            "systemctl stop release-agent.service 'shop@*.service' 'shop-celery@*.service'; cp --archive /var/shop /root/kept; {change_disks}
             find /var/shop -mindepth 1 -delete; cp --archive /root/kept/. /var/shop; rm -rf /root/kept; systemctl start release-agent.service"
        ));
        wait_until("the site is back", LONG, || get(&self.front(), "/healthz").is_ok_and(|answer| answer.status == 200));
    }

    #[track_caller]
    fn assert_sound(&self, commit: &str) {
        assert_eq!(self.serving(), commit);
        self.machine.ctl(["check"]).expect(0);
        let differs = self.machine.ctl(["fsck"]);
        assert_eq!(differs.code, 0, "{}{}", differs.stdout, differs.stderr);
        assert_eq!(self.root("find /var/shop/releases /var/shop/environments -mindepth 2 ! -user release-agent | head -3"), "");
        assert_eq!(self.root("ps -u shop-build -o args= || true"), "", "somebody builds still");
        assert!(self.root("ls /var/shop/releases | wc -l").trim().parse::<u32>().unwrap() <= 5, "nothing is pruned");
        let working = "systemctl list-units --plain --no-legend 'shop-celery@*' | wc -l; readlink /proc/$(pgrep -o -f 'celery --app')/cwd /var/shop/app";
        wait_until("one worker works, and it is the live release's", LONG, || {
            let working = self.root(working);
            let mut lines = working.lines().map(|line| line.rsplit('/').next().unwrap().to_owned());
            lines.next().as_deref() == Some("1") && lines.next() == lines.next()
        });
        let events = self.machine.ctl(["logs"]).stdout;
        assert!(!events.contains("cannot be told"), "{events}");
    }
}

#[test]
fn an_app_is_released_and_taken_back_and_served_whatever_happens() {
    let mut shop = Shop::installed();

    shop.stages.begin("the first release");
    shop.machine.ctl(["release", "main"]).expect(0);
    let first = shop.repo.head();
    shop.assert_sound(&first);
    let page = get(&shop.front(), "/").unwrap();
    assert_eq!(page.status, 200, "{}", page.body);
    let css = page.body.split('"').find(|text| text.ends_with(".css")).unwrap();
    let css = get(&shop.front(), css).unwrap();
    assert_eq!((css.status, css.header("x-release")), (200, None), "nginx serves the release's static files");
    let tables = shop.root("runuser -u shop -- psql --tuples-only --no-align shop --command 'SELECT count(*) FROM board_notice'");
    assert_eq!(tables.trim(), "0");
    assert_eq!(shop.root("ls /var/shop/backups | wc -l").trim(), "1");
    assert_eq!(shop.root("stat -c %U /proc/$(systemctl show --value -p MainPID shop-celery@blue.service)").trim(), "shop");
    shop.machine.ctl(["doctor"]).expect(0);

    shop.stages.begin("the second release, back, and forth again, with visitors");
    let second = shop.commit("two");
    let visitors = Visitors::come(&shop.front());
    shop.machine.ctl(["release", "main"]).expect(0);
    shop.machine.ctl(["rollback"]).expect(0);
    assert_eq!(shop.serving(), first);
    shop.machine.ctl(["activate", &second[..12]]).expect(0);
    assert_eq!(visitors.go().into_keys().collect::<std::collections::BTreeSet<_>>(), [first.clone(), second.clone()].into());
    shop.assert_sound(&second);

    shop.stages.begin("a release that cannot be served");
    shop.repo.write("noticeboard/wsgi.py", "raise SystemExit('this one cannot start')\n").commit("Broken");
    shop.published();
    let visitors = Visitors::come(&shop.front());
    let failed = shop.machine.ctl(["release", "main"]).expect(1);
    assert!(failed.stderr.contains("this one cannot start"), "{}", failed.stderr);
    assert_eq!(visitors.go().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&second));
    shop.assert_sound(&second);
    shop.repo.reset("HEAD~1");

    shop.stages.begin("the agent is killed in the middle");
    shop.commit("three");
    let visitors = Visitors::come(&shop.front());
    let run = shop.held();
    kill(Pid::from_raw(shop.machine.main_process("release-agent.service")), Signal::SIGKILL).unwrap();
    let _ = run.finish();
    wait_until("the agent is back", LONG, || shop.machine.ctl(["status"]).code == 0);
    shop.let_go();
    assert_eq!(visitors.go().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&second));
    shop.assert_sound(&second);

    shop.stages.begin("the package is upgraded in the middle");
    let package = shop.package("0.1.0-2");
    let visitors = Visitors::come(&shop.front());
    let run = shop.held();
    let upgrade = shop.machine.begin(["dpkg", "--install", &package]);
    wait_until("the agent is told to stop", LONG, || shop.machine.property("release-agent.service", "ActiveState") == "deactivating");
    shop.let_go();
    run.finish().expect(0);
    upgrade.finish().expect(0);
    wait_until("the agent is back", LONG, || shop.machine.ctl(["status"]).code == 0);
    let third = shop.repo.head();
    assert_eq!(visitors.go().into_keys().collect::<std::collections::BTreeSet<_>>(), [second, third.clone()].into());
    shop.assert_sound(&third);
    assert_eq!(shop.root("dpkg-query --show --showformat='${Version}' release-agent"), "0.1.0-2");

    shop.stages.begin("the disk is full");
    shop.commit("four");
    shop.moved("mount -t tmpfs -o size=600m,mode=755 tmpfs /var/shop; chown release-agent: /var/shop");
    shop.root("for size in 1M 1k; do dd if=/dev/zero of=/var/shop/filler bs=$size oflag=append conv=notrunc 2>/dev/null || true; done");
    shop.stages.begin("the disk is full now");
    let failed = shop.machine.ctl(["release", "main"]).expect(1);
    assert!(failed.stderr.contains("prune"), "{}", failed.stderr);
    assert_eq!(shop.serving(), third);
    shop.stages.begin("the disk has room again");
    shop.root("rm /var/shop/filler");
    let released = shop.machine.ctl(["release", "main"]).expect(0);
    // Only a page has changed.
    released.says(&["runs during switch", "not reused: the hooks at seal", "the check found no error"]);
    let fourth = shop.repo.head();
    shop.assert_sound(&fourth);
    shop.stages.begin("back to the first disk");
    shop.moved("umount -l /var/shop");
    shop.stages.begin("the host goes down in the middle");
    shop.commit("five");
    let run = shop.held();
    shop.machine.reboot(&["--force", "--force"]);
    let _ = run.finish();
    shop.root("systemctl start postgresql@15-main.service nginx.service release-agent.service");
    wait_until("the site is back", LONG, || get(&shop.front(), "/healthz").is_ok_and(|answer| answer.status == 200));
    shop.assert_sound(&fourth);
    shop.machine.ctl(["release", "main"]).expect(0);
    shop.assert_sound(&shop.repo.head());
}
