//! `agentctl`: the command line of the release agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentctl::run()
}
