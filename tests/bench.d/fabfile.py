"""What by-script does, as a fabfile over ssh: the same steps, each a command of its own. The variables are those of by-script, and INSTALLER; EXPORTS names
those which the host needs."""

import os
import shlex
import time

from fabric import Connection, task


def step(name):
    """When a step began, for tests/bench, which runs on the same host."""
    with open(os.environ["TIMES"], "a") as times:
        times.write(f"{name} {time.time():.6f}\n")


def host():
    return Connection("127.0.0.1", user=os.environ["SSH_USER"], port=int(os.environ["SSH_PORT"]),
                      connect_kwargs={"key_filename": os.environ["SSH_KEY"], "allow_agent": False, "look_for_keys": False})


def exports():
    return "export " + " ".join(f"{name}={shlex.quote(os.environ[name])}" for name in os.environ["EXPORTS"].split())


def swap(connection, name):
    step("swap")
    connection.run(f'ln -sfn "releases/{name}" "$APP_ROOT/app.next" && mv -T "$APP_ROOT/app.next" "$APP_ROOT/app"')


def restart(connection, commit):
    step("restart")
    if connection.run('[ -p "$APP_ROOT/fifo" ]', warn=True).ok:
        connection.run('printf r >"$APP_ROOT/fifo"')
    else:
        connection.run('uwsgi --plugins python3 --chdir "$APP_ROOT/app/$CODE" --virtualenv "$APP_ROOT/app/venv" --module "$MODULE" '
                       '--http-socket "$SITE_SOCKET" --master --die-on-term --need-app --processes 2 --listen 128 '
                       '--master-fifo "$APP_ROOT/fifo" --pidfile "$APP_ROOT/uwsgi.pid" --daemonize "$APP_ROOT/uwsgi.log" >"$APP_ROOT/uwsgi.out" 2>&1')
    connection.run('until curl --silent --max-time 5 --dump-header - --output /dev/null --unix-socket "$SITE_SOCKET" "http://localhost$PAGE" | '
                   f'grep --quiet "^X-Release: {commit}"; do sleep 0.02; done')
    step("end")


@task
def release(_, ref):
    step("fetch")
    with host() as connection, connection.prefix(exports()):
        run = connection.run
        run('[ -d "$APP_ROOT/git_cache" ] || git clone --quiet --mirror "$REPOSITORY" "$APP_ROOT/git_cache"')
        run('git --git-dir="$APP_ROOT/git_cache" remote update --prune')
        commit = run(f'git --git-dir="$APP_ROOT/git_cache" rev-parse --verify "{ref}^{{commit}}"', hide=True).stdout.strip()
        step("checkout")
        name = time.strftime("%Y-%m-%d-%H-%M-%S-", time.gmtime()) + commit[:12]
        directory = f"{os.environ['APP_ROOT']}/releases/{name}"
        run(f'mkdir -p "{directory}" "$APP_ROOT/shared" "$APP_ROOT/backups"')
        run(f'git --git-dir="$APP_ROOT/git_cache" archive {commit} | tar --extract --directory "{directory}"')
        run(f'echo {commit} >"{directory}/REVISION"')
        with connection.cd(directory):
            step("venv")
            if os.environ["INSTALLER"] == "uv":
                run('uv venv --quiet --no-project --python "$PYTHON" venv')
                run("uv pip install --quiet --python venv/bin/python --requirement requirements.txt")
            else:
                run('"$PYTHON" -m venv venv')
                run("venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt")
            run('venv/bin/python "$MANAGE" collectstatic --noinput')
            run('venv/bin/python "$MANAGE" check --deploy --fail-level ERROR')
            run(f'[ ! -f "$DATABASE_PATH" ] || sqlite3 "$DATABASE_PATH" ".backup \'$APP_ROOT/backups/{name}.sqlite3\'"')
            run('venv/bin/python "$MANAGE" migrate --noinput')
        swap(connection, name)
        restart(connection, commit)


@task
def rollback(_):
    with host() as connection, connection.prefix(exports()):
        releases = connection.run('ls "$APP_ROOT/releases"', hide=True).stdout.split()
        live = os.path.basename(connection.run('readlink "$APP_ROOT/app"', hide=True).stdout.strip())
        previous = releases[releases.index(live) - 1]
        commit = connection.run(f'cat "$APP_ROOT/releases/{previous}/REVISION"', hide=True).stdout.strip()
        swap(connection, previous)
        restart(connection, commit)
