//! The daemon's entry; the program lives in the library, where tests can hold it.

fn main() -> std::process::ExitCode {
    release_agent::run()
}
