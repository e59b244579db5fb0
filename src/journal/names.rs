//! The words that the tables hold for enums.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::journal::{FrameState, Origin, Priority, QuestionState};

/// An enum of the tables, written by its kebab-case name.
pub trait Named: Serialize + DeserializeOwned {}
impl Named for FrameState {}
impl Named for Origin {}
impl Named for Priority {}
impl Named for QuestionState {}

/// The word for `value`.
pub fn word<T: Named>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        // Enums without data are strings.
        other => format!("{other:?}"),
    }
}

/// What `word` stands for.
pub fn value<T: Named>(word: &str) -> Option<T> {
    serde_json::from_value(word.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for (state, wanted) in [(FrameState::Waiting, "waiting"), (FrameState::Ready, "ready"), (FrameState::Dropped, "dropped")] {
            assert_eq!((word(state).as_str(), value::<FrameState>(wanted)), (wanted, Some(state)));
        }
        assert_eq!(value::<Priority>("urgent"), None);
    }
}
