//! `model verify` and `model import`: a package is looked at whole before anybody flies with it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::board;
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::compress::{Mode, Selector};
use crate::config::{Manifest, Profile, SelfTest, package_files};
use crate::engine::EngineError;
use crate::engine::tensorrt::{Built, Graph, RECORD, Record, of_package, plans_folder};
use crate::imaging::{FrameSource, Limits};
use crate::pipeline::{Pipeline, PipelineError, Request};
use crate::planner;
use crate::units::{Bytes, Tokens};

#[derive(Args)]
pub struct VerifyArgs {
    /// The package's folder
    dir: PathBuf,
}

#[derive(Args)]
pub struct ImportArgs {
    /// The package's folder, as tools/export made it
    from: PathBuf,
    /// The folder that it becomes; it must not be there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// What a package was found to be.
#[derive(serde::Serialize)]
struct Verified {
    /// Name and first bytes of the manifest's digest.
    model: String,
    licence: String,
    profile: String,
    engines: [String; 3],
    planned_bytes: Bytes,
    limit_bytes: Bytes,
    /// Token ids of the self-test; null: the package has none.
    self_test: Option<Vec<u32>>,
    /// Engines that were built from it, each folder whole.
    built: Vec<Found>,
}

/// A folder of engines.
#[derive(serde::Serialize)]
struct Found {
    folder: PathBuf,
    gpu: String,
    /// Of all its plans.
    bytes: Bytes,
    /// Null: they serve the package under the profile.
    not_for: Option<String>,
}

/// Engines in the folders of `below`, each plan read to its end.
///
/// # Errors
/// A damaged record or plan.
fn found(below: &Path, profile: &Profile, manifest: &Manifest) -> Result<Vec<Found>, CliError> {
    let Ok(entries) = std::fs::read_dir(below) else { return Ok(Vec::new()) };
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|folder| folder.join(RECORD).is_file()).collect();
    folders.sort();
    let wanted = planner::engine_limits(profile, manifest).map_err(PipelineError::from)?;
    let mut all = Vec::new();
    for folder in folders {
        let Some(record) = Record::read(&folder).map_err(EngineError::from)? else { continue };
        let held = Built::open(&folder, manifest, &record.identity()).and_then(|built| {
            Graph::ALL.into_iter().filter(|graph| built.has(*graph)).try_for_each(|graph| built.plan(graph).map(|_| ()))?;
            built.serves(&wanted)
        });
        let not_for = match held {
            Err(error) if error.damaged() => return Err(EngineError::from(error).into()),
            held => held.err().map(|error| error.to_string()),
        };
        let bytes = record.graphs.values().map(|entry| entry.bytes).sum();
        all.push(Found { folder, gpu: record.gpu, bytes, not_for });
    }
    Ok(all)
}

pub fn verify(args: &VerifyArgs, cli: &Cli) -> Result<(), CliError> {
    let (profile, manifest) = (Profile::load(&cli.profile)?, Manifest::load(&args.dir)?);
    let plans = plans_folder(profile.engines.plans.as_deref());
    let built = plans.map_or(Ok(Vec::new()), |plans| found(&of_package(&plans, &manifest.name), &profile, &manifest))?;
    tell(&Verified { built, ..verified(profile, manifest, cli)? }, cli, "")
}

pub fn import(args: &ImportArgs, cli: &Cli) -> Result<(), CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| CliError::Output(format!("{}: {error}", path.display()))
    };
    if args.to.exists() {
        return Err(CliError::Output(format!("{}: wanted a folder that is not there yet, found one", args.to.display())));
    }
    // Digests are looked at first, so that what is copied is what was meant; what arrived is looked at again, whole.
    Manifest::load(&args.from)?;
    let parent = args.to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(failed(parent))?;
    let copy = tempfile::Builder::new().prefix(".import-").tempdir_in(parent).map_err(failed(parent))?;
    for name in package_files(&args.from)? {
        let (from, to) = (args.from.join(&name), copy.path().join(&name));
        std::fs::create_dir_all(to.parent().unwrap_or(copy.path())).map_err(failed(&to))?;
        std::fs::copy(&from, &to).map_err(failed(&from))?;
        std::fs::File::open(&to).and_then(|file| file.sync_all()).map_err(failed(&to))?;
    }
    let found = verified(Profile::load(&cli.profile)?, Manifest::load(copy.path())?, cli)?;
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(failed(copy.path()))?;
    std::fs::rename(copy.path(), &args.to).map_err(failed(&args.to))?;
    // It has another name now: nothing of it is removed.
    let _ = copy.keep();
    tell(&found, cli, &format!("imported as {}\n", args.to.display()))
}

/// `more`: what a person is told besides.
fn tell(found: &Verified, cli: &Cli, more: &str) -> Result<(), CliError> {
    if cli.json {
        let line = serde_json::to_string(found).map_err(|error| CliError::Output(error.to_string()))?;
        return say(&format!("{line}\n"));
    }
    say(&format!("{}{more}", print(found)))
}

fn print(found: &Verified) -> String {
    let mut text = String::new();
    let [encoder, projector, decoder] = &found.engines;
    let _ = writeln!(text, "{}, {}: every file has its digest, every tensor its shape", found.model, found.licence);
    let _ = writeln!(text, "encoder {encoder}\nprojector {projector}\ndecoder {decoder}");
    let _ =
        writeln!(text, "memory under profile {}: {:.0} of {:.0} MiB", found.profile, found.planned_bytes.mib(), found.limit_bytes.mib());
    let _ = match &found.self_test {
        Some(tokens) => writeln!(text, "self-test: the {} tokens it should", tokens.len()),
        None => writeln!(text, "self-test: none in the package, so nothing says that its answers are what they were"),
    };
    for Found { folder, gpu, bytes, not_for } in &found.built {
        let _ = match not_for {
            None => writeln!(text, "engines in {} ({gpu}): whole, {:.0} MiB", folder.display(), bytes.mib()),
            Some(reason) => writeln!(text, "engines in {} ({gpu}): not for this package and profile: {reason}", folder.display()),
        };
    }
    text
}

/// Loads the package under the profile, and runs its self-test.
fn verified(mut profile: Profile, manifest: Manifest, cli: &Cli) -> Result<Verified, CliError> {
    profile.frame.slots = 1;
    let (licence, name, limit_bytes) = (manifest.licence.clone(), profile.name.clone(), profile.memory_limit);
    let test = manifest.self_test.clone();
    let engines = cli.engines(&profile, &manifest, &Method::Kmeans)?;
    let ids = [engines.encoder.id(), engines.projector.id(), engines.decoder.id()].map(str::to_owned);
    let resident = board::resident_memory().unwrap_or(Bytes(0));
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, resident)?;
    let planned_bytes = pipeline.map().total();
    let self_test = test.map(|test| tested(&mut pipeline, &test)).transpose()?;
    Ok(Verified {
        model: pipeline.model_id(),
        licence,
        profile: name,
        engines: ids,
        planned_bytes,
        limit_bytes,
        self_test,
        built: Vec::new(),
    })
}

/// The answer's token ids, which are those that the package wants.
fn tested(pipeline: &mut Pipeline, test: &SelfTest) -> Result<Vec<u32>, CliError> {
    let (profile, manifest) = (pipeline.profile(), pipeline.manifest());
    let request = Request {
        budget: planner::budget(Some(&test.budget), profile, manifest).map_err(PipelineError::from)?,
        selector: Selector::UhrBat,
        mode: Mode::Paper,
        encode_tiles: None,
        max_new: Tokens::of(test.tokens.len() + 1),
        deadline: None,
    };
    let sources = [FrameSource::open(&test.image, &Limits::of(profile))?];
    pipeline.set_seed(0);
    let prompt = pipeline.prompt(&test.question)?;
    let mut plan = pipeline.plan_first(&sources, &prompt, &request)?;
    let [source] = sources;
    let (frame, _) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ())?;
    let mut found = vec![0; test.tokens.len() + 1];
    let (count, _) = pipeline.answer_tokens(&[&frame], &prompt, &mut plan, &mut found)?;
    found.truncate(count);
    if found != test.tokens {
        let reason = format!("self-test {:?}: wanted tokens {:?}, found {found:?}", test.question, test.tokens);
        return Err(CliError::Output(format!("{}: {reason}", test.image.display())));
    }
    Ok(found)
}
