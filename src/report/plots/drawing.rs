//! What every plot is drawn on: two layouts of one picture, coordinates, and how wide a text will be.

use std::fmt::{self, Write};

use maud::{Markup, Render, html};

/// Side of a text in drawing units; a unit is about a pixel on a page 1280 wide and on a phone.
pub(super) const TEXT: f64 = 12.0;

const PHONE: f64 = 340.0;

/// How much of a page's width a plot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Full,
    /// Two stand side by side.
    Half,
}

impl Span {
    const fn width(self) -> f64 {
        match self {
            Self::Full => 960.0,
            Self::Half => 470.0,
        }
    }
}

/// One plot, laid out for a page and for a phone, each an SVG element whose colours are classes of the page's style sheet.
///
/// # Why
/// A plot made for a page and squeezed onto a phone has text of six pixels. Only the plots make drawings, so no text gets onto a page unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    wide: String,
    narrow: String,
    span: Span,
}

impl Drawing {
    /// `draw` is called once a layout; `label` is what a screen reader says.
    pub(super) fn of(span: Span, label: &str, draw: impl Fn(&Sheet) -> Picture) -> Self {
        let layout = |width: f64| {
            let sheet = Sheet { width };
            let picture = draw(&sheet);
            let markup = html! {
                svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label=(label) viewBox={ "0 0 " (At(width)) " " (At(picture.height)) } {
                    (picture.body)
                }
            };
            well_formed(&markup.into_string())
        };
        Self { wide: layout(span.width()), narrow: layout(PHONE), span }
    }

    /// In place of a plot that has nothing to show.
    pub(super) fn not_measured(span: Span) -> Self {
        Self::of(span, "not measured", |sheet| {
            let height = 120.0;
            let body = html! {
                rect.empty x="0.5" y="0.5" width=(At(sheet.width - 1.0)) height=(At(height - 1.0)) rx="4" {}
                text.muted x=(At(sheet.width / 2.0)) y=(At(height / 2.0 + 4.0)) text-anchor="middle" { "not measured" }
            };
            Picture { height, body }
        })
    }

    /// For a page at least 760 px wide, and for paper.
    #[must_use]
    pub fn wide(&self) -> &str {
        &self.wide
    }

    /// For a phone.
    #[must_use]
    pub fn narrow(&self) -> &str {
        &self.narrow
    }

    pub(in crate::report) fn is_half(&self) -> bool {
        self.span == Span::Half
    }
}

/// The text of an XML document with what XML 1.0 can't hold (most control characters) replaced.
pub(in crate::report) fn well_formed(text: &str) -> String {
    let held = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    text.chars().map(|c| if held(c) { c } else { '\u{FFFD}' }).collect()
}

/// The layout that is drawn now.
pub(super) struct Sheet {
    pub width: f64,
}

impl Sheet {
    pub fn is_phone(&self) -> bool {
        self.width <= PHONE
    }
}

pub(super) struct Picture {
    pub height: f64,
    pub body: Markup,
}

/// A coordinate or length in drawing units, written to a hundredth.
#[derive(Clone, Copy)]
pub(super) struct At(pub f64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(match text.trim_end_matches('0').trim_end_matches('.') {
            "-0" | "" => "0",
            short => short,
        })
    }
}

impl Render for At {
    fn render_to(&self, buffer: &mut String) {
        // Writing to a string doesn't fail.
        let _ = write!(buffer, "{self}");
    }
}

/// The width of `text` in drawing units in the widest sans-serif that readers have (DejaVu Sans, whose widths these are).
pub(super) fn width(text: &str) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | ' ' | '.' | ',' | ':' | '\'' | '|' => 0.32,
        'f' | 't' | 'r' | '(' | ')' | '!' | '-' => 0.42,
        'c' | 's' | 'z' | '–' => 0.55,
        'm' | 'w' | 'M' | 'W' | '%' => 0.98,
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => 0.64,
        c if c.is_ascii() => 0.74,
        _ => 1.0,
    };
    text.chars().map(em).sum::<f64>() * TEXT
}

/// The same in bold.
pub(super) fn bold_width(text: &str) -> f64 {
    width(text) * 1.1
}

/// `text`, or as much of its beginning as `room` holds, with an ellipsis.
pub(super) fn fit(text: &str, room: f64) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if width(&short) + TEXT > room {
            short.pop();
            break;
        }
    }
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

/// What is said under a plot of the values that it can't show.
pub(super) fn left_out(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 value left out: not a finite number".to_owned()),
        _ => Some(format!("{count} values left out: not finite numbers")),
    }
}
