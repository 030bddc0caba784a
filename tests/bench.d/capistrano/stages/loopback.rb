# The sshd that tests/bench has started.
server '127.0.0.1',
       user: ENV.fetch('SSH_USER'),
       roles: %w[app],
       ssh_options: {
         port: ENV.fetch('SSH_PORT').to_i,
         keys: [ENV.fetch('SSH_KEY')],
         keys_only: true,
         auth_methods: %w[publickey],
         config: false,
         verify_host_key: :never,
         use_agent: false
       }
