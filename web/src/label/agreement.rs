//! How far raters agree with each other, and with answers that are known.

use std::collections::BTreeMap;

use farmhand_evaluators::agreement::krippendorff::{self, Level};
use farmhand_evaluators::agreement::{Ratings, raw};
use serde::Serialize;

use super::book::Book;
use super::desk::is_verdict;
use super::items::Items;
use super::journal::Verdict;

/// Agreement over the items that two or more raters judged, gold questions included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Agreement {
    /// Items with two or more verdicts.
    pub(crate) n_items: usize,
    /// The share of two raters' verdicts on one item that are the same: first, second or tie.
    pub(crate) observed: Option<f64>,
    /// Krippendorff's α for nominal data (Content Analysis, 2004): 1 is perfect, 0 what chance gives.
    pub(crate) alpha: Option<f64>,
}

/// How one rater does.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct RaterFigures {
    /// Verdicts, ties included.
    pub(crate) n_verdicts: usize,
    /// Ties among them.
    pub(crate) n_ties: usize,
    /// Items left to others.
    pub(crate) n_skipped: usize,
    /// Answers taken back.
    pub(crate) n_undone: usize,
    /// Verdicts for the answer on the left, of those that are no tie: far from ½ is a habit, not a judgement.
    pub(crate) left_share: Option<f64>,
    /// Gold questions answered with a verdict.
    pub(crate) n_gold: usize,
    /// Those answered as known.
    pub(crate) n_gold_right: usize,
    /// The share of other raters' verdicts on the same items that are the same as theirs.
    pub(crate) agreement: Option<f64>,
    /// Half of the answers took longer, in seconds.
    pub(crate) median_secs: Option<f64>,
    /// The last click, in seconds since 1970.
    pub(crate) last: f64,
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Agreement over all items.
pub(crate) fn agreement(book: &Book, n_items: usize) -> Agreement {
    let votes = (0..n_items).map(|place| book.of_item(place).filter(|label| is_verdict(label)).map(|label| label.verdict));
    of_votes(votes.map(Iterator::collect))
}

fn of_votes(items: impl Iterator<Item = Vec<Verdict>>) -> Agreement {
    let value = |vote: &Verdict| vote.preference().map(|preference| preference.p_second());
    // Who voted does not matter here: the n-th column holds the n-th votes.
    let mut values: Vec<Vec<Option<f64>>> =
        items.filter(|votes| votes.len() >= 2).map(|votes| votes.iter().map(value).collect()).collect();
    let n_most = values.iter().map(Vec::len).max().unwrap_or(0);
    values.iter_mut().for_each(|row| row.resize(n_most, None));
    let ratings = Ratings { raters: vec![String::new(); n_most], values };
    Agreement {
        n_items: ratings.values.len(),
        observed: raw::observed(&ratings),
        alpha: krippendorff::alpha(&ratings, Level::Nominal),
    }
}

/// The figures of every rater, by name.
pub(crate) fn rater_figures(book: &Book, items: &Items) -> BTreeMap<String, RaterFigures> {
    let figures = |(name, page): (&String, &super::book::RaterPage)| {
        let mut figures = RaterFigures { n_undone: page.n_undone, last: page.last, ..RaterFigures::default() };
        let (mut n_left, mut n_same, mut n_others) = (0, 0, 0);
        let mut times: Vec<f64> = Vec::new();
        for label in page.live.iter().map(|index| book.label(*index)) {
            times.push(label.time_secs);
            let Some(preference) = label.verdict.preference() else {
                figures.n_skipped += 1;
                continue;
            };
            figures.n_verdicts += 1;
            figures.n_ties += usize::from(label.verdict == Verdict::Tie);
            n_left += usize::from(super::journal::Choice::of(label.verdict, label.shown) == super::journal::Choice::Left);
            let Some(place) = items.with_id(&label.item) else { continue };
            if let Some(known) = items.at(place).gold {
                figures.n_gold += 1;
                figures.n_gold_right += usize::from(known == preference);
            }
            let others = book.of_item(place).filter(|other| other.rater != *name && is_verdict(other));
            for other in others {
                n_others += 1;
                n_same += usize::from(other.verdict == label.verdict);
            }
        }
        figures.left_share = share(n_left, figures.n_verdicts - figures.n_ties);
        figures.agreement = share(n_same, n_others);
        times.sort_by(f64::total_cmp);
        figures.median_secs = times.get(times.len() / 2).copied();
        (name.clone(), figures)
    };
    book.raters().iter().map(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{First, Second, Tie};

    #[test]
    fn alpha_is_krippendorffs() {
        // Two raters, ten items, nominal: 6 of 10 agree; α by hand from the coincidence matrix.
        let a = [First, Second, First, First, First, First, First, First, First, First];
        let b = [Second, Second, Second, First, First, Second, First, First, First, Second];
        let agreement = of_votes(a.iter().zip(b).map(|(a, b)| vec![*a, b]));
        assert_eq!((agreement.n_items, agreement.observed), (10, Some(0.6)));
        // n = 20, n_first = 14, n_second = 6; D_o = 8/20, D_e = 2·14·6/(20·19).
        let expected = 1.0 - (8.0 / 20.0) / (2.0 * 14.0 * 6.0 / (20.0 * 19.0));
        assert!((agreement.alpha.expect("defined") - expected).abs() < 1e-12);
    }

    #[test]
    fn perfect_agreement_is_one_and_too_few_votes_are_nothing() {
        let perfect = of_votes([vec![First, First, First], vec![Tie, Tie], vec![Second]].into_iter());
        assert_eq!((perfect.n_items, perfect.observed, perfect.alpha), (2, Some(1.0), Some(1.0)));
        let nothing = of_votes([vec![First], vec![]].into_iter());
        assert_eq!((nothing.observed, nothing.alpha), (None, None));
        assert_eq!(of_votes([vec![First, First]].into_iter()).alpha, None, "one kind of vote tells nothing");
    }
}
