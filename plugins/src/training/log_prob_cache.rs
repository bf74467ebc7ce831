//! Log-probabilities of a frozen model on disk, so that no run computes them twice.
//!
//! A file a model: its name is a hash of the weights, the temperature and what else the numbers depend on. A line a forward
//! pass: a hash of the token ids that went through it together, the log-probabilities summed over each response, and a check
//! sum. The values of a pass are used only together, for the last bits of a sum depend on what it was computed with; so a run
//! gives the same bytes whether it finds its values here or computes them. No text, no path and no name is stored. Any number
//! of processes may use a file; the folder can be removed at any time.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use farmhand_core::run::{News, SharedJournal};
use farmhand_core::types::content_id;
use farmhand_core::{EventSink, RunContext};
use farmhand_models::{BatchLayout, EncodedText};
use serde::{Deserialize, Serialize};

/// How long values wait at most before they are written.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// What is known of one model's log-probabilities.
pub(super) struct LogProbCache<'a> {
    journal: SharedJournal,
    events: &'a dyn EventSink,
    known: HashMap<String, Vec<f32>>,
    unwritten: Vec<Line>,
    written_at: Instant,
    /// The disk refused; nothing more is read or written.
    is_off: bool,
}

/// One forward pass.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    texts: String,
    sums: Vec<f32>,
    check: String,
}

impl Line {
    fn new(texts: String, sums: Vec<f32>) -> Self {
        Self { check: check_sum(&texts, &sums), texts, sums }
    }

    fn is_whole(&self) -> bool {
        self.check == check_sum(&self.texts, &self.sums) && self.sums.iter().all(|sum| sum.is_finite())
    }
}

fn check_sum(texts: &str, sums: &[f32]) -> String {
    let bits: String = sums.iter().map(|sum| format!("{:08x}", sum.to_bits())).collect();
    content_id([texts, &bits])[..8].to_owned()
}

/// The key of texts that go through a forward pass together.
pub(super) fn pass_key(texts: &[&EncodedText], layout: BatchLayout) -> String {
    let layout = match layout {
        BatchLayout::Packed => "packed",
        BatchLayout::Padded => "padded",
    };
    let mut ids = String::new();
    for text in texts {
        ids += &format!("{}:", text.response_start);
        text.ids.iter().for_each(|id| ids += &format!("{id:x},"));
        ids.push(';');
    }
    content_id([layout, &ids])
}

impl<'a> LogProbCache<'a> {
    /// The values of the model `identity` that are known in the folder `dir`, or without one in the stage's state, where they
    /// only serve to go on after an interruption. What cannot be read counts as unknown, with a warning.
    pub(super) fn open(dir: Option<&Path>, identity: &str, ctx: &RunContext<'a>) -> Self {
        let name = format!("{identity}.jsonl");
        let journal = match dir {
            Some(dir) => SharedJournal::new(dir.join("log-probs").join(name)),
            None => ctx.stage.shared_journal(&format!("log-probs-{name}")),
        };
        let mut cache = Self {
            journal,
            events: ctx.events,
            known: HashMap::new(),
            unwritten: Vec::new(),
            written_at: Instant::now(),
            is_off: false,
        };
        cache.exchange();
        cache
    }

    /// The sums of a pass over `n` texts, if they are known.
    pub(super) fn find(&self, key: &str, n: usize) -> Option<&[f32]> {
        self.known.get(key).map(Vec::as_slice).filter(|sums| sums.len() == n)
    }

    /// Keeps the sums of a pass; they are on the disk within a few seconds, or when the cache is dropped.
    pub(super) fn keep(&mut self, key: String, sums: Vec<f32>) {
        self.unwritten.push(Line::new(key, sums));
        if self.written_at.elapsed() >= WRITE_EVERY {
            self.exchange();
        }
    }

    /// Reads what is new in the file and appends what is not in it yet. A disk that refuses costs the cache, not the run.
    fn exchange(&mut self) {
        if self.is_off {
            return;
        }
        let Self { journal, known, unwritten, .. } = self;
        let mut n_damaged = 0;
        let result = journal.exchange(|news: News<Line>| {
            n_damaged = news.n_unreadable;
            for line in news.records {
                if line.is_whole() {
                    known.insert(line.texts, line.sums);
                } else {
                    n_damaged += 1;
                }
            }
            unwritten.iter().filter(|line| !known.contains_key(&line.texts)).cloned().collect()
        });
        for line in self.unwritten.drain(..) {
            self.known.insert(line.texts, line.sums);
        }
        self.written_at = Instant::now();
        if n_damaged > 0 {
            let path = self.journal.path().display();
            self.events.warn(&format!("damaged lines in the cache `{path}`: {n_damaged}; their values are computed again"));
        }
        if let Err(error) = result {
            self.is_off = true;
            self.events.warn(&format!("log-probabilities are not kept for other runs: {error}"));
        }
    }
}

impl Drop for LogProbCache<'_> {
    fn drop(&mut self) {
        if !self.unwritten.is_empty() {
            self.exchange();
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::RecordedEvents;

    use super::*;
    use crate::testing::Stage;

    fn keep(stage: &Stage, dir: Option<&Path>, events: &RecordedEvents, key: &str, sums: &[f32]) {
        LogProbCache::open(dir, "model", &stage.context(events)).keep(key.to_owned(), sums.to_vec());
    }

    fn find(stage: &Stage, dir: Option<&Path>, events: &RecordedEvents, key: &str) -> Option<Vec<f32>> {
        LogProbCache::open(dir, "model", &stage.context(events)).find(key, 2).map(<[f32]>::to_vec)
    }

    #[test]
    fn values_are_found_again_bit_for_bit_by_other_runs_and_in_the_stage_alone_without_a_folder() {
        let (one, two, events) = (Stage::new(), Stage::new(), RecordedEvents::default());
        let dir = Some(one.path().join("cache"));
        let sums = [-0.1f32 / 3.0, -1234.5678];
        keep(&one, dir.as_deref(), &events, "pass", &sums);
        assert_eq!(find(&two, dir.as_deref(), &events, "pass").as_deref(), Some(&sums[..]));
        assert_eq!(find(&two, dir.as_deref(), &events, "other"), None);
        keep(&one, None, &events, "pass", &sums);
        assert_eq!(find(&one, None, &events, "pass").as_deref(), Some(&sums[..]));
        assert_eq!(find(&two, None, &events, "pass"), None);
        assert_eq!(events.take(), []);
    }

    #[test]
    fn damaged_lines_are_told_and_computed_again() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let dir = stage.path().join("cache");
        keep(&stage, Some(&dir), &events, "one", &[-1.5, -2.5]);
        keep(&stage, Some(&dir), &events, "two", &[-3.5, -4.5]);
        let path = dir.join("log-probs/model.jsonl");
        let text = std::fs::read_to_string(&path).expect("readable");
        // Another number in the first line, and the last line cut short.
        std::fs::write(&path, &text.replace("-1.5", "-1.4")[..text.len() - 9]).expect("written");
        assert_eq!(find(&stage, Some(&dir), &events, "one"), None);
        assert!(format!("{:?}", events.take()).contains("log-probs/model.jsonl`: 1; their values are computed again"));
        assert_eq!(find(&stage, Some(&dir), &events, "two"), None);
        keep(&stage, Some(&dir), &events, "one", &[-1.5, -2.5]);
        assert_eq!(find(&stage, Some(&dir), &events, "one"), Some(vec![-1.5, -2.5]));
    }

    #[test]
    fn a_disk_that_refuses_costs_a_warning() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let file = stage.path().join("file");
        std::fs::write(&file, "").expect("written");
        keep(&stage, Some(&file), &events, "one", &[-1.5, -2.5]);
        let told = events.take();
        assert_eq!(told.len(), 1);
        assert!(format!("{told:?}").contains("not kept for other runs"), "{told:?}");
    }

    #[test]
    fn keys_tell_ids_boundaries_and_layouts_apart() {
        let text = |ids: &[u32], response_start| EncodedText { ids: ids.to_vec(), response_start };
        let texts = [text(&[1, 23], 1), text(&[12, 3], 1), text(&[1, 23], 2), text(&[1, 23, 1, 23], 1)];
        let mut keys: Vec<String> = texts.iter().map(|text| pass_key(&[text], BatchLayout::Packed)).collect();
        keys.push(pass_key(&[&texts[0], &texts[0]], BatchLayout::Packed));
        keys.push(pass_key(&[&texts[0]], BatchLayout::Padded));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }
}
