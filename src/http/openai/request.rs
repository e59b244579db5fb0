//! The body of a chat completion, and the question that it asks.

use std::borrow::Cow;

use serde::Deserialize;

use crate::http::body::malformed;
use crate::http::failure::Failure;
use crate::http::openai::bounded::{Few, Others};
use crate::http::openai::picture::{Picture, picture};
use crate::http::questions::deadline;
use crate::journal::{Asked, MAX_FRAMES, Origin, Priority};
use crate::units::{Tiles, Tokens};

/// A request. Text that came without escapes is borrowed from the body: a picture isn't held twice.
#[derive(Debug, Deserialize)]
pub struct Chat<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Few<Message<'a>>,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    seed: Option<i64>,
    n: Option<u32>,
    /// The daemon's own: as of `POST /api/questions`.
    budget: Option<String>,
    encode_tiles: Option<u32>,
    deadline_ms: Option<f64>,
    priority: Option<Priority>,
    #[serde(skip)]
    others: Others,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

#[derive(Debug)]
enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Few<Part<'a>>),
}

#[derive(Debug, Deserialize)]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image_url: Option<ImageUrl<'a>>,
}

#[derive(Debug, Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// How the answer is to be given.
#[derive(Clone, Debug)]
pub struct Wish {
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// Named in the request and without effect.
    pub ignored: Vec<String>,
}

fn bad(param: &'static str, message: String) -> Failure {
    Failure { code: "invalid_request".into(), ..Failure::bad(param, message) }
}

impl<'a> Chat<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// What is no JSON, or not of this shape.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        let others: Others = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        let chat: Self = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        Ok(Self { others, ..chat })
    }

    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The question, its pictures, and how it is to be answered.
    ///
    /// # Errors
    /// What the daemon can't do, by name.
    pub fn question(self, model: String) -> Result<(Asked, Vec<Picture>, Wish), Failure> {
        if let Some(name) = self.others.unknown {
            return Err(bad("body", format!("{name}: wanted a field that this daemon knows (docs/http.md), found one that it doesn't")));
        }
        let ignored = self.others.ignored;
        if let Some(found) = self.n.filter(|n| *n != 1) {
            return Err(bad("n", format!("n: wanted 1, found {found}")));
        }
        let [message] = &self.messages.0[..] else {
            let found = self.messages.0.iter().map(|message| &*message.role).take(8).collect::<Vec<_>>().join(", ");
            let count = self.messages.0.len();
            return Err(bad(
                "messages",
                format!("messages: wanted one of the user (the model takes a question at a time), found {count} ({found})"),
            ));
        };
        if message.role != "user" {
            let found: String = message.role.chars().take(40).collect();
            return Err(bad("messages", format!("messages: wanted role \"user\", found {found:?}")));
        }
        let (mut text, mut urls) = (String::new(), Vec::new());
        match &message.content {
            Some(Content::Text(whole)) => text.push_str(whole),
            Some(Content::Parts(parts)) => {
                for part in &parts.0 {
                    match (&*part.kind, &part.text, &part.image_url) {
                        ("text", Some(own), _) => {
                            text.push_str(if text.is_empty() { "" } else { "\n" });
                            text.push_str(own);
                        }
                        ("image_url", _, Some(image)) => urls.push(&*image.url),
                        (kind, ..) => {
                            let kind: String = kind.chars().take(40).collect();
                            let message =
                                format!("messages: wanted parts \"text\" with text and \"image_url\" with image_url.url, found {kind:?}");
                            return Err(bad("messages", message));
                        }
                    }
                }
            }
            None => {}
        }
        // Counted before any picture is decoded.
        if !(1..=MAX_FRAMES).contains(&urls.len()) {
            return Err(bad("messages", format!("messages: wanted one to {MAX_FRAMES} pictures (image_url), found {}", urls.len())));
        }
        let pictures = urls.into_iter().map(picture).collect::<Result<_, _>>()?;
        let mut asked = Asked::new(text, Vec::new(), Origin::Http);
        asked.budget = self.budget;
        asked.encode_tiles = self.encode_tiles.map(Tiles);
        asked.max_new = self.max_completion_tokens.or(self.max_tokens).map(Tokens);
        asked.deadline = deadline(self.deadline_ms)?;
        asked.seed = self.seed.map(i64::cast_unsigned);
        asked.priority = self.priority.unwrap_or_default();
        let include_usage = self.stream_options.unwrap_or_default().include_usage;
        Ok((asked, pictures, Wish { model, stream: self.stream.unwrap_or(false), include_usage, ignored }))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text, or an array of parts")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Few::gather(items).map(Content::Parts)
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::FrameRef;

    fn refusal(body: &str) -> String {
        let chat = match Chat::parse(body.as_bytes()) {
            Ok(chat) => chat,
            Err(failure) => return failure.message,
        };
        chat.question("m".into()).unwrap_err().message
    }

    const PICTURE: &str = r#"{"type":"image_url","image_url":{"url":"frame:newest","detail":"high"}}"#;

    #[test]
    fn a_question_in_parts_is_understood() {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"is there"}},{PICTURE},{{"type":"text","text":"a \u0073hip?"}}]}}],
               "max_tokens":7,"max_completion_tokens":5,"seed":-1,"temperature":0.7,"stop":null,"tools":[],"response_format":{{"type":"text"}},
               "stream":true,"stream_options":{{"include_usage":true}},"budget":"bench","deadline_ms":500,"priority":"high"}}"#
        );
        let (asked, pictures, wish) = Chat::parse(body.as_bytes()).unwrap().question("m".into()).unwrap();
        assert_eq!((asked.text.as_str(), asked.max_new, asked.seed), ("is there\na ship?", Some(Tokens(5)), Some(u64::MAX)));
        assert!(matches!(pictures[..], [Picture::Frame(FrameRef::Newest)]));
        assert_eq!((asked.budget.as_deref(), asked.deadline.map(|ms| ms.0), asked.priority), (Some("bench"), Some(500.0), Priority::High));
        assert!(wish.stream && wish.include_usage && wish.ignored == ["temperature"]);
    }

    #[test]
    fn a_picture_is_borrowed_from_the_body() {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{PICTURE}]}}]}}"#);
        let chat = Chat::parse(body.as_bytes()).unwrap();
        let Some(Content::Parts(parts)) = &chat.messages.0[0].content else { panic!("no parts") };
        assert!(matches!(parts.0[0].image_url.as_ref().unwrap().url, Cow::Borrowed(_)));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |more: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{PICTURE}]}}]{more}}}"#);
        let messages = |content: &str| format!(r#"{{"model":"m","messages":{content}}}"#);
        for (body, message) in [
            (String::new(), "EOF while parsing"),
            ("[1]".into(), "invalid"),
            (r#"{"messages":[]}"#.into(), "missing field `model`"),
            (messages("[]"), "found 0"),
            (messages(r#"[{"role":"system","content":"x"},{"role":"user","content":"y"}]"#), "found 2 (system, user)"),
            (messages(r#"[{"role":"assistant","content":"x"}]"#), "found \"assistant\""),
            (messages(r#"[{"role":"user","content":"what is this?"}]"#), "wanted one to 4 pictures (image_url), found 0"),
            (messages(r#"[{"role":"user","content":[{"type":"input_audio"}]}]"#), "found \"input_audio\""),
            (messages(r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/b"}}]}]"#), "nothing is fetched"),
            (messages(r#"[{"role":"user","content":7}]"#), "expected text, or an array of parts"),
            (messages(&format!(r#"[{{"role":"user","content":[{}]}}]"#, [PICTURE; 5].join(","))), "found 5"),
            (messages(&format!(r#"[{{"role":"user","content":[{}]}}]"#, [PICTURE; 65].join(","))), "at most 64 of them"),
            (with(r#","n":2"#), "n: wanted 1, found 2"),
            (with(r#","tools":[{"type":"function"}]"#), "tools: wanted a field that this daemon knows"),
            (with(r#","logprobs":true"#), "logprobs: wanted a field"),
            (with(r#","stop":["\n"]"#), "stop: wanted a field"),
            (with(r#","response_format":{"type":"json_object"}"#), "response_format: wanted a field"),
            (with(r#","max_tokens":-1"#), "max_tokens"),
            (with(r#","deadline_ms":0"#), "deadline_ms: wanted a number above 0"),
        ] {
            let found = refusal(&body);
            assert!(found.contains(message), "{body}: {found}");
        }
    }

    proptest::proptest! {
        /// Pieces of requests in any order, and bytes in between: read or refused, never more.
        #[test]
        fn whatever_comes_is_read_or_refused(pieces in proptest::collection::vec((0_usize..20, proptest::prelude::any::<u8>()), 0..60)) {
            const PIECES: [&str; 20] = [
                "{", "}", "[", "]", ":", ",", "\"model\"", "\"messages\"", "\"m\"", "\"role\"", "\"user\"", "\"content\"", "\"type\"", "\"image_url\"", "\"url\"",
                "\"data:image/png;base64,AAEC\"", "\"frame:newest\"", "\"stream\"", "true", "null",
            ];
            let mut body = Vec::new();
            for (piece, byte) in pieces {
                body.extend_from_slice(PIECES[piece].as_bytes());
                if byte > 240 {
                    body.push(byte);
                }
            }
            if let Ok(chat) = Chat::parse(&body) {
                let _ = chat.question("m".into());
            }
            let _ = picture(&String::from_utf8_lossy(&body));
        }
    }
}
