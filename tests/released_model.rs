//! A model of the authors' architecture with drawn weights: tokens and text are those of their released code. Numbers, picture and package: tools/vectors/released_model.py.

use std::path::Path;

use serde_json::Value;
use uhr_edge::compress::regions::Method;
use uhr_edge::compress::{Mode, Selector};
use uhr_edge::config::{Manifest, Policy, Profile};
use uhr_edge::geometry::{Layout, TokenOrder};
use uhr_edge::imaging::{FrameSource, Limits};
use uhr_edge::pipeline::{Engines, Pipeline, Request};
use uhr_edge::planner;
use uhr_edge::units::{Bytes, Tokens};

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|value| u32::try_from(value).ok()).unwrap()
}

#[test]
fn tokens_and_text_are_those_of_the_authors_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/released_model");
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let mut profile = Profile::load("host").unwrap();
    profile.compression.clusters = number(&golden["clusters"]);
    profile.compression.seed = u64::from(number(&golden["seed"]));
    let max_new = Tokens(number(&golden["max_new"]));
    profile.tokens.max_new = max_new;
    let manifest = Manifest::load(&folder.join("package")).unwrap();
    assert_eq!(manifest.policy, Policy::released());
    let engines = Engines::load(&profile, &manifest, &Method::Kmeans).unwrap();
    let budgets: Vec<String> = golden["budgets"].as_array().unwrap().iter().map(Value::to_string).collect();
    let budget = planner::budget(Some(&budgets.join(",")), &profile, &manifest).unwrap();
    let (shape, limits) = (manifest.vision.shape.clone(), Limits::of(&profile));
    let mut pipeline = Pipeline::new(profile, manifest, engines, &Method::Kmeans, Bytes(0)).unwrap();
    let sources = [FrameSource::open(&folder.join("frame.png"), &limits).unwrap()];
    let (width, height) = sources[0].size();
    let prompt = pipeline.prompt(golden["question"].as_str().unwrap()).unwrap();
    let request = Request { budget, selector: Selector::UhrBat, mode: Mode::Paper, encode_tiles: None, max_new, deadline: None };
    let mut plan = pipeline.plan_first(&sources, &prompt, &request).unwrap();
    let [source] = sources;
    let (frame, _) = pipeline.ingest(0, source, &mut plan, &mut |_, _| ()).unwrap();
    let (answer, _) = pipeline.answer(&[&frame], &prompt, &mut plan, None, &mut |_| ()).unwrap();
    let shown = pipeline.shown(0, &frame).unwrap();
    let layout = Layout::new(&shape, width, height).unwrap().numbered(TokenOrder::TileMajor, true);
    let (mut kept, mut merged) = (Vec::new(), Vec::new());
    for (view, tokens) in layout.views().iter().zip(golden["views"].as_array().unwrap()) {
        for token in tokens.as_array().unwrap() {
            let behind = token["pos"].as_array().unwrap().iter().map(|place| view.footprint(number(place))).collect::<Vec<_>>();
            if token["merged"] == true { merged.push(behind) } else { kept.push((view.id, behind[0])) }
        }
    }
    assert_eq!(shown.kept.iter().map(|kept| (kept.view, kept.rect)).collect::<Vec<_>>(), kept);
    assert_eq!(shown.merged.into_iter().map(|region| region.members).collect::<Vec<_>>(), merged);
    assert_eq!(golden["answer"].as_array().unwrap().len(), max_new.get());
    assert_eq!(answer.text, golden["text"].as_str().unwrap());
}
