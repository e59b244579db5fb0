//! Engines from a package's graphs: what the builder is asked, what is recorded, and what is refused. The builder is a script, the device a made-up one, or
//! the real shim's over libraries that stand for TensorRT and CUDA.

mod common;
mod shim;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::path;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uhr_edge::config::{Manifest, Profile};
use uhr_edge::engine::tensorrt::{Built, Form, Graph, Identity, Limits, Plan, RECORD, SEAL, built_in, numbered, sealed};
use uhr_edge::planner::engine_limits;
use uhr_edge::units::Tokens;

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A field of a protocol buffer that has a length.
fn field(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2][..], &varint(body.len() as u64), body].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7F {
        bytes.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// An ONNX graph without nodes: of tensors `NAME TYPE DIM,DIM` between semicolons, a dimension of any number being a name, and weights in other files.
fn onnx(inputs: &str, outputs: &str, external: &[&str]) -> Vec<u8> {
    let dim = |dim: &str| match dim.parse() {
        Ok(number) => [&[1 << 3][..], &varint(number)].concat(),
        Err(_) => field(2, dim.as_bytes()),
    };
    let value = |text: &str| {
        let parts: Vec<_> = text.split_whitespace().collect();
        let dtype = match parts[1] {
            "f32" => 1,
            "i32" => 6,
            _ => 10,
        };
        let dims: Vec<u8> = parts[2].split(',').flat_map(|text| field(1, &dim(text))).collect();
        let tensor = [&[1 << 3, dtype][..], &field(2, &dims)].concat();
        [field(1, parts[0].as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let values = |tag: u8, text: &str| text.split(';').flat_map(|text| field(tag, &value(text))).collect::<Vec<_>>();
    let entry = |name: &str| field(13, &[field(1, b"location"), field(2, name.as_bytes())].concat());
    let weights = external.iter().flat_map(|name| field(5, &[field(8, b"w"), entry(name)].concat()));
    let inline = field(5, &[field(8, b"v"), field(9, &[7; 300])].concat());
    let graph: Vec<u8> = [inline, values(11, inputs), values(12, outputs)].concat().into_iter().chain(weights).collect();
    [&[1 << 3, 10][..], &field(7, &graph)].concat()
}

const CACHES: &str = "k_cache_0 f16 cache,64;v_cache_0 f16 cache,64;k_cache_1 f16 cache,64;v_cache_1 f16 cache,64";
const NEW: &str = "new_k_0 f16 rows,64;new_v_0 f16 rows,64;new_k_1 f16 rows,64;new_v_1 f16 rows,64";
const WEIGHTS: &[&str] = &["decoder.weights"];

/// Name and bytes of each graph's file.
fn graphs() -> Vec<(&'static str, Vec<u8>)> {
    let one = |text: &str| text.replace("rows", "1");
    let embeds = "inputs_embeds f16 rows,192;length i32 1";
    let anchor = format!(
        "{embeds};query_rows i32 looking;visual_keys i32 visual;k_cache_0 f16 cache,64;v_cache_0 f16 cache,64;k_cache_1 f16 cache,64"
    );
    vec![
        ("encoder", onnx("tiles f32 n,3,336,336", "features f16 n,576,128", &[])),
        ("projector", onnx("features f16 n,128", "rows f32 n,192", &[])),
        ("prefill", onnx(&format!("{embeds};{CACHES}"), &format!("{NEW};logits f32 512"), WEIGHTS)),
        ("step", onnx(&format!("{};{CACHES}", one(embeds)), &format!("{};logits f32 512", one(NEW)), WEIGHTS)),
        ("anchor", onnx(&anchor, "new_k_0 f16 rows,64;new_v_0 f16 rows,64;new_k_1 f16 rows,64;importance f32 visual", WEIGHTS)),
        ("merge", onnx("rows f32 rows,192;slots i32 rows;shares f32 rows;tokens_before f32 tokens,192", "tokens f32 tokens,192", &[])),
    ]
}

/// With the decoder's graphs that write keys and values in place.
fn both_forms() -> Vec<(&'static str, Vec<u8>)> {
    let heads = |text: &str| text.replace("new_", "kept_").replace("cache,64", "1,2,cache,32").replace("rows,64", "1,2,cache,32");
    let embeds = "inputs_embeds f16 rows,192;length i32 1";
    let (caches, kept) = (heads(CACHES), heads(NEW));
    let (kept_keys, _) = kept.rsplit_once(';').unwrap();
    let (keys, _) = caches.rsplit_once(';').unwrap();
    let run = |embeds: &str| onnx(&format!("{embeds};{caches}"), &format!("{kept};logits f32 512"), WEIGHTS);
    let looks = format!("{embeds};query_rows i32 looking;visual_keys i32 visual;{keys}");
    let forms = [
        ("in-place.prefill", run(embeds)),
        ("in-place.step", run(&embeds.replace("rows", "1"))),
        ("in-place.anchor", onnx(&looks, &format!("{kept_keys};importance f32 visual"), WEIGHTS)),
    ];
    graphs().into_iter().chain(forms).collect()
}

/// A copy of the committed package with graphs for TensorRT, profiles of the made-up device, and what a builder was asked.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::of(&graphs())
    }

    fn of(graphs: &[(&str, Vec<u8>)]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(bench.package().join("tensorrt")).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano");
        for entry in std::fs::read_dir(&model).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), bench.package().join(entry.file_name())).unwrap();
        }
        bench.write(graphs, "");
        for name in ["a6000", "orin-nano-8", "host"] {
            let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("firmware-config/{name}.toml"))).unwrap();
            let text = text
                .replace("shim = \"libuhr_shim.so\"", "")
                .replace("[engines]", &format!("[engines]\nshim = \"fake\"\nplans = {:?}", path(&bench.plans())));
            std::fs::write(bench.profile(name), text).unwrap();
        }
        bench
    }

    /// Writes the graphs and the manifest that lists them, with `more` in its section.
    fn write(&self, graphs: &[(&str, Vec<u8>)], more: &str) {
        let (mut keys, mut files) = (String::new(), String::new());
        for (name, bytes) in graphs.iter().chain(&[("decoder", b"weights of three graphs".to_vec())]) {
            let (key, file) = if *name == "decoder" { ("weights", "decoder.weights".into()) } else { (*name, format!("{name}.onnx")) };
            std::fs::write(self.package().join("tensorrt").join(&file), bytes).unwrap();
            keys += &format!("{key} = \"tensorrt/{file}\"\n");
            files += &format!("\"tensorrt/{file}\" = \"{}\"\n", digest(bytes));
        }
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/uhr-nano/model.toml")).unwrap();
        let text = text.replace("[files]\n", &format!("[tensorrt]\n{keys}{more}\n[files]\n{files}"));
        std::fs::write(self.package().join("model.toml"), text).unwrap();
    }

    fn package(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    /// A folder that the package leaves alone.
    fn plans(&self) -> PathBuf {
        self.package().join("engines")
    }

    fn profile(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.toml"))
    }

    /// Where engines of the made-up device stand.
    fn engines(&self) -> PathBuf {
        built_in(&self.plans(), "uhr-nano", &Identity::default())
    }

    /// A builder: what it does after it has written down what it was asked. `$onnx` and `$plan` are its files.
    fn trtexec(&self, body: &str) -> PathBuf {
        let script = self.folder.path().join("trtexec");
        let asked = self.folder.path().join("asked");
        let head = "if [ \"$1\" = --help ]; then echo '&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help'; exit 0; fi";
        let files = "for a; do case $a in --onnx=*) onnx=${a#*=} ;; --saveEngine=*) plan=${a#*=} ;; esac; done";
        let text = format!("#!/bin/sh\n{head}\nprintf '%s\\n' \"$@\" '' >> '{}'\n{files}\n{body}\n", asked.display());
        // Another name first: a file that is being written can't be run.
        std::fs::write(script.with_extension("new"), text).unwrap();
        std::fs::set_permissions(script.with_extension("new"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(script.with_extension("new"), &script).unwrap();
        script
    }

    fn command(&self, profile: &str, more: &[&str]) -> Command {
        let mut command = common::command();
        command.args(["--profile", path(&self.profile(profile)), "--model", path(&self.package()), "model", "build-engines"]).args(more);
        command
    }

    fn build(&self, profile: &str, trtexec: &Path, more: &[&str]) -> Output {
        self.command(profile, &[&["--trtexec", path(trtexec)], more].concat()).output().unwrap()
    }

    /// What the builder was asked since last time: arguments of each call, with a plan's place as `PLAN`.
    fn asked(&self) -> Vec<Vec<String>> {
        let file = self.folder.path().join("asked");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        let below = format!("--saveEngine={}/.building-", self.engines().display());
        let own = |line: &str| {
            let plan = line.starts_with(&below) && line.ends_with("/plan");
            if plan { "--saveEngine=PLAN".into() } else { line.replace(path(self.folder.path()), "") }
        };
        text.split("\n\n").filter(|call| !call.trim().is_empty()).map(|call| call.lines().map(own).collect()).collect()
    }

    /// The graphs that the builder was asked for since last time.
    fn asked_for(&self) -> Vec<String> {
        let stem = |call: &Vec<String>| Path::new(&call[0]).file_stem().unwrap().to_string_lossy().into_owned();
        self.asked().iter().map(stem).collect()
    }

    fn open(&self) -> Result<Built, String> {
        let manifest = Manifest::load(&self.package()).unwrap();
        Built::open(&self.engines(), &manifest, &Identity::default()).map_err(|error| error.to_string())
    }

    /// What is left of unfinished builds.
    fn unfinished(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.engines()) else { return 0 };
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".building-")).count()
    }
}

const WHOLE: &str = "printf 'plan of %s' \"$(basename \"$onnx\")\" > \"$plan\"";
const ALL: [&str; 6] = ["encoder", "projector", "prefill", "step", "anchor", "merge"];

fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn well(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// P positions, U of a usual question, T tiles, B tokens merged into, W MiB of workspace.
const ASKED: &str = "
    --onnx=/package/tensorrt/encoder.onnx
    --minShapes=tiles:1x3x336x336
    --optShapes=tiles:Tx3x336x336
    --maxShapes=tiles:Tx3x336x336

    --onnx=/package/tensorrt/projector.onnx
    --minShapes=features:1x128
    --optShapes=features:256x128
    --maxShapes=features:256x128

    --onnx=/package/tensorrt/prefill.onnx
    --minShapes=inputs_embeds:1x192,k_cache_0:1x64,v_cache_0:1x64,k_cache_1:1x64,v_cache_1:1x64
    --optShapes=inputs_embeds:256x192,k_cache_0:Ux64,v_cache_0:Ux64,k_cache_1:Ux64,v_cache_1:Ux64
    --maxShapes=inputs_embeds:256x192,k_cache_0:Px64,v_cache_0:Px64,k_cache_1:Px64,v_cache_1:Px64

    --onnx=/package/tensorrt/step.onnx
    --minShapes=k_cache_0:1x64,v_cache_0:1x64,k_cache_1:1x64,v_cache_1:1x64
    --optShapes=k_cache_0:Ux64,v_cache_0:Ux64,k_cache_1:Ux64,v_cache_1:Ux64
    --maxShapes=k_cache_0:Px64,v_cache_0:Px64,k_cache_1:Px64,v_cache_1:Px64

    --onnx=/package/tensorrt/anchor.onnx
    --minShapes=inputs_embeds:1x192,query_rows:1,visual_keys:1,k_cache_0:1x64,v_cache_0:1x64,k_cache_1:1x64
    --optShapes=inputs_embeds:256x192,query_rows:1,visual_keys:2304,k_cache_0:Ux64,v_cache_0:Ux64,k_cache_1:Ux64
    --maxShapes=inputs_embeds:256x192,query_rows:256,visual_keys:2304,k_cache_0:Px64,v_cache_0:Px64,k_cache_1:Px64

    --onnx=/package/tensorrt/merge.onnx
    --minShapes=rows:1x192,slots:1,shares:1,tokens_before:1x192
    --optShapes=rows:256x192,slots:256,shares:256,tokens_before:Bx192
    --maxShapes=rows:256x192,slots:256,shares:256,tokens_before:Bx192
";

#[test]
fn the_builder_is_asked_for_what_the_profile_needs() {
    for (profile, sizes) in [
        ("a6000", [("P", "12188"), ("U", "7024"), ("T", "1"), ("B", "11100"), ("W", "2560")]),
        ("orin-nano-8", [("P", "6320"), ("U", "3256"), ("T", "1"), ("B", "6000"), ("W", "400")]),
    ] {
        let bench = Bench::new();
        let cache = bench.folder.path().join("timings");
        well(&bench.build(profile, &bench.trtexec(WHOLE), &["--timing-cache", path(&cache)]));
        let size = |letter: &str| sizes.iter().find(|(name, _)| *name == letter).unwrap().1;
        let bound = |line: &str| {
            let (flag, shapes) = line.trim().split_once('=').unwrap();
            let bind =
                |shapes: &str| ["P", "U", "T", "B"].iter().fold(shapes.to_owned(), |text, letter| text.replace(letter, size(letter)));
            if flag == "--onnx" { line.trim().to_owned() } else { format!("{flag}={}", bind(shapes)) }
        };
        let wanted: Vec<Vec<String>> = ASKED
            .split("\n\n")
            .map(|call| {
                let mut lines: Vec<String> = call.lines().filter(|line| !line.trim().is_empty()).map(bound).collect();
                lines.insert(1, "--saveEngine=PLAN".into());
                let last =
                    ["--stronglyTyped", &format!("--memPoolSize=workspace:{}", size("W")), "--timingCacheFile=/timings", "--skipInference"];
                lines.extend(last.map(String::from));
                lines
            })
            .collect();
        assert_eq!(bench.asked(), wanted, "{profile}");
        let built = bench.open().unwrap();
        let limits =
            engine_limits(&Profile::load(path(&bench.profile(profile))).unwrap(), &Manifest::load(&bench.package()).unwrap()).unwrap();
        assert_eq!(built.record().limits, limits);
        assert_eq!((limits.positions, limits.chunk, limits.visual), (Tokens(size("P").parse().unwrap()), Tokens(256), Tokens(2_304)));
        built.serves(&limits).unwrap();
        for name in ALL {
            let (graph, plan) = (Graph::named(name).unwrap(), format!("plan of {name}.onnx"));
            assert_eq!(Plan::from(&built.plan(graph).unwrap()).bytes(&Identity::default()).unwrap(), plan.as_bytes());
            assert!(built.has(graph));
        }
        assert!(!built.has(Graph::Kmeans) && built.plan(Graph::Kmeans).is_err());
        let record = built.record();
        assert_eq!((record.builder.as_str(), record.builder_version.as_str()), ("trtexec", "10.3.0"));
        assert_eq!((record.gpu.as_str(), record.identity()), ("fake", Identity::default()));
        assert_eq!(bench.unfinished(), 0);
    }
}

#[test]
fn the_decoders_form_is_what_the_tensorrt_runs() {
    let cases = [
        (both_forms(), [10, 3, 0, 30], Form::Appended),
        (both_forms(), [10, 14, 1, 48], Form::Appended),
        (both_forms(), [10, 15, 1, 29], Form::InPlace),
        (both_forms(), [11, 1, 0, 1], Form::InPlace),
        (both_forms(), [1, 6, 0, 1], Form::Appended),
        (both_forms(), [1, 7, 1, 116], Form::InPlace),
        (graphs(), [1, 7, 1, 116], Form::Appended),
    ];
    for (graphs, tensorrt, form) in cases {
        let bench = Bench::of(&graphs);
        // Its plan is what it was given, and what it found beside that.
        let script = bench.trtexec("cat \"$onnx\" \"$(dirname \"$onnx\")/decoder.weights\" > \"$plan\"");
        std::fs::write(&script, std::fs::read_to_string(&script).unwrap().replace("[TensorRT v100300]", "")).unwrap();
        let identity = Identity { tensorrt, compute: [8, 6] };
        let told = tensorrt.map(|part| part.to_string()).join(".");
        let build = |profile: &str| {
            let to = ["--rtx", path(&script), "--compute", "8.6", "--tensorrt", &told];
            well(&bench.command(profile, &to).output().unwrap());
            bench.asked()
        };
        let asked = build("a6000");
        let manifest = Manifest::load(&bench.package()).unwrap();
        let built = Built::open(&built_in(&bench.plans(), "uhr-nano", &identity), &manifest, &identity).unwrap();
        let limits = engine_limits(&Profile::load(path(&bench.profile("a6000"))).unwrap(), &manifest).unwrap();
        let less = Limits { positions: Tokens(6_000), ..limits };
        assert_eq!(built.form(), form, "{told}");
        built.serves(&limits).unwrap();
        let file = |graph: Graph| graph.file(manifest.tensorrt.as_ref().unwrap(), form).unwrap().path.clone();
        let given = |graph| match form {
            Form::Appended => std::fs::read(file(graph)).unwrap(),
            Form::InPlace => numbered(&file(graph), limits.positions).unwrap(),
        };
        for graph in [Graph::Prefill, Graph::Step, Graph::Anchor] {
            let plan = [&given(graph)[..], b"weights of three graphs"].concat();
            assert_eq!(Plan::from(&built.plan(graph).unwrap()).bytes(&identity).unwrap(), plan, "{told}: {graph}");
        }
        // The caches' shapes are the graph's own where they are written in place, and engines of other positions are others.
        assert_eq!(asked.iter().flatten().any(|line| line.contains("k_cache")), form == Form::Appended);
        match form {
            Form::Appended => built.serves(&less).unwrap(),
            Form::InPlace => {
                let refused = built.serves(&less).unwrap_err().to_string();
                assert!(refused.contains("wanted engines for 6000 positions, as many as that, found those for 12188"), "{refused}");
                assert_eq!((build("a6000").len(), build("orin-nano-8").len()), (0, 4));
            }
        }
    }
    // A graph that doesn't leave the rows of its caches open.
    let mut graphs = both_forms();
    graphs[7].1 = onnx("inputs_embeds f16 1,192;length i32 1;k_cache_0 f16 1,2,9,32", "kept_k_0 f16 1,2,9,32;logits f32 512", WEIGHTS);
    let bench = Bench::of(&graphs);
    let script = bench.trtexec(WHOLE);
    let to = ["--rtx", path(&script), "--compute", "8.6", "--tensorrt", "1.7.1.116", "--dry-run"];
    let (code, said) = said(&bench.command("a6000", &to).output().unwrap());
    assert!(
        code != 0 && said.contains("in-place.step.onnx: tensor kept_k_0: wanted f16 [a number, a number, any, a number]"),
        "{code}: {said}"
    );
}

#[test]
fn what_is_recorded_is_not_built_again() {
    let bench = Bench::new();
    let trtexec = bench.trtexec(WHOLE);
    well(&bench.build("a6000", &trtexec, &["--graph", "step", "--graph", "encoder"]));
    assert_eq!(bench.asked_for(), ["encoder", "step"]);
    let missing = bench.open().err().unwrap();
    assert!(
        missing.contains("wanted an engine of projector, found none: `uhr-edge --profile P --model DIR model build-engines`"),
        "{missing}"
    );
    let done: Value = serde_json::from_str(&well(&bench.build("a6000", &trtexec, &["--quiet", "--json"]))).unwrap();
    assert_eq!(bench.asked_for(), ["projector", "prefill", "anchor", "merge"]);
    let states: Vec<_> = done["graphs"].as_array().unwrap().iter().map(|graph| graph["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["recorded", "built", "built", "recorded", "built", "built"]);
    bench.open().unwrap();
    let again = || {
        well(&bench.build("a6000", &trtexec, &[]));
        bench.open().unwrap();
        bench.asked_for()
    };
    assert_eq!(again(), Vec::<String>::new());
    // A graph that was exported anew; the decoder's three where their weights were.
    let mut changed = graphs();
    changed[1].1.extend(field(3, b"a producer"));
    bench.write(&changed, "");
    let other = bench.open().err().unwrap();
    assert!(
        other.contains("engines.toml: wanted engines of the package uhr-nano@") && other.contains(", found those of uhr-nano@"),
        "{other}"
    );
    assert_eq!(again(), ["projector"]);
    let weights = bench.package().join("tensorrt/decoder.weights");
    let manifest = bench.package().join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace(&digest(&std::fs::read(&weights).unwrap()), &digest(b"others"));
    std::fs::write(&weights, b"others").unwrap();
    std::fs::write(&manifest, &text).unwrap();
    assert_eq!(again(), ["prefill", "step", "anchor"]);
    // A manifest that says something else about the same graphs.
    std::fs::write(&manifest, text.replace("licence = \"", "licence = \"X-")).unwrap();
    assert_eq!(again(), Vec::<String>::new());
    // A plan that was damaged, cut or lost, and a record that can't be read.
    let step = bench.engines().join("step.plan");
    let whole = std::fs::read(&step).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bytes in [&flipped[..], &whole[..SEAL + 3], &whole[..9], &sealed(&Identity::default(), b"another plan")] {
        std::fs::write(&step, bytes).unwrap();
        assert_eq!(again(), ["step"]);
    }
    std::fs::remove_file(&step).unwrap();
    assert_eq!(again(), ["step"]);
    std::fs::write(bench.engines().join(RECORD), "graphs = 3").unwrap();
    assert_eq!(again(), ALL);
    // Other limits, and only what depends on them.
    let profile = std::fs::read_to_string(bench.profile("a6000")).unwrap();
    std::fs::write(bench.profile("a6000"), profile.replace("projection-chunk-tokens = 256", "projection-chunk-tokens = 255")).unwrap();
    assert_eq!(again(), ["projector", "prefill", "anchor", "merge"]);
}

#[test]
fn a_builder_that_fails_leaves_nothing_that_could_be_taken_for_a_plan() {
    let bench = Bench::new();
    let step = |does: &str| format!("case $onnx in *step.onnx) {does} ;; esac; {WHOLE}");
    let lines = "i=0; while [ $i -lt 500 ]; do echo \"[I] line $i\"; i=$((i + 1)); done; echo '[E] Error[4]: no kernel' >&2; exit 7";
    for (does, wanted) in [
        (step(lines), "step: wanted "),
        (step("printf half > \"$plan\"; kill -KILL $$"), "found signal: 9"),
        (step(": > \"$plan\"; exit 0"), "step: wanted a plan of "),
        (step("exit 0"), "step: wanted a plan of "),
    ] {
        let (code, said) = said(&bench.build("a6000", &bench.trtexec(&does), &[]));
        assert!(code == 1 && said.contains(wanted), "{code}: {said}");
        if does.contains("Error[4]") {
            assert!(said.contains("found exit status: 7; its last lines:") && said.contains("\n  [E] Error[4]: no kernel"), "{said}");
            assert!(said.contains("[I] line 499\n") && !said.contains("[I] line 400\n"), "{said}");
        }
        assert_eq!(bench.unfinished(), 0);
        assert!(bench.open().err().unwrap().contains("wanted an engine of step, found none"));
        assert!(!bench.engines().join("step.plan").exists());
    }
    // Those before it stood since the first try.
    assert_eq!(bench.asked_for(), ["encoder", "projector", "prefill", "step", "step", "step", "step"]);
    well(&bench.build("a6000", &bench.trtexec(WHOLE), &[]));
    assert_eq!(bench.asked_for(), ["step", "anchor", "merge"]);
    bench.open().unwrap();
}

#[test]
fn ctrl_c_and_a_kill_leave_nothing_that_the_next_run_trips_over() {
    for (signal, left) in [("INT", 0), ("TERM", 0), ("KILL", 1)] {
        let bench = Bench::new();
        let begun = bench.folder.path().join("begun");
        // In place of the shell, so that what is killed is the whole of it.
        let body = format!("case $onnx in *step.onnx) printf half > \"$plan\"; : > '{}'; exec sleep 60 ;; esac; {WHOLE}", begun.display());
        let trtexec = bench.trtexec(&body);
        let mut run = bench.command("a6000", &["--trtexec", path(&trtexec)]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(50);
        while !begun.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(begun.exists(), "the builder of step never began");
        // One at a time.
        let (code, refused) = said(&bench.build("a6000", &trtexec, &[]));
        assert!(code == 1 && refused.contains("wanted it alone, found another build-engines at work there"), "{code}: {refused}");
        let pid = run.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let code = run.wait().unwrap().code();
        assert_eq!(code, (signal != "KILL").then_some(1), "{signal}");
        assert_eq!(bench.unfinished(), left, "{signal}");
        bench.asked();
        well(&bench.build("a6000", &bench.trtexec(WHOLE), &[]));
        assert_eq!(bench.asked_for(), ["step", "anchor", "merge"], "{signal}");
        assert_eq!(bench.unfinished(), 0);
        bench.open().unwrap();
    }
}

#[test]
fn a_graph_that_is_not_as_its_table_says_is_refused_before_anything_is_built() {
    let with = |name: &str, bytes: Vec<u8>| {
        let mut all = graphs();
        all.iter_mut().filter(|(graph, _)| *graph == name).for_each(|(_, old)| old.clone_from(&bytes));
        all
    };
    let projector = |inputs: &str, external: &[&str]| with("projector", onnx(inputs, "rows f32 n,192", external));
    let many = "features f16 n,128;more f16 n,128";
    for (graphs, wanted) in [
        (projector("features f32 n,128", &[]), "projector.onnx: tensor features: wanted f16 [any, a number], found f32 [any, 128]"),
        (projector("features f16 4,128", &[]), "tensor features: wanted f16 [any, a number], found f16 [4, 128]"),
        (projector("features f16 n", &[]), "tensor features: wanted f16 [any, a number], found f16 [any]"),
        (projector("tiles f16 n,128", &[]), "tensor features: wanted f16 [any, a number], found none of that name"),
        (projector(many, &[]), "tensor more: wanted only features, found it"),
        (projector("features f16 n,128", &["../model.toml"]), "weights: wanted them in the graph or in no file"),
        (with("step", onnx("length i32 1", "logits f32 512", &["other.weights"])), "or in decoder.weights, found \"other.weights\""),
        (with("merge", b"not a graph".to_vec()), "merge.onnx: wanted an ONNX graph, found"),
        (with("merge", vec![]), "merge.onnx: "),
        (with("merge", vec![8, 10]), "merge.onnx: wanted an ONNX graph, found none in it"),
    ] {
        let bench = Bench::of(&graphs);
        let (code, said) = said(&bench.build("a6000", &bench.trtexec(WHOLE), &[]));
        assert!(code == 5 && said.contains(wanted), "{code}: {said} ({wanted})");
        assert!(bench.asked().is_empty() && !bench.package().join("engines").exists());
    }
}

#[test]
fn what_cannot_be_begun_says_why() {
    let bench = Bench::new();
    let trtexec = bench.trtexec(WHOLE);
    let nowhere = bench.folder.path().join("nowhere");
    let plain = bench.folder.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    for (more, code, wanted) in [
        (&["--trtexec", path(&nowhere)][..], 1, "nowhere: wanted a program that runs, found: No such file"),
        (&["--trtexec", path(&plain)], 1, "plain: wanted a program that runs, found: Permission denied"),
        (&["--trtexec", path(&trtexec), "--graph", "decoder"], 2, "wanted one of encoder, projector, token-mlp, prefill"),
        (
            &["--trtexec", path(&trtexec), "--graph", "kmeans"],
            2,
            "--graph kmeans: wanted one of the package uhr-nano, found none of it there",
        ),
        (&["--rtx", path(&trtexec)], 2, "--compute"),
        (&["--rtx", path(&trtexec), "--compute", "8", "--tensorrt", "1.7.1.116"], 2, "wanted 2 numbers with dots between, found \"8\""),
        (&["--rtx", path(&trtexec), "--trtexec", path(&trtexec)], 2, "cannot be used with"),
        (
            &["--rtx", path(&trtexec), "--compute", "8.6", "--tensorrt", "10.4.0.1"],
            1,
            "wanted one of TensorRT 10.4.0.1 on SM 8.6, found one of TensorRT 10.3.0",
        ),
    ] {
        let (found, said) = said(&bench.command("a6000", more).output().unwrap());
        assert!(found == code && said.contains(wanted), "{found}: {said}");
    }
    if !Path::new("/usr/src/tensorrt/bin/trtexec").exists() {
        let (code, said) = said(&bench.command("a6000", &[]).env("PATH", bench.package()).output().unwrap());
        assert!(code == 1 && said.contains("trtexec: wanted it at /usr/src/tensorrt/bin/trtexec or on PATH, found none"), "{code}: {said}");
        // Found there, it is the one that is asked.
        well(
            &bench
                .command("a6000", &["--graph", "merge"])
                .env("PATH", format!("{}:/usr/bin:/bin", bench.folder.path().display()))
                .output()
                .unwrap(),
        );
        assert_eq!(bench.asked_for(), ["merge"]);
    }
    let (code, said) = common::refusal(&["--model", "models/uhr-nano", "model", "build-engines"]);
    assert!(code == 1 && said.contains("package uhr-nano: wanted graphs under [tensorrt], found none"), "{code}: {said}");
    // What it would do needs no device and no builder.
    let told = well(
        &common::command()
            .args(["--profile", "orin-nano-8", "--model", path(&bench.package()), "model", "build-engines", "--dry-run"])
            .output()
            .unwrap(),
    );
    assert!(told.contains("encoder: to be built, tiles:1x3x336x336") && told.contains("for 6320 positions"), "{told}");
}

#[test]
fn a_section_of_graphs_must_be_one() {
    let bench = Bench::new();
    let manifest = bench.package().join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (there, instead, wanted) in [
        ("prefill = \"tensorrt/prefill.onnx\"\n", "", "missing field `prefill`"),
        ("prefill = \"tensorrt/prefill.onnx\"", "prefill = \"tensorrt/other.onnx\"", "lists no \"tensorrt/other.onnx\" under [files]"),
        (
            "[tensorrt]\n",
            "[tensorrt]\ntoken-mlp = \"tensorrt/merge.onnx\"\n",
            "tensorrt.token-mlp = Some(\"tensorrt/merge.onnx\"): wanted a graph exactly where",
        ),
        ("[tensorrt]\n", "[tensorrt]\nplan = \"x\"\n", "unknown field `plan`"),
        ("[files]\n", "[files]\n\"engines/step.plan\" = \"00\"\n", "files = engines/step.plan: wanted a plain name"),
    ] {
        std::fs::write(&manifest, text.replacen(there, instead, 1)).unwrap();
        let error = Manifest::load(&bench.package()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    std::fs::write(&manifest, &text).unwrap();
    std::fs::write(bench.package().join("tensorrt/anchor.onnx"), "other").unwrap();
    let error = Manifest::load(&bench.package()).unwrap_err().to_string();
    assert!(error.contains("tensorrt/anchor.onnx: sha256 wanted "), "{error}");
    bench.write(&graphs(), "");
    // A file where the folder of engines would be is one more file.
    std::fs::write(bench.package().join("engines"), "").unwrap();
    assert!(Manifest::load(&bench.package()).unwrap_err().to_string().contains("lists no \"engines\""));
}

#[test]
fn engines_that_are_not_this_packages_for_this_device_are_refused_with_what_to_do() {
    let bench = Bench::new();
    let none = bench.open().err().unwrap();
    assert!(
        none.contains("wanted engines of the package uhr-nano for TensorRT 0.0.0.0 on SM 0.0, found no engines.toml: `uhr-edge"),
        "{none}"
    );
    well(&bench.build("orin-nano-8", &bench.trtexec(WHOLE), &[]));
    let manifest = Manifest::load(&bench.package()).unwrap();
    let other = Identity { tensorrt: [10, 3, 0, 30], compute: [8, 7] };
    let error = Built::open(&bench.engines(), &manifest, &other).err().unwrap().to_string();
    assert!(error.contains("wanted engines for TensorRT 10.3.0.30 on SM 8.7, found those for TensorRT 0.0.0.0 on SM 0.0"), "{error}");
    let larger = engine_limits(&Profile::load("a6000").unwrap(), &manifest).unwrap();
    let error = bench.open().unwrap().serves(&larger).unwrap_err().to_string();
    assert!(error.contains("wanted engines for 12188 positions, found those for 6320: `uhr-edge"), "{error}");
    let (record, plan) = (bench.engines().join(RECORD), bench.engines().join("step.plan"));
    let text = std::fs::read_to_string(&record).unwrap();
    let whole = std::fs::read(&plan).unwrap();
    let source = digest(&graphs()[3].1);
    for (there, instead, wanted) in [
        ("format = 1", "format = 2", "engines.toml: format = 2: wanted 1"),
        ("format = 1", "format = ", "engines.toml: TOML parse error"),
        ("format = 1", "format = 1\nmore = 1", "unknown field `more`"),
        ("package = \"uhr-nano\"", "package = \"other\"", "wanted engines of the package uhr-nano@"),
        ("tensorrt = [0, 0, 0, 0]", "tensorrt = [0, 0, 0, 1]", "found those for TensorRT 0.0.0.1 on SM 0.0"),
        ("file = \"step.plan\"", "file = \"../step.plan\"", "graphs.step.file = \"../step.plan\": wanted \"step.plan\""),
        ("[graphs.step]", "[graphs.leap]", "graphs.leap.file = \"step.plan\": wanted \"leap.plan\""),
        (&source, "00", "step.plan: wanted the engine of a graph with sha256 "),
    ] {
        assert!(text.contains(there), "{there}");
        std::fs::write(&record, text.replacen(there, instead, 1)).unwrap();
        let error = bench.open().err().unwrap();
        assert!(error.contains(wanted) && error.contains("model build-engines`"), "{error}");
    }
    std::fs::write(&record, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(bench.open().err().unwrap().contains("wanted at most 1048576 bytes, found 1048577 bytes"));
    std::fs::write(&record, &text).unwrap();
    std::fs::write(&plan, &whole[1..]).unwrap();
    let error = bench.open().err().unwrap();
    assert!(
        error.contains(&format!("step.plan: wanted a plan of {} bytes, found a file of {} bytes", whole.len(), whole.len() - 1)),
        "{error}"
    );
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let foreign = sealed(&other, b"plan of step.onnx");
    let another = sealed(&Identity::default(), b"plan of STEP.onnx");
    for (bytes, wanted) in [
        (damaged, "step.plan: plan: wanted SHA-256 "),
        (foreign, "plan: wanted one built for TensorRT 0.0.0.0"),
        (another, "wanted the plan with sha256 "),
    ] {
        std::fs::write(&plan, &bytes).unwrap();
        let error = bench.open().unwrap().plan(Graph::Step).err().unwrap();
        assert!(error.damaged() && error.to_string().contains(wanted), "{error}");
    }
    std::fs::remove_file(&plan).unwrap();
    assert!(bench.open().err().unwrap().contains("step.plan: cannot be read"));
}

#[test]
fn verify_looks_at_engines_beside_a_package_and_import_leaves_them() {
    let bench = Bench::new();
    let host = bench.profile("host");
    let verify = || common::run(&["--json", "--profile", path(&host), "model", "verify", path(&bench.package())]);
    let built = |output: &Output| serde_json::from_str::<Value>(&well(output)).unwrap()["built"].clone();
    assert_eq!(built(&verify()), Value::Array(vec![]));
    well(&bench.build("a6000", &bench.trtexec(WHOLE), &[]));
    let found = built(&verify());
    assert_eq!((found.as_array().unwrap().len(), &found[0]["not_for"]), (1, &Value::Null), "{found}");
    let to = bench.folder.path().join("imported");
    let output = common::run(&["--profile", path(&host), "model", "import", path(&bench.package()), "--to", path(&to)]);
    well(&output);
    assert!(to.join("tensorrt/step.onnx").is_file() && !to.join("engines").exists());
    // Of another package: said, and no reason to refuse this one.
    let manifest = bench.package().join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("licence = \"", "licence = \"X-")).unwrap();
    let found = built(&verify());
    assert!(found[0]["not_for"].as_str().unwrap().contains("wanted engines of the package uhr-nano@"), "{found}");
    std::fs::write(&manifest, text).unwrap();
    let plan = bench.engines().join("merge.plan");
    let mut bytes = std::fs::read(&plan).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&plan, bytes).unwrap();
    let (code, said) = said(&verify());
    assert!(code == 5 && said.contains("merge.plan: plan: wanted SHA-256 "), "{code}: {said}");
}

#[test]
fn engines_go_where_the_profile_or_the_command_says_and_ahead_of_time_for_another_gpu() {
    let bench = Bench::new();
    let plans = bench.folder.path().join("plans");
    let profile = std::fs::read_to_string(bench.profile("a6000")).unwrap();
    std::fs::write(bench.profile("a6000"), profile.replace(path(&bench.plans()), path(&plans))).unwrap();
    well(&bench.build("a6000", &bench.trtexec(WHOLE), &["--graph", "merge"]));
    assert!(plans.join("uhr-nano/0.0.0.0-sm00/merge.plan").is_file() && !bench.package().join("engines").exists());
    // Where it says nothing: with what else the user keeps, and never in the package.
    std::fs::write(bench.profile("a6000"), profile.replace(&format!("plans = {:?}\n", path(&bench.plans())), "")).unwrap();
    let data = bench.folder.path().join("data");
    let usual = || ["--trtexec".into(), path(&bench.trtexec(WHOLE)).to_owned(), "--graph".into(), "merge".into()];
    let build = |home: &Path| {
        let arguments: [String; 4] = usual();
        let mut command = bench.command("a6000", &arguments.each_ref().map(String::as_str));
        command.env("XDG_DATA_HOME", home).env("HOME", home).output().unwrap()
    };
    well(&build(&data));
    assert!(data.join("uhr-edge/engines/uhr-nano/0.0.0.0-sm00/merge.plan").is_file() && !bench.package().join("engines").exists());
    let (code, said) = said(&build(Path::new("")));
    assert!(code != 0 && said.contains("wanted engines.plans in the profile, or a home, found neither"), "{code}: {said}");
    let out = bench.folder.path().join("out");
    let rtx = bench.trtexec(&WHOLE.replace("--help", "--version"));
    bench.asked();
    let arguments = ["--out", path(&out), "--graph", "projector", "--rtx", path(&rtx), "--compute", "8.6", "--tensorrt", "10.3.0.30"];
    well(&bench.command("a6000", &arguments).output().unwrap());
    let asked = bench.asked().remove(0);
    assert!(out.join("uhr-nano/10.3.0.30-sm86/projector.plan").is_file());
    assert_eq!(
        asked[2..],
        [
            "--minShapes=features:1x128",
            "--optShapes=features:256x128",
            "--maxShapes=features:256x128",
            "--computeCapabilities=86",
            "--skipInference"
        ]
    );
}

#[test]
fn the_device_is_asked_what_it_is_and_its_builder_must_be_of_its_tensorrt() {
    let Some(shim) = shim::Bench::new() else { return };
    let identity = shim.identity();
    let bench = Bench::new();
    let libraries = bench.folder.path().join("libraries");
    std::fs::create_dir(&libraries).unwrap();
    let [major, minor, patch, _] = identity.tensorrt;
    for (name, file) in [(format!("libnvinfer.so.{major}"), "libfakenvinfer.so"), ("libcuda.so.1".into(), "libfakecuda.so")] {
        std::os::unix::fs::symlink(shim.path(file), libraries.join(name)).unwrap();
    }
    let profile = std::fs::read_to_string(bench.profile("a6000")).unwrap();
    std::fs::write(bench.profile("a6000"), profile.replace("\"fake\"", &format!("{:?}", path(&shim.path("libuhr_shim.so"))))).unwrap();
    let build = |trtexec: &Path| {
        let mut command = bench.command("a6000", &["--trtexec", path(trtexec)]);
        command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries.display(), shim.path("").display())).output().unwrap()
    };
    // Where engines are left to what is there, why it is the CPU.
    let chosen = || {
        let mut command = common::command();
        command.args(["--profile", path(&bench.profile("a6000")), "model", "verify", path(&bench.package())]);
        command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries.display(), shim.path("").display()));
        said(&command.output().unwrap()).1
    };
    let none = chosen();
    assert!(
        none.contains("engines: CPU; TensorRT missing: ") && none.contains(&format!("for {identity}, found no engines.toml")),
        "{none}"
    );
    let trtexec = bench.trtexec(WHOLE);
    let (code, said) = said(&build(&trtexec));
    assert!(code == 1 && said.contains(&format!("trtexec: wanted one of {identity}, found one of TensorRT 10.3.0")), "{code}: {said}");
    assert!(bench.asked().is_empty() && !bench.package().join("engines").exists());
    let text = std::fs::read_to_string(&trtexec).unwrap();
    std::fs::write(&trtexec, text.replace("v100300", &format!("v{}", major * 10_000 + minor * 100 + patch))).unwrap();
    well(&build(&trtexec));
    let manifest = Manifest::load(&bench.package()).unwrap();
    let built = Built::open(&built_in(&bench.plans(), "uhr-nano", &identity), &manifest, &identity).unwrap();
    assert!(built.record().gpu.contains("(SM "), "{}", built.record().gpu);
    assert_eq!(Plan::from(&built.plan(Graph::Step).unwrap()).bytes(&identity).unwrap(), b"plan of step.onnx");
    let whole = chosen();
    // They are there, so they are what is loaded; what the script wrote is no plan.
    assert!(whole.contains("tensorrt projector: ") && whole.contains("an engine's plan refused: "), "{whole}");
}
