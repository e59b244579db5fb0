//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use uhr_edge::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("uhr-edge: {:#}", anyhow::Error::from(error));
            ExitCode::from(code)
        }
    }
}
