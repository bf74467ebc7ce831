//! Hands out items and takes answers: each to as many raters as wanted, each answer once, each on the disk before it counts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farmhand_core::run::Journal;
use farmhand_core::types::ShownOrder;
use farmhand_core::{Error, Result, Seed};

use super::book::{Book, Done, RaterPage};
use super::items::{Item, Items};
use super::journal::{Entry, JOURNAL_FORMAT, Label, Verdict};
use super::rubric::Rubric;
use crate::refusal::Refusal;

/// How long an item stays with a rater who shows no sign of life.
pub(crate) const LEASE: Duration = Duration::from_mins(10);

/// How items are handed out.
#[derive(Debug, Clone)]
pub(crate) struct DeskOptions {
    /// Raters an item.
    pub(crate) overlap: usize,
    /// One gold question in so many.
    pub(crate) gold_every: usize,
    /// Root of the random orders; unset: what the journal was begun with, or 0.
    pub(crate) seed: Option<u64>,
    /// What raters are asked.
    pub(crate) rubric: Rubric,
}

/// The state of a labelling: what there is, what was said, and who has what in front of them.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) items: Items,
    pub(crate) options: DeskOptions,
    pub(crate) book: Book,
    seed: Seed,
    path: PathBuf,
    /// `None` after the disk refused, until the journal was read again.
    journal: Option<Journal>,
    leases: HashMap<String, Lease>,
    /// For each rater, the rank of every item.
    orders: HashMap<String, Vec<u32>>,
}

/// An item in front of a rater.
#[derive(Debug, Clone)]
struct Lease {
    place: usize,
    until: Instant,
    /// The answer that was taken back, when the item is here again.
    was: Option<usize>,
}

/// What a rater gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This item, with the answer that was taken back.
    Item { place: usize, was: Option<usize> },
    /// Nothing yet: all that is left lies before others.
    Wait,
    /// Nothing more.
    Done,
}

/// How far a rater is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Items answered.
    pub(crate) done: usize,
    /// Items that still want a verdict and could come to this rater.
    pub(crate) left: usize,
}

impl Desk {
    /// Reads the journal of a folder, or begins it.
    ///
    /// # Errors
    /// When the journal cannot be read or written, is of a newer format or another seed, or its labels are of other data.
    pub(crate) fn open(path: PathBuf, items: Items, options: DeskOptions) -> Result<Self> {
        let (mut journal, entries) = Journal::open::<Entry>(&path)?;
        let seed = match entries.first() {
            Some(Entry::Begun { format, .. }) if *format > JOURNAL_FORMAT => {
                let message = format!("`{}` has format {format}, this farmhand reads up to {JOURNAL_FORMAT}", path.display());
                return Err(Error::invalid_data(message).with_hint("use the farmhand that wrote it, or a newer one"));
            }
            Some(Entry::Begun { seed, .. }) => match options.seed {
                Some(wanted) if wanted != *seed => return Err(other_seed(&path, *seed, wanted)),
                _ => *seed,
            },
            Some(_) => {
                return Err(Error::invalid_data(format!("`{}` does not begin as a journal of labels", path.display()))
                    .with_hint("give another folder with `--out`"));
            }
            None => {
                let seed = options.seed.unwrap_or(0);
                journal.append(&[Entry::Begun { format: JOURNAL_FORMAT, seed }])?;
                seed
            }
        };
        let book = replay(entries, &items);
        if book.n_foreign > 0 {
            let message =
                format!("{} labels in `{}` are of comparisons that the data does not hold", book.n_foreign, path.display());
            let hint = "give the data they were made from, or another folder with `--out`";
            return Err(Error::invalid_data(message).with_hint(hint));
        }
        let seed = Seed::root(seed);
        Ok(Self { items, options, book, seed, path, journal: Some(journal), leases: HashMap::new(), orders: HashMap::new() })
    }

    /// In which order this rater sees the answers of this item: the same whenever it is asked.
    pub(crate) fn shown(&self, rater: &str, item: &Item) -> ShownOrder {
        let seed = self.seed.child_text("shown", rater).child_text("item", &item.comparison.id);
        if seed.rng().bernoulli(0.5) { ShownOrder::Swapped } else { ShownOrder::AsGiven }
    }

    /// What the rater judges next: what lies before them already, else a gold question when one is due, else what has
    /// most verdicts and needs more, in an order of the rater's own.
    pub(crate) fn next(&mut self, rater: &str, now: Instant) -> Next {
        if let Some(lease) = self.leases.get_mut(rater)
            && !self.book.has_judged(rater, lease.place)
        {
            lease.until = now + LEASE;
            return Next::Item { place: lease.place, was: lease.was };
        }
        self.leases.remove(rater);
        let (best, is_waiting) = self.candidate(rater, now);
        let place = match (best, is_waiting) {
            (Some(_), _) => self.due_gold(rater).or(best),
            (None, true) => return Next::Wait,
            (None, false) => return Next::Done,
        };
        let Some(place) = place else { return Next::Done };
        self.leases.insert(rater.to_owned(), Lease { place, until: now + LEASE, was: None });
        Next::Item { place, was: None }
    }

    /// The best item of the data for this rater, and whether some lie before others only.
    fn candidate(&mut self, rater: &str, now: Instant) -> (Option<usize>, bool) {
        let mut n_leased: HashMap<usize, usize> = HashMap::new();
        for lease in self.leases.values().filter(|lease| lease.until > now) {
            *n_leased.entry(lease.place).or_default() += 1;
        }
        self.learn_order(rater);
        let order = &self.orders[rater];
        let mut best: Option<(usize, u32, usize)> = None;
        let mut is_waiting = false;
        for (place, rank) in order.iter().enumerate() {
            let n_verdicts = self.book.n_verdicts(place);
            if !self.is_open(rater, place, n_verdicts) {
                continue;
            }
            let n_taken = n_verdicts + n_leased.get(&place).copied().unwrap_or(0);
            if n_taken >= self.options.overlap {
                is_waiting = true;
                continue;
            }
            let candidate = (self.options.overlap - n_taken, *rank, place);
            best = Some(best.map_or(candidate, |other| other.min(candidate)));
        }
        (best.map(|(.., place)| place), is_waiting)
    }

    /// Whether an item of the data wants a verdict and this rater has given none.
    fn is_open(&self, rater: &str, place: usize, n_verdicts: usize) -> bool {
        n_verdicts < self.options.overlap && self.items.at(place).gold.is_none() && !self.book.has_judged(rater, place)
    }

    fn learn_order(&mut self, rater: &str) {
        if !self.orders.contains_key(rater) {
            let mut ranks: Vec<u32> = (0..self.items.all().len() as u32).collect();
            self.seed.child_text("order", rater).rng().shuffle(&mut ranks);
            self.orders.insert(rater.to_owned(), ranks);
        }
    }

    /// A gold question that this rater has not answered, at one random place in every `gold_every` questions.
    fn due_gold(&self, rater: &str) -> Option<usize> {
        let (n_done, every) = (self.book.of_rater(rater).len(), self.options.gold_every.max(1));
        let block = self.seed.child_text("gold", rater).child("block", (n_done / every) as u64);
        if block.rng().below(every) != n_done % every {
            return None;
        }
        let order = &self.orders[rater];
        let unanswered = |place: &usize| self.items.at(*place).gold.is_some() && !self.book.has_judged(rater, *place);
        (0..self.items.all().len()).filter(unanswered).min_by_key(|place| order[*place])
    }

    /// Takes an answer: on the disk when this returns. The same click again changes nothing.
    ///
    /// # Errors
    /// When this rater has answered the item with another click, or the disk refuses.
    pub(crate) fn label(&mut self, label: Label) -> Result<(), Refusal> {
        self.recover()?;
        if self.book.done(&label.click).is_some() {
            return Ok(());
        }
        let place = self.items.with_id(&label.item).ok_or_else(|| Refusal::missing("there is no such item"))?;
        if self.book.has_judged(&label.rater, place) {
            return Err(Refusal::conflict("you have answered this one already, perhaps in another window"));
        }
        let rater = label.rater.clone();
        self.append(Entry::Label(label))?;
        self.leases.remove(&rater);
        Ok(())
    }

    /// Takes the rater's last answer back and puts the item before them again. The same click again changes nothing.
    ///
    /// # Errors
    /// When there is nothing to take back, or the disk refuses.
    pub(crate) fn undo(&mut self, click: String, rater: &str, time: f64, now: Instant) -> Result<(), Refusal> {
        self.recover()?;
        if self.book.done(&click).is_none() {
            let last = self.book.of_rater(rater).last();
            let Some(last) = last else { return Err(Refusal::conflict("there is nothing to take back")) };
            let undoes = self.book.label(*last).click.clone();
            self.append(Entry::Undone { click: click.clone(), rater: rater.to_owned(), undoes, time })?;
        }
        if let Some(Done::Undid(index)) = self.book.done(&click)
            && let Some(place) = self.items.with_id(&self.book.label(index).item)
            && !self.book.has_judged(rater, place)
        {
            self.leases.insert(rater.to_owned(), Lease { place, until: now + LEASE, was: Some(index) });
        }
        Ok(())
    }

    /// A sign of life: the item stays with the rater.
    pub(crate) fn hold(&mut self, rater: &str, now: Instant) {
        if let Some(lease) = self.leases.get_mut(rater) {
            lease.until = now + LEASE;
        }
    }

    /// How far a rater is.
    pub(crate) fn progress(&self, rater: &str) -> Progress {
        let places = 0..self.items.all().len();
        let left = places.filter(|place| self.is_open(rater, *place, self.book.n_verdicts(*place))).count();
        Progress { done: self.book.raters().get(rater).map_or(0, |page: &RaterPage| page.live.len()), left }
    }

    /// The verdicts that the data still wants, and those it has, for all raters together. Those beyond the overlap do not count.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let regular = (0..self.items.all().len()).filter(|place| self.items.at(*place).gold.is_none());
        let (mut n_done, mut n_wanted) = (0, 0);
        for place in regular {
            n_wanted += self.options.overlap;
            n_done += self.book.n_verdicts(place).min(self.options.overlap);
        }
        (n_done, n_wanted)
    }

    fn append(&mut self, entry: Entry) -> Result<(), Refusal> {
        let journal = self.journal.as_mut().ok_or_else(|| Refusal::from(Error::other("the journal is closed")))?;
        if let Err(error) = journal.append(std::slice::from_ref(&entry)) {
            // Whether the line is there is not known; the next click reads the journal again.
            self.journal = None;
            return Err(error.into());
        }
        self.book.apply(entry, &self.items);
        Ok(())
    }

    /// After the disk refused: reads what the journal holds, so that memory and disk say the same again.
    fn recover(&mut self) -> Result<(), Refusal> {
        if self.journal.is_none() {
            let (journal, entries) = Journal::open::<Entry>(&self.path)?;
            self.book = replay(entries, &self.items);
            self.leases.values_mut().for_each(|lease| lease.was = None);
            self.journal = Some(journal);
        }
        Ok(())
    }
}

fn replay(entries: Vec<Entry>, items: &Items) -> Book {
    let mut book = Book::new(items.all().len());
    entries.into_iter().for_each(|entry| book.apply(entry, items));
    book
}

fn other_seed(path: &Path, begun: u64, wanted: u64) -> Error {
    Error::invalid_config(format!("`--seed {wanted}`: the labels in `{}` were begun with seed {begun}", path.display()))
        .with_hint("leave `--seed` out, or give another folder with `--out`")
}

/// Whether a verdict is one.
pub(crate) fn is_verdict(label: &Label) -> bool {
    label.verdict != Verdict::Skipped
}

#[cfg(test)]
mod tests {
    use farmhand_core::data::ReadOptions;

    use super::*;

    fn desk(folder: &Path, n_items: usize, n_gold: usize, overlap: usize) -> Desk {
        let lines = |name: &str, n: usize, more: &str| -> String {
            (0..n).map(|i| format!("{{\"instruction\":\"{name} {i}\",\"output_1\":\"a\",\"output_2\":\"b\"{more}}}\n")).collect()
        };
        let (data, gold) = (folder.join("data.jsonl"), folder.join("gold.jsonl"));
        std::fs::write(&data, lines("item", n_items, "")).expect("written");
        std::fs::write(&gold, lines("gold", n_gold, ",\"preference\":1")).expect("written");
        let gold = (n_gold > 0).then_some(gold.as_path());
        let items = Items::read(&data, gold, &ReadOptions::default()).expect("read").named_by("secret");
        let options = DeskOptions { overlap, gold_every: 4, seed: Some(1), rubric: Rubric::default() };
        Desk::open(folder.join("out/journal.jsonl"), items, options).expect("opened")
    }

    fn label(desk: &Desk, click: &str, rater: &str, place: usize) -> Label {
        Label {
            click: click.to_owned(),
            rater: rater.to_owned(),
            item: desk.items.at(place).comparison.id.clone(),
            shown: ShownOrder::AsGiven,
            verdict: Verdict::First,
            ratings: Default::default(),
            comment: None,
            time_secs: 1.0,
            time: 1.0,
        }
    }

    fn place(next: Next) -> usize {
        match next {
            Next::Item { place, .. } => place,
            other => panic!("expected an item, got {other:?}"),
        }
    }

    #[test]
    fn an_item_lies_before_one_rater_until_its_lease_ends_and_no_label_is_lost_then() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut desk = desk(dir.path(), 1, 0, 1);
        let start = Instant::now();
        assert_eq!(place(desk.next("Ana", start)), 0);
        assert_eq!(place(desk.next("Ana", start)), 0, "a reload shows the same");
        assert_eq!(desk.next("Ben", start + LEASE / 2), Next::Wait);
        desk.hold("Ana", start + LEASE / 2);
        assert_eq!(desk.next("Ben", start + LEASE), Next::Wait);
        let late = start + LEASE * 2;
        assert_eq!(place(desk.next("Ben", late)), 0);
        desk.label(label(&desk, "click-of-ben", "Ben", 0)).expect("accepted");
        desk.label(label(&desk, "click-of-ana", "Ana", 0)).expect("late, but an answer");
        assert_eq!((desk.book.n_verdicts(0), desk.totals()), (2, (1, 1)));
        assert_eq!((desk.next("Ana", late), desk.next("Cem", late)), (Next::Done, Next::Done));
    }

    #[test]
    fn the_same_click_counts_once_and_another_click_on_the_same_item_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut desk = desk(dir.path(), 3, 0, 2);
        for _ in 0..2 {
            desk.label(label(&desk, "one", "Ana", 0)).expect("accepted");
        }
        let refused = desk.label(label(&desk, "two", "Ana", 0)).expect_err("answered");
        assert_eq!(refused.status.as_u16(), 409);
        for _ in 0..2 {
            desk.undo("back".into(), "Ana", 2.0, Instant::now()).expect("taken back");
        }
        assert_eq!((desk.book.n_live(), desk.book.raters()["Ana"].n_undone), (0, 1));
        assert_eq!(desk.next("Ana", Instant::now()), Next::Item { place: 0, was: Some(0) });
        assert_eq!(desk.undo("more".into(), "Ana", 2.0, Instant::now()).expect_err("nothing").status.as_u16(), 409);
        desk.label(label(&desk, "three", "Ana", 0)).expect("accepted again");
        desk.undo("back".into(), "Ana", 2.0, Instant::now()).expect("an old click changes nothing");
        assert_eq!(desk.book.n_live(), 1);
    }

    #[test]
    fn a_journal_is_read_again_after_the_disk_refused_and_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut first = desk(dir.path(), 3, 0, 1);
        first.label(label(&first, "one", "Ana", 0)).expect("accepted");
        first.journal = None;
        first.label(label(&first, "one", "Ana", 0)).expect("known from the disk");
        first.label(label(&first, "two", "Ana", 1)).expect("accepted");
        first.undo("back".into(), "Ana", 2.0, Instant::now()).expect("taken back");
        drop(first);
        let path = dir.path().join("out/journal.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(text.lines().count(), 4);
        text.push_str("{\"event\":\"label\",\"click\":\"to");
        std::fs::write(&path, text).expect("torn");
        let mut again = desk(dir.path(), 3, 0, 1);
        assert_eq!(again.book.of_rater("Ana").len(), 1);
        assert_eq!(again.book.done("one"), Some(Done::Labelled));
        again.label(label(&again, "two again", "Ana", 1)).expect("accepted");
        assert_eq!(again.totals(), (2, 3));
    }

    #[test]
    fn one_question_in_every_few_is_gold_until_there_are_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut desk = desk(dir.path(), 30, 3, 1);
        let mut gold = Vec::new();
        for i in 0.. {
            let Next::Item { place, .. } = desk.next("Ana", Instant::now()) else { break };
            gold.push(desk.items.at(place).gold.is_some());
            desk.label(label(&desk, &format!("click {i}"), "Ana", place)).expect("accepted");
        }
        assert_eq!((gold.len(), gold.iter().filter(|gold| **gold).count()), (33, 3));
        assert!(gold.chunks(4).take(3).all(|block| block.iter().filter(|gold| **gold).count() == 1), "{gold:?}");
    }

    #[test]
    fn what_has_verdicts_is_finished_first_and_raters_have_orders_of_their_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut desk = desk(dir.path(), 40, 0, 2);
        let first = place(desk.next("Ana", Instant::now()));
        desk.label(label(&desk, "one", "Ana", first)).expect("accepted");
        assert_eq!(place(desk.next("Ben", Instant::now())), first);
        let places: std::collections::HashSet<usize> =
            (0..20).map(|i| place(desk.next(&format!("rater {i}"), Instant::now()))).collect();
        assert!(places.len() >= 10, "{places:?}");
        let swapped = |rater: &str| desk.items.all().iter().filter(|item| desk.shown(rater, item) == ShownOrder::Swapped).count();
        assert!((8..=32).contains(&swapped("Ana")));
        assert!(desk.items.all().iter().any(|item| desk.shown("Ana", item) != desk.shown("Ben", item)));
    }

    #[test]
    fn a_journal_of_other_data_or_another_seed_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut first = desk(dir.path(), 3, 0, 1);
        first.label(label(&first, "one", "Ana", 2)).expect("accepted");
        let path = first.path.clone();
        let open = |n: usize, seed: Option<u64>| {
            let other = tempfile::tempdir().expect("a folder");
            let options = DeskOptions { seed, ..first.options.clone() };
            let items = desk(other.path(), n, 0, 1).items;
            Desk::open(path.clone(), items, options).map(|_| ())
        };
        assert!(open(2, None).expect_err("other data").to_string().contains("1 labels"));
        assert!(open(3, Some(2)).expect_err("another seed").to_string().contains("begun with seed 1"));
        assert!(open(4, None).is_ok(), "more data is fine");
    }
}
