//! The slab of kept tokens: rows of `d` values in f16, lent as spans.

use half::f16;

use crate::arena::{Full, Stale};
use crate::units::{Bytes, Tokens};

/// Spans alive at once: a question a frame, and what the service will queue.
const MAX_SPANS: usize = 8;

/// Rows `[total, dim]` f16, lent from the front; freed space is found again by first fit.
pub struct TokenArena {
    rows: Vec<f16>,
    dim: usize,
    /// Lent spans by their start.
    lent: Vec<TokenSpan>,
    epoch: u64,
}

/// Rows lent by a [`TokenArena`], good until released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSpan {
    start: usize,
    len: usize,
    epoch: u64,
}

impl TokenSpan {
    #[must_use]
    pub fn tokens(self) -> Tokens {
        Tokens::of(self.len)
    }
}

impl TokenArena {
    /// Allocates `total` rows of `dim` values.
    #[must_use]
    pub fn new(total: Tokens, dim: usize) -> Self {
        Self { rows: vec![f16::ZERO; total.get() * dim], dim, lent: Vec::with_capacity(MAX_SPANS), epoch: 0 }
    }

    /// What [`Self::new`] allocates.
    #[must_use]
    pub fn bytes(total: Tokens, dim: usize) -> Bytes {
        Bytes::of::<f16>(total.get() * dim)
    }

    #[must_use]
    pub fn total(&self) -> Tokens {
        Tokens::of(self.rows.len() / self.dim)
    }

    /// The largest span that could be lent now.
    #[must_use]
    pub fn free(&self) -> Tokens {
        self.gaps().map(|(_, len)| Tokens::of(len)).max().unwrap_or_default()
    }

    /// Lends `wanted` rows, side by side. Their values are what the last borrower left.
    ///
    /// # Errors
    /// [`Full`] when no gap is that long or all handles are out.
    pub fn lend(&mut self, wanted: Tokens) -> Result<TokenSpan, Full> {
        let full = Full { what: "token arena", wanted, free: self.free() };
        if self.lent.len() == MAX_SPANS {
            return Err(full);
        }
        let (start, _) = self.gaps().find(|&(_, len)| len >= wanted.get()).ok_or(full)?;
        self.epoch += 1;
        let span = TokenSpan { start, len: wanted.get(), epoch: self.epoch };
        let place = self.lent.partition_point(|other| (other.start, other.epoch) < (start, span.epoch));
        self.lent.insert(place, span);
        Ok(span)
    }

    /// Takes the rows back.
    ///
    /// # Errors
    /// [`Stale`] when they were back already.
    pub fn release(&mut self, span: TokenSpan) -> Result<(), Stale> {
        let place = self.find(span)?;
        self.lent.remove(place);
        Ok(())
    }

    /// `[len, dim]`, row-major.
    ///
    /// # Errors
    /// [`Stale`] after release.
    pub fn rows(&self, span: TokenSpan) -> Result<&[f16], Stale> {
        self.find(span)?;
        Ok(&self.rows[span.start * self.dim..(span.start + span.len) * self.dim])
    }

    /// As [`Self::rows`], to write.
    pub fn rows_mut(&mut self, span: TokenSpan) -> Result<&mut [f16], Stale> {
        self.find(span)?;
        Ok(&mut self.rows[span.start * self.dim..(span.start + span.len) * self.dim])
    }

    fn find(&self, span: TokenSpan) -> Result<usize, Stale> {
        let stale = Stale { what: "token span", held: span.epoch, now: self.epoch };
        self.lent.iter().position(|lent| *lent == span).ok_or(stale)
    }

    /// Free stretches as (start, length), front first.
    fn gaps(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let starts = std::iter::once(0).chain(self.lent.iter().map(|span| span.start + span.len));
        let ends = self.lent.iter().map(|span| span.start).chain(std::iter::once(self.rows.len() / self.dim));
        starts.zip(ends).map(|(start, end)| (start, end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_lent_first_fit_and_never_overlap() {
        let mut arena = TokenArena::new(Tokens(10), 2);
        let [a, b, c] = [3, 4, 3].map(|len| arena.lend(Tokens(len)).unwrap());
        assert_eq!(arena.lend(Tokens(1)), Err(Full { what: "token arena", wanted: Tokens(1), free: Tokens(0) }));
        arena.rows_mut(a).unwrap().fill(f16::ONE);
        arena.rows_mut(c).unwrap().fill(f16::ONE);
        assert!(arena.rows(b).unwrap().iter().all(|&value| value == f16::ZERO));
        arena.release(b).unwrap();
        assert_eq!(arena.free(), Tokens(4));
        let d = arena.lend(Tokens(2)).unwrap();
        assert_eq!((d.start, arena.free()), (3, Tokens(2)));
    }

    #[test]
    fn a_released_span_is_an_error_and_nobody_elses_rows() {
        let mut arena = TokenArena::new(Tokens(4), 1);
        let old = arena.lend(Tokens(4)).unwrap();
        arena.release(old).unwrap();
        let new = arena.lend(Tokens(4)).unwrap();
        let stale = Stale { what: "token span", held: 1, now: 2 };
        assert_eq!(arena.rows(old), Err(stale));
        assert_eq!(arena.rows_mut(old).unwrap_err(), stale);
        assert_eq!(arena.release(old), Err(stale));
        assert!(arena.rows(new).is_ok());
    }

    #[test]
    fn lending_allocates_no_rows_and_runs_out_of_handles() {
        let mut arena = TokenArena::new(Tokens(100), 1);
        let before = arena.lent.capacity();
        for _ in 0..MAX_SPANS {
            arena.lend(Tokens(0)).unwrap();
        }
        assert!(arena.lend(Tokens(0)).is_err());
        assert_eq!(arena.lent.capacity(), before);
    }
}
