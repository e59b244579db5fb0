//! Bodies of questions and chat completions, and what an `image_url` names: JSON → question, data URL → bytes.

use uhr_edge::http::Ask;
use uhr_edge::http::openai::{Chat, picture};

pub fn run(bytes: &[u8]) {
    if let Ok(chat) = Chat::parse(bytes) {
        let _ = chat.question("uhr-nano".into());
    }
    if let Ok(ask) = Ask::parse(bytes) {
        let _ = ask.asked(None);
    }
    if let Ok(url) = std::str::from_utf8(bytes) {
        let _ = picture(url);
    }
}
