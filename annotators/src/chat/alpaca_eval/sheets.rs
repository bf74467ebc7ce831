//! Which comparisons share a prompt.

use farmhand_core::Seed;
use farmhand_core::types::Comparison;

use crate::chat::judging::Sheet;

/// The sheets of `members`, each of `batch_size` places, the last one padded. In batches of several the members are put into an
/// order of their own, drawn from the seed and their content: so a file in another order makes the same sheets.
pub(super) fn sheets(members: &[usize], comparisons: &[Comparison], batch_size: usize, alone: bool, seed: Seed) -> Vec<Sheet> {
    let mut order = members.to_vec();
    if batch_size > 1 {
        order.sort_by_cached_key(|i| {
            (seed.child_text("sheets", &comparisons[*i].id).rng().next_u64(), comparisons[*i].id.clone())
        });
    }
    let size = if alone { 1 } else { batch_size };
    order.chunks(size).map(|members| Sheet { members: members.to_vec(), n_places: batch_size }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::varied;

    #[test]
    fn sheets_follow_content_and_the_last_is_padded() {
        let comparisons = varied(7);
        let seed = Seed::root(0);
        let members: Vec<usize> = (0..7).collect();
        let contents = |comparisons: &[Comparison]| {
            let of = |sheet: &Sheet| sheet.members.iter().map(|i| comparisons[*i].id.clone()).collect::<Vec<_>>();
            sheets(&members, comparisons, 3, false, seed).iter().map(of).collect::<Vec<_>>()
        };
        let backwards: Vec<Comparison> = comparisons.iter().rev().cloned().collect();
        assert_eq!(contents(&comparisons), contents(&backwards));
        let all = sheets(&members, &comparisons, 3, false, seed);
        assert_eq!(all.iter().map(|sheet| (sheet.members.len(), sheet.n_places)).collect::<Vec<_>>(), [(3, 3), (3, 3), (1, 3)]);
        let alone = sheets(&members, &comparisons, 3, true, seed);
        assert!(alone.len() == 7 && alone.iter().all(|sheet| sheet.members.len() == 1 && sheet.n_places == 3));
        assert_eq!(sheets(&members, &comparisons, 1, false, seed)[4].members, [4]);
    }
}
