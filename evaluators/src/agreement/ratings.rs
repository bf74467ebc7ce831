//! What several raters said of the same comparisons, as a table.

use std::collections::{BTreeMap, HashMap};

use farmhand_core::types::{Annotation, Judgement, Preference, UnorderedPair};

/// Raters' values, one row a comparison, one column a rater; `None` where a rater said nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratings {
    /// The raters' names, one for each column.
    pub raters: Vec<String>,
    /// `[comparison][rater]`.
    pub values: Vec<Vec<Option<f64>>>,
}

impl Ratings {
    /// Verdicts: −1 the first answer, 0 a tie, 1 the second; a graded verdict counts for the side it leans to.
    pub fn of_verdicts(judgements: &[Judgement]) -> Self {
        Self::of(judgements, |annotation| Some(side(annotation.preference)))
    }

    /// Verdicts with how sure or how strong they are: minus or plus the margin where a rater gave one, otherwise 2p − 1 of the
    /// probability p that the second answer is better.
    pub fn of_grades(judgements: &[Judgement]) -> Self {
        Self::of(judgements, |annotation| {
            let side = side(annotation.preference);
            Some(annotation.margin.map_or(2.0 * annotation.preference.p_second() - 1.0, |margin| margin * side))
        })
    }

    /// A table of whatever `value` takes out of a verdict, larger for the second answer and with the sign turned for the first.
    ///
    /// A comparison and its swap are the same row, seen in the order that comes first in the list. Rows and raters are in the
    /// order of their first appearance. What one rater says again of the same comparison is a row of its own, so that no verdict
    /// is lost; failures are.
    pub fn of(judgements: &[Judgement], value: impl Fn(&Annotation) -> Option<f64>) -> Self {
        let mut table = Self { raters: Vec::new(), values: Vec::new() };
        let mut columns: HashMap<&str, usize> = HashMap::new();
        // Of each pair: which order its row has, and the rows.
        let mut rows: HashMap<String, (bool, Vec<usize>)> = HashMap::new();
        for judgement in judgements {
            let Some((annotation, number)) = judgement.annotation().and_then(|annotation| Some((annotation, value(annotation)?)))
            else {
                continue;
            };
            let column = *columns.entry(&annotation.annotator).or_insert_with(|| {
                table.raters.push(annotation.annotator.clone());
                table.raters.len() - 1
            });
            let pair = UnorderedPair::as_asked(&judgement.comparison);
            let (is_turned, of_pair) = rows.entry(pair.id).or_insert((pair.is_turned, Vec::new()));
            // Adding 0 makes minus zero zero, or ties would be two categories.
            let number = if *is_turned == pair.is_turned { number } else { -number } + 0.0;
            let is_open = |row: &&usize| table.values[**row].get(column).is_none_or(Option::is_none);
            let row = match of_pair.iter().find(is_open) {
                Some(row) => *row,
                None => {
                    table.values.push(Vec::new());
                    of_pair.push(table.values.len() - 1);
                    table.values.len() - 1
                }
            };
            let values = &mut table.values[row];
            values.resize(values.len().max(column + 1), None);
            values[column] = Some(number);
        }
        let n_raters = table.raters.len();
        table.values.iter_mut().for_each(|row| row.resize(n_raters, None));
        table
    }

    /// How many values there are.
    pub fn n_values(&self) -> usize {
        self.values.iter().flatten().flatten().count()
    }

    /// The values that two raters gave the same comparisons.
    pub fn pairs(&self, rater: usize, other: usize) -> Vec<(f64, f64)> {
        self.values.iter().filter_map(|row| Some((row[rater]?, row[other]?))).collect()
    }

    /// The same rows with these columns only.
    #[must_use]
    pub fn columns(&self, columns: &[usize]) -> Self {
        let values = self.values.iter().map(|row| columns.iter().map(|column| row[*column]).collect()).collect();
        Self { raters: columns.iter().map(|column| self.raters[*column].clone()).collect(), values }
    }

    /// The different values, ascending.
    pub(crate) fn categories(&self) -> Vec<f64> {
        let mut categories: Vec<f64> = self.values.iter().flatten().flatten().copied().collect();
        categories.sort_by(f64::total_cmp);
        categories.dedup();
        categories
    }

    /// Of each row with at least `least` values, how often each category stands in it.
    pub(crate) fn counts(&self, categories: &[f64], least: usize) -> Vec<Vec<f64>> {
        let place: BTreeMap<u64, usize> = categories.iter().enumerate().map(|(i, value)| (value.to_bits(), i)).collect();
        let count = |row: &Vec<Option<f64>>| {
            let mut counts = vec![0.0; categories.len()];
            row.iter().flatten().for_each(|value| counts[place[&value.to_bits()]] += 1.0);
            counts
        };
        self.values.iter().filter(|row| row.iter().flatten().count() >= least).map(count).collect()
    }
}

/// −1, 0 or 1; never minus zero, which would be a category of its own.
fn side(preference: Preference) -> f64 {
    match preference.p_second() {
        p if p < 0.5 => -1.0,
        p if p > 0.5 => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::Error;
    use farmhand_core::types::{Comparison, Instruction};

    fn judged(i: usize, swapped: bool, rater: &str, preference: Preference, margin: Option<f64>) -> Judgement {
        let comparison = Comparison::new(Instruction::new(format!("{i}"), None), "a", "b");
        let comparison = if swapped { comparison.swapped() } else { comparison };
        Judgement::new(comparison, Ok(Annotation { margin, ..Annotation::new(rater, preference) }))
    }

    #[test]
    fn a_swap_is_the_same_row_and_a_second_verdict_another() {
        let judgements = [
            judged(0, true, "ann", Preference::First, None),
            judged(0, false, "bob", Preference::First, None),
            judged(1, false, "bob", Preference::Graded(0.8), None),
            judged(0, true, "ann", Preference::Tie, None),
            Judgement::new(Comparison::new(Instruction::new("1", None), "a", "b"), Err(Error::other("tired"))),
        ];
        let ratings = Ratings::of_verdicts(&judgements);
        assert_eq!(ratings.raters, ["ann", "bob"]);
        assert_eq!(ratings.values, [vec![Some(-1.0), Some(1.0)], vec![None, Some(1.0)], vec![Some(0.0), None]]);
        assert_eq!((ratings.n_values(), ratings.pairs(0, 1)), (4, vec![(-1.0, 1.0)]));
        assert_eq!(ratings.columns(&[1]).values, [vec![Some(1.0)], vec![Some(1.0)], vec![None]]);
        // A tie seen in the other order is still nothing but a tie.
        let ties = Ratings::of_verdicts(&[
            judged(0, false, "ann", Preference::Tie, None),
            judged(0, true, "bob", Preference::Tie, None),
        ]);
        assert_eq!(ties.categories().len(), 1);
    }

    #[test]
    fn grades_are_margins_or_probabilities() {
        let judgements = [
            judged(0, false, "ann", Preference::First, Some(3.0)),
            judged(1, false, "ann", Preference::Graded(0.75), None),
            judged(2, true, "ann", Preference::Second, Some(1.0)),
        ];
        let ratings = Ratings::of_grades(&judgements);
        assert_eq!(ratings.values.concat(), [Some(-3.0), Some(0.5), Some(1.0)]);
    }
}
