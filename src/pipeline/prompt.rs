//! From a question to prompt token ids.

use crate::config::Prompt;
use crate::engine::{Tokenizer, TokenizerError};
use crate::units::Tokens;

/// Token ids before the image, and from the image to where the answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptIds {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
    /// Tokens of the question that stand for what the model's vocabulary lacks.
    pub unknown: usize,
}

impl PromptIds {
    /// Fills `question` into the template. Special tokens count in the template only: a question that spells one is plain text.
    pub fn new(prompt: &Prompt, tokenizer: &Tokenizer, question: &str) -> Result<Self, TokenizerError> {
        let mut after = tokenizer.encode_template(&prompt.between)?;
        let asked = tokenizer.encode_text(question)?;
        let unknown = tokenizer.unknown(&asked);
        after.extend(asked);
        after.extend(tokenizer.encode_template(&prompt.after_question)?);
        Ok(Self { before: tokenizer.encode_template(&prompt.before_image)?, after, unknown })
    }

    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens::of(self.before.len() + self.after.len())
    }
}
