//! Pictures for people: what was kept, what was merged, where the evidence is; plots, and the page that holds them.

mod overlay;
mod page;
pub mod plots;

pub use overlay::{Overlay, ReportError};
pub use page::{Block, Column, Outcome, Page, Row, Verdict, render};
