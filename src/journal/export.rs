//! Evidence of answers as GeoJSON.

use serde_json::{Value, json};

use crate::journal::{Outcome, QuestionEntry};

/// A feature a box of evidence that has its place on the ground: a polygon in WGS-84, longitude first, as RFC 7946 wants it.
#[must_use]
pub fn geojson(entry: &QuestionEntry) -> Vec<Value> {
    let Some(Outcome::Answered { document }) = &entry.outcome else { return Vec::new() };
    let boxes = document["receipt"]["evidence"].as_array().map(Vec::as_slice).unwrap_or_default();
    let feature = |place: &Value| {
        let corners = place["wgs84"]["corners"].as_array()?;
        // Ours go clockwise from the upper left of the picture; rings go the other way round and close.
        let mut ring: Vec<Value> = corners.iter().rev().map(|corner| json!([corner[1], corner[0]])).collect();
        ring.push(ring.first()?.clone());
        let frame = place["frame"].as_u64().and_then(|at| entry.frames.get(usize::try_from(at).ok()?));
        Some(json!({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "question": entry.id, "text": entry.text, "answer": document["text"], "frame": frame,
                "score": place["score"], "error_m": place["wgs84"]["error_m"],
                "x": place["x"], "y": place["y"], "w": place["w"], "h": place["h"],
            },
        }))
    };
    boxes.iter().filter_map(feature).collect()
}
