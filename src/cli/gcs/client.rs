//! A ground station over a real line.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::board::clock_is_kept;
use crate::cli::CliError;
use crate::cli::gcs::state::{State, session};
use crate::cli::gcs::{LineArgs, rejected};
use crate::link::clock::Now;
use crate::link::frame::Source;
use crate::link::ground::{Ground, ONBOARD_COMPUTER, Told};
use crate::link::key::Key;
use crate::link::sign::Signing;
use crate::link::station::Station;
use crate::link::transport::Line;
use crate::link::wire::{Number, Query, Session};

/// MAV_COMP_ID_MISSIONPLANNER: what ground stations call themselves.
const GROUND_STATION: u8 = 190;
/// The last acknowledgement leaves within this, however slow the line.
const LEAVING: Duration = Duration::from_secs(2);

pub struct Client {
    ground: Ground,
    line: Line,
    begun: Instant,
    pub state: State,
    pub link: String,
    session: Session,
    pub quiet: bool,
    args: LineArgs,
    /// A reply was acknowledged, and the acknowledgement may be lost.
    owes: bool,
    /// The clock is kept right by a time service.
    kept: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.farewell();
    }
}

/// How a query ended.
pub enum Ended {
    Reply(Vec<u8>),
    Rejected { code: String, reason: String },
    GivenUp,
}

/// A ground station's end, signed where there is a key.
fn ground(args: &LineArgs, state: &State, own: Session, first: Number) -> Result<Ground, CliError> {
    let signing = match &args.key {
        Some(path) => {
            let key = Key::load(path)?;
            let floors = state.floors(&key);
            Some(Signing::new(key, args.system, floors).map_err(CliError::Output)?)
        }
        None => None,
    };
    let source = Source { system: args.system, component: GROUND_STATION };
    let station = Station::new(source, args.link.usual_rate(), signing);
    let board = args.board.map(|system| Source { system, component: ONBOARD_COMPUTER });
    Ok(Ground::new(station, board, own, first, Duration::from_secs(args.patience)))
}

impl Client {
    pub fn open(args: &LineArgs, quiet: bool) -> Result<Self, CliError> {
        let (own, first) = session();
        Self::as_session(args, quiet, own, first)
    }

    /// With a session of before.
    pub fn as_session(args: &LineArgs, quiet: bool, own: Session, first: Number) -> Result<Self, CliError> {
        let state = State::open(args.state.as_deref())?;
        let link = args.link.to_string();
        let ground = ground(args, &state, own, first)?;
        let line = Line::at(&args.link).map_err(|error| CliError::Output(format!("{link}: {error}")))?;
        let (begun, kept) = (Instant::now(), clock_is_kept());
        Ok(Self { ground, line, begun, state, link, session: own, quiet, args: args.clone(), owes: false, kept })
    }

    /// The same line, in another session.
    ///
    /// # Errors
    /// A key or a memory that can't be read any more: without them anybody's answer would be believed.
    pub fn resume(&mut self, own: Session) -> Result<(), CliError> {
        self.ground = ground(&self.args, &self.state, own, Number(0))?;
        self.session = own;
        Ok(())
    }

    #[must_use]
    pub fn session(&self) -> Session {
        self.session
    }

    fn now(&self) -> Now {
        Now::read(self.begun, self.kept)
    }

    fn step(&mut self, told: &mut dyn FnMut(Told<'_>)) {
        let mut buffer = [0; 2_048];
        let read = self.line.read(&mut buffer);
        let now = self.now();
        let believed = self.ground.counts().believed;
        self.ground.receive(&buffer[..read], now, told);
        if self.ground.counts().believed > believed {
            self.line.answer_there();
        }
        self.ground.tick(now, told);
        while let Some(packet) = self.ground.transmit(self.now()) {
            self.line.write(packet);
        }
    }

    /// Sends `query` and waits for its end; `watch` sees all that is told on the way. `number`: of before.
    pub fn wait(&mut self, query: &Query<'_>, number: Option<Number>, watch: &mut dyn FnMut(&Told<'_>)) -> Result<Ended, CliError> {
        let at = self.now().at;
        let number = match number {
            Some(number) => self.ground.ask_as(number, query, at).map(|()| number),
            None => self.ground.ask(query, at),
        };
        let number = number.map_err(|error| CliError::Usage(error.to_string()))?;
        let mut ended = None;
        while ended.is_none() {
            self.step(&mut |told| {
                watch(&told);
                match told {
                    Told::Reply(of, _, bytes) if of == number => ended = Some(Ended::Reply(bytes.to_vec())),
                    Told::Rejected(of, reject) if of == number => {
                        let (mut reason, code) = (reject.reason.to_owned(), reject.code.to_owned());
                        if reject.allowed > 0 {
                            reason = format!("{reason}: wanted {}, allowed {}", reject.wanted, reject.allowed);
                        }
                        ended = Some(Ended::Rejected { code, reason });
                    }
                    Told::GivenUp(of) if of == number => ended = Some(Ended::GivenUp),
                    _ => {}
                }
            });
        }
        self.owes = matches!(ended, Some(Ended::Reply(_)));
        let until = Instant::now() + LEAVING;
        while self.ground.station.has_waiting() && Instant::now() < until {
            self.step(&mut |_| ());
        }
        ended.ok_or_else(|| CliError::Output("the line ended".into()))
    }

    /// Stays until the board can have missed the last acknowledgement and asked for it again. After what was asked for is shown: nobody waits for this.
    pub fn farewell(&mut self) {
        if std::mem::take(&mut self.owes) {
            let until = Instant::now() + self.ground.linger();
            while Instant::now() < until {
                self.step(&mut |_| ());
            }
        }
    }

    /// The number that the next question of this session would have.
    #[must_use]
    pub fn fresh(&self) -> Number {
        session().1
    }

    /// The bytes of a reply to a query that is no question.
    pub fn get(&mut self, query: &Query<'_>) -> Result<Vec<u8>, CliError> {
        let quiet = self.quiet || !std::io::stderr().is_terminal();
        let mut shown = false;
        let ended = self.wait(query, None, &mut |told| {
            if let Told::Share(_, there, all) = told
                && !quiet
                && *all > 4
            {
                shown = true;
                let _ = write!(std::io::stderr(), "\r{there} of {all} packets");
            }
        })?;
        if shown {
            let _ = writeln!(std::io::stderr());
        }
        match ended {
            Ended::Reply(bytes) => Ok(bytes),
            Ended::Rejected { code, reason } => Err(rejected(&code, &reason)),
            Ended::GivenUp => Err(self.silent()),
        }
    }

    pub fn silent(&self) -> CliError {
        let (link, counts) = (&self.link, self.ground.counts());
        let heard = counts.frames.packets;
        let hint = if counts.wrong_signature > 0 {
            ": the other side has another key"
        } else if counts.unsigned > 0 {
            ": the other side has no key"
        } else if counts.clocks_apart > 0 {
            ": its clock and this one are more than a minute apart"
        } else if counts.unstored > 0 {
            ": what was heard can't be written to the state folder"
        } else if counts.replayed > 0 {
            ": its packets are older than what was heard before, is its clock right?"
        } else if heard == 0 && counts.frames.noise > 100 {
            ": noise only, is the baud rate right?"
        } else {
            ""
        };
        CliError::Output(format!(
            "{link}: wanted a board that answers, heard {heard} packets and nothing of it for {} s{hint}",
            self.args.patience
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_key_a_question_is_not_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.key");
        Key::random().unwrap().save(&path).unwrap();
        let args = LineArgs {
            link: "udp:127.0.0.1:0".parse().unwrap(),
            key: Some(path.clone()),
            system: 255,
            board: None,
            patience: 1,
            state: Some(folder.path().to_owned()),
        };
        let mut client = Client::open(&args, true).unwrap();
        assert!(client.resume(Session(1)).is_ok() && client.ground.station.has_key());
        std::fs::remove_file(&path).unwrap();
        assert!(client.resume(Session(2)).is_err() && client.ground.station.has_key());
        // Nor without what was heard with it.
        Key::random().unwrap().save(&path).unwrap();
        let key = Key::load(&path).unwrap();
        std::fs::write(folder.path().join(format!("heard-{}", key.name())), "no memory").unwrap();
        assert!(client.resume(Session(3)).is_err() && client.ground.station.has_key());
    }
}
