//! A builder's process: what it says is kept up to a bound, and a signal to us ends it first.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::engine::tensorrt::told_version;

/// Of what a builder says, so many last lines are kept, each so long at most.
const LINES: usize = 30;
const LINE: usize = 400;
/// How often a running builder is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What is left in the pipe of a builder that ended is waited for so long: something that it started may hold the pipe open.
const REST: Duration = Duration::from_secs(2);

/// Why a builder wasn't run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{program}: wanted a program that runs, found: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("stopped by {0}; what was built before is recorded")]
    Signal(&'static str),
}

/// A builder that ended.
pub struct Ended {
    pub status: ExitStatus,
    pub said: Said,
}

/// What a builder said on both its outputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub last: VecDeque<String>,
    pub version: Option<[u32; 3]>,
    line: Vec<u8>,
}

impl Said {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.line.len() < LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        self.version = self.version.or_else(|| told_version(&line));
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn end(mut self) -> Self {
        if !self.line.is_empty() {
            self.end_line();
        }
        self
    }
}

/// Runs `program` to its end.
///
/// # Errors
/// One that doesn't start; a signal to this process, after the program was ended.
pub fn run(program: &Path, arguments: &[OsString]) -> Result<Ended, ProgramError> {
    let failed = |source| ProgramError::Start { program: program.display().to_string(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Before the program is there, so that none is left alone.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let (mut child, said) = start(program, arguments).map_err(failed)?;
        let signalled = loop {
            tokio::select! {
                _ = interrupt.recv() => break "Ctrl-C",
                _ = terminate.recv() => break "SIGTERM",
                _ = hangup.recv() => break "SIGHUP",
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(Ended { status, said: said.recv_timeout(REST).unwrap_or_default() });
            }
        };
        // One that has ended by the same signal is no error.
        let _ = child.kill();
        child.wait().map_err(failed)?;
        Err(ProgramError::Signal(signalled))
    })
}

/// The process, and what will be what it said.
fn start(program: &Path, arguments: &[OsString]) -> std::io::Result<(Child, Receiver<Said>)> {
    let (mut from, to) = std::io::pipe()?;
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to).spawn()?;
    // It holds our ends of the pipe.
    drop(command);
    let (tell, said) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut said, mut block) = (Said::default(), [0; 4_096]);
        while let Ok(read @ 1..) = from.read(&mut block) {
            said.take(&block[..read]);
        }
        // Nobody waits any more where the program was stopped.
        let _ = tell.send(said.end());
    });
    Ok((child, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_the_last_lines_are_kept_each_cut() {
        let mut said = Said::default();
        said.take(b"&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec\r\n");
        (0..100).for_each(|number| said.take(format!("line {number}\n").as_bytes()));
        said.take(&[b'x'; 10 * LINE]);
        let said = said.end();
        assert_eq!((said.last.len(), said.version), (LINES, Some([10, 3, 0])));
        assert_eq!((said.last[LINES - 2].as_str(), said.last[LINES - 1].len()), ("line 99", LINE));
    }
}
