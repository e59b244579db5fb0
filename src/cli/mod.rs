//! The command line: one file a subcommand, and the one table of exit codes.

mod ask;
mod batch;
mod build_engines;
mod compress;
mod gcs;
mod journal;
mod model;
mod model_logits;
mod plan;
mod qualify;
mod replay;
mod serve;
mod views;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::board::{self, BoardKind, Watch};
use crate::cli::compress::CompressCliError;
use crate::compress::CompressError;
use crate::compress::regions::Method;
use crate::config::{ConfigError, Manifest, Profile};
use crate::engine::tensorrt::GraphError;
use crate::engine::{DecoderError, EngineError};
use crate::http::HttpError;
use crate::imaging::{ImagingError, LabelMapError, Limits};
use crate::journal::JournalError;
use crate::link::{KeyError, LinkError};
use crate::pipeline::{Engines, Pipeline, PipelineError};
use crate::planner::{CalibrationError, PlannerError};
use crate::qualify::QualifyError;
use crate::report::ReportError;
use crate::service::ServiceError;

/// Where `qualify` writes what the planner reads: `qualification.json` in it, or in a folder of the power mode's name.
const QUALIFICATION: &str = "qualification";

/// The folder of a power mode's qualification.
fn calibration_of(out: &Path, mode: Option<&str>) -> PathBuf {
    let plain = |name: &str| name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect::<String>();
    mode.map_or_else(|| out.to_owned(), |mode| out.join(plain(mode)))
}

/// Answers questions about ultra-high-resolution aerial frames inside a fixed token budget and a fixed memory.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 budget or deadline refusal, 4 qualification not met, 5 bad or hostile input."
)]
pub struct Cli {
    /// Device profile: host, sim, a6000, or a file ending in .toml
    #[arg(long, global = true, default_value = "host")]
    profile: String,
    /// Model package: a folder with model.toml; `plan` also takes a spec, a file of models/specs
    #[arg(long, global = true, default_value = "models/uhr-nano", value_name = "DIR")]
    model: PathBuf,
    /// What `qualify` measured of this device, mode and model [default: qualification/qualification.json, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// One JSON document a result on stdout
    #[arg(long, global = true)]
    json: bool,
    /// No progress on stderr, and of an answer its text alone
    #[arg(long, global = true)]
    quiet: bool,
    /// Without one: `serve`
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask one or more questions about a frame
    Ask(ask::AskArgs),
    /// The daemon: frames from folders, questions from a spool folder and HTTP, everything in a journal
    Serve(serve::ServeArgs),
    /// What was asked and answered
    Journal(journal::JournalArgs),
    /// A question of the journal once more: the same selection and text, or what differs
    Replay(replay::ReplayArgs),
    /// Many frames times many questions
    Batch(batch::BatchArgs),
    /// The ground station's side of the link
    #[command(subcommand)]
    Gcs(gcs::GcsCommand),
    /// How a running daemon stands
    Status(serve::StatusArgs),
    /// Print the memory map of a profile and a model, and what a question will take
    Plan(plan::PlanArgs),
    /// Measure whether this device meets its profile's limits; the planner uses what is measured
    Qualify(qualify::QualifyArgs),
    /// Questions with deadlines on a virtual clock, while a scripted board gets hot
    Sim(qualify::SimArgs),
    /// Show the views and tiles as the encoder gets them
    Views(views::ViewsArgs),
    /// Compress given features: regions, selection, merge
    Compress(compress::CompressArgs),
    /// Model packages and decoders
    #[command(subcommand)]
    Model(ModelCommand),
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Load a package, check every file of it, run its self-test
    Verify(model::VerifyArgs),
    /// Take in a package that tools/export made: verified, then copied whole or not at all
    Import(model::ImportArgs),
    /// Build the package's engines for this device with TensorRT's own builder; what is recorded is not built again
    BuildEngines(build_engines::BuildArgs),
    /// Logits of a decoder over given tokens, for parity with other runtimes
    Logits(model_logits::LogitsArgs),
}

/// Writes results to stdout: a closed pipe or a full disk is an error like any other.
fn say(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CliError::Output(format!("stdout: {error}")))
}

/// Has `pipeline` plan with what this machine's board tells, read once a second on a thread of its own; the first reading is waited for, half a second
/// at most.
fn watch(pipeline: &mut Pipeline) -> Result<Arc<Watch>, CliError> {
    let board = board::open(BoardKind::Auto, Path::new("/")).map_err(QualifyError::from)?;
    let watch = Arc::new(Watch::start(board, Duration::from_secs(1)).map_err(QualifyError::from)?);
    for _ in 0..50 {
        if !watch.latest().stale {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let senses = Arc::clone(&watch);
    pipeline.set_senses(Box::new(move || senses.latest()));
    Ok(watch)
}

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Imaging(#[from] ImagingError),
    #[error(transparent)]
    LabelMap(#[from] LabelMapError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Planner(#[from] PlannerError),
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    Qualify(#[from] QualifyError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Journal(Box<JournalError>),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("refused ({code}): {reason}")]
    Rejected { code: String, reason: String },
    #[error("qualification not met")]
    NotQualified,
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Views(#[from] views::ViewsError),
    #[error(transparent)]
    Compress(#[from] compress::CompressCliError),
    #[error(transparent)]
    Logits(#[from] model_logits::LogitsError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Program(#[from] build_engines::ProgramError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Output(String),
}

impl From<PipelineError> for CliError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}

impl From<JournalError> for CliError {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}

impl CliError {
    /// 1 refused or failed, 2 usage, 3 budget or deadline, 5 bad or hostile input.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Output(_) | Self::Report(_) | Self::Program(_) => 1,
            Self::Graph(_) => 5,
            Self::Link(LinkError::NoKey { .. }) => 2,
            Self::Link(_) => 1,
            Self::Key(error) => match error {
                KeyError::File { .. } | KeyError::Open { .. } => 1,
                KeyError::Text { .. } | KeyError::Passphrase { .. } | KeyError::Zero => 2,
                KeyError::Length { .. } => 5,
            },
            Self::Rejected { code, .. } => match code.as_str() {
                "deadline" | "budget" => 3,
                "bad-question" | "bad-setting" => 2,
                _ => 1,
            },
            Self::Config(error) => config_code(error),
            Self::Imaging(error) => error.exit_code(),
            Self::LabelMap(error) => error.exit_code(),
            Self::Engine(error) => engine_code(error),
            Self::Planner(error) => planner_code(error),
            Self::NotQualified => 4,
            Self::Service(error) => match error {
                ServiceError::Pipeline(error) => pipeline_code(error),
                ServiceError::Journal(error) => journal_code(error),
                ServiceError::Http(HttpError::Open { .. }) => 2,
                ServiceError::Http(_) => 1,
                ServiceError::System { .. } | ServiceError::Silent { .. } | ServiceError::Thread { .. } => 1,
            },
            Self::Journal(error) => journal_code(error),
            Self::Qualify(error) => match error {
                QualifyError::Pipeline(error) => pipeline_code(error),
                QualifyError::Imaging(error) => error.exit_code(),
                QualifyError::Board(_) => 5,
                QualifyError::File { .. } | QualifyError::Input { .. } => 1,
            },
            Self::Pipeline(error) => pipeline_code(error),
            Self::Calibration(_) => 5,
            Self::Views(error) => error.exit_code(),
            Self::Compress(error) => match error {
                CompressCliError::Config(error) => config_code(error),
                CompressCliError::LabelMap(error) => error.exit_code(),
                CompressCliError::Usage(_) => 2,
                CompressCliError::Read { .. } | CompressCliError::Write { .. } | CompressCliError::Memory { .. } => 1,
                CompressCliError::View { source: CompressError::Coverage { .. }, .. } => 3,
                CompressCliError::Format { .. }
                | CompressCliError::Tensor { .. }
                | CompressCliError::View { .. }
                | CompressCliError::Map { .. }
                | CompressCliError::Shape { .. } => 5,
            },
            Self::Logits(error) => error.exit_code(),
        }
    }
}

fn pipeline_code(error: &PipelineError) -> u8 {
    match error {
        PipelineError::Config(error) => config_code(error),
        PipelineError::Imaging(error) => error.exit_code(),
        PipelineError::LabelMap(error) => error.exit_code(),
        PipelineError::Engine(error) => engine_code(error),
        PipelineError::Planner(error) => planner_code(error),
        PipelineError::EmptyQuestion | PipelineError::NoSegmenter { .. } => 2,
        PipelineError::Full(_) | PipelineError::Compress(CompressError::Coverage { .. }) => 3,
        PipelineError::Compress(_) | PipelineError::Stale(_) => 1,
        PipelineError::Positions(_) | PipelineError::Geometry(_) => 5,
    }
}

fn journal_code(error: &JournalError) -> u8 {
    match error {
        JournalError::Version { .. } | JournalError::Content { .. } => 5,
        JournalError::ReadOnly { .. }
        | JournalError::Taken { .. }
        | JournalError::Missing { .. }
        | JournalError::Full { .. }
        | JournalError::Sqlite { .. }
        | JournalError::File { .. } => 1,
    }
}

fn config_code(error: &ConfigError) -> u8 {
    match error {
        ConfigError::OverBudget { .. } | ConfigError::ZeroBudget => 3,
        ConfigError::Budget { .. } | ConfigError::NoProfile { .. } | ConfigError::NoWeights { .. } => 2,
        ConfigError::Read { .. } => 1,
        ConfigError::Parse { .. } | ConfigError::Value { .. } | ConfigError::Unlisted { .. } | ConfigError::Digest { .. } => 5,
    }
}

fn engine_code(error: &EngineError) -> u8 {
    match error {
        EngineError::Full(_) => 3,
        EngineError::Run { .. } | EngineError::Length { .. } | EngineError::Device { .. } => 1,
        EngineError::Built(error) if error.damaged() => 5,
        EngineError::Built(_) => 1,
        EngineError::Decoder(DecoderError::Device { .. }) => 1,
        EngineError::Load { .. } | EngineError::Tensor { .. } | EngineError::Decoder(_) | EngineError::Tokenizer(_) => 5,
    }
}

fn planner_code(error: &PlannerError) -> u8 {
    match error {
        PlannerError::Budget { .. }
        | PlannerError::Context { .. }
        | PlannerError::Text { .. }
        | PlannerError::NewTokens { .. }
        | PlannerError::Frames { .. }
        | PlannerError::Question { .. }
        | PlannerError::EncodeTiles { .. }
        | PlannerError::Unseen { .. }
        | PlannerError::Deadline { .. }
        | PlannerError::PowerMode { .. }
        | PlannerError::Kind { .. }
        | PlannerError::Uncalibrated
        | PlannerError::Share { .. } => 3,
        PlannerError::EncodeMap { .. } => 2,
        PlannerError::Memory { .. } | PlannerError::Unfit { .. } => 1,
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), CliError> {
        let usual = Command::Serve(serve::ServeArgs::default());
        match self.command.as_ref().unwrap_or(&usual) {
            Command::Serve(args) => serve::run(args, &self),
            Command::Journal(args) => journal::run(args, &self),
            Command::Replay(args) => replay::run(args, &self),
            Command::Batch(args) => batch::run(args, &self),
            Command::Gcs(command) => gcs::run(command, &self),
            Command::Status(args) => serve::status(args, &self),
            Command::Ask(args) => ask::run(args, &self),
            Command::Plan(args) => plan::run(args, &self),
            Command::Qualify(args) => qualify::run(args, &self),
            Command::Sim(args) => qualify::sim(args, &self),
            Command::Views(args) => {
                let (profile, manifest) = self.load()?;
                Ok(views::run(args, &manifest.vision.shape, &Limits::of(&profile), profile.frame.bands, profile.engines.threads)?)
            }
            Command::Compress(args) => Ok(compress::run(args, &Profile::load(&self.profile)?, self.json)?),
            Command::Model(ModelCommand::Verify(args)) => model::verify(args, &self),
            Command::Model(ModelCommand::Import(args)) => model::import(args, &self),
            Command::Model(ModelCommand::BuildEngines(args)) => build_engines::run(args, &self),
            Command::Model(ModelCommand::Logits(args)) => Ok(model_logits::run(args, Profile::load(&self.profile)?.memory_limit)?),
        }
    }

    fn load(&self) -> Result<(Profile, Manifest), CliError> {
        Ok((Profile::load(&self.profile)?, Manifest::load(&self.model)?))
    }

    /// The engines of `profile`; which they are is said where the profile leaves that open.
    fn engines(&self, profile: &Profile, manifest: &Manifest, method: &Method) -> Result<Engines, CliError> {
        let engines = Engines::load(profile, manifest, method)?;
        if let Some(chosen) = engines.chosen.as_ref().filter(|_| !self.quiet) {
            eprintln!("engines: {chosen}");
        }
        Ok(engines)
    }
}
