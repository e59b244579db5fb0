//! `plan --all`: every built-in profile against the package and the specs, a table each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::plan::{is_spec, loaded, usual_frame};
use crate::cli::{Cli, CliError, say};
use crate::compress::regions::Method;
use crate::config::{Budget, ConfigError, Manifest, Model, Profile, Spec};
use crate::geometry::Layout;
use crate::pipeline::Engines;
use crate::planner::{self, CostModel, Costs, Loaded, ModelCost, Outlook, Predicted, USUAL_TEXT, Verdict};
use crate::units::{Millis, Px, Tokens};

/// Specs that are planned for, beside the package.
const SPECS: &str = "models/specs";
/// 1,024 and 4,096 tokens over four views, in the proportion of the preset `onboard`.
const BUDGETS: [&str; 2] = ["27,109,205,683", "109,436,819,2732"];
/// Tokens of an answer, or the profile's most where that is less.
const ANSWER: Tokens = Tokens(64);

/// A model on a profile.
struct Row {
    model: String,
    verdict: Verdict,
    frame: (Px, Px),
    /// One a budget: what was asked, and the times or why there are none.
    questions: Vec<(String, Result<Outlook, String>)>,
}

pub(super) fn run(budget: Option<&str>, cli: &Cli) -> Result<(), CliError> {
    if cli.calibration.is_some() {
        return Err(CliError::Usage("--calibration: wanted one model on one profile, found --all".into()));
    }
    let mut specs = specs()?;
    let mut package = None;
    if is_spec(&cli.model) {
        let own = Spec::load(&cli.model)?;
        specs.retain(|spec| spec.name != own.name);
        specs.push(own);
    } else {
        package = Some(Manifest::load(&cli.model)?);
    }
    specs.sort_by_key(|spec| spec.networks.decoder());
    let profiles = Profile::names().map(Profile::load).collect::<Result<Vec<_>, _>>()?;
    let loaded = package.as_ref().map(|package| measure(package, &profiles)).transpose()?.unwrap_or_default();
    let budgets = budget.map_or_else(|| BUDGETS.to_vec(), |budget| vec![budget]);
    let method = Method::Kmeans;
    let mut tables = Vec::new();
    for profile in &profiles {
        let mut rows = Vec::new();
        if let (Some(package), Some((loaded, cost))) = (&package, loaded.get(&profile.name)) {
            let verdict = planner::verdict(profile, package, &method, &|_| loaded.clone(), None);
            rows.push(row(profile, package, verdict, cost.clone(), &budgets)?);
        }
        for spec in &specs {
            let verdict = planner::spec_verdict(profile, spec, &method);
            rows.push(row(profile, spec, verdict, ModelCost::assumed(spec, profile), &budgets)?);
        }
        tables.push((profile, rows));
    }
    if cli.json {
        let profiles: Vec<Value> = tables.iter().map(|(profile, rows)| table(profile, rows)).collect();
        return say(&format!("{}\n", json!({"floors": true, "text_tokens": USUAL_TEXT, "profiles": profiles})));
    }
    let mut text = format!(
        "Floors in seconds. networks: the least that the device's roofline allows for encode, anchor, merge, prefill and generate. cpu: what two cores\n\
         of an x86-64 need for decode, views, regions and select. First question: the frame is a file; second: it is in its slot. The frame is\n\
         square and fills the finest view, a question is {USUAL_TEXT} with its template. Nothing here was run on the devices.\n"
    );
    tables.iter().for_each(|(profile, rows)| print(&mut text, profile, rows));
    say(&text)
}

/// The specs in [`SPECS`].
fn specs() -> Result<Vec<Spec>, ConfigError> {
    let read = |source| ConfigError::Read { path: SPECS.into(), source };
    let entries = std::fs::read_dir(Path::new(SPECS)).map_err(read)?;
    let paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path()).map_err(read)).collect::<Result<_, _>>()?;
    paths.iter().filter(|path| is_spec(path)).map(|path| Spec::load(path)).collect()
}

/// What a package holds and costs under each profile, by its name. Loaded with few threads first: what one load leaves behind, the next, which is larger,
/// uses again.
fn measure(package: &Manifest, profiles: &[Profile]) -> Result<BTreeMap<String, (Loaded, ModelCost)>, CliError> {
    let mut profiles: Vec<&Profile> = profiles.iter().collect();
    profiles.sort_by_key(|profile| profile.engines.threads);
    let measured = profiles.into_iter().map(|profile| {
        let engines = Engines::load(profile, package, &Method::Kmeans)?;
        let loaded = loaded(&engines);
        Ok((profile.name.clone(), (loaded, engines.model_cost(package))))
    });
    measured.collect()
}

fn row(profile: &Profile, model: &impl Model, verdict: Verdict, cost: ModelCost, budgets: &[&str]) -> Result<Row, CliError> {
    let costs = Costs { model: CostModel { model: cost, device: profile.device.clone() }, calibration: None };
    let (width, height) = usual_frame(profile, model);
    let layout = Layout::new(model.shape(), width, height).map_err(crate::pipeline::PipelineError::from)?;
    let new = ANSWER.min(profile.tokens.max_new);
    let question = |text: &&str| {
        let budget = Budget::parse(text, model.shape().views().len());
        let name = budget.as_ref().map_or_else(|_| (*text).to_owned(), |budget| budget.total().0.to_string());
        let outlook = budget
            .map_err(|error| error.to_string())
            .and_then(|budget| planner::outlook(profile, model, &costs, &layout, &budget, new).map_err(|error| error.to_string()));
        (name, outlook)
    };
    Ok(Row { model: model.name().to_owned(), verdict, frame: (width, height), questions: budgets.iter().map(question).collect() })
}

fn table(profile: &Profile, rows: &[Row]) -> Value {
    let times = |predicted: &Predicted| {
        let (networks, cpu) = predicted.p50.by_processor();
        json!({"networks_ms": networks, "cpu_ms": cpu, "floor_ms": predicted.p50.total()})
    };
    let question = |(kept, outlook): &(String, Result<Outlook, String>)| match outlook {
        Ok(outlook) => {
            json!({"kept": kept, "new_tokens": outlook.new, "first": times(&outlook.first), "second": times(&outlook.second)})
        }
        Err(refused) => json!({"kept": kept, "refused": refused}),
    };
    let row = |row: &Row| {
        let Row { model, verdict, frame, questions } = row;
        json!({
            "model": model,
            "needs_bytes": verdict.wanted,
            "fits": verdict.fits(),
            "short_mib": verdict.short_mib(),
            "would_fit": verdict.remedies,
            "frame_px": frame,
            "questions": questions.iter().map(question).collect::<Vec<_>>(),
        })
    };
    json!({
        "profile": profile.name,
        "limit_bytes": profile.memory_limit,
        "slots": profile.frame.slots,
        "max_visual_tokens": profile.tokens.max_visual,
        "tflops": profile.device.tflops,
        "bandwidth_gbps": profile.device.bandwidth_gbps,
        "source": profile.device.source,
        "models": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn print(text: &mut String, profile: &Profile, rows: &[Row]) {
    let (limit, slots, device) = (profile.memory_limit.mib(), profile.frame.slots, &profile.device);
    let (most, new) = (profile.tokens.max_visual, ANSWER.min(profile.tokens.max_new));
    let plural = if slots == 1 { "" } else { "s" };
    let _ = writeln!(text, "\n{}: {limit:.0} MiB, {slots} frame slot{plural}, budgets up to {most}, answers of {new}", profile.name);
    let _ = writeln!(text, "  {} TFLOPS, {} GB/s ({})", device.tflops, device.bandwidth_gbps, device.source);
    let _ = writeln!(text, "  {:<18}{:>10}{:>10}{:>7}{:>30}{:>30}", "", "", "", "", "first question", "second question");
    let heads = ["networks", "cpu", "floor"].map(|head| format!("{head:>10}")).concat();
    let _ = writeln!(text, "  {:<18}{:>10}{:>10}{:>7}{heads}{heads}", "model", "MiB", "short", "kept");
    for Row { model, verdict, questions, .. } in rows {
        let short = if verdict.fits() { "fits".to_owned() } else { verdict.short_mib().to_string() };
        for (kept, outlook) in questions {
            let _ = write!(text, "  {model:<18}{:>10}{short:>10}{kept:>7}", verdict.wanted.0.div_ceil(1 << 20));
            let _ = match outlook {
                Ok(outlook) => writeln!(text, "{}{}", seconds(&outlook.first), seconds(&outlook.second)),
                Err(refused) => writeln!(text, "  {refused}"),
            };
        }
        if !verdict.fits() {
            let _ = writeln!(text, "    {} MiB short; {}", verdict.short_mib(), verdict.would_fit());
        }
    }
}

/// Networks, CPU and their sum.
fn seconds(predicted: &Predicted) -> String {
    let (networks, cpu) = predicted.p50.by_processor();
    let cell = |time: Millis| {
        let seconds = time.0 / 1e3;
        let text = if seconds < 0.1 { format!("{seconds:.4}") } else { format!("{seconds:.2}") };
        format!("{text:>10}")
    };
    [networks, cpu, predicted.p50.total()].map(cell).concat()
}
