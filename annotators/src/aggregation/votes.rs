//! Majority and mean of several verdicts on one pair of answers, and how far they lean.

use std::cmp::Ordering;

use farmhand_core::Result;
use farmhand_core::types::Preference;

/// The side that more verdicts are on; as many on each is a tie, and so is nothing but ties.
pub fn majority(verdicts: &[Preference]) -> Preference {
    let n = |keep: fn(f64) -> bool| verdicts.iter().filter(|verdict| keep(verdict.p_second())).count();
    match n(|p| p < 0.5).cmp(&n(|p| p > 0.5)) {
        Ordering::Greater => Preference::First,
        Ordering::Less => Preference::Second,
        Ordering::Equal => Preference::Tie,
    }
}

/// The mean probability that the second answer is better, a tie counting ½.
///
/// # Errors
/// When there is no verdict.
pub fn mean(verdicts: &[Preference]) -> Result<Preference> {
    Preference::from_p_second(verdicts.iter().map(|verdict| verdict.p_second()).sum::<f64>() / verdicts.len() as f64)
}

/// The lead of one side in [0, 1]: the share of verdicts for the side with more, less that of the other; ties count for none.
pub fn lead(verdicts: &[Preference]) -> f64 {
    let balance: f64 = verdicts.iter().map(|verdict| sign(*verdict)).sum();
    balance.abs() / verdicts.len() as f64
}

/// The mean of the margins that raters gave, for the side of `verdict`: those of the other side count against it, a rater's tie
/// without a margin as 0. Never below 0; `None` when nobody gave one.
pub fn margin(verdict: Preference, raters: &[(Preference, Option<f64>)]) -> Option<f64> {
    let given: Vec<f64> = raters
        .iter()
        .filter_map(|(preference, margin)| match (preference, margin) {
            (preference, Some(margin)) => Some(margin * sign(*preference)),
            (Preference::Tie, None) => Some(0.0),
            _ => None,
        })
        .collect();
    let anyone = raters.iter().any(|(_, margin)| margin.is_some());
    anyone.then(|| (sign(verdict) * given.iter().sum::<f64>() / given.len() as f64).max(0.0))
}

/// −1 for the first answer, 1 for the second, 0 for neither.
fn sign(preference: Preference) -> f64 {
    match preference.p_second() {
        p if p < 0.5 => -1.0,
        p if p > 0.5 => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Preference = Preference::First;
    const SECOND: Preference = Preference::Second;
    const TIE: Preference = Preference::Tie;

    #[test]
    fn majorities_means_and_leads_by_hand() {
        for (verdicts, expected, mean_p, lead_of) in [
            (vec![FIRST, FIRST, SECOND], FIRST, 1.0 / 3.0, 1.0 / 3.0),
            (vec![FIRST, SECOND], TIE, 0.5, 0.0),
            (vec![TIE, TIE, SECOND], SECOND, 2.0 / 3.0, 1.0 / 3.0),
            (vec![TIE], TIE, 0.5, 0.0),
            (vec![Preference::Graded(0.75), FIRST, FIRST], FIRST, 0.25, 1.0 / 3.0),
        ] {
            assert_eq!(majority(&verdicts), expected, "{verdicts:?}");
            assert!((mean(&verdicts).expect("a mean").p_second() - mean_p).abs() < 1e-15);
            assert!((lead(&verdicts) - lead_of).abs() < 1e-15);
        }
        assert!(mean(&[]).is_err());
    }

    #[test]
    fn margins_of_the_other_side_count_against() {
        assert_eq!(margin(SECOND, &[(SECOND, Some(3.0)), (FIRST, Some(1.0)), (SECOND, Some(1.0))]), Some(1.0));
        assert_eq!(margin(SECOND, &[(SECOND, Some(3.0)), (TIE, None), (SECOND, None)]), Some(1.5));
        assert_eq!(margin(FIRST, &[(SECOND, Some(3.0))]), Some(0.0));
        assert_eq!(margin(FIRST, &[(FIRST, None), (TIE, None)]), None);
    }
}
