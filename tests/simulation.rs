//! Deadlines on a virtual clock while a board gets hot: hundreds of questions here, ten thousand in `.ci/long` (UHR_QUESTIONS).

use std::path::Path;

use uhr_edge::board::Trace;
use uhr_edge::compress::regions::Method;
use uhr_edge::config::{Manifest, Profile};
use uhr_edge::pipeline::{Engines, Pipeline};
use uhr_edge::qualify::{SimResult, SimSettings, draw, simulate};
use uhr_edge::units::{Bytes, Px};

fn simulated(trace: &str, n: usize, seed: u64) -> SimResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut profile = Profile::load("sim").unwrap();
    profile.compression.clusters = 64;
    let manifest = Manifest::load(&root.join("models/uhr-nano")).unwrap();
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    let pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let frames: Vec<_> = (0..2).map(|number| folder.path().join(format!("{number}.jpg"))).collect();
    frames.iter().zip(seed..).for_each(|(frame, seed)| draw(frame, Px(1_400), Px(700), seed).unwrap());
    let settings = SimSettings { frames, questions: vec!["is there a red ship?".into()], n, hours: 10.0, seed };
    simulate(pipeline, &Trace::parse(trace).unwrap(), &settings).unwrap()
}

fn throttling() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/throttling.toml")).unwrap()
}

#[test]
fn under_throttling_next_to_nothing_is_late_and_nothing_is_refused_that_would_fit() {
    let n = std::env::var("UHR_QUESTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let result = simulated(&throttling(), n, 3);
    println!("{result:#?}");
    assert_eq!((result.asked, result.answered + result.refused), (n, n + result.answered_again));
    assert!(result.answered > n / 3 && result.refused > n / 10 && result.answered_again > n / 100, "{result:?}");
    assert!(result.of_two > n / 50 && result.covered > n / 20, "{result:?}");
    assert!(result.late * 100 <= result.answered, "{result:?}");
    assert_eq!(result.late_traced, result.late, "each late answer's stages went over their bounds by as much as it was late: {result:?}");
    assert_eq!((result.refused_wrongly, result.accepted_again, result.other_mode), (0, result.refused, 0), "{result:?}");
    // The ladder is used: what was asked, and less.
    assert!(result.by_step.len() > 2 && result.by_step["asked"] > 0, "{result:?}");
    assert!((9.0..11.5).contains(&result.hours) && result.hottest_c > 95.0, "{result:?}");
}

#[test]
fn the_same_seed_gives_the_same_hours() {
    let [a, b, c] = [(5, 40), (5, 40), (6, 40)].map(|(seed, n)| simulated(&throttling(), n, seed));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn a_slowdown_that_no_sensor_tells_of_makes_answers_late_and_they_are_counted() {
    let trace = "seed = 1\n[[segment]]\nuntil-s = 36000.0\ntemperature-c = 40.0\nslowdown = 2.5\n";
    let result = simulated(trace, 100, 3);
    println!("{result:#?}");
    assert!(result.late > 5 && result.stepped_down > 0, "{result:?}");
    assert_eq!((result.late_traced, result.refused_wrongly), (result.late, 0), "{result:?}");
}

#[test]
fn in_another_power_mode_than_the_calibrated_one_no_deadline_is_promised() {
    let segment = |until: u32, mode: &str| {
        format!("[[segment]]\nuntil-s = {until}.0\ntemperature-c = 40.0\npower-mode = \"{mode}\"\nslowdown = 1.0\n")
    };
    let trace = ["seed = 1\n".to_owned(), segment(12_000, "25W"), segment(24_000, "15W"), segment(36_000, "25W")].concat();
    let result = simulated(&trace, 120, 3);
    assert!((20..60).contains(&result.other_mode), "{result:?}");
    assert_eq!(result.answered + result.refused + result.other_mode, 120 + result.answered_again, "{result:?}");
    assert_eq!((result.late_traced, result.refused_wrongly), (result.late, 0), "{result:?}");
}
