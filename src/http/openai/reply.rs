//! Answers in OpenAI's shape, whole and in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::http::events::{Events, Gone};
use crate::http::failure::Failure;
use crate::http::openai::request::Wish;
use crate::journal::{Outcome, Progress};
use crate::units::QuestionId;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

/// `stop` or `length`, the words there are: time that ran out cuts an answer like a length.
fn finish(document: &Value) -> &'static str {
    match document["finish"].as_str() {
        Some("length" | "deadline") => "length",
        _ => "stop",
    }
}

/// Tokens of the prompt and the answer. Visual tokens are what the budget let through, not what the frame has.
fn usage(document: &Value) -> Value {
    let receipt = &document["receipt"];
    let views = receipt["budget"]["per_view"].as_array();
    let visual: u64 = views.into_iter().flatten().filter_map(|view| view["tokens"].as_u64()).sum();
    let text = receipt["tokens"]["text"].as_u64().unwrap_or(0);
    let answer = receipt["tokens"]["answer"].as_u64().unwrap_or(0);
    json!({
        "prompt_tokens": visual + text,
        "completion_tokens": answer,
        "total_tokens": visual + text + answer,
        "prompt_tokens_details": { "visual_tokens": visual, "text_tokens": text, "cached_tokens": 0 },
    })
}

/// What OpenAI's shape has no place for.
fn own(id: QuestionId, wish: &Wish, document: &Value) -> Value {
    json!({ "question": id, "finish": document["finish"], "ignored": wish.ignored, "receipt": document["receipt"] })
}

/// A whole answer.
pub fn whole(id: QuestionId, wish: &Wish, document: &Value) -> Value {
    json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": now(),
        "model": wish.model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": document["text"], "refusal": null },
            "logprobs": null,
            "finish_reason": finish(document),
        }],
        "usage": usage(document),
        "uhr": own(id, wish, document),
    })
}

/// An answer in pieces. What goes wrong after the first is an error in the stream, and no `[DONE]` follows it.
pub async fn stream(mut events: Events, mut progress: watch::Receiver<Progress>, id: QuestionId, wish: Wish) {
    let _ = pieces(&mut events, &mut progress, id, &wish).await;
}

async fn pieces(events: &mut Events, progress: &mut watch::Receiver<Progress>, id: QuestionId, wish: &Wish) -> Result<(), Gone> {
    let created = now();
    let chunk = |choices: Value| {
        let mut chunk = json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": created, "model": wish.model, "choices": choices,
        });
        if wish.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let choice =
        |delta: Value, finish: Option<&str>| chunk(json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]));
    events.data(&choice(json!({ "role": "assistant", "content": "" }), None).to_string()).await?;
    let mut told = String::new();
    loop {
        let now = progress.borrow_and_update().clone();
        match now {
            Progress::Queued { .. } => {}
            Progress::Working { text, .. } => more(events, &mut told, &text, &choice).await?,
            Progress::Done(outcome) => {
                return match &*outcome {
                    Outcome::Refused { code, reason } => events.data(&Failure::of_outcome(code, reason).document().to_string()).await,
                    Outcome::Answered { document } => {
                        more(events, &mut told, document["text"].as_str().unwrap_or_default(), &choice).await?;
                        let mut last = choice(json!({}), Some(finish(document)));
                        last["uhr"] = own(id, wish, document);
                        events.data(&last.to_string()).await?;
                        if wish.include_usage {
                            let mut usage_chunk = chunk(json!([]));
                            usage_chunk["usage"] = usage(document);
                            events.data(&usage_chunk.to_string()).await?;
                        }
                        events.data("[DONE]").await
                    }
                };
            }
        }
        events.changed(progress).await?;
    }
}

/// Sends what `text` has beyond what was told. A stream can't take anything back: the answer so far only ever grows, and a last word that a deadline cut off
/// stays told.
async fn more(events: &Events, told: &mut String, text: &str, choice: &(impl Fn(Value, Option<&str>) -> Value + Sync)) -> Result<(), Gone> {
    if let Some(rest) = text.strip_prefix(told.as_str()).filter(|rest| !rest.is_empty()) {
        events.data(&choice(json!({ "content": rest }), None).to_string()).await?;
        told.push_str(rest);
    }
    Ok(())
}
