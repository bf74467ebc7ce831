//! What the journal says, in memory: who answered what, and what still counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::items::Items;
use super::journal::{Entry, Label, Verdict};

/// All labels, in the order in which they were accepted. Built by [`Book::apply`] from the journal's entries alone.
#[derive(Debug)]
pub(crate) struct Book {
    labels: Vec<Label>,
    /// What each click did.
    clicks: HashMap<String, Done>,
    raters: BTreeMap<String, RaterPage>,
    /// For each item, the labels that count.
    by_item: Vec<Vec<usize>>,
    /// Labels of items that the data does not hold.
    pub(crate) n_foreign: usize,
}

/// What a click did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It made a label.
    Labelled,
    /// It took this label back.
    Undid(usize),
}

/// What one rater did.
#[derive(Debug, Default)]
pub(crate) struct RaterPage {
    /// The labels that count, oldest first.
    pub(crate) live: Vec<usize>,
    /// The items of these labels.
    judged: HashSet<usize>,
    /// Answers taken back.
    pub(crate) n_undone: usize,
    /// The last click, in seconds since 1970.
    pub(crate) last: f64,
}

impl Book {
    pub(crate) fn new(n_items: usize) -> Self {
        Self {
            labels: Vec::new(),
            clicks: HashMap::new(),
            raters: BTreeMap::new(),
            by_item: vec![Vec::new(); n_items],
            n_foreign: 0,
        }
    }

    /// Takes over one entry of the journal. A click that was taken over before changes nothing.
    pub(crate) fn apply(&mut self, entry: Entry, items: &Items) {
        match entry {
            Entry::Begun { .. } => {}
            Entry::Label(label) => {
                let Some(place) = items.with_id(&label.item) else {
                    self.n_foreign += 1;
                    return;
                };
                if self.clicks.contains_key(&label.click) || self.has_judged(&label.rater, place) {
                    return;
                }
                let index = self.labels.len();
                self.clicks.insert(label.click.clone(), Done::Labelled);
                let page = self.raters.entry(label.rater.clone()).or_default();
                page.live.push(index);
                page.judged.insert(place);
                page.last = label.time;
                self.by_item[place].push(index);
                self.labels.push(label);
            }
            Entry::Undone { click, rater, undoes, time } => {
                let Some(page) = self.raters.get_mut(&rater) else { return };
                let Some(at) = page.live.iter().rposition(|index| self.labels[*index].click == undoes) else { return };
                let index = page.live.remove(at);
                page.n_undone += 1;
                page.last = time;
                if let Some(place) = items.with_id(&self.labels[index].item) {
                    page.judged.remove(&place);
                    self.by_item[place].retain(|other| *other != index);
                }
                self.clicks.insert(click, Done::Undid(index));
            }
        }
    }

    /// What this click did before, if it was here before.
    pub(crate) fn done(&self, click: &str) -> Option<Done> {
        self.clicks.get(click).copied()
    }

    pub(crate) fn label(&self, index: usize) -> &Label {
        &self.labels[index]
    }

    /// The labels of an item that count, skips included.
    pub(crate) fn of_item(&self, place: usize) -> impl Iterator<Item = &Label> {
        self.by_item[place].iter().map(|index| &self.labels[*index])
    }

    /// How many verdicts an item has; a skip is none.
    pub(crate) fn n_verdicts(&self, place: usize) -> usize {
        self.of_item(place).filter(|label| label.verdict != Verdict::Skipped).count()
    }

    /// Whether the rater has answered this item, be it with a skip.
    pub(crate) fn has_judged(&self, rater: &str, place: usize) -> bool {
        self.raters.get(rater).is_some_and(|page| page.judged.contains(&place))
    }

    /// The raters by name.
    pub(crate) fn raters(&self) -> &BTreeMap<String, RaterPage> {
        &self.raters
    }

    /// The labels of a rater that count, oldest first.
    pub(crate) fn of_rater(&self, rater: &str) -> &[usize] {
        self.raters.get(rater).map_or(&[], |page| &page.live)
    }

    /// Labels that count.
    pub(crate) fn n_live(&self) -> usize {
        self.raters.values().map(|page| page.live.len()).sum()
    }
}
