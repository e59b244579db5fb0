//! report.html.

use crate::qualify::document::Qualification;

/// The document for people.
#[must_use]
pub fn html(document: &Qualification) -> String {
    format!("<html><body>{}</body></html>", document.date)
}
