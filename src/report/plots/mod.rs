//! Plots as inline SVG, from plain data.
//!
//! Each function takes values with their units and gives a [`Drawing`]: the same plot laid out twice, for a page and for a phone, in colours
//! that the page's style sheet names. Values that are not finite, or past what can be drawn, are left out and counted under the plot; a plot
//! without a value says "not measured". However many times, readings or pairs there are, a drawing stays below 200 KB: what falls on one spot is
//! drawn once.
//!
//! # Why
//! A plotting crate writes fixed colours, whole pixels and one size; these follow the reader's light or dark page, and their labels give way to
//! each other where a limit lies beside a percentile, which is where a qualification is decided.

mod axes;
mod distribution;
mod drawing;
mod scale;
mod stacked;
mod xy;

pub use distribution::{Marks, distribution};
pub use drawing::Drawing;
pub(super) use drawing::well_formed;
pub use stacked::{StageBar, memory, stages};
pub use xy::{CurvePoint, Prediction, Sample, curve, power, predicted, temperature};

#[cfg(test)]
mod tests;
