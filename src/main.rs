//! The `pillion` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    pillion::cli::run(std::env::args_os())
}
