//! A ground station over a real line.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use crate::cli::CliError;
use crate::cli::gcs::LineArgs;
use crate::cli::gcs::state::{State, session};
use crate::link::clock::{At, Now};
use crate::link::frame::Source;
use crate::link::ground::{Ground, Told};
use crate::link::key::Key;
use crate::link::sign::Signing;
use crate::link::station::Station;
use crate::link::transport::Line;
use crate::link::wire::{Number, Query, Session};
use crate::units::UnixMillis;

/// MAV_COMP_ID_MISSIONPLANNER: what ground stations call themselves.
const GROUND_STATION: u8 = 190;
/// The last acknowledgement must still leave, and may have to be repeated.
const FAREWELL: Duration = Duration::from_millis(600);

pub struct Client {
    ground: Ground,
    line: Line,
    begun: Instant,
    pub state: State,
    pub link: String,
    session: Session,
    pub quiet: bool,
    args: LineArgs,
}

/// How a query ended.
pub enum Ended {
    Reply(Vec<u8>),
    Rejected { code: String, reason: String },
    GivenUp,
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
        let key = match &args.key {
            Some(path) => Some(Key::load(path)?),
            None => None,
        };
        let signing = key.map(|key| Signing::new(key, args.system, state.floors(&link))).transpose().map_err(CliError::Output)?;
        let source = Source { system: args.system, component: GROUND_STATION };
        let station = Station::new(source, args.link.usual_rate(), signing);
        let line = Line::at(&args.link).map_err(|error| CliError::Output(format!("{link}: {error}")))?;
        let ground = Ground::new(station, None, own, first, Duration::from_secs(args.patience));
        Ok(Self { ground, line, begun: Instant::now(), state, link, session: own, quiet, args: args.clone() })
    }

    /// The same line, in another session.
    pub fn resume(&mut self, own: Session) {
        let key = self.args.key.as_ref().and_then(|path| Key::load(path).ok());
        let signing = key.and_then(|key| Signing::new(key, self.args.system, self.state.floors(&self.link)).ok());
        let source = Source { system: self.args.system, component: GROUND_STATION };
        let station = Station::new(source, self.args.link.usual_rate(), signing);
        self.ground = Ground::new(station, self.ground.board(), own, Number(0), Duration::from_secs(self.args.patience));
        self.session = own;
    }

    #[must_use]
    pub fn session(&self) -> Session {
        self.session
    }

    fn now(&self) -> Now {
        Now::new(At(self.begun.elapsed()), UnixMillis::of(SystemTime::now()))
    }

    fn step(&mut self, told: &mut dyn FnMut(Told<'_>)) {
        let mut buffer = [0; 2_048];
        let read = self.line.read(&mut buffer);
        let now = self.now();
        self.ground.receive(&buffer[..read], now, told);
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
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until {
            self.step(&mut |_| ());
        }
        ended.ok_or_else(|| CliError::Output("the line ended".into()))
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
            Ended::Rejected { code, reason } => Err(CliError::Rejected { code, reason }),
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
