//! The graphs that tools/export writes for TensorRT, behind the made-up library that runs them on the CPU: encoder, projector and decoder say what the
//! CPU's own engines say of the same weights, and k-means parts views as the CPU's does. What is shown is what the graphs compute and that they are bound right, not how TensorRT runs them.
//! The library writes keys and values in place as TensorRT does, an output being the memory of an input; its `TensorScatter` is its own.
//! The same of a whole answer, by way of a folder of built engines. The package: tools/vectors/tensorrt_graphs.py.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Random;
use half::f16;
use half::slice::HalfFloatSliceExt;
use uhr_edge::arena::KvCache;
use uhr_edge::compress::regions::kmeans::{Settings, Starts};
use uhr_edge::compress::regions::{Embedding, KMeans, Partition, Partitioned, Sizes, ViewFeatures};
use uhr_edge::compress::{CompressError, MASKED, regions};
use uhr_edge::config::{ImportanceRows, Manifest, Profile, Start, Stop};
use uhr_edge::engine::decoder::{Embeddings, Llama, argmax};
use uhr_edge::engine::onnx::{EncoderShape, OnnxEncoder, OnnxProjector};
use uhr_edge::engine::tensorrt::fake::{self, FakeDevice, FakeSettings, Live};
use uhr_edge::engine::tensorrt::{
    DecoderPlans, DecoderSizes, Device, Entry, Form, Graph, Limits, Record, RowsOf, Shapes, TensorrtDecoder, TensorrtEncoder,
    TensorrtKmeans, TensorrtProjector, built_in, numbered, sealed, told_digest,
};
use uhr_edge::engine::{Decoder, EngineError, Projector, Segment, VisionEncoder};
use uhr_edge::kernels::{Isa, Pool};
use uhr_edge::pipeline::PipelineError;
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
        let plans = DecoderPlans { prefill: (&prefill).into(), step: (&step).into(), anchor: (&anchor).into(), form };
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

/// Width of what is clustered.
const DIM: usize = 32;
/// Of two squared distances: who is nearer by less may have either label.
const NEAR: f64 = 1e-4;
const SIZES: Sizes = Sizes { tokens: 400, dim: DIM, clusters: 60 };

fn clustering(start: Start, stop: Stop, [lambda_feature, lambda_position]: [f32; 2], max_iterations: u32) -> Settings {
    let embedding = Embedding { lambda_feature, lambda_position };
    Settings { max_iterations, seed: 3, embedding, start, stop, cluster_dim: None, isa: Isa::detect() }
}

const PLAIN: (Start, Stop, [f32; 2]) = (Start::PlusPlus, Stop::Labels, [1.0, 0.05]);

fn plain() -> Settings {
    clustering(PLAIN.0, PLAIN.1, PLAIN.2, 40)
}

fn kmeans(device: &Device, settings: Settings, rows: u32) -> Result<TensorrtKmeans, EngineError> {
    let [kmeans, centres] = ["kmeans.onnx", "centres.onnx"].map(plan);
    TensorrtKmeans::load(device, [&kmeans, &centres], settings, SIZES, Tokens(rows))
}

/// A view whose tokens lie about some directions; what is masked has features that are no numbers.
struct Tiled {
    side: usize,
    rows: Vec<f16>,
    masked: Vec<usize>,
}

impl Tiled {
    fn new(seed: u64, side: usize) -> Self {
        let mut random = Random::new(seed);
        let directions: Vec<Vec<f32>> = (0..12).map(|_| random.numbers(DIM)).collect();
        let masked: Vec<usize> = (0..side * side).filter(|token| token % 7 == 3).collect();
        let mut rows = Vec::new();
        for token in 0..side * side {
            let direction = &directions[(token / 5 * 7 + token / side) % directions.len()];
            let own = random.numbers(DIM);
            let value = |at: usize| if masked.contains(&token) { f32::NAN } else { direction[at] + 0.7 * own[at] };
            rows.extend((0..DIM).map(|at| f16::from_f32(value(at))));
        }
        Self { side, rows, masked }
    }

    fn view<'a>(&'a self, starts: Option<&'a [u32]>) -> ViewFeatures<'a> {
        ViewFeatures { starts, ..ViewFeatures::raster(regions::Rows::F16(&self.rows), DIM, self.side) }
    }

    fn part(
        &self,
        partition: &mut dyn Partition,
        clusters: usize,
        starts: Option<&[u32]>,
    ) -> Result<(Vec<u32>, Partitioned), CompressError> {
        let mut labels = vec![0; self.side * self.side];
        self.masked.iter().for_each(|token| labels[*token] = MASKED);
        partition.partition(&self.view(starts), clusters, &Pool::new(2), &mut labels).map(|made| (labels, made))
    }

    /// Tokens of other labels in `found` than in `wanted`, each of them about as near to the means of both in `wanted`.
    fn differing(&self, embedding: Embedding, found: &[u32], wanted: &[u32]) -> usize {
        let view = self.view(None);
        let row = |token: usize| {
            let mut row = vec![0.0; DIM + 2];
            embedding.row(&view, u32::try_from(token).unwrap(), &mut row);
            row
        };
        let mean = |label: u32| {
            let members: Vec<_> = (0..wanted.len()).filter(|token| wanted[*token] == label).map(row).collect();
            let sum = |at: usize| members.iter().map(|row| f64::from(row[at])).sum::<f64>();
            (0..DIM + 2).map(|at| sum(at) / members.len() as f64).collect::<Vec<_>>()
        };
        let gap = |token: usize, label: u32| row(token).iter().zip(mean(label)).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>();
        let others: Vec<usize> = (0..wanted.len()).filter(|token| found[*token] != wanted[*token]).collect();
        for &token in &others {
            let gaps = [gap(token, found[token]), gap(token, wanted[token])];
            assert!((gaps[0] - gaps[1]).abs() <= NEAR, "token {token}: {} for {}, {gaps:?}", found[token], wanted[token]);
        }
        others.len()
    }
}

#[test]
fn regions_are_those_of_the_cpus_k_means() {
    let (fake, device) = opened();
    let released = (Start::Random, Stop::Centres, [1.0, 0.05]);
    // Side, rows of a run, clusters, rules, most iterations.
    let cases = [
        // Several runs and a rest, whose begins are where tensors may begin, and not; one run.
        (20, 64, 9, PLAIN, 40),
        (17, 37, 12, PLAIN, 40),
        (20, 400, 7, (Start::PlusPlus, Stop::Labels, [2.0, 0.5]), 40),
        (20, 100, 9, released, 40),
        (13, 33, 20, released, 40),
        // No time to come to an end; one cluster; as many as tokens, and more.
        (20, 64, 9, PLAIN, 3),
        (20, 64, 9, released, 2),
        (9, 16, 1, PLAIN, 40),
        (9, 16, 1, released, 40),
        (7, 16, 42, PLAIN, 40),
        (7, 16, 60, released, 40),
        (1, 64, 5, PLAIN, 40),
    ];
    for (number, (side, rows, clusters, (start, stop, lambdas), most)) in (0..).zip(cases) {
        let settings = clustering(start, stop, lambdas, most);
        let mut there = kmeans(&device, settings, rows).unwrap();
        let mut here = KMeans::new(settings, SIZES.tokens, DIM, SIZES.clusters);
        let live = fake.live();
        let given: Vec<u32> = (0..u32::try_from(side * side).unwrap()).filter(|token| token % 7 != 3).step_by(4).take(8).collect();
        // Another view first, so that memory isn't new; the starts that are drawn and those that are given.
        for (seed, starts) in [(number, None), (100 + number, None), (100 + number, Some(&given[..]))] {
            let view = Tiled::new(seed, side);
            let [(found, made), (wanted, told)] =
                [&mut there as &mut dyn Partition, &mut here].map(|partition| view.part(partition, clusters, starts).unwrap());
            let differing = view.differing(settings.embedding, &found, &wanted);
            println!(
                "{side} x {side}, runs of {rows}, {clusters} clusters: {} regions, {} iterations, {differing} differ",
                made.regions, made.iterations
            );
            assert_eq!((made.regions, made.iterations), (told.regions, told.iterations));
            assert!(differing * 100 <= side * side);
            assert!(view.masked.iter().all(|token| found[*token] == MASKED));
        }
        assert_eq!(fake.live(), live);
    }
}

#[test]
fn seeds_draw_as_on_the_cpu() {
    let (_fake, device) = opened();
    let (view, settings) = (Tiled::new(8, 20), clustering(Start::Random, Stop::Labels, [1.0, 0.05], 4));
    let mut there = kmeans(&device, settings, 128).unwrap();
    let mut here = KMeans::new(settings, SIZES.tokens, DIM, SIZES.clusters);
    let mut seen = Vec::new();
    for seed in [3, 4, 3] {
        there.reseed(seed);
        here.reseed(seed);
        let mut anew = KMeans::new(Settings { seed, ..settings }, SIZES.tokens, DIM, SIZES.clusters);
        let wanted = view.part(&mut anew, 10, None).unwrap().0;
        assert_eq!(view.part(&mut here, 10, None).unwrap().0, wanted);
        view.differing(settings.embedding, &view.part(&mut there, 10, None).unwrap().0, &wanted);
        seen.push(wanted);
    }
    assert!(seen[0] == seen[2] && seen[0] != seen[1]);
}

#[test]
fn equal_distances_go_to_the_lower_cluster_and_empty_ones_are_dropped() {
    let (_fake, device) = opened();
    let mut view = Tiled::new(4, 6);
    let (first, rest) = view.rows.split_at_mut(5 * DIM);
    rest[..DIM].copy_from_slice(&first[..DIM]);
    // Tokens 0 and 5 are alike. Of their clusters the second gets nothing, and the third is the second; then it has the nearer centre, where it was.
    for (most, wanted) in [(1, [2, 0, 0, 1]), (2, [3, 1, 1, 2])] {
        let settings = clustering(Start::PlusPlus, Stop::Labels, [1.0, 0.0], most);
        let mut here = KMeans::new(settings, SIZES.tokens, DIM, SIZES.clusters);
        let mut there = kmeans(&device, settings, 16).unwrap();
        let parted = [&mut here as &mut dyn Partition, &mut there].map(|partition| view.part(partition, 3, Some(&[0, 5, 8])).unwrap());
        for (labels, made) in &parted {
            assert_eq!([made.regions, labels[0] as usize, labels[5] as usize, labels[8] as usize], wanted);
        }
        assert_eq!(parted[0].0, parted[1].0);
    }
}

#[test]
fn a_device_that_fails_in_a_view_fails_that_view_only() {
    let (fake, device) = opened();
    for stop in [Stop::Labels, Stop::Centres] {
        let settings = Settings { stop, ..plain() };
        let view = Tiled::new(5, 10);
        let mut partition = kmeans(&device, settings, 40).unwrap();
        let begun = fake.runs();
        let wanted = view.part(&mut partition, 6, None).unwrap();
        let runs = u32::try_from(fake.runs() - begun).unwrap();
        // Three of 86 tokens an iteration, and one for the centres in between.
        assert!(wanted.1.iterations > 2 && runs >= 4 * wanted.1.iterations - 1, "{runs}");
        for refused in 0..runs {
            fake.refuse_after(refused);
            let error = view.part(&mut partition, 6, None).unwrap_err();
            assert_eq!(error.to_string(), "tensorrt kmeans: enqueuing a run: status -5: refused, as it was told to");
            assert!(!PipelineError::from(error).is_lost());
            assert_eq!(view.part(&mut partition, 6, None).unwrap(), wanted);
        }
        for lost in [0, 3, runs / 2, runs - 1] {
            fake.lose_device_after(lost);
            for _ in 0..2 {
                let error = PipelineError::from(view.part(&mut partition, 6, None).unwrap_err());
                assert!(error.is_lost() && error.to_string().starts_with("tensorrt kmeans: device lost while "), "{error}");
            }
            fake.restore();
            partition = kmeans(&device, settings, 40).unwrap();
            assert_eq!(view.part(&mut partition, 6, None).unwrap(), wanted);
        }
    }
    assert_eq!(fake.live(), Live::default());
}

#[test]
fn all_memory_of_k_means_is_had_at_load() {
    let (fake, device) = opened();
    let mut allocations = 0;
    let partition = loop {
        fake.fail_alloc_after(allocations);
        match kmeans(&device, plain(), 64) {
            Ok(partition) => break partition,
            Err(error) => assert!(error.to_string().starts_with("tensorrt kmeans: device memory, "), "{error}"),
        }
        assert_eq!(fake.live(), Live::default());
        allocations += 1;
    };
    // Two engines, and what is copied, made and told.
    assert_eq!(allocations, 2 + 20);
    let live = fake.live();
    let own = Starts::bytes(SIZES.tokens, DIM) + Bytes::of::<u32>(SIZES.tokens + SIZES.clusters);
    let (told, held) = (partition.bytes(), live.memory + live.host + own);
    assert!(told <= held && told + Bytes(256) >= held, "{told} of {held}");
}

#[test]
fn what_k_means_on_a_device_cannot_do_is_refused_by_name() {
    let (_fake, device) = opened();
    let mut partition = kmeans(&device, plain(), 64).unwrap();
    let mut view = Tiled::new(6, 5);
    let mut refused = |view: &Tiled, clusters, starts: Option<&[u32]>| view.part(&mut partition, clusters, starts).unwrap_err();
    assert_eq!(refused(&view, 0, None), CompressError::NoClusters);
    assert_eq!(refused(&view, 4, Some(&[0, 3])), CompressError::Label { token: 3, found: 3, regions: 25 });
    assert_eq!(refused(&Tiled::new(6, 21), 4, None), CompressError::Room { what: "tokens", found: 441, room: 400 });
    assert_eq!(refused(&Tiled::new(6, 20), 61, None), CompressError::Room { what: "clusters", found: 61, room: 60 });
    view.rows[12 * DIM + 4] = f16::INFINITY;
    assert_eq!(refused(&view, 4, None), CompressError::NotFinite { what: "clustering feature", token: 12, found: f32::INFINITY });
    let narrow = vec![f16::ONE; 9 * 5];
    let narrow = ViewFeatures::raster(regions::Rows::F16(&narrow), 5, 3);
    let error = partition.partition(&narrow, 2, &Pool::new(1), &mut [0; 9]).unwrap_err();
    assert_eq!(error, CompressError::Room { what: "features", found: 5, room: DIM });
    view.masked = (0..25).collect();
    assert_eq!(view.part(&mut partition, 4, None).unwrap().1, Partitioned { regions: 0, iterations: 0, objective: 0.0 });
    let computes = |lambda_feature, cluster_dim| {
        let embedding = Embedding { lambda_feature, lambda_position: 0.05 };
        TensorrtKmeans::computes(&Settings { embedding, cluster_dim, ..plain() }, DIM)
    };
    assert!(computes(1.0, None) && computes(1.0, Some(DIM)));
    assert!(!computes(0.0, None) && !computes(1.0, Some(8)) && !computes(1e-39, None));
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

fn drawn(folder: &Path) -> PathBuf {
    let frame = folder.join("frame.png");
    let pixels: Vec<u8> = (0..90 * 70 * 3_u32).map(|at| ((at * 7 / 3) ^ (at / 270 * 13)).to_le_bytes()[0]).collect();
    std::fs::write(&frame, common::png(90, 70, png::ColorType::Rgb, &pixels)).unwrap();
    frame
}

#[test]
fn a_whole_answer_is_that_of_the_cpus_engines() {
    let folder = tempfile::tempdir().unwrap();
    let frame = drawn(folder.path());
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
    // What they hold of the device has its line in the plan.
    let beside = |profile: &Path| {
        let args = ["--profile", common::path(profile), "--model", common::path(&package), "--json", "plan"];
        let lines = common::documents(&args)[0]["lines"].clone();
        let line = |line: &&serde_json::Value| line["what"] == "encoder, projector and MLP on the device";
        lines.as_array().unwrap().iter().find(line).map_or(0, |line| line["bytes"].as_u64().unwrap())
    };
    let weights: u64 =
        ["encoder.plan", "projector.plan", "token-mlp.plan"].map(|plan| plans.join(plan).metadata().unwrap().len()).iter().sum();
    let told = beside(&there);
    assert!(told > weights && told < weights + (4 << 20), "{told} of {weights}");
    assert_eq!(beside(&profile(folder.path(), ["onnx", "gguf"])), 0);
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

#[test]
fn a_frame_is_clustered_where_its_features_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let frame = drawn(folder.path());
    let [here, mixed, there] =
        [["onnx", "gguf"], ["onnx", "tensorrt"], ["tensorrt", "gguf"]].map(|engines| profile(folder.path(), engines));
    let plans = build(&there, folder.path());
    let package = file("");
    let run = |profile: &Path, args: &[&str]| {
        let before = ["--profile", common::path(profile), "--model", common::path(&package), "--json"];
        common::documents(&[&before[..], args].concat()).remove(0)
    };
    let ask = |profile: &Path, more: &[&str]| {
        run(profile, &[&["ask", common::path(&frame), "--budget", "4,16", "-q", "how many ships are there?"][..], more].concat())
    };
    let paper = ["--policy", "paper", "--clusters", "3"];
    for more in [&[][..], &paper] {
        let (wanted, found) = (ask(&here, more), ask(&there, more));
        let partition = |document: &serde_json::Value| document["receipt"]["engines"]["partition"].clone();
        assert_eq!((partition(&wanted), partition(&found)), ("kmeans".into(), "kmeans, tensorrt fake".into()));
        assert_eq!((&wanted["text"], &wanted["receipt"]["budget"]), (&found["text"], &found["receipt"]["budget"]));
        let memory = |key: &str| found["receipt"]["memory"][key].as_f64().unwrap();
        assert!(memory("peak_bytes") <= 1.1 * memory("planned_bytes"));
    }
    let regions = |profile: &Path| {
        let map = run(profile, &["plan"]);
        map["lines"].as_array().unwrap().iter().find(|line| line["what"] == "regions").unwrap()["bytes"].as_u64().unwrap()
    };
    assert_ne!(regions(&there), regions(&here));
    // The CPU's, where the features are, and where the graphs don't compute what is asked.
    let partition = |profile: &Path, more: &[&str]| {
        let engines = ask(profile, more)["receipt"]["engines"].clone();
        (engines["partition"].as_str().unwrap().to_owned(), engines["chosen"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(partition(&mixed, &[]).0, "kmeans");
    assert_eq!(partition(&there, &["--cluster-dim", "8"]).0, "kmeans");
    assert_eq!(partition(&there, &["--partition", "birch"]).0, "birch");
    // Damaged engines are an error; those of other tensors leave it to the CPU, and why is said; so do none.
    let mut record = Record::read(&plans).unwrap().unwrap();
    let write = |record: &Record| std::fs::write(plans.join("engines.toml"), toml::to_string(record).unwrap()).unwrap();
    let other = plan("projector.onnx");
    std::fs::write(plans.join("kmeans.plan"), &other).unwrap();
    let entry = record.graphs.get_mut("kmeans").unwrap();
    entry.bytes = Bytes(std::fs::metadata(file("tensorrt/projector.onnx")).unwrap().len());
    write(&record);
    let args = ["--profile", common::path(&there), "--model", common::path(&package), "ask", common::path(&frame), "how many?"];
    let (code, said) = common::refusal(&args);
    assert!(code == 5 && said.contains("kmeans.plan") && said.contains("wanted the plan with sha256"), "{code}: {said}");
    record.graphs.get_mut("kmeans").unwrap().plan = told_digest(&other);
    write(&record);
    let why = "k-means on the CPU: tensorrt kmeans: tensor coordinates: wanted f32 [any, 2], found none of that name";
    assert_eq!(partition(&there, &[]), ("kmeans".to_owned(), why.to_owned()));
    record.graphs.remove("centres");
    write(&record);
    assert_eq!(partition(&there, &[]), ("kmeans".to_owned(), String::new()));
}
