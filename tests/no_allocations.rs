//! From prompt token ids to answer token ids nothing is allocated. The vision side is scripted, since the ONNX engine allocates by itself; the
//! decoder, the compression and the arenas are the real ones. Once more with all engines behind the made-up TensorRT library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use uhr_edge::compress::regions::Method;
use uhr_edge::compress::{Mode, Selector};
use uhr_edge::config::{Manifest, Profile};
use uhr_edge::imaging::{FrameSource, Limits};
use uhr_edge::pipeline::{Engines, Pipeline, Request};
use uhr_edge::planner;
use uhr_edge::units::{Bytes, Tokens};

static COUNTING: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Counts allocations of every thread while it is told to.
struct Counter;

// SAFETY: hands everything to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::SeqCst) {
            SEEN.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counter = Counter;

fn counted(work: impl FnOnce()) -> usize {
    SEEN.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    SEEN.load(Ordering::SeqCst)
}

/// `engines`: what replaces those of the host's profile, and what the receipt calls the encoder and, among the rest, the decoder.
fn answers_allocate_nothing([vision, language]: [&str; 2], [encoder, decoder]: [&str; 2]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.toml");
    let host = std::fs::read_to_string(root.join("firmware-config/host.toml")).unwrap();
    std::fs::write(&file, host.replace("vision = \"onnx\"", vision).replace("language = \"gguf\"", language)).unwrap();
    let profile = Profile::load(file.to_str().unwrap()).unwrap();
    let manifest = Manifest::load(&root.join("models/uhr-nano")).unwrap();
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    assert_eq!((engines.encoder.id(), engines.decoder.id().contains(decoder)), (encoder, true));
    let budget = planner::budget(Some("700"), &profile, &manifest).unwrap();
    let limits = Limits::of(&profile);
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let source = FrameSource::open(&root.join("samples/real.jpg"), &limits).unwrap();
    let request =
        |mode| Request { budget: budget.clone(), selector: Selector::UhrBat, mode, encode_tiles: None, max_new: Tokens(4), deadline: None };
    let sources = [source];
    let first = pipeline.prompt("is there a red ship?").unwrap();
    let mut plan = pipeline.plan_first(&sources, &first, &request(Mode::Paper)).unwrap();
    let [source] = sources;
    let (frame, _) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ()).unwrap();
    let mut answers = [[0; 4]; 4];
    let texts = ["is there a red ship?", "how many blue tents are there?"];
    let cases = [Mode::Paper, Mode::Coverage].into_iter().flat_map(|mode| texts.map(|text| (mode, text)));
    for ((mode, text), answer) in cases.zip(&mut answers) {
        let prompt = pipeline.prompt(text).unwrap();
        let mut plan = pipeline.plan_again(&[&frame], &prompt, &request(mode)).unwrap();
        let mut made = 0;
        let seen = counted(|| made = pipeline.answer_tokens(&[&frame], &prompt, &mut plan, answer).map_or(0, |(count, _)| count));
        assert!(made > 0);
        assert_eq!(seen, 0, "allocations between prompt ids and answer ids, {mode:?}");
    }
}

#[test]
fn an_answer_allocates_nothing() {
    answers_allocate_nothing(["vision = \"scripted\"", "language = \"gguf\""], ["scripted", "gguf"]);
    let device = ["vision = \"tensorrt\"\nshim = \"fake\"", "language = \"tensorrt\""];
    answers_allocate_nothing(device, ["tensorrt fake", "tensorrt fake"]);
    // The counter counts, on this thread and on others.
    assert_eq!(counted(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1)))), 1);
    assert!(counted(|| drop(std::thread::spawn(|| drop(std::hint::black_box(vec![1]))).join())) > 1);
}
