//! Engines on the made-up TensorRT library: they answer as the scripted ones do, through device memory and work that completes later, and every
//! point where memory can run out or the device can be lost is an error that leaves nothing behind.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::path;
use half::f16;
use serde_json::Value;
use uhr_edge::arena::KvCache;
use uhr_edge::cli::CliError;
use uhr_edge::compress::regions::Method;
use uhr_edge::compress::{Mode, Selector};
use uhr_edge::config::{Budget, Manifest, Profile};
use uhr_edge::engine::onnx::EncoderShape;
use uhr_edge::engine::tensorrt::fake::{self, FakeDevice, FakeSettings, Live, POISON};
use uhr_edge::engine::tensorrt::{Bound, DecoderSizes, Device, Dtype, Rows, ShimError, TensorInfo, TensorrtEncoder, sealed};
use uhr_edge::engine::{Decoder, EngineError, Segment, VisionEncoder};
use uhr_edge::imaging::{FrameSource, Limits};
use uhr_edge::pipeline::{Engines, Frame, Pipeline, PipelineError, Request};
use uhr_edge::planner;
use uhr_edge::units::{Bytes, Px, Tokens};

const QUESTION: &str = "is there a tent?";
/// Tokens of a scripted answer, as `Engines::load` sets it.
const ANSWER: u32 = 3;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The profile `sim` with other engines.
fn profile(folder: &Path, [vision, language]: [&str; 2], changes: &[(&str, &str)]) -> PathBuf {
    let mut text = std::fs::read_to_string(root().join("firmware-config/sim.toml")).unwrap();
    let shim = if [vision, language].contains(&"tensorrt") { "shim = \"fake\"\n" } else { "" };
    let engines = [
        ("vision = \"scripted\"", format!("{shim}vision = \"{vision}\"")),
        ("language = \"scripted\"", format!("language = \"{language}\"")),
    ];
    let changes = changes.iter().map(|(from, to)| (*from, (*to).to_owned()));
    for (from, to) in changes.chain(engines) {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, &to, 1);
    }
    let file = folder.join(format!("{vision}-{language}.toml"));
    std::fs::write(&file, text).unwrap();
    file
}

/// A frame of two views, with tiles of padding.
fn frame(folder: &Path) -> PathBuf {
    let file = folder.join("frame.png");
    let pixels: Vec<u8> = (0..800 * 600 * 3_u32).map(|at| ((at * 7 / 3) ^ (at / 2_400 * 13)).to_le_bytes()[0]).collect();
    std::fs::write(&file, common::png(800, 600, png::ColorType::Rgb, &pixels)).unwrap();
    file
}

#[test]
fn answers_are_those_of_the_scripted_engines() {
    let folder = tempfile::tempdir().unwrap();
    let small = frame(folder.path());
    let ask = |engines: [&str; 2], frame: &str| -> Vec<Value> {
        let profile = profile(folder.path(), engines, &[]);
        let questions = ["-q", QUESTION, "-q", "how many yellow planes are there?"];
        common::documents(&[&["--profile", path(&profile), "--json", "ask", frame][..], &questions].concat())
    };
    let cases = [
        (["scripted", "scripted"], ["tensorrt", "tensorrt"], "samples/drawn.jpg"),
        (["scripted", "scripted"], ["scripted", "tensorrt"], path(&small)),
        (["scripted", "scripted"], ["tensorrt", "scripted"], path(&small)),
        (["scripted", "gguf"], ["tensorrt", "gguf"], path(&small)),
        (["onnx", "scripted"], ["onnx", "tensorrt"], path(&small)),
    ];
    for (scripted, device, frame) in cases {
        let (wanted, found) = (ask(scripted, frame), ask(device, frame));
        assert_eq!(found.len(), 2);
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_eq!((&wanted["text"], &wanted["finish"]), (&found["text"], &found["finish"]), "{device:?}");
            for key in ["budget", "evidence", "degraded", "seed"] {
                assert_eq!(wanted["receipt"][key], found["receipt"][key], "{device:?}: {key}");
            }
            let (engines, memory) = (&found["receipt"]["engines"], &found["receipt"]["memory"]);
            for (name, kind) in [("encoder", device[0]), ("decoder", device[1])] {
                assert_eq!(engines[name] == "tensorrt fake", kind == "tensorrt", "{engines}");
            }
            let number = |key: &str| memory[key].as_f64().unwrap();
            assert!(number("peak_bytes") <= 1.1 * number("planned_bytes"), "{memory}");
        }
        // The model that can't be foretold may say the same twice; a script of all it was given doesn't.
        assert!(device[1] != "tensorrt" || found[0]["text"] != found[1]["text"]);
    }
}

#[test]
fn engines_left_to_what_is_there_say_which_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let frame = frame(folder.path());
    let chosen = |[vision, language]: [&str; 2], shim: &str| {
        let profile = profile(folder.path(), [vision, language], &[("threads = 2", &format!("threads = 2\nshim = \"{shim}\""))]);
        let args = ["--profile", path(&profile), "--json", "ask", path(&frame), QUESTION];
        let output = common::run(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let engines = serde_json::from_slice::<Value>(&output.stdout).unwrap()["receipt"]["engines"].clone();
        (engines, String::from_utf8(output.stderr).unwrap())
    };
    let (there, _) = chosen(["auto", "auto"], "fake");
    assert_eq!(
        (&there["chosen"], &there["encoder"], &there["decoder"]),
        (&"TensorRT".into(), &"tensorrt fake".into(), &"tensorrt fake".into())
    );
    let missing = folder.path().join("libuhr_shim.so");
    let (cpu, said) = chosen(["auto", "auto"], path(&missing));
    let words = cpu["chosen"].as_str().unwrap();
    assert!(words.starts_with("CPU; TensorRT missing: ") && words.contains(path(&missing)), "{words}");
    assert!(said.contains(&format!("engines: {words}")), "{said}");
    assert!(cpu["encoder"].as_str().unwrap().contains("tract") && cpu["decoder"].as_str().unwrap().contains("gguf"), "{cpu}");
    // What isn't left open stays.
    let (mixed, _) = chosen(["scripted", "auto"], path(&missing));
    assert_eq!(mixed["encoder"], "scripted");
    // What must be on a device isn't moved.
    let must = profile(folder.path(), ["tensorrt", "auto"], &[("threads = 2", &format!("threads = 2\nshim = {missing:?}"))]);
    let text = std::fs::read_to_string(&must).unwrap().replacen("shim = \"fake\"\n", "", 1);
    std::fs::write(&must, text).unwrap();
    let (code, said) = common::refusal(&["--profile", path(&must), "ask", path(&frame), QUESTION]);
    assert!(code == 1 && said.contains("libuhr_shim.so: wanted a library that loads"), "{code}: {said}");
}

#[test]
fn a_device_too_small_is_refused_at_load_with_figures() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [("max-visual-tokens = 11100", "max-visual-tokens = 1048576"), ("limit-mib = 2048", "limit-mib = 4096")];
    let profile = profile(folder.path(), ["tensorrt", "tensorrt"], &changes);
    let (code, message) = common::refusal(&["--profile", path(&profile), "ask", "samples/drawn.jpg", QUESTION]);
    // 1,048,576 + 256 + 32 positions of two layers' keys and values, 32 f16 each.
    let wanted = "tensorrt decoder, load: device memory, keys and values: wanted 268509184 bytes, free ";
    assert!(code == 1 && message.contains(wanted) && message.contains(" of 67108864 bytes"), "{code} {message}");
}

/// A pipeline's parts, all of its engines on one made-up device.
struct Bench {
    _folder: tempfile::TempDir,
    frame: PathBuf,
    profile: Profile,
    manifest: Manifest,
    budget: Budget,
    fake: FakeDevice,
}

/// What an answer is made of.
type Said = (Vec<u32>, u32);

impl Bench {
    fn new() -> Self {
        Self::of(false)
    }

    /// On a device that `shares` the host's memory, or doesn't.
    fn of(shares: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let changes = [("slots = 4", "slots = 1"), ("clusters = 600", "clusters = 20"), ("max-iterations = 10", "max-iterations = 2")];
        let profile = Profile::load(path(&profile(folder.path(), ["scripted", "scripted"], &changes))).unwrap();
        let manifest = Manifest::load(&root().join("models/uhr-nano")).unwrap();
        let budget = planner::budget(Some("300"), &profile, &manifest).unwrap();
        let fake = FakeDevice::new(FakeSettings { latency: Duration::ZERO, shares, ..FakeSettings::default() });
        Self { frame: frame(folder.path()), _folder: folder, profile, manifest, budget, fake }
    }

    fn scripted(&self) -> Engines {
        Engines::load(&self.profile, &self.manifest, &Method::Kmeans).unwrap()
    }

    /// The scripted engines moved onto the device.
    fn engines(&self) -> Result<Engines, PipelineError> {
        let mut engines = self.scripted();
        let on = |source| EngineError::Device { engine: "tensorrt", source };
        let device = Device::open(&fake::table(), self.fake.ordinal()).map_err(on)?;
        let vision = &self.manifest.vision;
        let (chunk, dim, shape) = (self.profile.engines.projection_chunk, vision.feature_dim, engines.decoder.shape().clone());
        let tiles = EncoderShape { tile: vision.shape.tile(), patch: vision.shape.patch(), feature_dim: dim };
        engines.encoder = Box::new(fake::encoder(&device, tiles)?);
        engines.projector = Box::new(fake::projector(&device, chunk, dim, shape.hidden)?);
        let sizes = DecoderSizes { positions: planner::positions(&self.profile, &self.manifest), chunk, visual: vision.shape.tokens(0) };
        engines.decoder = Box::new(fake::decoder(&device, shape, (engines.stop[0], ANSWER), sizes)?);
        Ok(engines)
    }

    fn pipeline(&self, engines: Engines) -> Pipeline {
        Pipeline::new(self.profile.clone(), self.manifest.clone(), engines, &Method::Kmeans, Bytes(0)).unwrap()
    }

    fn request(&self) -> Request {
        Request {
            budget: self.budget.clone(),
            selector: Selector::UhrBat,
            mode: Mode::Paper,
            encode_tiles: None,
            max_new: Tokens(8),
            deadline: None,
        }
    }

    fn ingest(&self, pipeline: &mut Pipeline) -> Result<Frame, PipelineError> {
        let sources = [FrameSource::open(&self.frame, &Limits::of(&self.profile)).unwrap()];
        let prompt = pipeline.prompt(QUESTION)?;
        let mut plan = pipeline.plan_first(&sources, &prompt, &self.request())?;
        let [source] = sources;
        pipeline.ingest(0, source, &mut plan, &mut |_, _| ()).map(|(frame, _)| frame)
    }

    fn answer(&self, pipeline: &mut Pipeline, frame: &Frame) -> Result<Said, PipelineError> {
        let prompt = pipeline.prompt(QUESTION)?;
        let mut plan = pipeline.plan_again(&[frame], &prompt, &self.request())?;
        let (answer, _) = pipeline.answer(&[frame], &prompt, &mut plan, None, &mut |_| ())?;
        let mut ids = vec![0; 8];
        let (count, _) = pipeline.answer_tokens(&[frame], &prompt, &mut plan, &mut ids)?;
        ids.truncate(count);
        Ok((ids, answer.receipt.budget.per_view.iter().map(|view| view.tokens).sum()))
    }
}

fn nothing_is_open(fake: &FakeDevice) {
    assert_eq!(fake.live(), Live::default());
}

#[test]
fn memory_that_runs_out_at_any_allocation_is_an_error_at_load_and_none_afterwards() {
    // Three engines' memory: an encoder, a projector and three of a decoder; keys and values, and what both sides use, once or twice.
    runs_out(&Bench::of(false), (1 + 8) + (1 + 4) + (3 + 2 + 12));
    runs_out(&Bench::of(true), (1 + 4) + (1 + 2) + (3 + 2 + 6));
}

fn runs_out(bench: &Bench, wanted: u32) {
    let mut allocations = 0;
    let engines = loop {
        bench.fake.fail_alloc_after(allocations);
        match bench.engines() {
            Ok(engines) => break engines,
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.contains("device memory, ") && message.contains(": wanted ") && message.contains(", free 0 bytes"),
                    "{message}"
                );
                assert_eq!(CliError::from(error).exit_code(), 1);
            }
        }
        nothing_is_open(&bench.fake);
        allocations += 1;
    };
    assert_eq!(allocations, wanted);
    let live = bench.fake.live();
    let told = engines.encoder.bytes() + engines.projector.bytes() + engines.decoder.weights() + engines.decoder.workspace();
    assert!(told <= live.memory + live.host && told + Bytes(1_024) >= live.memory + live.host, "{told} of {live:?}");
    let mut pipeline = bench.pipeline(engines);
    let frame = bench.ingest(&mut pipeline).unwrap();
    let said = bench.answer(&mut pipeline, &frame).unwrap();
    assert_eq!(bench.fake.live(), live);
    bench.fake.restore();
    let mut scripted = bench.pipeline(bench.scripted());
    let frame = bench.ingest(&mut scripted).unwrap();
    assert_eq!(said, bench.answer(&mut scripted, &frame).unwrap());
    drop(pipeline);
    nothing_is_open(&bench.fake);
}

/// Runs of an ingest, and of the answers after it.
fn runs(bench: &Bench) -> (u32, u32, Said) {
    let mut pipeline = bench.pipeline(bench.engines().unwrap());
    let begun = bench.fake.runs();
    let frame = bench.ingest(&mut pipeline).unwrap();
    let ingested = bench.fake.runs();
    let said = bench.answer(&mut pipeline, &frame).unwrap();
    let count = |runs: u64| u32::try_from(runs).unwrap();
    (count(ingested - begun), count(bench.fake.runs() - ingested), said)
}

#[test]
fn a_device_lost_at_any_run_is_an_error_that_leaves_nothing_behind() {
    [false, true].into_iter().for_each(|shares| lost_at_any_run(&Bench::of(shares)));
}

fn lost_at_any_run(bench: &Bench) {
    let (ingest, answer, said) = runs(bench);
    let mut places = BTreeSet::new();
    for lost in 0..ingest + answer {
        let mut pipeline = bench.pipeline(bench.engines().unwrap());
        bench.fake.lose_device_after(lost);
        let frame = bench.ingest(&mut pipeline);
        assert_eq!(frame.is_err(), lost < ingest, "{lost}");
        let error = match &frame {
            Err(error) => error.to_string(),
            // More often than there are spans: each was given back.
            Ok(frame) => {
                let errors: Vec<_> = (0..10).map(|_| bench.answer(&mut pipeline, frame).unwrap_err()).collect();
                let lost = |error: &PipelineError| error.is_lost() && error.to_string().contains(": device lost while ");
                assert!(errors.iter().all(lost), "{errors:?}");
                errors[0].to_string()
            }
        };
        let (place, why) = error.split_once(": device lost while ").unwrap();
        assert!(why.contains("fell off the bus"), "{error}");
        places.insert(place.to_owned());
        // Whoever goes on with it, or opens it anew, is told again.
        let again = bench.ingest(&mut pipeline).unwrap_err();
        assert!(again.is_lost() && again.to_string().contains("device lost"), "{again}");
        assert_eq!(CliError::from(again).exit_code(), 1);
        let anew = bench.engines().err().unwrap().to_string();
        assert!(anew.contains("tensorrt: device lost while opening a device"), "{anew}");
        drop(pipeline);
        nothing_is_open(&bench.fake);
        bench.fake.restore();
    }
    let wanted =
        ["tensorrt encoder", "tensorrt projector", "tensorrt decoder, attend", "tensorrt decoder, prefill", "tensorrt decoder, step"];
    assert_eq!(places, wanted.map(String::from).into());
    // A device that is back answers as before.
    assert_eq!(runs(bench), (ingest, answer, said));
}

#[test]
fn a_run_refused_fails_its_own_question_only() {
    let bench = Bench::new();
    let (ingest, answer, said) = runs(&bench);
    let mut pipeline = bench.pipeline(bench.engines().unwrap());
    for refused in 0..ingest {
        bench.fake.refuse_after(refused);
        let error = bench.ingest(&mut pipeline).unwrap_err();
        assert!(error.to_string().contains("enqueuing a run: status -5: refused"), "{error}");
    }
    let frame = bench.ingest(&mut pipeline).unwrap();
    for refused in 0..answer {
        bench.fake.refuse_after(refused);
        let error = bench.answer(&mut pipeline, &frame).unwrap_err();
        assert!(error.to_string().contains("enqueuing a run: status -5: refused"), "{error}");
        assert_eq!(bench.answer(&mut pipeline, &frame).unwrap(), said);
    }
}

/// A made-up device and itself opened.
fn opened() -> (FakeDevice, Device) {
    let fake = FakeDevice::new(FakeSettings::default());
    let device = Device::open(&fake::table(), fake.ordinal()).unwrap();
    (fake, device)
}

/// An engine of the made-up library, and its tensors.
const PROJECT: &[u8] = br#"{"project": {"feature-dim": 2, "hidden": 3}}"#;

#[test]
fn what_is_read_before_its_work_is_done_is_poison() {
    let (fake, device) = opened();
    let stream = device.stream().unwrap();
    let tensors = [(c"features", TensorInfo::new(Dtype::F16, &[0, 2])), (c"rows", TensorInfo::new(Dtype::F32, &[0, 3]))];
    let engine = device.engine(&sealed(&fake::IDENTITY, PROJECT), &tensors).unwrap();
    let mut from = device.host::<f16>("features in", 4).unwrap();
    let mut to = device.host::<f32>("rows out", 6).unwrap();
    let (features, rows) = (device.buffer::<f16>("features", 4).unwrap(), device.buffer::<f32>("rows", 6).unwrap());
    let poison = |bytes: Vec<u8>| bytes.iter().all(|byte| *byte == POISON);
    assert!(to.values().unwrap().iter().all(|value| value.is_nan()) && poison(fake.peek(&rows)));
    for (round, sign) in [1.0, -1.0].into_iter().enumerate() {
        from.values_mut().unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0].map(|value| f16::from_f32(value * sign)));
        let hold = fake.hold();
        stream.copy_in(&mut from, &features, 4).unwrap();
        let bound = [Bound::new(c"features", &features, &[2, 2]), Bound::new(c"rows", &rows, &[2, 3])];
        stream.enqueue(&engine, &bound).unwrap();
        stream.copy_out(&rows, &mut to, 6).unwrap();
        // Enqueued, and not begun: memory on the host is shut, and holds nothing that could be taken for a result.
        assert_eq!((from.values_mut().err(), to.values().err()), (Some(ShimError::Busy), Some(ShimError::Busy)));
        assert_eq!(stream.copy_in(&mut from, &features, 4), Err(ShimError::Busy));
        assert!(poison(fake.peek_host(&to)));
        assert_eq!((poison(fake.peek(&features)), poison(fake.peek(&rows))), (round == 0, round == 0));
        drop(hold);
        to.wait().unwrap();
        assert_eq!(to.values().unwrap(), [1.0, 2.0, 1.0, 3.0, 4.0, 3.0].map(|value| value * sign));
    }
    // Freeing waits for what is enqueued, held back or not.
    let _hold = fake.hold();
    stream.copy_out(&rows, &mut to, 5).unwrap();
    drop((from, to, features, rows, stream, engine, device));
    nothing_is_open(&fake);
}

#[test]
fn a_part_of_a_word_is_copied_alone() {
    let (_fake, device) = opened();
    let stream = device.stream().unwrap();
    let mut host = device.host::<u32>("ids", 4).unwrap();
    let ids = device.buffer::<u32>("ids", 4).unwrap();
    for (values, len) in [([1, 2, 3, 4], 4), ([5, 6, 7, 8], 3)] {
        host.wait().unwrap();
        host.values_mut().unwrap().copy_from_slice(&values);
        stream.copy_in(&mut host, &ids, len).unwrap();
    }
    host.wait().unwrap();
    stream.copy_out(&ids, &mut host, 4).unwrap();
    host.wait().unwrap();
    assert_eq!(host.values().unwrap(), [5, 6, 7, 4]);
}

#[test]
fn what_does_not_fit_is_refused_with_wanted_and_found() {
    let (_fake, device) = opened();
    let (_other, elsewhere) = opened();
    let stream = device.stream().unwrap();
    let engine = device.engine(&sealed(&fake::IDENTITY, PROJECT), &[]).unwrap();
    let mut host = device.host::<f16>("features in", 4).unwrap();
    let (small, foreign) = (device.buffer::<f16>("features", 2).unwrap(), elsewhere.buffer::<f16>("features", 4).unwrap());
    let rows = device.buffer::<f32>("rows", 6).unwrap();
    let run = |dims: [&[usize]; 2]| {
        let bound = [Bound::new(c"features", &small, dims[0]), Bound::new(c"rows", &rows, dims[1])];
        stream.enqueue(&engine, &bound).unwrap_err().to_string()
    };
    let cases = [
        (stream.copy_in(&mut host, &small, 4).unwrap_err().to_string(), "features: wanted 4 values, found room for 2"),
        (stream.copy_in(&mut host, &foreign, 4).unwrap_err().to_string(), "features: wanted one of the stream's device, found another's"),
        (run([&[2, 2], &[2, 3]]), "features: wanted 4 values, found room for 2"),
        (run([&[1, 2], &[1, 4]]), "found features f16 [1, 2], rows f32 [1, 4]"),
        (run([&[1, 2], &[2, 3]]), "found features f16 [1, 2], rows f32 [2, 3]"),
        (device.engine(&sealed(&fake::IDENTITY, b"{}"), &[]).err().unwrap().to_string(), "status -5: wanted a plan of the fake shim"),
        (
            device.engine(&sealed(&fake::IDENTITY, PROJECT), &[(c"rows", TensorInfo::new(Dtype::F16, &[0, 3]))]).err().unwrap().to_string(),
            "tensor rows: wanted f16 [any, 3], found f32 [any, 3]",
        ),
        (
            device
                .engine(&sealed(&fake::IDENTITY, PROJECT), &[(c"tiles", TensorInfo::new(Dtype::F16, &[0, 3]))])
                .err()
                .unwrap()
                .to_string(),
            "tensor tiles: wanted f16 [any, 3], found none of that name",
        ),
        (Device::open(&fake::table(), 1 << 20).err().unwrap().to_string(), "device 1048576: wanted one below "),
        (
            TensorrtEncoder::load(&device, &sealed(&fake::IDENTITY, PROJECT), EncoderShape { tile: Px(28), patch: Px(14), feature_dim: 2 })
                .err()
                .unwrap()
                .to_string(),
            "tensorrt encoder: tensor tiles: wanted f32 [any, 3, 28, 28], found none of that name",
        ),
    ];
    cases.iter().for_each(|(found, wanted)| assert!(found.contains(wanted), "{found}"));
}

#[test]
fn what_is_reserved_is_all_there_is() {
    let (_fake, device) = opened();
    assert!(device.reserve(Bytes(1 << 40)).is_err());
    device.reserve(Bytes(1_024)).unwrap();
    assert_eq!(device.memory().unwrap(), (Bytes(1_024), Bytes(1_024)));
    let full = device.buffer::<f32>("rows", 300).err().unwrap().to_string();
    assert_eq!(full, "device memory, rows: wanted 1200 bytes, free 1024 bytes of 1024 bytes");
    let _rows = device.buffer::<f32>("rows", 200).unwrap();
    assert!(device.reserve(Bytes(1_024)).unwrap_err().to_string().contains("once, some, and first"));
}

const SIZES: DecoderSizes = DecoderSizes { positions: Tokens(10), chunk: Tokens(4), visual: Tokens(5) };

#[test]
fn a_decoder_on_the_device_keeps_to_its_positions() {
    let bench = Bench::new();
    let (fake, device) = opened();
    let shape = bench.scripted().decoder.shape().clone();
    let mut decoder = fake::decoder(&device, shape.clone(), (1, ANSWER), SIZES).unwrap();
    let mut kv = KvCache::new(shape.layers, shape.kv_width(), Tokens(20));
    let rows = vec![f16::ONE; 5 * shape.hidden];
    let segments = [Segment::Ids(&[2, 3]), Segment::Rows(&rows), Segment::Ids(&[4])];
    decoder.prefill(&mut kv, &segments).unwrap();
    assert_eq!((kv.len(), decoder.logits().len()), (Tokens(8), shape.vocab));
    decoder.step(&mut kv, 7).unwrap();
    decoder.step(&mut kv, 7).unwrap();
    let full = decoder.step(&mut kv, 7).unwrap_err().to_string();
    assert_eq!(full, "KV cache on the device full: wanted 1 tokens, free 0 tokens");
    let longer = [Segment::Ids(&[2, 3, 4, 5, 6, 7]), Segment::Rows(&rows)];
    let full = decoder.prefill(&mut kv, &longer).unwrap_err().to_string();
    assert_eq!(full, "KV cache on the device full: wanted 11 tokens, free 10 tokens");
    // Not those of the last call that went well.
    assert!(decoder.logits().is_empty());
    let vocab = u32::try_from(shape.vocab).unwrap();
    assert!(decoder.prefill(&mut kv, &[Segment::Ids(&[vocab])]).unwrap_err().to_string().contains("wanted one below"));
    assert!(decoder.prefill(&mut kv, &[]).is_err() && decoder.prefill(&mut kv, &[Segment::Rows(&rows[1..])]).is_err());
    decoder.prefill(&mut kv, &segments).unwrap();
    // A card that is pulled out is a lost device, and what was open on it closes without it.
    drop(fake);
    let lost = decoder.step(&mut kv, 7).unwrap_err().to_string();
    assert!(lost.contains("tensorrt decoder, step: device lost while") && lost.contains("unplugged"), "{lost}");
}

#[test]
fn tiles_on_their_way_two_at_a_time_come_back_in_order() {
    let (fake, device) = opened();
    let shape = EncoderShape { tile: Px(28), patch: Px(14), feature_dim: 5 };
    let mut encoder = fake::encoder(&device, shape).unwrap();
    let pool = uhr_edge::kernels::Pool::new(1);
    for count in [0, 1, 2, 5] {
        let tiles = common::Random::new(count).numbers(usize::try_from(count).unwrap() * shape.values_in());
        let mut out = vec![f16::ZERO; usize::try_from(count).unwrap() * shape.values_out()];
        let mut wanted = out.clone();
        encoder.encode(&tiles, &mut out, &pool).unwrap();
        uhr_edge::engine::scripted::ScriptedEncoder::new(shape).encode(&tiles, &mut wanted, &pool).unwrap();
        assert_eq!(out, wanted);
    }
    assert!(encoder.encode(&[0.0; 3], &mut [], &pool).is_err());
    drop((encoder, device));
    nothing_is_open(&fake);
}

#[test]
fn rows_are_copied_and_zeroed_where_they_are_and_nowhere_else() {
    let (fake, device) = opened();
    let stream = device.stream().unwrap();
    let mut host = device.host::<u32>("rows in", 12).unwrap();
    let (from, to) = (device.buffer::<u32>("rows", 12).unwrap(), device.buffer::<u32>("places", 20).unwrap());
    host.values_mut().unwrap().iter_mut().zip(1..).for_each(|(value, number)| *value = number);
    stream.copy_in(&mut host, &from, 12).unwrap();
    stream.zero_rows(&to, Rows { first: 0, pitch: 20 }, [1, 20]).unwrap();
    let hold = fake.hold();
    let (at, place) = (Rows { first: 1, pitch: 4 }, Rows { first: 2, pitch: 7 });
    stream.copy_rows((&from, at), (&to, place), [3, 2]).unwrap();
    stream.zero_rows(&to, Rows { first: 9, pitch: 7 }, [2, 1]).unwrap();
    // Enqueued, and not begun.
    assert!(fake.peek(&to).iter().all(|byte| *byte == 0 || *byte == POISON));
    drop(hold);
    let mut out = device.host::<u32>("places out", 20).unwrap();
    stream.copy_out(&to, &mut out, 20).unwrap();
    out.wait().unwrap();
    assert_eq!(out.values().unwrap(), [0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 11, 0, 0]);
    let refused = |at, place, size| stream.copy_rows((&from, at), (&to, place), size).unwrap_err().to_string();
    let cases = [
        (refused(at, place, [4, 2]), "rows: wanted 15 values, found room for 12"),
        (refused(at, Rows { first: 6, ..place }, [3, 2]), "places: wanted 22 values, found room for 20"),
        (refused(at, place, [2, 5]), "rows: wanted 5 values, found room for 4"),
        (refused(at, Rows { first: 0, pitch: usize::MAX }, [3, 2]), "places: wanted 18446744073709551615 values"),
        (stream.copy_rows((&from, at), (&from, at), [1, 1]).unwrap_err().to_string(), "copied onto themselves"),
        (stream.zero_rows(&to, place, [4, 1]).unwrap_err().to_string(), "places: wanted 24 values, found room for 20"),
    ];
    cases.iter().for_each(|(found, wanted)| assert!(found.contains(wanted), "{found}"));
}

#[test]
fn tensors_begin_at_multiples_of_what_tensorrt_wants() {
    let (_fake, device) = opened();
    let stream = device.stream().unwrap();
    let engine = device.engine(&sealed(&fake::IDENTITY, PROJECT), &[]).unwrap();
    let (features, rows) = (device.buffer::<f16>("features", 300).unwrap(), device.buffer::<f32>("rows", 70).unwrap());
    let run = |first, bound: Bound<'_>| stream.enqueue(&engine, &[Bound::new(c"features", &features, &[2, 2]).at(first), bound]);
    run(128, Bound::new(c"rows", &rows, &[2, 3]).at(64)).unwrap();
    let off = run(127, Bound::new(c"rows", &rows, &[2, 3])).unwrap_err().to_string();
    assert_eq!(off, "features: wanted it to begin at a multiple of 256 bytes, found 254");
    let past = run(0, Bound::new(c"rows", &rows, &[2, 3]).at(65)).unwrap_err().to_string();
    assert_eq!(past, "rows: wanted 71 values, found room for 70");
}
