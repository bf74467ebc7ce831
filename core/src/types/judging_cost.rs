//! What judgements took, by annotator: money, time, and the ratio to people.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{AnnotatorId, HumanJudgement, Judgement, Outcome};

/// What one annotator's judgements took. Those that came from a cache cost nothing and are counted apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgingCost {
    /// Comparisons that the annotator judged or failed to judge, each once.
    pub n_comparisons: usize,
    /// Those whose verdict or failure came from a cache.
    pub n_cached: usize,
    /// Those without a verdict.
    pub n_failed: usize,
    /// Those judged now whose price is known.
    pub n_priced: usize,
    /// What these cost, in US dollars.
    pub cost_usd: f64,
    /// Those judged now whose time is known.
    pub n_timed: usize,
    /// Seconds that these took.
    pub time_secs: f64,
}

impl JudgingCost {
    /// Counts judgements by annotator. A comparison that occurs again is not counted again.
    pub fn by_annotator(judgements: &[Judgement]) -> BTreeMap<AnnotatorId, Self> {
        let mut costs: BTreeMap<AnnotatorId, Self> = BTreeMap::new();
        let mut seen = HashSet::new();
        for judgement in judgements {
            let (annotator, cached, cost_usd, time_secs) = match &judgement.outcome {
                Outcome::Annotation(a) => (Some(&a.annotator), a.cached, a.cost_usd, a.time_secs),
                Outcome::Failure(f) => (f.judging.annotator.as_ref(), f.judging.cached, f.judging.cost_usd, f.judging.time_secs),
            };
            let annotator = annotator.map_or("unknown", String::as_str);
            if !seen.insert((&judgement.comparison.id, annotator)) {
                continue;
            }
            let cost = costs.entry(annotator.to_owned()).or_default();
            cost.n_comparisons += 1;
            cost.n_failed += usize::from(judgement.annotation().is_none());
            if cached {
                cost.n_cached += 1;
                continue;
            }
            cost.n_priced += usize::from(cost_usd.is_some());
            cost.cost_usd += cost_usd.unwrap_or(0.0);
            cost.n_timed += usize::from(time_secs.is_some());
            cost.time_secs += time_secs.unwrap_or(0.0);
        }
        costs
    }

    /// US dollars per 1,000 judgements, over those whose price is known.
    pub fn usd_per_1000(&self) -> Option<f64> {
        (self.n_priced > 0).then(|| 1000.0 * self.cost_usd / self.n_priced as f64)
    }

    /// Seconds per 1,000 judgements, over those whose time is known.
    pub fn secs_per_1000(&self) -> Option<f64> {
        (self.n_timed > 0).then(|| 1000.0 * self.time_secs / self.n_timed as f64)
    }

    /// How many times cheaper than people; `None` where the price is unknown or nothing.
    pub fn times_cheaper_than_people(&self) -> Option<f64> {
        self.usd_per_1000().filter(|price| *price > 0.0).map(HumanJudgement::times_cheaper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::types::{Annotation, Comparison, Instruction, Judging, Preference};

    #[test]
    fn what_was_paid_now_is_told_from_what_was_known() {
        let comparison = |i: usize| Comparison::new(Instruction::new(format!("i{i}"), None), "a", "b");
        let verdict = |cost_usd: Option<f64>, cached| Annotation {
            cost_usd,
            time_secs: Some(2.0),
            cached,
            ..Annotation::new("gpt", Preference::First)
        };
        let failure = Error::new(ErrorKind::UnparsableAnswer, "mumbled").with_judging(Judging {
            annotator: Some("gpt".to_owned()),
            cost_usd: Some(0.02),
            ..Judging::default()
        });
        let judgements = [
            Judgement::new(comparison(0), Ok(verdict(Some(0.01), false))),
            Judgement::new(comparison(0), Ok(verdict(None, true))),
            Judgement::new(comparison(1), Ok(verdict(None, false))),
            Judgement::new(comparison(2), Ok(verdict(Some(0.0), true))),
            Judgement::new(comparison(3), Err(failure)),
            Judgement::new(comparison(4), Err(Error::other("nobody"))),
        ];
        let costs = JudgingCost::by_annotator(&judgements);
        let gpt = &costs["gpt"];
        assert_eq!((gpt.n_comparisons, gpt.n_cached, gpt.n_failed, gpt.n_priced, gpt.n_timed), (4, 1, 1, 2, 2));
        assert!((gpt.usd_per_1000().expect("known") - 15.0).abs() < 1e-9);
        assert!((gpt.times_cheaper_than_people().expect("known") - 20.0).abs() < 1e-9);
        assert_eq!(gpt.secs_per_1000(), Some(2000.0));
        assert_eq!((costs["unknown"].n_failed, costs["unknown"].usd_per_1000()), (1, None));
    }
}
