//! Pictures for people: what was kept, what was merged, where the evidence is.

mod overlay;

pub use overlay::{Overlay, ReportError};
