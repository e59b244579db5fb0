//! Whether a model fits a profile's memory, and which change would make it fit.

use std::fmt;

use serde::Serialize;

use crate::compress::regions::Method;
use crate::config::{Budget, FOUR_BITS, Model, PRESETS, Profile};
use crate::planner::{Loaded, memory_lines};
use crate::units::{Bytes, Tokens};

/// What is loaded under a profile: sizes of workspaces depend on it.
pub type Loading<'a> = &'a dyn Fn(&Profile) -> Loaded;

/// A named budget and its total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Preset {
    pub name: &'static str,
    pub tokens: Tokens,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.tokens)
    }
}

/// Changes that together make a model fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remedy {
    /// As many frame slots as this.
    pub slots: Option<usize>,
    /// No budget above this one.
    pub largest_budget: Option<Preset>,
    /// The table of embeddings at so many bits a weight.
    pub embedding_bits: Option<f64>,
    /// The largest preset that is possible then.
    pub preset: Option<Preset>,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.embedding_bits.is_some() {
            parts.push("4-bit embeddings".to_owned());
        }
        match self.slots {
            Some(1) => parts.push("1 frame slot".to_owned()),
            Some(slots) => parts.push(format!("{slots} frame slots")),
            None => {}
        }
        if let Some(preset) = self.largest_budget {
            parts.push(format!("no budget above {preset}"));
        }
        f.write_str(&parts.join(" and "))?;
        match self.preset {
            Some(preset) if self.largest_budget.is_none() => write!(f, " (budgets up to {preset})"),
            _ => Ok(()),
        }
    }
}

/// What a model needs of a profile's memory, against what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub wanted: Bytes,
    pub allowed: Bytes,
    /// Each would do alone; none where it fits, or where nothing here would help.
    pub remedies: Vec<Remedy>,
    /// The largest preset that fits with 4-bit embeddings and nothing else changed, where the model has larger ones: `Some(None)` when none does.
    pub four_bit: Option<Option<Preset>>,
}

impl Verdict {
    #[must_use]
    pub fn fits(&self) -> bool {
        self.wanted <= self.allowed
    }

    /// Mebibytes that are missing, rounded up; 0 where it fits.
    #[must_use]
    pub fn short_mib(&self) -> u64 {
        (self.wanted - self.allowed).0.div_ceil(1 << 20)
    }

    /// What would make it fit, for people.
    #[must_use]
    pub fn would_fit(&self) -> String {
        self.others(|_| true).unwrap_or_else(|| {
            let bits = if self.four_bit.is_some() { ", smaller budgets and 4-bit embeddings" } else { " and smaller budgets" };
            format!("fewer slots{bits} together would not make it fit")
        })
    }

    /// The remedies that `named` lets through.
    fn others(&self, named: impl Fn(&&Remedy) -> bool) -> Option<String> {
        let all: Vec<String> = self.remedies.iter().filter(named).map(ToString::to_string).collect();
        (!all.is_empty()).then(|| format!("would fit with {}", all.join(", or with ")))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, allowed) = (self.wanted.0.div_ceil(1 << 20), self.allowed.0 >> 20);
        if self.fits() {
            return write!(f, "needs {wanted} MiB of the {allowed} MiB allowed");
        }
        write!(f, "needs {wanted} MiB, {} MiB more than the {allowed} MiB allowed", self.short_mib())?;
        let Some(Some(preset)) = self.four_bit else { return write!(f, "; {}", self.would_fit()) };
        write!(f, "; with 4-bit embeddings the largest preset that fits is {preset}")?;
        // The remedies with 4-bit embeddings need no word beside that.
        let others = self.others(|remedy| remedy.embedding_bits.is_none());
        others.map_or(Ok(()), |others| write!(f, "; {others}"))
    }
}

/// What a model needs where at most `max_visual` tokens and `slots` frames are held.
fn needs(profile: &Profile, model: &impl Model, method: &Method, loaded: Loading<'_>, max_visual: Tokens, slots: usize) -> Bytes {
    let mut profile = profile.clone();
    (profile.tokens.max_visual, profile.frame.slots) = (max_visual, slots);
    let loaded = loaded(&profile);
    memory_lines(&profile, model, method, &loaded).total()
}

/// The presets that `model` has and `profile` admits, largest first.
fn presets(profile: &Profile, model: &impl Model) -> Vec<Preset> {
    let views = model.shape().views().len();
    let named = |(name, _): &(&'static str, _)| Some(Preset { name, tokens: Budget::parse(name, views).ok()?.total() });
    let mut presets: Vec<Preset> = PRESETS.iter().filter_map(named).filter(|preset| preset.tokens <= profile.tokens.max_visual).collect();
    presets.sort_by_key(|preset| std::cmp::Reverse(preset.tokens));
    presets
}

/// The largest preset whose memory map, made for no larger budget, fits the profile.
#[must_use]
pub fn max_preset(profile: &Profile, model: &impl Model, method: &Method, loaded: Loading<'_>) -> Option<Preset> {
    let slots = profile.frame.slots;
    let fits = |preset: &Preset| needs(profile, model, method, loaded, preset.tokens, slots) <= profile.memory_limit;
    presets(profile, model).into_iter().find(fits)
}

/// Whether `model` fits `profile`; where it doesn't, the fewest changes that make it: fewer slots, a smaller largest budget, 4-bit embeddings.
/// `four_bit`: what is loaded with those, where the model has larger ones.
#[must_use]
pub fn verdict(profile: &Profile, model: &impl Model, method: &Method, loaded: Loading<'_>, four_bit: Option<Loading<'_>>) -> Verdict {
    let (allowed, slots, max_visual) = (profile.memory_limit, profile.frame.slots, profile.tokens.max_visual);
    let wanted = needs(profile, model, method, loaded, max_visual, slots);
    let mut verdict = Verdict { wanted, allowed, remedies: Vec::new(), four_bit: None };
    if verdict.fits() {
        return verdict;
    }
    verdict.four_bit = four_bit.map(|loaded| max_preset(profile, model, method, loaded));
    let smaller = || presets(profile, model).into_iter().filter(|preset| preset.tokens < max_visual);
    // Every set of changes, the small ones first: slots, budget, embeddings.
    for changes in 1..=3 {
        for set in 0_u8..8 {
            let [fewer, less, bits] = [1, 2, 4].map(|change| set & change != 0);
            if set.count_ones() != changes || (bits && four_bit.is_none()) {
                continue;
            }
            let loading = if bits { four_bit.unwrap_or(loaded) } else { loaded };
            let budgets = if less { smaller().map(Some).collect() } else { vec![None] };
            let held = if fewer { (1..slots).rev().map(Some).collect() } else { vec![None] };
            let pairs = budgets.iter().flat_map(|budget| held.iter().map(move |slots| (*budget, *slots)));
            let found = pairs.into_iter().find(|(budget, held)| {
                let tokens = budget.map_or(max_visual, |preset: Preset| preset.tokens);
                needs(profile, model, method, loading, tokens, held.unwrap_or(slots)) <= allowed
            });
            if let Some((largest_budget, slots)) = found {
                let preset = largest_budget.or_else(|| presets(profile, model).into_iter().next());
                let embedding_bits = bits.then_some(FOUR_BITS);
                verdict.remedies.push(Remedy { slots, largest_budget, embedding_bits, preset });
            }
        }
        if !verdict.remedies.is_empty() {
            break;
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::spec::tests::spec;
    use crate::planner::spec_verdict;

    fn judged(profile: &Profile, name: &str) -> Verdict {
        spec_verdict(profile, &spec(name), &Method::Kmeans)
    }

    fn limited(name: &str, limit_mib: u64, slots: usize) -> Profile {
        let mut profile = Profile::load(name).unwrap();
        (profile.memory_limit, profile.frame.slots) = (Bytes(limit_mib << 20), slots);
        profile
    }

    #[test]
    fn a_board_of_8_gb_takes_the_papers_model_with_4_bit_embeddings_only() {
        let profile = Profile::load("orin-nano-8").unwrap();
        let verdict = judged(&profile, "qwen2-7b-clip-l");
        assert!(!verdict.fits() && verdict.short_mib() > 0 && !verdict.remedies.is_empty(), "{verdict}");
        assert!(verdict.remedies.iter().all(|remedy| remedy.embedding_bits == Some(FOUR_BITS)), "{verdict}");
        let preset = verdict.four_bit.flatten().unwrap();
        // Up to 4,096 tokens.
        assert_eq!((preset.name, preset.tokens), ("ablation", Tokens(3_440)));
        assert!(verdict.to_string().contains("the largest preset that fits is ablation of 3440 tokens"), "{verdict}");
        assert!(judged(&profile, "qwen2.5-3b-clip-l").fits());
        for roomy in ["orin-nx-16", "agx-orin-64", "thor", "a6000"] {
            assert!(judged(&Profile::load(roomy).unwrap(), "qwen2-7b-clip-l").fits(), "{roomy}");
        }
    }

    #[test]
    fn a_remedy_is_the_fewest_changes_and_does_what_it_says() {
        let whole = judged(&limited("agx-orin-64", 57_344, 8), "qwen2.5-3b-clip-l").wanted.0 >> 20;
        // What is missing, slots, how many changes. A slot of 267 MiB; the budget is worth 340 MiB and the table 436 MiB.
        let cases = [(100, 8, 1), (1_000, 8, 1), (2_100, 8, 2), (2_600, 8, 3), (5_000, 8, 0)];
        for (missing, slots, changes) in cases {
            let profile = limited("agx-orin-64", whole - missing, slots);
            let verdict = judged(&profile, "qwen2.5-3b-clip-l");
            assert!(verdict.short_mib() >= missing, "{verdict}");
            assert_eq!(verdict.remedies.is_empty(), changes == 0, "{missing}: {verdict}");
            for remedy in &verdict.remedies {
                let made = [remedy.slots.is_some(), remedy.largest_budget.is_some(), remedy.embedding_bits.is_some()];
                assert_eq!(made.iter().filter(|made| **made).count(), changes, "{missing}: {verdict}");
                let mut changed = profile.clone();
                changed.frame.slots = remedy.slots.unwrap_or(slots);
                changed.tokens.max_visual = remedy.largest_budget.map_or(changed.tokens.max_visual, |preset| preset.tokens);
                let spec = spec("qwen2.5-3b-clip-l");
                let spec = if remedy.embedding_bits.is_some() { spec.four_bit().unwrap() } else { spec };
                let loaded = Loaded::assumed(&spec, &changed);
                assert!(crate::planner::memory_map(&changed, &spec, &Method::Kmeans, &loaded).is_ok(), "{remedy}");
            }
        }
    }

    #[test]
    fn remedies_read_as_what_to_do() {
        let (onboard, bench) = (Preset { name: "onboard", tokens: Tokens(3_000) }, Preset { name: "bench", tokens: Tokens(6_000) });
        let remedy = |slots, largest_budget, embedding_bits, preset| Remedy { slots, largest_budget, embedding_bits, preset }.to_string();
        assert_eq!(remedy(Some(2), None, None, Some(bench)), "2 frame slots (budgets up to bench of 6000 tokens)");
        assert_eq!(remedy(None, Some(onboard), None, Some(onboard)), "no budget above onboard of 3000 tokens");
        let all = remedy(Some(1), Some(onboard), Some(FOUR_BITS), Some(onboard));
        assert_eq!(all, "4-bit embeddings and 1 frame slot and no budget above onboard of 3000 tokens");
    }
}
