//! Text to token ids and back, by a package's `tokenizer.json`.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("{path}: {reason}")]
    Load { path: PathBuf, reason: String },
    #[error("{path}: wanted a token {token:?}, found none")]
    NoToken { path: PathBuf, token: String },
    #[error("{path}: wanted ids below the decoder's {vocab}, found {found} tokens")]
    Vocab { path: PathBuf, vocab: usize, found: usize },
    #[error("the tokenizer failed: {0}")]
    Run(String),
}

/// Special tokens are matched in a template, and plain text everywhere else.
pub struct Tokenizer {
    path: PathBuf,
    template: tokenizers::Tokenizer,
    text: tokenizers::Tokenizer,
    /// What stands for words it doesn't know.
    unknown: Option<u32>,
}

impl Tokenizer {
    /// Loads `path` for a decoder of `vocab` tokens.
    pub fn load(path: &Path, vocab: usize) -> Result<Self, TokenizerError> {
        let wrong = |reason: String| TokenizerError::Load { path: path.to_owned(), reason };
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        // The library panics on text that breaks off inside a decoder, and on normalisers that aren't what they should be.
        serde_json::from_slice::<serde::de::IgnoredAny>(&text).map_err(|error| wrong(error.to_string()))?;
        let made = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&text));
        let made = made.map_err(|_| wrong("wanted a tokenizer, found what the library fails on".into()))?;
        let template = made.map_err(|error| wrong(error.to_string()))?;
        let found = template.get_vocab_size(true);
        if found > vocab {
            return Err(TokenizerError::Vocab { path: path.to_owned(), vocab, found });
        }
        let mut text = template.clone();
        text.set_encode_special_tokens(true);
        let model = serde_json::to_value(template.get_model()).unwrap_or_default();
        let unknown = model["unk_token"].as_str().and_then(|token| template.token_to_id(token));
        Ok(Self { path: path.to_owned(), template, text, unknown })
    }

    /// Tokens it knows.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.template.get_vocab_size(true)
    }

    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        encode(&self.template, text)
    }

    /// What a user wrote: a special token's name in it is text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        encode(&self.text, text)
    }

    /// How many of `ids` stand for something it doesn't know.
    #[must_use]
    pub fn unknown(&self, ids: &[u32]) -> usize {
        ids.iter().filter(|id| Some(**id) == self.unknown).count()
    }

    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.template.decode(ids, true).map_err(|error| TokenizerError::Run(error.to_string()))
    }

    /// The id of a token by name.
    pub fn id(&self, token: &str) -> Result<u32, TokenizerError> {
        let missing = || TokenizerError::NoToken { path: self.path.clone(), token: token.to_owned() };
        self.template.token_to_id(token).ok_or_else(missing)
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let encoded = tokenizer.encode(text, false).map_err(|error| TokenizerError::Run(error.to_string()))?;
    Ok(encoded.get_ids().to_vec())
}
