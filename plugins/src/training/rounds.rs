//! Rounds: a learner that samples, judges and trains again and again gives each round a folder of its own in its stage,
//! `rounds/NN`. A round is resumed like a stage, a finished one is not done again, and what it wrote can be looked at.
//!
//! ```text
//! let mut rounds = Rounds::open(config.rounds, inputs.init, ctx)?;
//! while let Some(round) = rounds.next_round()? {
//!     let ctx = &round.context(ctx);
//!     … sample from round.start, select, train; the round ends with a checkpoint in ctx.stage …
//!     rounds.finish(round)?;
//! }
//! rounds.result(ctx)
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use farmhand_core::run::{StageDir, write_dir_atomic};
use farmhand_core::{ADAPTER_CONFIG, Checkpoint, Error, Event, EventSink, Result, RunContext};
use farmhand_models::AdapterOutput;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::learner_options::PassOptions;
use super::options::Ranges;

/// The file of a round that tells how many optimiser steps it makes.
const STEPS_FILE: &str = "n_steps.txt";

/// Where an adapter lies beside the weights it was merged into.
const ADAPTER_FOLDER: &str = "adapter";

/// The rounds of a learner.
#[derive(Debug)]
pub struct Rounds {
    stage: StageDir,
    folder: PathBuf,
    n_rounds: u64,
    next: u64,
    start: Checkpoint,
}

/// One round.
#[derive(Debug)]
pub struct Round {
    /// Its number, from 0.
    pub number: u64,
    /// What the round before made; what the learner was given in the first round.
    pub start: Checkpoint,
    stage: StageDir,
}

impl Round {
    /// The learner's context for this round: a folder and a seed of its own.
    pub fn context<'a>(&'a self, ctx: &RunContext<'a>) -> RunContext<'a> {
        RunContext { stage: &self.stage, seed: ctx.seed.child("round", self.number), ..*ctx }
    }

    /// Ends the round with a copy of a checkpoint that lies somewhere else: what a learner inside made, or where the round began.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn adopt(&self, made: &Checkpoint) -> Result<()> {
        let dir = self.stage.checkpoint_dir();
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.stage.write_dir(&name, |dir| copy_folder(made.path(), dir, None)).map(drop)
    }
}

/// Which weights a round's training starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundStart {
    /// What the round before made.
    #[default]
    Previous,
    /// What the learner was given, every round.
    Initial,
}

impl RoundStart {
    /// The checkpoint; `init` is what the learner was given.
    pub fn of<'a>(self, round: &'a Round, init: &'a Checkpoint) -> &'a Checkpoint {
        match self {
            Self::Previous => &round.start,
            Self::Initial => init,
        }
    }
}

impl Rounds {
    /// Begins with `init`, or goes on after the last finished round.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn open(n_rounds: u64, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Self> {
        let (stage, folder) = (ctx.stage.clone(), ctx.stage.path().join("rounds"));
        let mut rounds = Self { stage, folder, n_rounds, next: 0, start: init.clone() };
        for number in (0..n_rounds).rev() {
            let checkpoint = rounds.path(number).join("checkpoint");
            if checkpoint.is_dir() {
                rounds.start = Checkpoint::open(checkpoint)?;
                rounds.next = number + 1;
                break;
            }
        }
        match rounds.next {
            0 => rounds.stage.clear_kept_checkpoints()?,
            // In case it was stopped before it came to that.
            _ => rounds.keep()?,
        }
        Ok(rounds)
    }

    /// The next round; `None` after the last one.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn next_round(&mut self) -> Result<Option<Round>> {
        if self.next == self.n_rounds {
            return Ok(None);
        }
        let stage = StageDir::create(self.path(self.next))?;
        Ok(Some(Round { number: self.next, start: self.start.clone(), stage }))
    }

    /// The round is done: it left a checkpoint. The checkpoint of the round before is removed, unless the stage keeps it, and so are saved states; what else
    /// the rounds wrote stays.
    ///
    /// # Errors
    /// When the round left no checkpoint, or the disk refuses.
    pub fn finish(&mut self, round: Round) -> Result<()> {
        let made = round.stage.checkpoint_dir();
        if !made.is_dir() {
            return Err(Error::broken_contract(format!("round {} left no checkpoint in `{}`", round.number, made.display())));
        }
        self.start = Checkpoint::open(made)?;
        round.stage.clear_state()?;
        if let Some(before) = round.number.checked_sub(1) {
            StageDir::create(self.path(before))?.remove_dir("checkpoint")?;
        }
        self.next = round.number + 1;
        self.keep()
    }

    /// Keeps what the last finished round made, where the stage asks for it and others follow.
    fn keep(&self) -> Result<()> {
        match self.stage.kept_checkpoint_dir(self.next).filter(|_| self.next < self.n_rounds) {
            Some(dir) => self.copy_start(&dir),
            None => Ok(()),
        }
    }

    /// Copies where the next round begins. An adapter that lies beside merged weights is left out when it changes the model of an
    /// earlier round, which goes.
    fn copy_start(&self, to: &Path) -> Result<()> {
        let left_out = self.has_adapter_of_a_round()?.then_some(ADAPTER_FOLDER);
        write_dir_atomic(to, |dir| copy_folder(self.start.path(), dir, left_out))
    }

    /// What the last round made, as the learner's own checkpoint.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn result(self, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let made = ctx.stage.checkpoint_dir();
        self.copy_start(&made)?;
        Checkpoint::open(made)
    }

    fn has_adapter_of_a_round(&self) -> Result<bool> {
        let path = self.start.path().join(ADAPTER_FOLDER).join(ADAPTER_CONFIG);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let config: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::invalid_data(format!("`{}` is not JSON", path.display())).with_source(error))?;
        let base = config.get("base_model_name_or_path").and_then(serde_json::Value::as_str);
        Ok(base.is_some_and(|base| Path::new(base).starts_with(&self.folder)))
    }

    /// Optimiser steps of the finished rounds together, as far as they noted them ([`Rounds::note_steps`]): where the steps of the
    /// next round begin in the log of the whole learner.
    ///
    /// # Errors
    /// When a note cannot be read.
    pub fn steps_before(&self) -> Result<u64> {
        let steps = |number: u64| {
            let path = self.path(number).join(STEPS_FILE);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let damaged = || Error::invalid_data(format!("`{}` does not hold a number of steps", path.display()));
                    text.trim().parse::<u64>().map_err(|_| damaged())
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
                Err(error) => Err(Error::io("read", &path, error)),
            }
        };
        (0..self.next).map(steps).sum()
    }

    /// Where a round's training tells its events: with steps that go on from those of the finished rounds.
    ///
    /// # Errors
    /// As [`Rounds::steps_before`].
    pub fn later_steps<'a>(&self, ctx: &RunContext<'a>) -> Result<LaterSteps<'a>> {
        Ok(LaterSteps::new(ctx.events, self.steps_before()?))
    }

    /// Notes in a round's folder how many optimiser steps it makes; `ctx` is the round's.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note_steps(n_steps: u64, ctx: &RunContext<'_>) -> Result<()> {
        let write = |out: &mut dyn std::io::Write| {
            writeln!(out, "{n_steps}").map_err(|error| Error::io("write", ctx.stage.path(), error))
        };
        ctx.stage.write(STEPS_FILE, write).map(drop)
    }

    /// The folder of a round, which holds what it wrote.
    pub fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:02}"))
    }
}

/// Passes events on, with the steps of scalars counted from those of earlier rounds on: a log has one number a name and step.
pub struct LaterSteps<'a> {
    inner: &'a dyn EventSink,
    before: u64,
    /// Steps of this round that were heard of.
    seen: AtomicU64,
}

impl<'a> LaterSteps<'a> {
    pub(super) fn new(inner: &'a dyn EventSink, before: u64) -> Self {
        Self { inner, before, seen: AtomicU64::new(0) }
    }

    /// How many steps the round made, as far as it told: what to note of a learner whose plan one does not know.
    pub fn n_steps(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

impl EventSink for LaterSteps<'_> {
    fn emit(&self, event: Event) {
        self.inner.emit(match event {
            Event::Scalar { name, step, value } => {
                self.seen.fetch_max(step + 1, Ordering::SeqCst);
                Event::Scalar { name, step: step + self.before, value }
            }
            other => other,
        });
    }
}

impl Ranges {
    /// Options of a learner that trains in rounds: an adapter must be merged at the end of each, for a round begins with what the
    /// one before made, and that is removed afterwards.
    #[must_use]
    pub fn rounds(self, rounds: u64, options: &PassOptions) -> Self {
        let alone = options.lora.as_ref().is_some_and(|lora| lora.output == AdapterOutput::Adapter);
        self.at_least_one("rounds", usize::try_from(rounds).unwrap_or(usize::MAX)).require(
            "lora.output",
            !alone,
            "`merged` for a learner that trains in rounds",
            "`adapter`",
        )
    }
}

/// Copies a folder, without the folder `left_out` in it.
fn copy_folder(from: &Path, to: &Path, left_out: Option<&str>) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|error| Error::io("make folder", to, error))?;
    for entry in std::fs::read_dir(from).map_err(|error| Error::io("read", from, error))? {
        let path = entry.map_err(|error| Error::io("read", from, error))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            if path.file_name().and_then(|name| name.to_str()) == left_out && left_out.is_some() {
                continue;
            }
            copy_folder(&path, &target, None)?;
        } else {
            std::fs::copy(&path, &target).map_err(|error| Error::io("copy", &path, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint};

    #[test]
    fn a_finished_round_is_not_done_again_and_the_last_one_is_the_result() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let ctx = stage.context(&NoEvents);
        let make = |round: &Round, ctx: &RunContext<'_>| {
            let inner = round.context(ctx);
            inner.stage.write_dir("checkpoint", |dir| copy_folder(round.start.path(), dir, None)).expect("made");
            inner
                .stage
                .write("note.txt", |out| write!(out, "{}", round.number).map_err(|e| Error::other(e.to_string())))
                .expect("made");
            Rounds::note_steps(10 + round.number, &inner).expect("noted");
        };
        let mut rounds = Rounds::open(3, &init, &ctx).expect("opened");
        for number in 0..2 {
            let round = rounds.next_round().expect("a folder").expect("another");
            assert_eq!(round.number, number);
            assert_eq!(round.start.path() == init.path(), number == 0);
            make(&round, &ctx);
            rounds.finish(round).expect("finished");
        }
        // Killed here: the second round is found, the first one's checkpoint is gone, its other files are not.
        let mut rounds = Rounds::open(3, &init, &ctx).expect("opened");
        assert!(!rounds.path(0).join("checkpoint").exists() && rounds.path(0).join("note.txt").exists());
        assert_eq!(rounds.steps_before().expect("read"), 10 + 11);
        let round = rounds.next_round().expect("a folder").expect("another");
        assert_eq!(round.number, 2);
        assert!(Rounds::open(3, &init, &ctx).expect("opened").finish(Round { number: 2, ..round }).is_err(), "no checkpoint");
        let round = rounds.next_round().expect("a folder").expect("another");
        make(&round, &ctx);
        rounds.finish(round).expect("finished");
        assert!(rounds.next_round().expect("asked").is_none());
        let after = Round { number: 1, start: rounds.start.clone(), stage: stage.stage.clone() };
        assert_eq!([RoundStart::Previous, RoundStart::Initial].map(|start| start.of(&after, &init) == &init), [false, true]);
        let made = rounds.result(&ctx).expect("copied");
        assert_eq!(made.path(), stage.stage.checkpoint_dir());
    }

    #[test]
    fn steps_are_counted_on_and_other_events_pass() {
        let events = farmhand_core::RecordedEvents::default();
        let later = LaterSteps::new(&events, 10);
        (0..3).for_each(|step| later.scalar("dpo/loss", step, 0.5));
        later.info("hello");
        assert_eq!(events.scalars("dpo/loss"), [(10, 0.5), (11, 0.5), (12, 0.5)]);
        assert_eq!((later.n_steps(), events.take().len()), (3, 4));
    }
}
