//! The graphs that tools/export writes for TensorRT, behind the made-up library that runs them on the CPU: encoder, projector and decoder say what the
//! CPU's own engines say of the same weights. What is shown is what the graphs compute and that they are bound right, not how TensorRT runs them. The library
//! writes keys and values in place as TensorRT does, an output being the memory of an input; its `TensorScatter` is its own.
//! The same of a whole answer, by way of a folder of built engines. The package: tools/vectors/tensorrt_graphs.py.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Random;
use half::f16;
use half::slice::HalfFloatSliceExt;
use uhr_edge::arena::KvCache;
use uhr_edge::config::{ImportanceRows, Manifest, Profile};
use uhr_edge::engine::decoder::{Embeddings, Llama, argmax};
use uhr_edge::engine::onnx::{EncoderShape, OnnxEncoder, OnnxProjector};
use uhr_edge::engine::tensorrt::fake::{self, FakeDevice, FakeSettings};
use uhr_edge::engine::tensorrt::{
    DecoderPlans, DecoderSizes, Device, Entry, Form, Graph, Limits, Record, RowsOf, Shapes, TensorrtDecoder, TensorrtEncoder,
    TensorrtProjector, built_in, numbered, sealed, told_digest,
};
use uhr_edge::engine::{Decoder, Projector, Segment, VisionEncoder};
use uhr_edge::kernels::Pool;
use uhr_edge::planner;
use uhr_edge::units::{Bytes, Px, Tiles, Tokens};

/// Of products of f16 in these networks against products of f32: largest difference of a logit, of importance relative to its largest, of features.
const LOGITS: f32 = 0.01;
const IMPORTANCE: f32 = 0.003;
const FEATURES: f32 = 0.03;
const INTERFACE: usize = 2;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tensorrt_graphs").join(name)
}

fn plan(name: &str) -> Vec<u8> {
    sealed(&fake::IDENTITY, &std::fs::read(file("tensorrt").join(name)).unwrap())
}

fn opened() -> (FakeDevice, Device) {
    let fake = FakeDevice::new(FakeSettings::default());
    let device = Device::open(&fake::table(), fake.ordinal()).unwrap();
    (fake, device)
}

/// The CPU's, and the device's in both forms.
fn decoders(device: &Device, chunk: u32) -> [Box<dyn Decoder>; 3] {
    let sizes = DecoderSizes { positions: Tokens(400), chunk: Tokens(chunk), visual: Tokens(64) };
    let here = Llama::load(&file("decoder.gguf"), sizes.positions, Arc::new(Pool::new(1))).unwrap();
    let DecoderSizes { positions, chunk, visual } = sizes;
    let limits = Limits { positions, usual: positions, chunk, visual, tiles: Tiles(1), clusters: 1, budget: visual };
    let [appended, in_place] = [Form::Appended, Form::InPlace].map(|form| {
        let graphs = Manifest::load(&file("")).unwrap().tensorrt.unwrap();
        let [prefill, step, anchor] = [Graph::Prefill, Graph::Step, Graph::Anchor].map(|graph| {
            let path = &graph.file(&graphs, form).unwrap().path;
            // As `model build-engines` gives it to a builder.
            let room = Shapes::read((graph, form), path, None, &limits).unwrap().room;
            assert_eq!(room, (form == Form::InPlace).then_some(sizes.positions));
            sealed(&fake::IDENTITY, &room.map_or_else(|| std::fs::read(path).unwrap(), |room| numbered(path, room).unwrap()))
        });
        let (table, shape) = Embeddings::load(&file("decoder.gguf")).unwrap();
        let plans = DecoderPlans { prefill: &prefill, step: &step, anchor: &anchor, form };
        let there = TensorrtDecoder::load(device, &plans, (Box::new(table), shape.clone()), INTERFACE, sizes).unwrap();
        assert_eq!(there.shape(), here.shape());
        // Engines of one form are none of the other.
        let other = DecoderPlans { form: if form == Form::InPlace { Form::Appended } else { Form::InPlace }, ..plans };
        let (table, _) = Embeddings::load(&file("decoder.gguf")).unwrap();
        let refused = TensorrtDecoder::load(device, &other, (Box::new(table), shape), INTERFACE, sizes).err().unwrap();
        assert!(refused.to_string().contains("k_cache_0"), "{refused}");
        there
    });
    [Box::new(here), Box::new(appended), Box::new(in_place)]
}

fn cache(decoder: &dyn Decoder) -> KvCache {
    KvCache::new(decoder.shape().layers, decoder.shape().kv_width(), Tokens(400))
}

fn furthest(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
}

/// Ids, rows and ids again, as many as told.
struct Prompt {
    before: Vec<u32>,
    rows: Vec<f16>,
    after: Vec<u32>,
}

impl Prompt {
    fn new(seed: u64, [before, rows, after]: [usize; 3], hidden: usize, vocab: usize) -> Self {
        let mut random = Random::new(seed);
        let mut ids = |count: usize| random.numbers(count).iter().map(|value| (value.abs() * 1e4) as u32 % vocab as u32).collect();
        let (before, after) = (ids(before), ids(after));
        let rows = random.numbers(rows * hidden).iter().map(|value| f16::from_f32(*value)).collect();
        Self { before, rows, after }
    }

    fn segments(&self) -> [Segment<'_>; 3] {
        [Segment::Ids(&self.before), Segment::Rows(&self.rows), Segment::Ids(&self.after)]
    }
}

#[test]
fn the_greedy_text_is_that_of_the_cpus_decoder() {
    let (_fake, device) = opened();
    // Prompts in one run and in several, and answers that go beyond a bucket of the cache.
    for (chunk, counts) in [(32, [3, 9, 6]), (32, [40, 50, 7]), (100, [150, 60, 40])] {
        let said = decoders(&device, chunk).map(|mut decoder| {
            let prompt = Prompt::new(5, counts, decoder.shape().hidden, decoder.shape().vocab);
            let mut kv = cache(&*decoder);
            let (mut ids, mut logits) = (Vec::new(), Vec::new());
            // Once before, so that the cache isn't new.
            decoder.prefill(&mut kv, &[Segment::Ids(&[7; 90])]).unwrap();
            decoder.prefill(&mut kv, &prompt.segments()).unwrap();
            for _ in 0..12 {
                let next = argmax(decoder.logits()).unwrap();
                ids.push(next);
                logits.extend_from_slice(decoder.logits());
                decoder.step(&mut kv, next).unwrap();
            }
            (ids, logits)
        });
        let [(wanted, here), device @ ..] = &said;
        for ((found, there), form) in device.iter().zip([Form::Appended, Form::InPlace]) {
            let off = furthest(there, here);
            println!("{counts:?} in runs of {chunk}, {form:?}: {wanted:?}, logits within {off}");
            assert_eq!(found, wanted);
            assert!(off < LOGITS, "{off}");
        }
    }
}

#[test]
fn importance_is_that_of_the_cpus_decoder() {
    let (_fake, device) = opened();
    // In one run; with looking rows in one of several and in three; with all of the image before the run that looks.
    for (chunk, counts) in [(64, [3, 20, 6]), (16, [5, 40, 4]), (16, [10, 40, 30]), (8, [2, 6, 20])] {
        for rows in [ImportanceRows::AllText, ImportanceRows::LastToken] {
            let [wanted, device @ ..] = decoders(&device, chunk).map(|mut decoder| {
                let prompt = Prompt::new(9, counts, decoder.shape().hidden, decoder.shape().vocab);
                let (mut kv, mut scores) = (cache(&*decoder), vec![0.0; counts[1]]);
                decoder.prefill(&mut kv, &prompt.segments()).unwrap();
                decoder.attend(&mut kv, &prompt.segments(), 1, (INTERFACE, rows), &mut scores).unwrap();
                scores
            });
            let largest = wanted.iter().copied().fold(0.0, f32::max);
            for (found, form) in device.iter().zip([Form::Appended, Form::InPlace]) {
                let off = furthest(found, &wanted) / largest;
                println!("{counts:?} in runs of {chunk}, {rows:?}, {form:?}: largest {largest}, within {off} of it");
                assert!(largest > 0.0 && off < IMPORTANCE, "{off}");
            }
        }
    }
}

#[test]
fn features_and_rows_are_those_of_the_cpus_networks() {
    let (_fake, device) = opened();
    let shape = EncoderShape { tile: Px(28), patch: Px(14), feature_dim: 32 };
    let pool = Pool::new(1);
    let mut random = Random::new(3);
    let tiles = random.numbers(3 * shape.values_in());
    let [wanted, found]: [Vec<f16>; 2] = {
        let engines: [Box<dyn VisionEncoder>; 2] = [
            Box::new(OnnxEncoder::load(&file("encoder.onnx"), shape, 1).unwrap()),
            Box::new(TensorrtEncoder::load(&device, &plan("encoder.onnx"), shape).unwrap()),
        ];
        engines.map(|mut encoder| {
            let mut out = vec![f16::ZERO; 3 * shape.values_out()];
            encoder.encode(&tiles, &mut out, &pool).unwrap();
            out
        })
    };
    let off = furthest(&found.to_f32_vec(), &wanted.to_f32_vec());
    println!("features within {off}");
    assert!(off < FEATURES, "{off}");
    for (name, of) in [("projector.onnx", RowsOf::Features), ("token_mlp.onnx", RowsOf::Tokens)] {
        let chunk = Tokens(8);
        let engines: [Box<dyn Projector>; 2] = [
            Box::new(OnnxProjector::load(&file(name), chunk, 32, 32).unwrap()),
            Box::new(TensorrtProjector::load(&device, (&plan(name), of), chunk, [32, 32]).unwrap()),
        ];
        let [wanted, found] = engines.map(|mut engine| {
            let mut out = vec![0.0; 11 * 32];
            let (first, last) = out.split_at_mut(8 * 32);
            engine.project(&wanted[..8 * 32], first).unwrap();
            engine.project(&wanted[4 * 32..7 * 32], last).unwrap();
            out
        });
        let off = furthest(&found, &wanted);
        println!("{name}: within {off}");
        assert!(off < FEATURES, "{name}: {off}");
    }
}

/// The host's profile with engines of the made-up device, which stand in `plans`.
fn profile(folder: &Path, [vision, language]: [&str; 2]) -> PathBuf {
    let host = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-config/host.toml")).unwrap();
    let plans = format!("shim = \"fake\"\nplans = {:?}\n", folder.join("plans"));
    let text = host.replacen("vision = \"onnx\"", &format!("{plans}vision = \"{vision}\""), 1);
    let text = text.replacen("language = \"gguf\"", &format!("language = \"{language}\""), 1);
    // What the package's context has room for.
    let text =
        text.replacen("max-visual-tokens = 11100", "max-visual-tokens = 40", 1).replacen("budget = \"onboard\"", "budget = \"4,16\"", 1);
    let file = folder.join(format!("{vision}-{language}.toml"));
    std::fs::write(&file, text).unwrap();
    file
}

/// The package's graphs as engines for the made-up device, recorded as `model build-engines` records them.
fn build(profile: &Path, folder: &Path) -> PathBuf {
    let manifest = Manifest::load(&file("")).unwrap();
    let profile = Profile::load(common::path(profile)).unwrap();
    let mut record = Record::new(&manifest, &fake::IDENTITY, planner::engine_limits(&profile, &manifest).unwrap());
    let folder = built_in(&folder.join("plans"), &manifest.name, &fake::IDENTITY);
    std::fs::create_dir_all(&folder).unwrap();
    for graph in Graph::ALL {
        let Some(source) = graph.file(manifest.tensorrt.as_ref().unwrap(), Form::Appended) else { continue };
        let onnx = std::fs::read(&source.path).unwrap();
        let plan = sealed(&fake::IDENTITY, &onnx);
        let file = format!("{graph}.plan");
        std::fs::write(folder.join(&file), &plan).unwrap();
        let entry = Entry {
            file,
            source: source.digest.to_string(),
            weights: None,
            shapes: "any".into(),
            plan: told_digest(&plan),
            bytes: Bytes(onnx.len() as u64),
            seconds: 0.0,
        };
        record.graphs.insert(graph.name().into(), entry);
    }
    std::fs::write(folder.join("engines.toml"), toml::to_string(&record).unwrap()).unwrap();
    folder
}

#[test]
fn a_whole_answer_is_that_of_the_cpus_engines() {
    let folder = tempfile::tempdir().unwrap();
    let frame = folder.path().join("frame.png");
    let pixels: Vec<u8> = (0..90 * 70 * 3_u32).map(|at| ((at * 7 / 3) ^ (at / 270 * 13)).to_le_bytes()[0]).collect();
    std::fs::write(&frame, common::png(90, 70, png::ColorType::Rgb, &pixels)).unwrap();
    let there = profile(folder.path(), ["tensorrt", "tensorrt"]);
    let plans = build(&there, folder.path());
    let package = file("");
    let ask = |profile: &Path| {
        let args = ["--profile", common::path(profile), "--model", common::path(&package), "--json", "ask", common::path(&frame)];
        common::documents(&[&args[..], &["--budget", "4,16", "-q", "how many ships are there?", "-q", "w7 w9 w11 ?"]].concat())
    };
    let (wanted, found) = (ask(&profile(folder.path(), ["onnx", "gguf"])), ask(&there));
    assert_eq!((wanted.len(), found.len()), (2, 2));
    // Eighteen words, and of the other question none: its first token ends the answer.
    assert!(found[0]["text"].as_str().is_some_and(|text| text.split(' ').count() > 8));
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!((&wanted["text"], &wanted["finish"]), (&found["text"], &found["finish"]));
        assert_eq!(wanted["receipt"]["budget"], found["receipt"]["budget"]);
        let engines = &found["receipt"]["engines"];
        assert_eq!((&engines["encoder"], &engines["decoder"]), (&"tensorrt fake".into(), &"tensorrt fake".into()), "{engines}");
        let memory = |key: &str| found["receipt"]["memory"][key].as_f64().unwrap();
        assert!(memory("peak_bytes") <= 1.1 * memory("planned_bytes"));
    }
    // Engines that are there and damaged are an error, left to what is there too; one that is not there leaves it to the CPU, and why is said.
    let engine = plans.join("step.plan");
    let mut plan = std::fs::read(&engine).unwrap();
    *plan.last_mut().unwrap() ^= 1;
    std::fs::write(&engine, plan).unwrap();
    let args = |profile: &Path| {
        let package = package.clone();
        ["--profile", common::path(profile), "--model", common::path(&package), "ask", common::path(&frame), "how many?"].map(str::to_owned)
    };
    for profile in [&there, &profile(folder.path(), ["auto", "auto"])] {
        let refused = args(profile);
        let (code, said) = common::refusal(&refused.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(code == 5 && said.contains("step.plan") && said.contains("wanted SHA-256"), "{code}: {said}");
    }
    std::fs::remove_file(&engine).unwrap();
    let auto = args(&profile(folder.path(), ["auto", "auto"]));
    let output = common::run(&auto.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("engines: CPU; TensorRT missing: ") && said.contains("step.plan"), "{said}");
}
