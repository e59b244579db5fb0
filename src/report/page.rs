//! A report as one HTML document: a verdict, then text, facts, tables and plots.
//!
//! The document needs nothing but itself: no script, font or picture from outside, so it opens from a stick in a field as it does years later
//! from an archive. It is also well-formed XML. It follows the reader's light or dark setting; paper is always light.
//!
//! # Why
//! A reader wants the verdict first and the evidence next to it. Colour alone is no verdict: every state is also a word.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots::{Drawing, well_formed};

const STYLE: &str = include_str!("page/style.css");

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Failed,
    /// The measurement allows neither verdict: too few times, a reading that was absent.
    NotShown,
}

impl Outcome {
    /// As a person reads it.
    #[must_use]
    pub fn word(self) -> &'static str {
        ["OK", "Failed", "Not shown"][self as usize]
    }

    fn class(self) -> &'static str {
        ["ok", "failed", "not-shown"][self as usize]
    }
}

/// What the whole report comes to, with the one line that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub line: String,
}

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub title: String,
    /// What it is about, such as the device, its power mode and the date; nothing is shown of an empty one.
    pub subject: String,
    pub verdict: Verdict,
    pub blocks: Vec<Block>,
}

/// A part of a report, in reading order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    Heading(String),
    Text(String),
    /// Names and values, as a grid.
    Facts(Vec<(String, String)>),
    Table {
        head: Vec<Column>,
        rows: Vec<Row>,
    },
    /// A plot with a title over it and a caption under it; half-width plots that follow each other stand side by side.
    Figure {
        title: String,
        drawing: Drawing,
        caption: String,
    },
}

/// A column's name, and whether its cells are numbers, which stand under each other's last digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: String,
    numbers: bool,
}

impl Column {
    #[must_use]
    pub fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), numbers: false }
    }

    #[must_use]
    pub fn numbers(name: impl Into<String>) -> Self {
        Self { name: name.into(), numbers: true }
    }
}

/// A row's cells in the order of the columns; cells past the last column are shown all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub cells: Vec<String>,
    /// Adds a word and a colour at the row's end.
    pub state: Option<Outcome>,
}

/// The document, as UTF-8 text to be written to a `.html` file.
#[must_use]
pub fn render(page: &Page) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            // By hand, as HTML closes these and XML must: the policy forbids whatever this page doesn't need, scripts above all.
            (PreEscaped("<head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
                <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"/>\
                <meta name=\"color-scheme\" content=\"light dark\"/>"))
            title { (page.title) ": " (page.verdict.outcome.word()) }
            style { (PreEscaped(STYLE)) }
            (PreEscaped("</head>"))
            body {
                main {
                    header {
                        h1 { (page.title) }
                        @if !page.subject.is_empty() {
                            p.subject { (page.subject) }
                        }
                    }
                    div.verdict.(page.verdict.outcome.class()) {
                        strong { (page.verdict.outcome.word()) }
                        p { (page.verdict.line) }
                    }
                    @for run in page.blocks.chunk_by(|a, b| stands_beside(a) && stands_beside(b)) {
                        @if let [first, ..] = run && stands_beside(first) {
                            div.pair { @for item in run { (block(item)) } }
                        } @else {
                            @for item in run { (block(item)) }
                        }
                    }
                }
            }
        }
    };
    well_formed(&markup.into_string())
}

fn stands_beside(block: &Block) -> bool {
    matches!(block, Block::Figure { drawing, .. } if drawing.is_half())
}

fn block(block: &Block) -> Markup {
    html! {
        @match block {
            Block::Heading(text) => { h2 { (text) } },
            Block::Text(text) => { p { (text) } },
            Block::Facts(facts) => {
                dl.facts {
                    @for (name, value) in facts {
                        div { dt { (name) } dd { (value) } }
                    }
                }
            },
            Block::Table { head, rows } => { (table(head, rows)) },
            Block::Figure { title, drawing, caption } => {
                figure {
                    h3 { (title) }
                    div.wide { (PreEscaped(drawing.wide())) }
                    div.narrow { (PreEscaped(drawing.narrow())) }
                    @if !caption.is_empty() {
                        figcaption { (caption) }
                    }
                }
            },
        }
    }
}

fn table(head: &[Column], rows: &[Row]) -> Markup {
    let states = rows.iter().any(|row| row.state.is_some());
    let columns = rows.iter().map(|row| row.cells.len()).fold(head.len(), usize::max);
    let numbers = |index: usize| head.get(index).is_some_and(|column| column.numbers);
    html! {
        // Reachable by keyboard, as it scrolls sideways where it is wider than the page.
        div.table tabindex="0" {
            table {
                thead {
                    tr {
                        @for index in 0..columns {
                            th.number[numbers(index)] scope="col" { @if let Some(column) = head.get(index) { (column.name) } }
                        }
                        @if states { th.result scope="col" { "Result" } }
                    }
                }
                tbody {
                    @for row in rows {
                        tr class=[row.state.map(Outcome::class)] {
                            @for index in 0..columns {
                                td.number[numbers(index)] { @if let Some(cell) = row.cells.get(index) { (cell) } }
                            }
                            @if states {
                                td.result { @if let Some(state) = row.state { (state.word()) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
