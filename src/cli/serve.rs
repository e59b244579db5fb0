//! `serve` and `status`: the daemon, and what a running one says of itself.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

use crate::board;
use crate::cli::ask::calibrate;
use crate::cli::{Cli, CliError, say, watch};
use crate::compress::regions::Method;
use crate::config::{LinkAddress, LinkLine, Profile};
use crate::http::{self, HttpSettings, Token, http_bytes};
use crate::imaging::{Limits, Reading};
use crate::journal::{Journal, JournalLimits, Status};
use crate::link::{self, LinkSettings, link_bytes};
use crate::pipeline::{Engines, Pipeline, PipelineError};
use crate::planner::Line;
use crate::service::{self, Log, Service, ServiceError, ServiceSettings};
use crate::units::Bytes;

#[derive(Args, Default)]
pub struct ServeArgs {
    /// A folder whose frames are taken in as they come; repeat it for more [default: the profile's]
    #[arg(long, value_name = "DIR")]
    capture: Vec<PathBuf>,
    /// Where HTTP is served, or "off" [default: the profile's, 127.0.0.1:8470 where it has none]
    #[arg(long, value_name = "ADDR:PORT", value_parser = http_address)]
    http: Option<Http>,
    /// What a client of HTTP must present: the first line of a file that only its owner can read; needed where ADDR isn't of this machine alone
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// A line to ground stations: serial:DEVICE:BAUD or udp:HOST:PORT; repeat it for more [default: the profile's]
    #[arg(long, value_name = "LINE")]
    link: Vec<LinkAddress>,
    /// Of all lines of --link: what both ends share, made by `gcs key`
    #[arg(long, value_name = "FILE", requires = "link")]
    key: Option<PathBuf>,
    /// Lines of --link answer without a key, whoever is on them
    #[arg(long, requires = "link", conflicts_with = "key")]
    insecure: bool,
    /// Frames, questions and answers; the spool folder is beside it [default: the profile's, uhr-edge/journal.sqlite where it has none]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

/// `ADDR:PORT`, or off.
#[derive(Clone, Copy, Debug)]
struct Http(Option<SocketAddr>);

fn http_address(text: &str) -> Result<Http, String> {
    match text {
        "off" => Ok(Http(None)),
        text => text.parse().map(|address| Http(Some(address))).map_err(|_| format!("wanted ADDRESS:PORT or \"off\", found {text:?}")),
    }
}

impl ServeArgs {
    fn apply(&self, profile: &mut Profile) {
        if !self.capture.is_empty() {
            profile.serve.capture.clone_from(&self.capture);
        }
        if let Some(Http(address)) = self.http {
            profile.serve.http = address;
        }
        if let Some(file) = &self.journal {
            profile.journal.file.clone_from(file);
        }
        if !self.link.is_empty() {
            let line = |to: &LinkAddress| LinkLine { key: self.key.clone(), insecure: self.insecure, ..LinkLine::new(to.clone()) };
            profile.link.lines = self.link.iter().map(line).collect();
        }
    }
}

pub fn run(args: &ServeArgs, cli: &Cli) -> Result<(), CliError> {
    let begun = Instant::now();
    let (mut profile, manifest) = cli.load()?;
    args.apply(&mut profile);
    let log = Log::new(profile.serve.log).map_err(|source| ServiceError::System { what: "log", source })?;
    // What would keep it from starting is found before the model is loaded.
    let limits = JournalLimits { max: profile.journal.max, looked: profile.journal.keep_looked };
    let journal = Journal::open(&profile.journal.file, limits).map_err(ServiceError::from)?;
    let loading = Instant::now();
    let method = Method::Kmeans;
    let engines = Engines::load(&profile, &manifest, &method)?;
    let load = loading.elapsed();
    if let Some(chosen) = &engines.chosen {
        log.info(&format!("engines: {chosen}"));
    }
    let resident = board::resident_memory().unwrap_or(Bytes(0));
    let mut pipeline = Pipeline::new(profile.clone(), manifest, engines, &method, resident)?;
    let watch = watch(&mut pipeline)?;
    calibrate(&mut pipeline, cli, false)?;
    // What pictures of answers may hold that aren't decoded by rows: that part is HTTP's where there is HTTP, and none is left then.
    let mut whole = Bytes(0);
    if !profile.link.lines.is_empty() {
        let bytes = link_bytes(profile.link.lines.len(), profile.frame.max_side).map_err(PipelineError::from)?;
        let line = Line { what: "the link and its pictures", bytes };
        whole = pipeline.set_aside(line, if profile.serve.http.is_some() { u64::MAX } else { ZOOM_SHARE })?;
    }
    let door = match profile.serve.http {
        Some(address) => Some(door(address, args.token.as_deref(), &profile, &mut pipeline)?),
        None => None,
    };
    let calibrated = pipeline.costs().calibration.is_some();
    let name = cli.profile.clone();
    let own = ServeArgs { capture: args.capture.clone(), http: args.http, journal: args.journal.clone(), ..ServeArgs::default() };
    let reread = name.ends_with(".toml").then(|| {
        Box::new(move || {
            let mut profile = Profile::load(&name).map_err(|error| error.to_string())?;
            own.apply(&mut profile);
            Ok(profile)
        }) as Box<dyn Fn() -> Result<Profile, String> + Send>
    });
    let reading = Reading { bands: profile.frame.bands, allow_truncated: false };
    let link = LinkSettings { link: profile.link.clone(), limits: Limits { whole, ..pipeline.limits() }, reading };
    let settings = ServiceSettings { profile, reread, calibrated, begun, load };
    let service = Service::new(settings, journal, pipeline, Some(watch), log.clone())?;
    let stop = service.stopping();
    let running = link::serve(&service.desk(), &link, &stop, &(Arc::new(move |text: &str| log.info(text)) as link::Say))?;
    let ended = service.run(door, Some(&running));
    stop.store(true, Ordering::Relaxed);
    running.join();
    Ok(ended?)
}

/// Of what the memory plan leaves, one part in so many is for pictures that the viewer's tiles are made of and that can't be decoded by rows.
const ZOOM_SHARE: u64 = 4;

/// Listens, and has what HTTP holds in the memory plan.
fn door(address: SocketAddr, token: Option<&Path>, profile: &Profile, pipeline: &mut Pipeline) -> Result<http::Bound, CliError> {
    let folder = profile.journal.file.parent().unwrap_or(Path::new("")).join("zoom");
    let mut settings = HttpSettings::new(address, folder, pipeline.limits());
    settings.token = token.map(Token::load).transpose().map_err(ServiceError::from)?;
    settings.max_picture = profile.serve.picture_max;
    settings.reading = Reading { bands: profile.frame.bands, allow_truncated: false };
    settings.frame.whole = pipeline.set_aside(Line { what: "HTTP and the viewer's tiles", bytes: http_bytes(&settings) }, ZOOM_SHARE)?;
    Ok(http::bind(settings).map_err(ServiceError::from)?)
}

#[derive(Args)]
pub struct StatusArgs {
    /// Of the daemon that serves HTTP there
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "journal")]
    http: Option<SocketAddr>,
    /// Of the daemon that has this journal [default: the profile's]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

pub fn status(args: &StatusArgs, cli: &Cli) -> Result<(), CliError> {
    let status = match args.http {
        Some(address) => {
            let text = get(address).map_err(|error| CliError::Output(format!("http://{address}/api/status: {error}")))?;
            serde_json::from_str(&text)
                .map_err(|error| CliError::Output(format!("http://{address}/api/status: wanted a status, found {error}")))?
        }
        None => {
            let file = args.journal.clone().map_or_else(|| Profile::load(&cli.profile).map(|profile| profile.journal.file), Ok)?;
            service::status(&file)?
        }
    };
    if cli.json {
        let line = serde_json::to_string(&status).map_err(|error| CliError::Output(error.to_string()))?;
        return say(&format!("{line}\n"));
    }
    say(&print(&status))
}

/// The body of `/api/status`.
fn get(address: SocketAddr) -> std::io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET /api/status HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text)?;
    let wrong = |found: &str| std::io::Error::other(format!("wanted 200, found {found:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| wrong(&text))?;
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(wrong(line)) }
}

/// For people.
fn print(status: &Status) -> String {
    let mut text = String::new();
    let (frames, questions, journal) = (&status.frames, &status.questions, &status.journal);
    let yes = |value: bool| if value { "yes" } else { "no" };
    let _ = writeln!(text, "model {}, profile {}, calibrated: {}", status.model, status.profile, yes(status.calibrated));
    if let Some(engines) = &status.engines {
        let _ = writeln!(text, "engines: {engines}");
    }
    let _ = writeln!(
        text,
        "up {:.0} s, started in {}, {} of it beside loading the model",
        status.uptime_ms.0 / 1e3,
        status.start_ms,
        status.start_after_model_ms
    );
    let memory = &status.memory;
    let _ = writeln!(
        text,
        "memory: planned {:.0} MiB, peak {:.0} MiB, now {:.0} MiB",
        memory.planned_bytes.mib(),
        memory.peak_bytes.mib(),
        memory.resident_bytes.mib()
    );
    if let Some(temperature) = status.board.temperature {
        let _ = writeln!(text, "board: {temperature}{}", if status.board.stale { ", stale" } else { "" });
    }
    let _ = writeln!(
        text,
        "frames: {} of {} slots in use, {} waiting, {} taken in, {} dropped, {} failed, {} files that were none, {} known already",
        frames.in_slots.len(),
        frames.slots,
        frames.waiting,
        frames.taken_in,
        frames.dropped,
        frames.failed,
        frames.rejected,
        frames.duplicates
    );
    let _ = writeln!(
        text,
        "questions: {} of {} places in use, {} accepted, {} answered, {} refused, {} late, {} turned away",
        questions.queued,
        questions.places,
        questions.accepted,
        questions.answered,
        questions.refused,
        questions.late,
        questions.turned_away
    );
    let _ = writeln!(text, "journal: {}, {:.1} of {:.0} MiB", journal.path.display(), journal.bytes.mib(), journal.max_bytes.mib());
    if let Some(full) = &journal.full {
        let _ = writeln!(text, "journal: nothing new is accepted: {full}");
    }
    for folder in &status.capture {
        let _ = writeln!(text, "capture: {}: {}", folder.path.display(), folder.state);
    }
    let watchdog = &status.watchdog;
    let hung = if watchdog.overdue { format!(", more than the {} allowed: it hangs", watchdog.limit_ms) } else { String::new() };
    let _ = writeln!(text, "pipeline: {} for {}{hung}", watchdog.stage, watchdog.stage_ms);
    text
}
