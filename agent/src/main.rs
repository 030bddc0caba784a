//! The daemon's entry; the program lives in the library, where tests can reach it.

fn main() -> std::process::ExitCode {
    release_agent::run()
}
