//! Token budgets: how many visual tokens each view may give the decoder.

use crate::config::ConfigError;
use crate::units::Tokens;

/// The paper's named budgets, coarsest view first.
pub const PRESETS: [(&str, [u32; 4]); 4] = [
    ("onboard", [80, 320, 600, 2000]),
    ("bench", [80, 320, 1600, 4000]),
    ("xlrs", [180, 1320, 1600, 8000]),
    ("ablation", [120, 320, 600, 2400]),
];

/// The shares of any other total over four views: those of `onboard`.
const SHARES: [u32; 4] = PRESETS[0].1;

/// Tokens a view, coarsest first; never 0 in all.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Budget {
    per_view: Vec<Tokens>,
}

impl Budget {
    /// From one number a view. A view's 0 is legal; a sum of 0 isn't.
    pub fn new(per_view: Vec<Tokens>) -> Result<Self, ConfigError> {
        if per_view.iter().all(|&tokens| tokens == Tokens(0)) {
            return Err(ConfigError::ZeroBudget);
        }
        Ok(Self { per_view })
    }

    /// From a preset's name, a list with one number for each of `views` views, or one total, which is split in the
    /// proportion of the preset `onboard`, each share rounded down.
    pub fn parse(text: &str, views: usize) -> Result<Self, ConfigError> {
        let wrong = || {
            let names = PRESETS.map(|(name, _)| name).join(", ");
            ConfigError::Budget { found: text.to_owned(), wanted: format!("{names}, one total, or {views} numbers with commas between") }
        };
        let four = |numbers: [u32; 4]| if views == 4 { Self::new(numbers.map(Tokens).to_vec()) } else { Err(wrong()) };
        if let Some((_, numbers)) = PRESETS.iter().find(|(name, _)| *name == text) {
            return four(*numbers);
        }
        let numbers = text.split(',').map(|part| part.trim().parse::<u32>()).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
        match numbers[..] {
            [0] => Err(ConfigError::ZeroBudget),
            [total] if views == 1 => Self::new(vec![Tokens(total)]),
            [total] => four(SHARES.map(|share| split(total, share))),
            _ if numbers.len() == views => Self::new(numbers.into_iter().map(Tokens).collect()),
            _ => Err(wrong()),
        }
    }

    #[must_use]
    pub fn per_view(&self) -> &[Tokens] {
        &self.per_view
    }

    #[must_use]
    pub fn total(&self) -> Tokens {
        self.per_view.iter().copied().sum()
    }

    /// The budget with that of view `from` given to view `to`.
    #[must_use]
    pub fn moved(mut self, from: usize, to: usize) -> Self {
        let moved = std::mem::take(&mut self.per_view[from]);
        self.per_view[to] += moved;
        self
    }
}

fn split(total: u32, share: u32) -> u32 {
    let all = SHARES.iter().map(|&share| u64::from(share)).sum::<u64>();
    // A share of a u32 is a u32.
    u32::try_from(u64::from(total) * u64::from(share) / all).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str, views: usize) -> Option<Vec<u32>> {
        Budget::parse(text, views).ok().map(|budget| budget.per_view.iter().map(|tokens| tokens.0).collect())
    }

    #[test]
    fn presets_lists_and_totals() {
        let cases: [(&str, usize, Option<&[u32]>); 14] = [
            ("onboard", 4, Some(&[80, 320, 600, 2000])),
            ("bench", 4, Some(&[80, 320, 1600, 4000])),
            ("xlrs", 4, Some(&[180, 1320, 1600, 8000])),
            ("ablation", 4, Some(&[120, 320, 600, 2400])),
            ("onboard", 3, None),
            ("3000", 4, Some(&[80, 320, 600, 2000])),
            ("1000", 4, Some(&[26, 106, 200, 666])),
            ("4294967295", 4, Some(&[114_532_461, 458_129_844, 858_993_459, 2_863_311_530])),
            ("0, 5,0,1", 4, Some(&[0, 5, 0, 1])),
            ("7", 1, Some(&[7])),
            ("1,2", 4, None),
            ("0,0,0,0", 4, None),
            ("0", 4, None),
            ("-1", 4, None),
        ];
        for (text, views, wanted) in cases {
            assert_eq!(numbers(text, views).as_deref(), wanted, "{text} over {views}");
        }
    }

    #[test]
    fn a_total_too_small_for_any_view_is_refused() {
        assert!(matches!(Budget::parse("1", 4), Err(ConfigError::ZeroBudget)));
    }

    #[test]
    fn moving_keeps_the_total() {
        let budget = Budget::parse("onboard", 4).unwrap();
        let moved = budget.clone().moved(3, 2);
        assert_eq!(moved.total(), budget.total());
        assert_eq!(moved.per_view()[2..], [Tokens(2600), Tokens(0)]);
    }
}
