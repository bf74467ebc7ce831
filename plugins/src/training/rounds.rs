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

use farmhand_core::run::StageDir;
use farmhand_core::{Checkpoint, Error, Result, RunContext};

/// The rounds of a learner.
#[derive(Debug)]
pub struct Rounds {
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
}

impl Rounds {
    /// Begins with `init`, or goes on after the last finished round.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn open(n_rounds: u64, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Self> {
        let mut rounds = Self { folder: ctx.stage.path().join("rounds"), n_rounds, next: 0, start: init.clone() };
        for number in (0..n_rounds).rev() {
            let checkpoint = rounds.path(number).join("checkpoint");
            if checkpoint.is_dir() {
                rounds.start = Checkpoint::open(checkpoint)?;
                rounds.next = number + 1;
                break;
            }
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

    /// The round is done: it left a checkpoint. The checkpoint of the round before is removed, and so are saved states; what else
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
        Ok(())
    }

    /// What the last round made, as the learner's own checkpoint.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn result(self, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let made = ctx.stage.checkpoint_dir();
        let name = made.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        ctx.stage.write_dir(&name, |dir| copy_folder(self.start.path(), dir))?;
        Checkpoint::open(made)
    }

    /// The folder of a round, which holds what it wrote.
    pub fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:02}"))
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|error| Error::io("make folder", to, error))?;
    for entry in std::fs::read_dir(from).map_err(|error| Error::io("read", from, error))? {
        let path = entry.map_err(|error| Error::io("read", from, error))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
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
            inner.stage.write_dir("checkpoint", |dir| copy_folder(round.start.path(), dir)).expect("made");
            inner
                .stage
                .write("note.txt", |out| write!(out, "{}", round.number).map_err(|e| Error::other(e.to_string())))
                .expect("made");
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
        let round = rounds.next_round().expect("a folder").expect("another");
        assert_eq!(round.number, 2);
        assert!(Rounds::open(3, &init, &ctx).expect("opened").finish(Round { number: 2, ..round }).is_err(), "no checkpoint");
        let round = rounds.next_round().expect("a folder").expect("another");
        make(&round, &ctx);
        rounds.finish(round).expect("finished");
        assert!(rounds.next_round().expect("asked").is_none());
        let made = rounds.result(&ctx).expect("copied");
        assert_eq!(made.path(), stage.stage.checkpoint_dir());
    }
}
