//! The frame of a plot: grid, ticks, titles, and labels that keep clear of each other.

use maud::{Markup, html};

use super::drawing::{At, Sheet, TEXT, bold_width, width};
use super::scale::{Domain, Scale, Tick};

/// Room for the text of an axis title above the plot.
pub(super) const HEAD: f64 = 27.0;
/// Between two rows of labels.
pub(super) const ROW: f64 = 16.0;

/// The rectangle that data is drawn in.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

/// Two scales over an area, with the ticks that fit beside them.
pub(super) struct Axes {
    sheet: f64,
    pub area: Area,
    pub x: Scale,
    pub y: Scale,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
}

impl Axes {
    /// `head` and `tall` are the room above the area and its height; `right` is the room to its right.
    pub fn new(sheet: &Sheet, [head, tall, right]: [f64; 3], x: Domain, y: Domain) -> Self {
        let y_ticks = y.ticks((tall / 46.0).floor());
        let left = left_of(&y_ticks);
        let area = Area { left, right: sheet.width - right.max(14.0), top: head, bottom: head + tall };
        let x = Scale { domain: x, from: area.left, to: area.right };
        Self {
            sheet: sheet.width,
            area,
            x,
            y: Scale { domain: y, from: area.bottom, to: area.top },
            x_ticks: roomy(&x, sheet.width),
            y_ticks,
        }
    }

    /// Ticks at the data's own values instead of round ones, where their texts keep clear of each other.
    pub fn x_ticks_at(&mut self, ticks: Vec<Tick>) {
        if !ticks.is_empty() && clear(&self.x, &ticks, self.sheet) {
            self.x_ticks = ticks;
        }
    }

    /// The room to the left of an area whose heights are in `domain`.
    pub fn left(tall: f64, domain: &Domain) -> f64 {
        left_of(&domain.ticks((tall / 46.0).floor()))
    }

    pub fn render(&self, x_title: &str, y_title: &str) -> Markup {
        let Area { left, right, bottom, .. } = self.area;
        html! {
            g.grid {
                @for tick in &self.y_ticks {
                    line x1=(At(left)) x2=(At(right)) y1=(At(self.y.at(tick.value))) y2=(At(self.y.at(tick.value))) {}
                }
            }
            g.muted {
                @for tick in &self.y_ticks {
                    text x=(At(left - 8.0)) y=(At(self.y.at(tick.value) + 4.0)) text-anchor="end" { (tick.text) }
                }
                text x="0" y="12" { (y_title) }
            }
            (under(&self.x, &self.x_ticks, [left, right, bottom, self.sheet], x_title))
        }
    }

    /// The height of what `render` draws, with `notes` lines under it.
    pub fn height(&self, notes: &[String]) -> f64 {
        below(self.area.bottom, notes)
    }

    pub fn notes(&self, notes: &[String]) -> Markup {
        notes_under(self.area.bottom, notes)
    }
}

fn left_of(ticks: &[Tick]) -> f64 {
    ticks.iter().map(|tick| width(&tick.text)).fold(12.0, f64::max) + 10.0
}

/// The base line, ticks and title of a horizontal axis; `sheet` is the drawing's width.
pub(super) fn under(scale: &Scale, ticks: &[Tick], [left, right, bottom, sheet]: [f64; 4], title: &str) -> Markup {
    html! {
        g.axis {
            line x1=(At(left)) x2=(At(right)) y1=(At(bottom)) y2=(At(bottom)) {}
            @for tick in ticks {
                line x1=(At(scale.at(tick.value))) x2=(At(scale.at(tick.value))) y1=(At(bottom)) y2=(At(bottom + 4.0)) {}
            }
        }
        g.muted {
            @for tick in ticks {
                text x=(At(centre(scale, tick, sheet))) y=(At(bottom + 17.0)) text-anchor="middle" { (tick.text) }
            }
            text x=(At(right)) y=(At(bottom + 34.0)) text-anchor="end" { (title) }
        }
    }
}

/// Where a picture ends that has a horizontal axis at `bottom` and `notes` under it.
pub(super) fn below(bottom: f64, notes: &[String]) -> f64 {
    notes.iter().fold(bottom + 40.0, |y, _| y + ROW)
}

pub(super) fn notes_under(bottom: f64, notes: &[String]) -> Markup {
    html! {
        g.muted {
            @for (line, note) in (1u32..).zip(notes) {
                text x="0" y=(At(bottom + 34.0 + f64::from(line) * ROW)) { (note) }
            }
        }
    }
}

/// As many ticks as keep clear of each other.
pub(super) fn roomy(scale: &Scale, sheet: f64) -> Vec<Tick> {
    let mut wanted = ((scale.to - scale.from) / 70.0).floor().clamp(1.0, 12.0);
    loop {
        let ticks = scale.domain.ticks(wanted);
        if wanted <= 1.0 || clear(scale, &ticks, sheet) {
            return ticks;
        }
        wanted -= 1.0;
    }
}

fn clear(scale: &Scale, ticks: &[Tick], sheet: f64) -> bool {
    ticks.windows(2).all(|pair| {
        let room = centre(scale, &pair[1], sheet) - centre(scale, &pair[0], sheet);
        room >= (width(&pair[0].text) + width(&pair[1].text)) / 2.0 + TEXT * 0.7
    })
}

/// Where a tick's text is centred: under its tick, unless it would leave the sheet.
fn centre(scale: &Scale, tick: &Tick, sheet: f64) -> f64 {
    let half = width(&tick.text) / 2.0;
    scale.at(tick.value).min(sheet - half).max(half)
}

/// A vertical mark with its label at its right, in a row above the area: the leftmost in the highest.
pub(super) struct Flag {
    pub value: f64,
    pub text: String,
    pub class: &'static str,
}

impl Flag {
    pub fn width(&self) -> f64 {
        bold_width(&self.text) + 10.0
    }

    /// The room to the right of an area that starts at `left` for every flag to end on the sheet.
    pub fn room(flags: &[Self], domain: &Domain, sheet: f64, left: f64) -> f64 {
        let wanted = |flag: &Self| {
            let share = domain.share(flag.value);
            if share <= 0.0 { 0.0 } else { (sheet - left) - (sheet - left - flag.width()) / share }
        };
        flags.iter().map(wanted).fold(0.0, f64::max).min((sheet - left) / 2.0)
    }

    /// For each flag its row, 0 nearest to the data, so that no label lies on another or under another's mark.
    ///
    /// # Why
    /// A label reaches to the right over the marks that follow, so it must be in a row above all of theirs.
    pub fn rows(flags: &[Self], x: &Scale) -> Vec<u32> {
        let mut order: Vec<usize> = (0..flags.len()).collect();
        order.sort_by(|&a, &b| flags[a].value.total_cmp(&flags[b].value));
        let mut rows = vec![0; flags.len()];
        for (place, &this) in order.iter().enumerate().rev() {
            let end = x.at(flags[this].value) + flags[this].width();
            rows[this] =
                order[place + 1..].iter().filter(|&&other| x.at(flags[other].value) < end).map(|&other| rows[other] + 1).max().unwrap_or(0);
        }
        rows
    }

    pub fn render(flags: &[Self], rows: &[u32], x: &Scale, area: &Area) -> Markup {
        html! {
            // Light edges that set the marks off from the bars, all under all marks.
            @for at in flags.iter().map(|flag| x.at(flag.value)) {
                line.casing x1=(At(at)) x2=(At(at)) y1=(At(area.top)) y2=(At(area.bottom)) {}
            }
            @for (flag, &row) in flags.iter().zip(rows) {
                @let at = x.at(flag.value);
                @let y = area.top - 7.0 - f64::from(row) * ROW;
                g class=(flag.class) {
                    line.mark x1=(At(at)) x2=(At(at)) y1=(At(y - 9.0)) y2=(At(area.bottom)) {}
                    text x=(At(at + 5.0)) y=(At(y)) { (flag.text) }
                }
            }
        }
    }
}
