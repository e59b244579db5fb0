//! `gcs ask` and `gcs fetch`.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::gcs::client::{Client, Ended};
use crate::cli::gcs::state::OpenQuestion;
use crate::cli::gcs::{LineArgs, note, plain, rejected};
use crate::cli::{Cli, CliError, say};
use crate::link::ground::Told;
use crate::link::wire::{self, Asked, Number, Piece, Query, Reply, Session, What};
use crate::units::FrameId;

#[derive(Args)]
pub struct AskArgs {
    #[command(flatten)]
    pub line: LineArgs,
    /// The question
    question: String,
    /// A frame by its id; repeat it for more [default: the newest]
    #[arg(long, value_name = "ID")]
    frame: Vec<FrameId>,
    /// Tokens: a preset, a total or a list [default: the board's setting]
    #[arg(long)]
    budget: Option<String>,
    #[arg(long, value_name = "N")]
    deadline_ms: Option<u32>,
    #[arg(long, value_name = "N")]
    max_new: Option<u32>,
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Fetches the glimpse of the answer, 2 kB, into this file
    #[arg(long, value_name = "OUT.jpg")]
    glimpse: Option<PathBuf>,
}

/// What there is of an answer.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The frame in 2 kB, evidence outlined
    Glimpse,
    /// The evidence and what is around it, in what the line carries in 20 s, 4 to 256 kB
    Evidence,
    /// The document of `ask --json`
    Answer,
}

#[derive(Args)]
pub struct FetchArgs {
    #[command(flatten)]
    pub line: LineArgs,
    /// Number of the answer
    id: u64,
    #[arg(value_enum, default_value = "glimpse")]
    part: Part,
    /// Where to [default: ID-glimpse.jpg and so on, here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: &AskArgs, client: &mut Client, cli: &Cli) -> Result<(), CliError> {
    let frames = heapless::Vec::from_iter(args.frame.iter().take(4).map(|id| id.0));
    if args.frame.len() > 4 {
        return Err(CliError::Usage(format!("--frame: wanted at most 4, found {}", args.frame.len())));
    }
    let asked = Asked {
        text: &args.question,
        frames,
        budget: args.budget.as_deref(),
        deadline_ms: args.deadline_ms,
        max_new: args.max_new,
        seed: args.seed,
    };
    let id = ask(client, asked, cli.json)?;
    if let (Some(path), Some(id)) = (&args.glimpse, id) {
        fetch_into(client, id, Part::Glimpse, path)?;
    }
    Ok(())
}

/// Asks and prints the answer; gives its number. The same question that has no answer yet is taken up again.
pub fn ask(client: &mut Client, asked: Asked<'_>, json: bool) -> Result<Option<u64>, CliError> {
    let query = Query::Ask(asked);
    let written = format!("{query:?}");
    let open = match client.state.unanswered(&client.link, &written) {
        Some(open) => {
            note(client.quiet, "the same question has no answer yet: it is taken up again");
            client.resume(Session(open.session))?;
            open
        }
        None => {
            let number = client.fresh();
            let open = OpenQuestion { link: client.link.clone(), session: client.session().0, number: number.0, query: written };
            client.state.add(open.clone())?;
            open
        }
    };
    let (quiet, mut told_words) = (client.quiet, 0);
    let mut err = std::io::stderr();
    let mut line = |text: &str| {
        if !quiet {
            let _ = write!(err, "{text}");
            let _ = err.flush();
        }
    };
    let mut words = false;
    let ended = client.wait(&query, Some(Number(open.number)), &mut |told| match told {
        Told::Board(source) => line(&format!("board {source}\n")),
        Told::Accepted(_, accept) => line(&format!("accepted as {}, {} before it\n", accept.id, accept.ahead)),
        Told::Progress(_, progress) if !progress.words.is_empty() => {
            words = true;
            let from = progress.from as usize;
            line(if from > told_words { " … " } else { "" });
            line(&plain(progress.words));
            told_words = from + progress.words.len();
        }
        Told::Progress(_, progress) if !words => {
            line(&format!("{}: {} %\n", plain(progress.stage), progress.per_mille / 10));
        }
        _ => {}
    })?;
    if words {
        line("\n");
    }
    match ended {
        Ended::GivenUp => Err(client.silent()),
        Ended::Rejected { code, reason } => {
            client.state.remove(&open)?;
            Err(rejected(&code, &reason))
        }
        Ended::Reply(bytes) => {
            client.state.remove(&open)?;
            let reply = wire::read::<Reply<'_>>("answer", &bytes).map_err(|error| CliError::Output(error.to_string()))?;
            show(client, &reply, json)
        }
    }
}

fn show(client: &mut Client, reply: &Reply<'_>, json: bool) -> Result<Option<u64>, CliError> {
    match reply {
        Reply::Refused { code, reason, .. } => Err(rejected(code, reason)),
        Reply::Answered { id, text, finish, choice, tokens, budget, total_ms, degraded, evidence } => {
            if json {
                let boxes: Vec<_> =
                    evidence.iter().map(|at| json!({ "frame": at.frame, "x": at.x, "y": at.y, "w": at.w, "h": at.h })).collect();
                let document = json!({
                    "id": id, "text": text, "finish": finish, "choice": choice, "tokens": tokens, "budget": budget, "total_ms": total_ms,
                    "degraded": degraded.as_slice(), "evidence": boxes,
                });
                say(&format!("{document}\n"))?;
            } else {
                say(&format!("{}\n", plain(text)))?;
                note(client.quiet, &format!("answer {id}: {finish}, {tokens} of {budget} tokens, {total_ms} ms"));
                degraded.iter().for_each(|line| note(client.quiet, line));
            }
            Ok(Some(*id))
        }
    }
}

pub fn fetch(args: &FetchArgs, client: &mut Client, cli: &Cli) -> Result<(), CliError> {
    let name = match args.part {
        Part::Glimpse => "glimpse.jpg",
        Part::Evidence => "evidence.jpg",
        Part::Answer => "answer.json",
    };
    let path = args.out.clone().unwrap_or_else(|| format!("{}-{name}", args.id).into());
    fetch_into(client, args.id, args.part, &path)?;
    if cli.json { say(&format!("{}\n", json!({ "file": path }))) } else { say(&format!("{}\n", path.display())) }
}

/// Bytes of one request: at 1 kB/s a cut costs a few seconds.
const PIECE: u16 = 8_192;

/// Fetches a file piece by piece. What is there of it lies beside `path`, under the file's checksum, and is not fetched again.
pub fn fetch_into(client: &mut Client, id: u64, part: Part, path: &Path) -> Result<(), CliError> {
    let name = match part {
        Part::Glimpse => "glimpse.jpg",
        Part::Evidence => "evidence.jpg",
        Part::Answer => "answer.json",
    };
    let remote = format!("/answers/{id}/{name}");
    let wrong = |error: std::io::Error| CliError::Output(format!("{}: {error}", path.display()));
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let mut file = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&draft).map_err(wrong)?;
    // The first 8 bytes of the draft are the file's checksum and length; the rest is what is there.
    let mut head = [0; 8];
    let mut known = file.read_exact(&mut head).ok().map(|()| head);
    let mut there = u32::try_from(file.metadata().map_err(wrong)?.len().saturating_sub(8)).unwrap_or(0);
    loop {
        if known.is_none() {
            there = 0;
        }
        let bytes = client.get(&Query::Fetch(What { path: &remote, from: there, most: PIECE }))?;
        let bad = || CliError::Output(format!("{remote}: wanted a piece of a file, found something else"));
        let (piece, body) = wire::read_front::<Piece>("piece", &bytes).map_err(|_| bad())?;
        let mut own = [0; 8];
        own[..4].copy_from_slice(&piece.crc32.to_le_bytes());
        own[4..].copy_from_slice(&piece.bytes.to_le_bytes());
        if known != Some(own) && there > 0 {
            // Another file than the one that was begun.
            known = None;
            continue;
        }
        if piece.from != there {
            return Err(bad());
        }
        if known.is_none() {
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(&own)).map_err(wrong)?;
            known = Some(own);
        }
        file.seek(SeekFrom::Start(8 + u64::from(there)))
            .and_then(|_| file.write_all(body))
            .and_then(|()| file.sync_all())
            .map_err(wrong)?;
        there += u32::try_from(body.len()).unwrap_or(0);
        if there >= piece.bytes {
            let mut whole = Vec::new();
            file.seek(SeekFrom::Start(8)).and_then(|_| file.read_to_end(&mut whole)).map_err(wrong)?;
            if wire::crc32(&whole) != piece.crc32 {
                std::fs::remove_file(&draft).map_err(wrong)?;
                return Err(CliError::Output(format!(
                    "{remote}: wanted checksum {:08x}, found {:08x}; fetch it anew",
                    piece.crc32,
                    wire::crc32(&whole)
                )));
            }
            std::fs::write(path, &whole).and_then(|()| std::fs::remove_file(&draft)).map_err(wrong)?;
            return Ok(());
        }
        if body.is_empty() {
            return Err(bad());
        }
    }
}
