# The steps of by-script that Capistrano does not have itself; the rest is its own, with its defaults. The variables are those of by-script, and INSTALLER;
# EXPORTS names those which the host needs.
def exported
  ENV.fetch('EXPORTS').split.to_h { |name| [name, ENV.fetch(name)] }
end

# When a step began, for tests/bench, which runs on the same host.
def step(name)
  File.write(ENV.fetch('TIMES'), format("%s %.6f\n", name, Time.now.to_f), mode: 'a')
end

step 'fetch'

set :application, 'bench'
set :repo_url, ENV.fetch('REPOSITORY')
set :branch, ENV.fetch('REF', 'main')
set :deploy_to, ENV.fetch('APP_ROOT')
set :current_directory, 'app'
set :repo_path, File.join(ENV.fetch('APP_ROOT'), 'git_cache')
set :keep_releases, 20
set :default_env, exported

def manage(*words)
  execute 'venv/bin/python', ENV.fetch('MANAGE'), *words
end

namespace :bench do
  task :build do
    on roles(:app) do
      within release_path do
        if ENV.fetch('INSTALLER') == 'uv'
          execute :uv, 'venv --quiet --no-project --python', ENV.fetch('PYTHON'), 'venv'
          execute :uv, 'pip install --quiet --python venv/bin/python --requirement requirements.txt'
        else
          execute ENV.fetch('PYTHON'), '-m venv venv'
          execute 'venv/bin/pip', 'install --quiet --disable-pip-version-check --requirement requirements.txt'
        end
        manage 'collectstatic --noinput'
        manage 'check --deploy --fail-level ERROR'
        database = ENV.fetch('DATABASE_PATH')
        backups = deploy_path.join('backups')
        execute :mkdir, '-p', backups
        execute :sqlite3, database, %(".backup '#{backups}/#{release_path.basename}.sqlite3'") if test "[ -f #{database} ]"
        manage 'migrate --noinput'
      end
    end
  end

  task :swap do
    step 'swap'
  end

  task :restart do
    step 'restart'
    root = ENV.fetch('APP_ROOT')
    on roles(:app) do
      if test "[ -p #{root}/fifo ]"
        execute "printf r >#{root}/fifo"
      else
        execute :uwsgi, "--plugins python3 --chdir #{root}/app/#{ENV.fetch('CODE')} --virtualenv #{root}/app/venv --module #{ENV.fetch('MODULE')} " \
                        "--http-socket #{ENV.fetch('SITE_SOCKET')} --master --die-on-term --need-app --processes 2 --listen 128 " \
                        "--master-fifo #{root}/fifo --pidfile #{root}/uwsgi.pid --daemonize #{root}/uwsgi.log >#{root}/uwsgi.out 2>&1"
      end
      # A command of several words would not see the variables.
      execute :sh, '-c', Shellwords.escape(
        'until curl --silent --max-time 5 --dump-header - --output /dev/null --unix-socket "$SITE_SOCKET" "http://localhost$PAGE" | ' \
        'grep --quiet "^X-Release: $(cat "$APP_ROOT/app/REVISION")"; do sleep 0.02; done'
      )
    end
    step 'end'
  end
end

after 'deploy:updated', 'bench:build'
before 'deploy:symlink:release', 'bench:swap'
after 'deploy:symlink:release', 'bench:restart'
