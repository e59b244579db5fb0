//! `nvpmodel -q`, asked now and then and never waited for while the board is read.
//!
//! # Why
//! The program talks to drivers and can hang, in the kernel too, where even a kill isn't heeded. So the child is looked after between reads:
//!
//! ```text
//!  Idle ──after 30 s──▶ Running ──ends──▶ Idle      its mode, or absent where it failed
//!                          └─after 2 s──▶ Killed ──reaped──▶ Idle      absent
//! ```
//! It prints into a socket that is never waited for either, since a child of the child can hold a pipe open for ever.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::board::{jetson::modes, sysfs};

/// Between one question and the next.
const PERIOD: Duration = Duration::from_secs(30);
/// Longest that the program may run; it is killed at the first read after that.
const LIMIT: Duration = Duration::from_secs(2);
/// Between looks at a child that somebody waits for.
const LOOK: Duration = Duration::from_millis(10);
/// Longest that the end of a killed child is waited for when the board is let go.
const GRACE: Duration = Duration::from_millis(100);

/// The current power mode, at most as old as 30 s and the reads that the next answer takes.
pub(super) struct ModeQuery {
    program: PathBuf,
    name: Option<String>,
    phase: Phase,
}

enum Phase {
    Idle { asked: Option<Instant> },
    Running { child: Child, printed: UnixStream, asked: Instant },
    Killed { child: Child, asked: Instant },
}

impl ModeQuery {
    pub fn new(program: PathBuf) -> Self {
        Self { program, name: None, phase: Phase::Idle { asked: None } }
    }

    /// The mode's name; absent where the last question had no answer.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Asks and waits for the answer, at most 2 s.
    pub fn wait(&mut self) {
        self.advance(Instant::now());
        while matches!(self.phase, Phase::Running { .. }) {
            std::thread::sleep(LOOK);
            self.advance(Instant::now());
        }
    }

    /// Has the program put the board into the mode of that id, and asks which it is in then. What it prints is for people who may have to say yes to a
    /// reboot: nobody does here. Waits 2 s at most for the answer, and for the change as long as `limit`.
    pub fn set(&mut self, id: u32, limit: Duration) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(id.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (mut child, begun) = (command.spawn()?, Instant::now());
        while child.try_wait()?.is_none() {
            if begun.elapsed() > limit {
                child.kill()?;
                break;
            }
            std::thread::sleep(LOOK);
        }
        self.phase = Phase::Idle { asked: None };
        self.name = None;
        self.wait();
        Ok(())
    }

    /// Does what is due at `now`, without waiting for anything.
    pub fn advance(&mut self, now: Instant) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle { asked: None }) {
            Phase::Idle { asked: Some(asked) } if now.saturating_duration_since(asked) < PERIOD => Phase::Idle { asked: Some(asked) },
            Phase::Idle { .. } => match self.start() {
                Ok((child, printed)) => Phase::Running { child, printed, asked: now },
                Err(_) => self.answered(None, now),
            },
            Phase::Running { mut child, printed, asked } => match child.try_wait() {
                Ok(Some(status)) => self.answered(status.success().then(|| answer(printed)).flatten(), asked),
                Ok(None) if now.saturating_duration_since(asked) < LIMIT => Phase::Running { child, printed, asked },
                Ok(None) | Err(_) => {
                    // A child that can't be killed is one that has ended.
                    let _ = child.kill();
                    self.name = None;
                    Phase::Killed { child, asked }
                }
            },
            Phase::Killed { mut child, asked } => match child.try_wait() {
                Ok(None) => Phase::Killed { child, asked },
                Ok(Some(_)) | Err(_) => Phase::Idle { asked: Some(asked) },
            },
        };
    }

    fn answered(&mut self, name: Option<String>, asked: Instant) -> Phase {
        self.name = name;
        Phase::Idle { asked: Some(asked) }
    }

    fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.program);
        command.arg("-q").stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        Ok((command.spawn()?, ours))
    }
}

impl Drop for ModeQuery {
    /// Leaves no child that runs, and none unreaped that heeds a kill.
    fn drop(&mut self) {
        let (Phase::Running { child, .. } | Phase::Killed { child, .. }) = &mut self.phase else { return };
        let _ = child.kill();
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
    }
}

/// The mode's name in what an ended child has printed so far; absent where that is too long.
fn answer(mut printed: UnixStream) -> Option<String> {
    let cap = usize::try_from(sysfs::SMALL.0).ok()?;
    let mut bytes = vec![0; cap];
    let mut len = 0;
    while len < cap {
        match printed.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    let text = std::str::from_utf8(&bytes[..len]).ok()?;
    (len < cap).then(|| modes::current(text).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/board").join(name)
    }

    #[test]
    fn what_a_program_answers() {
        let cases = [
            ("nvpmodel-answers", Some("15W")),
            ("nvpmodel-fails", None),
            ("nvpmodel-says-nothing", None),
            ("nvpmodel-prints-too-much", None),
            ("nvpmodel-leaves-a-child", Some("25W")),
            ("no-such-program", None),
        ];
        for (name, wanted) in cases {
            let mut query = ModeQuery::new(script(name));
            query.wait();
            assert_eq!(query.name(), wanted, "{name}");
            assert!(matches!(query.phase, Phase::Idle { asked: Some(_) }), "{name}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed_after_two_seconds() {
        let begun = Instant::now();
        let mut query = ModeQuery::new(script("nvpmodel-hangs"));
        query.wait();
        assert!(begun.elapsed() >= LIMIT);
        assert_eq!(query.name(), None);
        while matches!(query.phase, Phase::Killed { .. }) {
            assert!(begun.elapsed() < Duration::from_secs(20), "not reaped");
            query.advance(Instant::now());
            std::thread::sleep(LOOK);
        }
        assert!(matches!(query.phase, Phase::Idle { asked: Some(_) }));
    }

    #[test]
    fn it_is_asked_every_thirty_seconds_and_keeps_its_answer_meanwhile() {
        let mut query = ModeQuery::new(script("nvpmodel-answers"));
        query.wait();
        let Phase::Idle { asked: Some(asked) } = query.phase else { panic!("answered") };
        query.advance(asked + PERIOD - Duration::from_millis(1));
        assert!(matches!(query.phase, Phase::Idle { .. }), "too early");

        query.program = script("nvpmodel-hangs");
        let again = asked + PERIOD;
        let begun = Instant::now();
        query.advance(again);
        query.advance(again + LIMIT - Duration::from_millis(1));
        assert!(matches!(query.phase, Phase::Running { .. }));
        assert_eq!(query.name(), Some("15W"), "the last answer stands while the next is awaited");
        query.advance(again + LIMIT);
        assert!(matches!(query.phase, Phase::Killed { .. }));
        assert_eq!(query.name(), None, "no answer, no mode");
        drop(query);
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing waits for a child that sleeps longer");
    }
}
