//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use uhr_edge::arena::keep_heap;
use uhr_edge::cli::Cli;

fn main() -> ExitCode {
    keep_heap();
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            // A message names its cause.
            eprintln!("uhr-edge: {error}");
            ExitCode::from(code)
        }
    }
}
