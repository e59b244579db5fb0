//! `model build-engines`: a package's graphs become engines of this device, one after the other, by TensorRT's own builder.
//!
//! # Why
//! A build takes minutes to an hour a graph, on a device that may lose power. So each engine has its place in the record as soon as it is whole, what the
//! record has is not built again, and what a builder writes is no plan before it is sealed, on the disk and renamed.

mod program;

use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::cli::{Cli, CliError, say};
use crate::config::{Graphs, Manifest, Profile};
use crate::engine::EngineError;
use crate::engine::tensorrt::{
    Builder, BuiltError, Entry, Form, Graph, Identity, Limits, RECORD, Record, Shapes, builds_for, built_in, first_device, numbered,
    plans_folder, seal, sealed_by, told_digest,
};
use crate::kernels::map_file;
use crate::pipeline::PipelineError;
use crate::planner;
use crate::units::Bytes;
pub use program::ProgramError;

/// Where JetPack puts TensorRT's builder.
const JETPACK: &str = "/usr/src/tensorrt/bin/trtexec";
/// What an unfinished build's folder is called; those that are left are removed by the next run.
const UNFINISHED: &str = ".building-";

#[derive(Args)]
pub struct BuildArgs {
    /// TensorRT's builder [default: /usr/src/tensorrt/bin/trtexec, or the one on PATH]
    #[arg(long, value_name = "PATH", conflicts_with = "rtx")]
    trtexec: Option<PathBuf>,
    /// TensorRT-RTX's builder, ahead of time for another GPU: `tensorrt_rtx`, or tools/export/build_rtx.py
    #[arg(long, value_name = "PATH", requires = "compute", requires = "tensorrt")]
    rtx: Option<PathBuf>,
    /// With --rtx: the GPU's compute capability, such as 8.6
    #[arg(long, value_parser = numbers::<2>, value_name = "N.N", requires = "rtx")]
    compute: Option<[u32; 2]>,
    /// With --rtx: its version, such as 1.7.1.116
    #[arg(long, value_parser = numbers::<4>, value_name = "N.N.N.N", requires = "rtx")]
    tensorrt: Option<[u32; 4]>,
    /// Engines go below it [default: the profile's engines.plans, else uhr-edge/engines in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Timings of kernels, which later builds read; only trtexec keeps them
    #[arg(long, value_name = "FILE", conflicts_with = "rtx")]
    timing_cache: Option<PathBuf>,
    /// Only this graph; may be given several times
    #[arg(long = "graph", value_name = "NAME", value_parser = graph)]
    graphs: Vec<Graph>,
    /// Tell what would be built, with its shapes; needs no device
    #[arg(long)]
    dry_run: bool,
}

/// So many numbers with dots between.
fn numbers<const N: usize>(text: &str) -> Result<[u32; N], String> {
    let numbers = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| format!("wanted {N} numbers with dots between, found {text:?}"))
}

fn graph(name: &str) -> Result<Graph, String> {
    let known = || Graph::ALL.map(Graph::name).join(", ");
    Graph::named(name).ok_or_else(|| format!("wanted one of {}, found {name:?}", known()))
}

/// A graph that is to have an engine.
struct Task {
    graph: Graph,
    path: PathBuf,
    source: String,
    weights: Option<String>,
    /// The file of weights.
    beside: Option<PathBuf>,
    shapes: Shapes,
    /// The command was asked for it.
    asked: bool,
}

/// What the command did, or with `--dry-run` would do.
#[derive(Serialize)]
struct Done {
    folder: Option<PathBuf>,
    limits: Limits,
    graphs: Vec<DoneGraph>,
}

#[derive(Serialize)]
struct DoneGraph {
    graph: &'static str,
    onnx: PathBuf,
    shapes: Shapes,
    /// `built`, `recorded` before, or `wanted`.
    state: &'static str,
    bytes: Option<Bytes>,
    seconds: Option<f64>,
}

impl Task {
    /// Of everything that the package has, in the table's order.
    fn all(args: &BuildArgs, manifest: &Manifest, (graphs, form): (&Graphs, Form), limits: &Limits) -> Result<Vec<Self>, CliError> {
        let mut tasks = Vec::new();
        for graph in Graph::ALL {
            let asked = args.graphs.is_empty() || args.graphs.contains(&graph);
            let Some(file) = graph.file(graphs, form) else {
                if args.graphs.contains(&graph) {
                    return Err(CliError::Usage(format!(
                        "--graph {graph}: wanted one of the package {}, found none of it there",
                        manifest.name
                    )));
                }
                continue;
            };
            let weights = graph.weights(graphs);
            let beside = weights.map(|weights| weights.path.clone());
            let shapes = Shapes::read((graph, form), &file.path, beside.as_deref(), limits)?;
            let weights = weights.map(|weights| weights.digest.to_string());
            tasks.push(Self { graph, path: file.path.clone(), source: file.digest.to_string(), weights, beside, shapes, asked });
        }
        Ok(tasks)
    }

    /// Whether `entry` of `folder` is what this would build, and its plan whole.
    fn stands(&self, folder: &Path, identity: &Identity, entry: &Entry) -> bool {
        let same = entry.source == self.source && entry.weights == self.weights && entry.shapes == self.shapes.to_string();
        let plan = || map_file(&folder.join(&entry.file)).ok();
        same && plan().is_some_and(|plan| sealed_by(identity, &plan).is_ok_and(|digest| digest == entry.plan))
    }

    /// The file that the builder gets: the package's, or one in `folder` that has the rows of its caches in it, beside a link to its weights.
    fn given(&self, folder: &Path) -> Result<PathBuf, CliError> {
        let Some(room) = self.shapes.room else { return Ok(self.path.clone()) };
        // Apart from what the builder writes, whatever the weights are called.
        let folder = folder.join("graph");
        std::fs::create_dir(&folder).map_err(failed(&folder))?;
        let path = folder.join("graph.onnx");
        std::fs::write(&path, numbered(&self.path, room)?).map_err(failed(&path))?;
        if let Some((weights, name)) = self.beside.as_ref().and_then(|weights| Some((weights, weights.file_name()?))) {
            let weights = std::path::absolute(weights).map_err(failed(weights))?;
            std::os::unix::fs::symlink(&weights, folder.join(name)).map_err(failed(&weights))?;
        }
        Ok(path)
    }

    fn done(&self, state: &'static str, entry: Option<&Entry>) -> DoneGraph {
        let (bytes, seconds) = (entry.map(|entry| entry.bytes), entry.map(|entry| entry.seconds));
        DoneGraph { graph: self.graph.name(), onnx: self.path.clone(), shapes: self.shapes.clone(), state, bytes, seconds }
    }
}

pub fn run(args: &BuildArgs, cli: &Cli) -> Result<(), CliError> {
    let (profile, manifest) = (Profile::load(&cli.profile)?, Manifest::load(&cli.model)?);
    let no_graphs = || EngineError::from(BuiltError::NoGraphs { package: manifest.name.clone() });
    let graphs = manifest.tensorrt.as_ref().ok_or_else(no_graphs)?;
    let limits = planner::engine_limits(&profile, &manifest).map_err(PipelineError::from)?;
    // Without a device, which a dry run may be, the form that every TensorRT runs.
    let found = device(args, &profile);
    let form = found.as_ref().map_or(Form::Appended, |(identity, _)| Form::of(identity, graphs));
    let tasks = Task::all(args, &manifest, (graphs, form), &limits)?;
    if args.dry_run {
        let graphs = tasks.iter().filter(|task| task.asked).map(|task| task.done("wanted", None)).collect();
        return tell(&Done { folder: None, limits, graphs }, cli);
    }
    let (identity, gpu) = found?;
    let builder = match args.compute {
        Some(compute) => Builder::Rtx { compute },
        None => Builder::trtexec(profile.memory_limit, args.timing_cache.as_deref()),
    };
    let program = program(args)?;
    let version = version(&program, &builder, &identity)?;
    let plans = plans_folder(args.out.as_deref().or(profile.engines.plans.as_deref())).ok_or(BuiltError::NoPlace);
    let plans = plans.map_err(EngineError::from)?;
    let mut record = Record::new(&manifest, &identity, limits);
    (record.gpu, record.builder, record.builder_version) = (gpu, builder.name().into(), version);
    let mut place = Place::open(built_in(&plans, &manifest.name, &identity), record, &tasks)?;
    let mut done = Vec::new();
    for task in tasks.iter().filter(|task| task.asked) {
        if let Some(entry) = place.record.graphs.get(task.graph.name()) {
            done.push(task.done("recorded", Some(entry)));
            continue;
        }
        if !cli.quiet {
            eprintln!("{}: {} builds it", task.graph, builder.name());
        }
        let entry = place.build(task, &program, &builder)?;
        done.push(task.done("built", Some(&entry)));
    }
    let missing = |task: &&Task| !place.record.graphs.contains_key(task.graph.name());
    done.extend(tasks.iter().filter(missing).map(|task| task.done("wanted", None)));
    tell(&Done { folder: Some(place.folder.clone()), limits, graphs: done }, cli)
}

fn tell(done: &Done, cli: &Cli) -> Result<(), CliError> {
    if cli.json {
        let line = serde_json::to_string(done).map_err(|error| CliError::Output(error.to_string()))?;
        return say(&format!("{line}\n"));
    }
    let mut text = String::new();
    for graph in &done.graphs {
        let _ = match (graph.state, graph.bytes, graph.seconds) {
            ("wanted", ..) => writeln!(text, "{}: to be built, {}", graph.graph, graph.shapes),
            (state, bytes, seconds) => {
                let (mib, seconds) = (bytes.unwrap_or_default().mib(), seconds.unwrap_or_default());
                writeln!(text, "{}: {state}, {mib:.1} MiB, {seconds:.1} s of building", graph.graph)
            }
        };
    }
    let Limits { positions, chunk, visual, tiles, .. } = done.limits;
    let (positions, chunk, visual) = (positions.0, chunk.0, visual.0);
    let _ = writeln!(text, "for {positions} positions in runs of {chunk}, {visual} visual tokens of the anchor view, {tiles} at once");
    if let Some(folder) = &done.folder {
        let _ = writeln!(text, "{}", folder.display());
    }
    say(&text)
}

/// What engines are built for, and the GPU in words: by the shim, or ahead of time as the command has it.
fn device(args: &BuildArgs, profile: &Profile) -> Result<(Identity, String), CliError> {
    if let (Some(tensorrt), Some(compute)) = (args.tensorrt, args.compute) {
        let [major, minor] = compute;
        return Ok((Identity { tensorrt, compute }, format!("SM {major}.{minor}, ahead of time")));
    }
    let (device, identity) = first_device(&profile.engines.shim)?;
    Ok((identity, device.describe()))
}

/// The builder's file.
fn program(args: &BuildArgs) -> Result<PathBuf, CliError> {
    if let Some(path) = args.trtexec.as_ref().or(args.rtx.as_ref()) {
        return Ok(path.clone());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(PathBuf::from(JETPACK)).chain(std::env::split_paths(&path).map(|folder| folder.join("trtexec")));
    let none = || CliError::Output(format!("trtexec: wanted it at {JETPACK} or on PATH, found none: --trtexec PATH says where it is"));
    { places }.find(|place| place.is_file()).ok_or_else(none)
}

/// The builder's version in its own words. One of another TensorRT than the device's is refused before it takes its minutes.
fn version(program: &Path, builder: &Builder<'_>, identity: &Identity) -> Result<String, CliError> {
    let told = program::run(program, &["--help".into()])?.said.version;
    if !builds_for(told, identity) {
        let found = told.map(|told| told.map(|part| part.to_string()).join(".")).unwrap_or_default();
        return Err(CliError::Output(format!("{}: wanted one of {identity}, found one of TensorRT {found}", program.display())));
    }
    let given = || match builder {
        Builder::Rtx { .. } => identity.tensorrt.map(|part| part.to_string()).join("."),
        Builder::Trtexec { .. } => "not told".into(),
    };
    Ok(told.map_or_else(given, |told| told.map(|part| part.to_string()).join(".")))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |error| CliError::Output(format!("{}: {error}", path.display()))
}

/// A folder of engines while this process builds in it.
struct Place {
    folder: PathBuf,
    identity: Identity,
    record: Record,
    /// Locked as long as it is open.
    _lock: File,
}

impl Place {
    /// Takes the folder, clears what an earlier run left, and writes `record` with the engines that are there and as `tasks` want them.
    fn open(folder: PathBuf, record: Record, tasks: &[Task]) -> Result<Self, CliError> {
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let path = folder.join(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::Output(format!("{}: wanted it alone, found another build-engines at work there", folder.display())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                std::fs::remove_dir_all(entry.path()).map_err(failed(&entry.path()))?;
            }
        }
        let mut place = Self { identity: record.identity(), folder, record, _lock: lock };
        let before = match Record::read(&place.folder) {
            Ok(before) => before,
            // What can't be read as a record says nothing about any plan.
            Err(BuiltError::Record { .. }) => None,
            Err(error) => return Err(EngineError::from(error).into()),
        };
        for (name, entry) in before.into_iter().filter(|before| before.identity() == place.identity).flat_map(|before| before.graphs) {
            if tasks.iter().any(|task| task.graph.name() == name && task.stands(&place.folder, &place.identity, &entry)) {
                place.record.graphs.insert(name, entry);
            }
        }
        let unfinished = place.unfinished()?;
        place.write(unfinished.path())?;
        Ok(place)
    }

    /// A folder that goes away with what is in it.
    fn unfinished(&self) -> Result<tempfile::TempDir, CliError> {
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.folder).map_err(failed(&self.folder))
    }

    /// Puts the record in its place.
    fn write(&self, unfinished: &Path) -> Result<(), CliError> {
        let text = toml::to_string(&self.record).map_err(|error| CliError::Output(error.to_string()))?;
        let path = unfinished.join(RECORD);
        File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(failed(&path))?;
        self.put(&path, RECORD)
    }

    /// Renames a file that is on the disk to `name`, on the disk as well.
    fn put(&self, from: &Path, name: &str) -> Result<(), CliError> {
        let to = self.folder.join(name);
        std::fs::rename(from, &to).map_err(failed(&to))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed(&self.folder))
    }

    /// Has `program` build the engine, seals it, and records it.
    fn build(&mut self, task: &Task, program: &Path, builder: &Builder<'_>) -> Result<Entry, CliError> {
        let unfinished = self.unfinished()?;
        let (raw, whole) = (unfinished.path().join("plan"), unfinished.path().join("sealed"));
        let begun = Instant::now();
        let given = task.given(unfinished.path())?;
        let ended = program::run(program, &builder.arguments(&given, &raw, &task.shapes))?;
        let last = || ended.said.last.iter().map(|line| format!("\n  {line}")).collect::<String>();
        let (graph, at) = (task.graph, program.display());
        if !ended.status.success() {
            return Err(CliError::Output(format!("{graph}: wanted {at} to end well, found {}; its last lines:{}", ended.status, last())));
        }
        let Some(plan) = map_file(&raw).ok().filter(|plan| !plan.is_empty()) else {
            return Err(CliError::Output(format!("{graph}: wanted a plan of {at}, found none; its last lines:{}", last())));
        };
        let seal = seal(&self.identity, &plan);
        let write = |mut file: File| file.write_all(&seal).and_then(|()| file.write_all(&plan)).and_then(|()| file.sync_all());
        File::create(&whole).and_then(write).map_err(failed(&whole))?;
        let entry = Entry {
            file: format!("{graph}.plan"),
            source: task.source.clone(),
            weights: task.weights.clone(),
            shapes: task.shapes.to_string(),
            plan: told_digest(&seal),
            bytes: Bytes::of::<u8>(plan.len()),
            seconds: (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        };
        self.put(&whole, &entry.file)?;
        self.record.graphs.insert(graph.name().into(), entry.clone());
        self.write(unfinished.path())?;
        Ok(entry)
    }
}
