//! One step of Lloyd's algorithm: every token to its nearest centre, every centre to the mean of its tokens.
//!
//! The nearest centre is that of the least `‖c‖² − 2·u·c`, computed by [`dot`] in f32; equal values go to the lowest number. What the step adds to that
//! definition only saves work: a token whose own centre is still nearer than any other can be (triangle inequality, after Hamerly 2010) keeps
//! its label unseen; the others are screened, and only centres within the screen's error are computed exactly.

use super::Settings;
use super::work::{BLOCK, Centres, ClusterWork, Reach, SHARDS, SLICE, Shard};
use crate::compress::CompressError;
use crate::compress::regions::ViewFeatures;
use crate::kernels::{
    Bounds, LANES, Pool, Screen, accumulate, byte_products, chain_error, dot, dot_error, float_products, judge, near, pack_bytes, quantise,
    row_bytes, squares,
};

/// Fixed point: a unit of the largest λ in 2³⁰ steps, so that a row fits i32 and a hundred thousand rows i64.
const UNIT: f32 = 1_073_741_824.0;

/// What an assignment is made with.
struct Task<'a> {
    settings: &'a Settings,
    view: &'a ViewFeatures<'a>,
    centres: &'a Centres,
    k: usize,
    screen: Screen,
    /// Largest ‖c‖ and move of any centre; the largest move but of centre `fastest`.
    norm: f32,
    fastest: usize,
    moves: (f32, f32),
}

/// The tokens of one shard, by their place among the open ones.
struct Part<'a> {
    tokens: &'a [u32],
    scales: &'a [f32],
    squares: &'a [f32],
    labels: &'a mut [u32],
    reach: &'a mut [Reach],
}

impl Settings {
    /// λ_f/‖f‖ and ‖u‖² of every open token.
    ///
    /// # Errors
    /// A feature that is not finite.
    pub(super) fn measure(&self, view: &ViewFeatures<'_>, work: &mut ClusterWork, pool: &Pool) -> Result<(), CompressError> {
        let (open, per_shard) = (&work.open, work.open.len().div_ceil(SHARDS));
        let (scales, owns) = (&mut work.scales[..open.len()], &mut work.squares[..open.len()]);
        pool.triples(&mut work.shards, scales, owns, per_shard, &|number, shard, scales, owns| {
            shard.bad = None;
            let row = &mut shard.rows[..view.dim + 2];
            for ((&token, scale), own) in open[(number * per_shard).min(open.len())..].iter().zip(scales).zip(owns) {
                let start = token as usize * view.dim;
                shard.bad = view.rows.not_finite(start, view.dim).map(|value| (token, value));
                if shard.bad.is_some() {
                    return;
                }
                let feature = &mut row[..view.dim];
                view.rows.copy_scaled(self.isa, start, 1.0, feature);
                // f32 squares in f64: finite.
                let norm = squares(self.isa, feature).sqrt();
                *scale = self.embedding.scale(norm);
                self.embedding.scaled(view, token, *scale, row);
                *own = squares(self.isa, row) as f32;
            }
        });
        match work.shards.iter().find_map(|shard| shard.bad) {
            Some((token, found)) => Err(CompressError::NotFinite { what: "clustering feature", token, found }),
            None => Ok(()),
        }
    }

    /// Prepares the centres for [`Self::assign`].
    pub(super) fn load_centres(&self, k: usize, dim: usize, screen: Screen, centres: &mut Centres) {
        let wide = k.next_multiple_of(LANES);
        centres.squares[..wide].fill(f32::INFINITY);
        centres.offsets[..wide].fill(0);
        for values in [&mut centres.steps, &mut centres.slopes, &mut centres.rests] {
            values[..wide].fill(0.0);
        }
        // Those that moved come first, so that they can be screened alone.
        centres.moved = 0;
        for of_moved in [true, false] {
            let start = if of_moved { 0 } else { centres.moved };
            let chosen = (0..k).filter(|&centre| (centres.moves[centre] > 0.0) == of_moved);
            let mut count = 0;
            for (centre, place) in chosen.zip(&mut centres.order[start..]) {
                *place = centre as u32;
                count += 1;
            }
            if of_moved {
                centres.moved = count;
            }
        }
        for number in 0..k {
            let row = centres.order[number] as usize;
            let centre = &centres.rows[row * dim..][..dim];
            let square = squares(self.isa, centre) as f32;
            (centres.squares[number], centres.values[row]) = (square, square);
            let norm = square.sqrt() * 1.000_1 + 1e-12;
            if screen == Screen::Bytes {
                let (lost, offset) = pack_bytes(self.isa, number, centre, &mut centres.scratch, &mut centres.bytes);
                centres.offsets[number] = offset;
                // |u·c − û·ĉ| ≤ ‖u − û‖·‖c‖ + ‖û‖·‖c − ĉ‖, twice.
                (centres.steps[number], centres.slopes[number], centres.rests[number]) = (lost.step, 2.0 * norm, 2.0 * lost.rest);
            } else {
                let group = &mut centres.floats[number / LANES * dim * LANES..][..dim * LANES];
                centre.iter().zip(group.iter_mut().skip(number % LANES).step_by(LANES)).for_each(|(value, place)| *place = *value);
                (centres.steps[number], centres.slopes[number]) = (1.0, 2.0 * chain_error(dim) * norm);
            }
        }
    }

    /// Gives each open token its nearest centre; returns how many labels changed. `first`: nothing is known yet.
    pub(super) fn assign(
        &self,
        k: usize,
        screen: Screen,
        first: bool,
        view: &ViewFeatures<'_>,
        work: &mut ClusterWork,
        pool: &Pool,
    ) -> usize {
        let largest = |values: &[f32]| values.iter().copied().fold(0.0, f32::max);
        let moves = &work.centres.moves[..k];
        let fastest = (0..k).max_by(|&a, &b| moves[a].total_cmp(&moves[b])).unwrap_or(0);
        let second = (0..k).filter(|&c| c != fastest).map(|c| moves[c]).fold(0.0, f32::max);
        let task = Task {
            settings: self,
            view,
            k,
            screen,
            norm: largest(&work.centres.values[..k]).sqrt() * 1.000_1 + 1e-12,
            fastest,
            moves: (moves[fastest], second),
            centres: &work.centres,
        };
        let open = work.open.len();
        let (tokens, scales, owns) = (&work.open[..open], &work.scales[..open], &work.squares[..open]);
        let per_shard = open.div_ceil(SHARDS);
        work.before[..open].copy_from_slice(&work.labels[..open]);
        let (labels, reach) = (&mut work.labels[..open], &mut work.reach[..open]);
        pool.triples(&mut work.shards, labels, reach, per_shard, &|number, shard, labels, reach| {
            let start = (number * per_shard).min(open);
            let here = start..start + labels.len();
            let part = Part { tokens: &tokens[here.clone()], scales: &scales[here.clone()], squares: &owns[here], labels, reach };
            shard.changed = task.assign(part, first, shard);
        });
        work.shards.iter().map(|shard| shard.changed).sum()
    }

    /// Moves each centre to the mean of its tokens; one without tokens stays. Whether every coordinate of every centre stayed within 1e-8 + 1e-5 of its value.
    pub(super) fn update(&self, k: usize, first: bool, view: &ViewFeatures<'_>, work: &mut ClusterWork, pool: &Pool) -> bool {
        let dim = view.dim + 2;
        let open = work.open.len();
        let (tokens, labels, before, scales) = (&work.open[..open], &work.labels[..open], &work.before[..open], &work.scales[..open]);
        let counts = &mut work.counts[..k];
        counts.fill(0);
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        let unit = UNIT / self.embedding.largest();
        let isa = self.isa;
        pool.pieces(&mut work.sums[..k * dim.next_multiple_of(SLICE)], k * SLICE, &|slice, sums| {
            if first {
                sums.fill(0);
            }
            let columns = slice * SLICE..dim.min((slice + 1) * SLICE);
            let mut row = [0.0; SLICE];
            let row = &mut row[..columns.len()];
            for (place, (&token, (&new, &old))) in tokens.iter().zip(labels.iter().zip(before)).enumerate() {
                if new == old && !first {
                    continue;
                }
                self.embedding.part(view, token, scales[place], columns.clone(), row);
                let mut add = |label: u32, unit| accumulate(isa, row, unit, &mut sums[label as usize * SLICE..][..columns.len()]);
                add(new, unit);
                if !first {
                    add(old, -unit);
                }
            }
        });
        let mut close = true;
        for cluster in 0..k {
            work.centres.moves[cluster] = 0.0;
            if work.counts[cluster] == 0 {
                continue;
            }
            let share = 1.0 / (f64::from(unit) * f64::from(work.counts[cluster]));
            let mut moved = 0.0_f64;
            for (j, value) in work.centres.rows[cluster * dim..][..dim].iter_mut().enumerate() {
                let new = (work.sums[(j / SLICE * k + cluster) * SLICE + j % SLICE] as f64 * share) as f32;
                let gap = f64::from(new) - f64::from(*value);
                close &= gap.abs() <= 1e-8 + 1e-5 * f64::from(*value).abs();
                moved += gap * gap;
                *value = new;
            }
            // One whose tokens are the same as before is where it was, to the bit.
            work.centres.moves[cluster] = if moved > 0.0 { (moved.sqrt() as f32) * 1.000_001 + 1e-12 } else { 0.0 };
        }
        close
    }

    /// Eq. 13's J, with the centres as they are.
    pub(super) fn objective(&self, view: &ViewFeatures<'_>, work: &mut ClusterWork, pool: &Pool) -> f64 {
        let open = work.open.len();
        let per_shard = open.div_ceil(SHARDS);
        let (tokens, labels, scales, centres) = (&work.open[..open], &work.labels[..open], &work.scales[..open], &work.centres);
        pool.pieces(&mut work.shards, 1, &|number, shard| {
            let shard = &mut shard[0];
            let dim = view.dim + 2;
            shard.objective = 0.0;
            let row = &mut shard.rows[..dim];
            for place in (number * per_shard).min(open)..((number + 1) * per_shard).min(open) {
                self.embedding.scaled(view, tokens[place], scales[place], row);
                let centre = &centres.rows[labels[place] as usize * dim..][..dim];
                shard.objective += row.iter().zip(centre).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
        });
        work.shards.iter().map(|shard| shard.objective).sum()
    }
}

/// Whose centres a token is compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    All,
    /// Its own, and those that moved in the last update: no other can have become the nearest.
    Moved,
}

/// Tokens that wait to be screened together, and where their rows stand in the shard's.
struct Queue {
    against: Against,
    waiting: [usize; BLOCK],
    held: usize,
}

impl Queue {
    fn new(against: Against) -> Self {
        Self { against, waiting: [0; BLOCK], held: 0 }
    }

    /// First row of the shard's that is this queue's.
    fn base(&self) -> usize {
        if self.against == Against::All { 0 } else { BLOCK }
    }
}

impl Task<'_> {
    /// Labels a part; how many changed.
    fn assign(&self, mut part: Part<'_>, first: bool, shard: &mut Shard) -> usize {
        let dim = self.view.dim + 2;
        let (mut all, mut moved) = (Queue::new(Against::All), Queue::new(Against::Moved));
        let mut changed = 0;
        for place in 0..part.tokens.len() {
            let against = if first { Some(Against::All) } else { self.in_question(place, &mut part, shard) };
            let Some(against) = against else { continue };
            if first {
                self.settings.embedding.scaled(self.view, part.tokens[place], part.scales[place], &mut shard.row[..dim]);
            }
            let queue = if against == Against::All { &mut all } else { &mut moved };
            shard.rows[(queue.base() + queue.held) * dim..][..dim].copy_from_slice(&shard.row[..dim]);
            queue.waiting[queue.held] = place;
            queue.held += 1;
            if queue.held == BLOCK {
                changed += self.screen(queue, &mut part, shard);
            }
        }
        changed + self.screen(&mut all, &mut part, shard) + self.screen(&mut moved, &mut part, shard)
    }

    /// The largest error of a decision about a row of norm `norm`: that of [`dot`], doubled, and of ‖c‖².
    fn slack(&self, norm: f32) -> f32 {
        dot_error(self.view.dim + 2) * (2.0 * norm * self.norm + self.norm * self.norm) + 1e-20
    }

    /// Which centres could have become nearer to a token than its own, its row left in the shard; `None`: none, and what is known of it is widened by
    /// the moves.
    fn in_question(&self, place: usize, part: &mut Part<'_>, shard: &mut Shard) -> Option<Against> {
        let label = part.labels[place] as usize;
        let reach = &mut part.reach[place];
        let slack = self.slack(self.settings.embedding.norm());
        let apart = |own: f32, others: f32| own.mul_add(own, 2.0 * slack) < others * others;
        let others = (reach.others - if label == self.fastest { self.moves.1 } else { self.moves.0 }).max(0.0);
        reach.own += self.centres.moves[label];
        if apart(reach.own, others) {
            reach.others = others;
            return None;
        }
        let row = &mut shard.row[..self.view.dim + 2];
        self.settings.embedding.scaled(self.view, part.tokens[place], part.scales[place], row);
        let square = part.squares[place];
        reach.own = distance(square + self.value(part.labels[place], row) + 2.0 * slack + square * 1e-6, 1.000_001);
        if apart(reach.own, others) {
            reach.others = others;
            return None;
        }
        // The bound from before the moves still holds for every centre that didn't move.
        let only_moved = self.centres.moves[label] == 0.0 || apart(reach.own, reach.others);
        Some(if only_moved { Against::Moved } else { Against::All })
    }

    /// ‖c‖² − 2·u·c: what decides.
    fn value(&self, centre: u32, row: &[f32]) -> f32 {
        let centre = centre as usize;
        dot(self.settings.isa, row, &self.centres.rows[centre * row.len()..][..row.len()]).mul_add(-2.0, self.centres.values[centre])
    }

    /// Labels the tokens of a queue and empties it; how many changed.
    fn screen(&self, queue: &mut Queue, part: &mut Part<'_>, shard: &mut Shard) -> usize {
        let (isa, dim, count) = (self.settings.isa, self.view.dim + 2, queue.held);
        let wide = if queue.against == Against::All { self.k } else { self.centres.moved };
        let wide = wide.next_multiple_of(LANES);
        let rows = &shard.rows[queue.base() * dim..][..count * dim];
        let waiting = &queue.waiting[..count];
        let mut lost = [(1.0_f32, 0.0_f32, 0.0_f32); BLOCK];
        let products = &mut shard.floats[..count * wide];
        if wide == 0 {
            // Nothing moved: every token stays.
        } else if self.screen == Screen::Bytes {
            let bytes = row_bytes(dim);
            let quantised = &mut shard.bytes[..count * bytes];
            for ((row, out), lost) in rows.chunks_exact(dim).zip(quantised.chunks_exact_mut(bytes)).zip(&mut lost) {
                let made = quantise(isa, row, out);
                *lost = (made.step, made.rest, made.norm);
            }
            let whole = &mut shard.products[..count * wide];
            byte_products(self.screen, quantised, bytes, &self.centres.bytes[..wide * bytes], &self.centres.offsets[..wide], whole);
            products.iter_mut().zip(whole.iter()).for_each(|(product, whole)| *product = *whole as f32);
        } else {
            float_products(isa, rows, dim, &self.centres.floats[..wide * dim], products);
            for (&place, lost) in waiting.iter().zip(&mut lost) {
                *lost = (1.0, part.squares[place].sqrt() * 1.000_1 + 1e-12, 0.0);
            }
        }
        let bounds = Bounds {
            squares: &self.centres.squares[..wide],
            steps: &self.centres.steps[..wide],
            slopes: &self.centres.slopes[..wide],
            rests: &self.centres.rests[..wide],
        };
        let mut changed = 0;
        for (at, (&place, row)) in waiting.iter().zip(rows.chunks_exact(dim)).enumerate() {
            let (step, rest, norm) = lost[at];
            let square = part.squares[place];
            let slack = self.slack(square.sqrt() * 1.000_1);
            let old = part.labels[place];
            let mut best = Best { label: u32::MAX, value: f32::INFINITY, others: f32::INFINITY };
            if queue.against == Against::Moved {
                best.offer(old, self.value(old, row));
            }
            let lower = &mut shard.lower[..wide];
            let limit = judge(isa, &bounds, &products[at * wide..][..wide], step, (rest, norm), 2.0 * slack, lower);
            let limit = limit.min(best.value + 2.0 * slack);
            let (count, far) = near(isa, lower, limit, &mut shard.near);
            best.others = best.others.min(far);
            if let ([only], Against::All) = (&shard.near[..count], queue.against) {
                (best.label, best.value) = (self.centres.order[*only as usize], limit);
            } else {
                for &lane in &shard.near[..count] {
                    let centre = self.centres.order[lane as usize];
                    best.offer(centre, self.value(centre, row));
                }
            }
            let room = 2.0 * slack + square * 1e-6;
            let reach = &mut part.reach[place];
            let others = distance(square + best.others - room, 0.999_999);
            let others = if queue.against == Against::Moved { others.min(reach.others) } else { others };
            *reach = Reach { own: distance(square + best.value + room, 1.000_001), others };
            changed += usize::from(old != best.label);
            part.labels[place] = best.label;
        }
        queue.held = 0;
        changed
    }
}

/// The root of a squared distance, widened or narrowed.
fn distance(square: f32, by: f32) -> f32 {
    square.max(0.0).sqrt() * by
}

/// The nearest centre so far, its value, and the least value of any other.
struct Best {
    label: u32,
    value: f32,
    others: f32,
}

impl Best {
    fn offer(&mut self, centre: u32, value: f32) {
        if centre == self.label {
            return;
        }
        if value < self.value || (value == self.value && centre < self.label) {
            self.others = self.others.min(self.value);
            (self.label, self.value) = (centre, value);
        } else {
            self.others = self.others.min(value);
        }
    }
}
