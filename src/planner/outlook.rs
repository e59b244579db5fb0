//! What a question will take on a device before there is one: a frame's size and a budget are enough.

use crate::compress::{Mode, Selector};
use crate::config::{Budget, Model, Padding, Profile};
use crate::geometry::Layout;
use crate::planner::rungs::{Shares, Work};
use crate::planner::{Asked, Cached, Costs, Held, PlannerError, Predicted, Stage, admit, asked};
use crate::units::Tokens;

/// Positions of a question's text with the template around it, as the cost of UHR-BAT's Table 4 has them.
pub const USUAL_TEXT: Tokens = Tokens(110);

/// Times and work of one question on one frame. Without a calibration each `p50` is a floor: the least that the device's roofline allows, and for
/// imaging and regions what two cores of an x86-64 need.
#[derive(Clone, Debug)]
pub struct Outlook {
    pub text: Tokens,
    pub new: Tokens,
    /// The frame is a file.
    pub first: Predicted,
    /// The frame is in its slot.
    pub second: Predicted,
    /// Stages of a size that the calibration has not measured.
    pub unmeasured: Vec<Stage>,
    /// Operations of the networks, of a first question; a second has none of the stages at ingest.
    flop: [f64; 9],
}

impl Outlook {
    #[must_use]
    pub fn flop(&self, stage: Stage) -> f64 {
        self.flop[stage as usize]
    }
}

/// What a question with `budget` and an answer of `new` tokens takes on a frame laid out as `layout`.
///
/// # Errors
/// What is over a limit.
pub fn outlook(
    profile: &Profile,
    model: &impl Model,
    costs: &Costs,
    layout: &Layout,
    budget: &Budget,
    new: Tokens,
) -> Result<Outlook, PlannerError> {
    let policy = model.policy();
    let layout = layout.clone().numbered(policy.order, policy.padding == Padding::Kept);
    let text = USUAL_TEXT.min(profile.tokens.max_text);
    let step = asked(budget.clone(), None, new);
    let frames = vec![Held::default()];
    let asked = Asked { step, selector: Selector::UhrBat, mode: Mode::Paper, text, frames, lazy: false };
    let work = Work { profile, model, costs, layouts: std::slice::from_ref(&layout), asked: &asked };
    admit(profile, model, budget.total(), text, new)?;
    let Shares { rung, ingest, question } = work.shares(&asked.step)?;
    let flop = Stage::ALL.map(|stage| costs.model.model.effort(stage, if stage.at_ingest() { &ingest } else { &question }).0);
    let (ingest, second) = (rung.ingest(&[Cached::Nothing]), rung.question(&[Cached::Nothing]));
    Ok(Outlook { text, new, first: ingest + second, second, unmeasured: rung.unmeasured, flop })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::spec::tests::spec;
    use crate::planner::{CostModel, ModelCost};
    use crate::units::Px;

    #[test]
    fn floors_of_the_papers_model() {
        // Seconds of the networks: a first question with 1,024 and with 4,096 tokens kept, 64 out.
        let rows = [("orin-nano-8", [8.8, 11.5]), ("agx-orin-64", [3.8, 4.9]), ("a6000", [1.0, 1.3])];
        let spec = spec("qwen2-7b-clip-l");
        let layout = Layout::new(&spec.vision, Px(4_032), Px(4_032)).unwrap();
        for (name, seconds) in rows {
            let profile = Profile::load(name).unwrap();
            let model = ModelCost::assumed(&spec, &profile);
            let costs = Costs { model: CostModel { model, device: profile.device.clone() }, calibration: None };
            for (budget, wanted) in ["27,109,205,683", "109,436,819,2732"].into_iter().zip(seconds) {
                let budget = Budget::parse(budget, 4).unwrap();
                let outlook = outlook(&profile, &spec, &costs, &layout, &budget, Tokens(64)).unwrap();
                let (networks, cpu) = outlook.first.p50.by_processor();
                assert!((networks.0 / 1e3 / wanted - 1.0).abs() < 0.1, "{name} {budget:?}: wanted {wanted}, found {networks}");
                assert!(cpu.0 > 1_000.0 && outlook.first.bound.is_none());
                // A second question lacks what was done at ingest, and nothing else.
                let (first, second) = (outlook.first.p50, outlook.second.p50);
                assert_eq!(second.from(Stage::Anchor), first.from(Stage::Anchor));
                assert_eq!(second.total(), second.from(Stage::Anchor));
                assert!((outlook.flop(Stage::Encode) / 84e12 - 1.0).abs() < 0.01 && outlook.flop(Stage::Views) == 0.0);
            }
        }
    }

    #[test]
    fn what_a_profile_does_not_admit_has_no_outlook() {
        let (spec, profile) = (spec("qwen2-7b-clip-l"), Profile::load("orin-nano-8").unwrap());
        let model = ModelCost::assumed(&spec, &profile);
        let costs = Costs { model: CostModel { model, device: profile.device.clone() }, calibration: None };
        let layout = Layout::new(&spec.vision, Px(4_032), Px(4_032)).unwrap();
        let refused = outlook(&profile, &spec, &costs, &layout, &Budget::parse("xlrs", 4).unwrap(), Tokens(64)).err();
        assert_eq!(refused, Some(PlannerError::Budget { wanted: Tokens(11_100), allowed: Tokens(6_000) }));
    }
}
