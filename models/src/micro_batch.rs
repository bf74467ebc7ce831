//! Which texts go through a forward pass together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tch::Device;

use crate::batch::BatchLayout;
use crate::encoding::EncodedText;

/// Tokens a forward pass computes for a record of some texts by itself: packed, a prompt that all its texts begin with counts
/// once; padded, every text counts as much as the longest.
pub fn computed_tokens(texts: &[EncodedText], layout: BatchLayout) -> usize {
    match layout {
        BatchLayout::Packed => shared_prompt(texts).len() + own_tokens(texts),
        BatchLayout::Padded => texts.len() * texts.iter().map(|text| text.ids.len()).max().unwrap_or(0),
    }
}

/// Tokens of a forward pass where nobody chose a number: 1024 on the CPU, 8192 on a GPU.
///
/// On the CPU larger passes gain nothing and take more memory: training SmolLM2-135M on one thread of an AVX-512 server did
/// 173, 189, 166 and 162 tokens per CPU second in passes of 256, 512, 1024 and 2048. The number for GPUs is not measured.
pub fn default_pass_tokens(device: Device) -> usize {
    if device == Device::Cpu { 1024 } else { 8192 }
}

/// Groups records of one or more texts each for forward passes. A group has at most `max_records` members and at most
/// `max_tokens` computed tokens, unless a single member has more.
///
/// Packed, records with the same prompt stand together where they fit, and it counts once a group. Padded, every text counts
/// as much as the longest of its group, so that texts of similar length stand together. The largest group comes first, so that
/// memory runs out at once or not at all. Depends on the records and their order alone. Returns indices, each exactly once.
pub fn micro_batches<'a>(
    records: impl IntoIterator<Item = &'a [EncodedText]>,
    layout: BatchLayout,
    max_tokens: usize,
    max_records: usize,
) -> Vec<Vec<usize>> {
    let records: Vec<&[EncodedText]> = records.into_iter().collect();
    let mut groups = match layout {
        BatchLayout::Packed => packed_groups(&records, max_tokens, max_records),
        BatchLayout::Padded => padded_groups(&records, max_tokens, max_records),
    };
    groups.sort_by_key(|group| Reverse(group.tokens));
    groups.into_iter().map(|group| group.members).collect()
}

struct Group {
    members: Vec<usize>,
    tokens: usize,
}

/// Records with the same prompt, in groups that are filled as well as they can be: the largest first, each into the group
/// where it leaves the least room.
fn packed_groups(records: &[&[EncodedText]], max_tokens: usize, max_records: usize) -> Vec<Group> {
    let own: Vec<usize> = records.iter().map(|texts| own_tokens(texts)).collect();
    let mut with_prompt: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
    for (index, texts) in records.iter().enumerate() {
        with_prompt.entry(shared_prompt(texts)).or_default().push(index);
    }
    let mut pieces = Vec::new();
    for (prompt, mut members) in with_prompt {
        members.sort_by_key(|&index| (Reverse(own[index]), index));
        // Those with nothing in common share nothing.
        let most = if prompt.is_empty() { 1 } else { max_records };
        let mut piece = Group { members: Vec::new(), tokens: prompt.len() };
        for index in members {
            let is_full = piece.members.len() == most || piece.tokens + own[index] > max_tokens;
            if is_full && !piece.members.is_empty() {
                pieces.push(std::mem::replace(&mut piece, Group { members: Vec::new(), tokens: prompt.len() }));
            }
            piece.members.push(index);
            piece.tokens += own[index];
        }
        pieces.push(piece);
    }
    pieces.sort_by_key(|piece| (Reverse(piece.tokens), piece.members[0]));

    let mut groups: Vec<Group> = Vec::new();
    // The room in each group that is not full, and the group.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for piece in pieces {
        let fits = |&&(_, group): &&(usize, usize)| groups[group].members.len() + piece.members.len() <= max_records;
        let place = match open.range((piece.tokens, 0)..).find(fits).copied() {
            Some((room, place)) => {
                open.remove(&(room, place));
                let group = &mut groups[place];
                // Two pieces of one prompt may meet again.
                let prompt = shared_prompt(records[piece.members[0]]);
                let is_there = group.members.iter().any(|&index| shared_prompt(records[index]) == prompt);
                group.tokens += piece.tokens - if is_there { prompt.len() } else { 0 };
                group.members.extend(piece.members);
                place
            }
            None => {
                groups.push(piece);
                groups.len() - 1
            }
        };
        let room = max_tokens.saturating_sub(groups[place].tokens);
        if room > 0 && groups[place].members.len() < max_records {
            open.insert((room, place));
        }
    }
    groups
}

/// Records in order of their longest text, cut where a group is full.
fn padded_groups(records: &[&[EncodedText]], max_tokens: usize, max_records: usize) -> Vec<Group> {
    let longest = |index: usize| records[index].iter().map(|text| text.ids.len()).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|&index| (Reverse(longest(index)), index));
    let mut groups: Vec<Group> = Vec::new();
    for index in order {
        match groups.last_mut() {
            Some(group)
                if group.members.len() < max_records
                    && group.tokens + records[index].len() * longest(group.members[0]) <= max_tokens =>
            {
                group.tokens += records[index].len() * longest(group.members[0]);
                group.members.push(index);
            }
            _ => groups.push(Group { members: vec![index], tokens: records[index].len() * longest(index) }),
        }
    }
    groups
}

/// The prompt that all texts of a record begin with; empty when they begin differently.
fn shared_prompt(texts: &[EncodedText]) -> &[u32] {
    match texts {
        [first, others @ ..] if others.iter().all(|text| text.prompt() == first.prompt()) => first.prompt(),
        _ => &[],
    }
}

/// Tokens of a record besides the prompt that its texts share.
fn own_tokens(texts: &[EncodedText]) -> usize {
    texts.iter().map(|text| text.ids.len()).sum::<usize>() - texts.len() * shared_prompt(texts).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::TokenBatch;
    use proptest::prelude::*;

    /// A text with a prompt of `prompt` times the same token.
    fn text(prompt: usize, response: usize) -> EncodedText {
        EncodedText { ids: [vec![prompt as u32; prompt], vec![9; response]].concat(), response_start: prompt }
    }

    /// Tokens that a forward pass over a group really computes.
    fn computed(records: &[Vec<EncodedText>], group: &[usize], layout: BatchLayout) -> usize {
        let texts: Vec<&EncodedText> = group.iter().flat_map(|&index| &records[index]).collect();
        TokenBatch::new(&texts, layout, Device::Cpu).expect("made").n_computed_tokens()
    }

    fn groups_of(records: &[Vec<EncodedText>], layout: BatchLayout, max_tokens: usize, max_records: usize) -> Vec<Vec<usize>> {
        micro_batches(records.iter().map(Vec::as_slice), layout, max_tokens, max_records)
    }

    #[test]
    fn a_prompt_shared_by_the_texts_of_a_record_counts_once() {
        let pair = [text(10, 3), text(10, 5)];
        assert_eq!(computed_tokens(&pair, BatchLayout::Packed), 18);
        assert_eq!(computed_tokens(&pair, BatchLayout::Padded), 30);
        assert_eq!(computed_tokens(&[text(10, 3), text(4, 5)], BatchLayout::Packed), 22);
    }

    #[test]
    fn records_with_the_same_prompt_stand_together_and_groups_are_filled() {
        // Four answers to a prompt of 10 tokens, and three other texts.
        let records: Vec<_> =
            [(10, 4), (7, 5), (10, 2), (3, 3), (10, 4), (1, 1), (10, 3)].map(|(p, r)| vec![text(p, r)]).to_vec();
        let groups = groups_of(&records, BatchLayout::Packed, 25, 8);
        assert_eq!(groups, [vec![0, 4, 6, 2, 5], vec![1, 3]]);
        assert_eq!(computed(&records, &groups[0], BatchLayout::Packed), 25);
        // A prompt whose answers do not fit together stands in several groups.
        assert_eq!(groups_of(&records, BatchLayout::Packed, 18, 8), [vec![0, 4], vec![1, 3], vec![6, 2, 5]]);
        assert_eq!(groups_of(&records, BatchLayout::Packed, 1, 8).len(), 7);
    }

    proptest! {
        #[test]
        fn every_record_is_in_exactly_one_group_within_the_budget_the_largest_first(
            lengths in prop::collection::vec((1usize..12, prop::collection::vec(0usize..20, 1..4)), 0..40),
            max_tokens in 1usize..120,
            max_records in 1usize..9,
        ) {
            let records: Vec<Vec<EncodedText>> =
                lengths.iter().map(|(prompt, responses)| responses.iter().map(|n| text(*prompt, *n)).collect()).collect();
            for layout in [BatchLayout::Packed, BatchLayout::Padded] {
                let groups = groups_of(&records, layout, max_tokens, max_records);
                let mut all = groups.concat();
                all.sort_unstable();
                prop_assert_eq!(all, (0..records.len()).collect::<Vec<_>>());
                let sizes: Vec<usize> = groups.iter().map(|group| computed(&records, group, layout)).collect();
                for (group, tokens) in groups.iter().zip(&sizes) {
                    prop_assert!(group.len() == 1 || (group.len() <= max_records && *tokens <= max_tokens));
                    if let [index] = group[..] {
                        prop_assert_eq!(*tokens, computed_tokens(&records[index], layout));
                    }
                }
                prop_assert!(sizes.is_sorted_by(|a, b| a >= b), "{:?}", sizes);
            }
        }
    }
}
