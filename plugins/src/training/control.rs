//! Controls: a line before an instruction that says how good the answer is to be.
//!
//! A learner that conditions writes a control before every instruction that it trains on; the policy `conditioned` writes the best
//! one, or the one asked for, before every instruction that it answers. Both write it with [`Controls::apply`], as the first line
//! of the instruction, so that it works with every prompt format, is part of the prompt, and never receives loss. The published
//! methods add new tokens for this; ordinary text needs no new embeddings, and a model trained so is still the model that it was
//! for everything that loads it.
//!
//! A checkpoint keeps the controls that it was trained with beside its manifest.

use std::path::Path;

use farmhand_core::types::Instruction;
use farmhand_core::{Error, Result, RunContext};
use serde::{Deserialize, Serialize};

use super::options::Ranges;

const FILE: &str = "controls.json";

/// The version of the file's format that this farmhand writes.
const FORMAT: u32 = 1;

/// What stands for the value in a control's line.
const PLACE: &str = "{}";

/// How controls are written, and which ones a model knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// Version of this format.
    format: u32,
    /// The line, with `{}` in the place of the value.
    line: String,
    /// The value that asks for the best answer.
    best: String,
    /// The values that a model was trained with, best first; none where any value may be asked for, such as a number.
    values: Vec<String>,
}

impl Controls {
    /// Controls with a choice of values, the best first.
    ///
    /// # Panics
    /// Without values.
    pub fn of_values(line: &str, values: Vec<String>) -> Self {
        Self { format: FORMAT, line: line.to_owned(), best: values[0].clone(), values }
    }

    /// Controls whose values are open; `best` asks for the best answer.
    pub fn open(line: &str, best: String) -> Self {
        Self { format: FORMAT, line: line.to_owned(), best, values: Vec::new() }
    }

    /// The value that asks for the best answer.
    pub fn best(&self) -> &str {
        &self.best
    }

    /// The values to choose from, best first; none where any may be asked for.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// The instruction with the control of this value as its first line. Its id stays, for it is the same question.
    #[must_use]
    pub fn apply(&self, instruction: &Instruction, value: &str) -> Instruction {
        let line = self.line.replace(PLACE, value);
        Instruction { instruction: format!("{line}\n{}", instruction.instruction), ..instruction.clone() }
    }

    /// The value to ask for: `asked`, or the best without one.
    ///
    /// # Errors
    /// When the model was not trained with that value.
    pub fn value<'a>(&'a self, asked: Option<&'a str>) -> Result<&'a str> {
        let value = asked.unwrap_or(&self.best);
        if !self.values.is_empty() && !self.values.iter().any(|known| known == value) {
            let known = self.values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
            let message = format!("the model was not trained with the control value `{value}`");
            return Err(Error::invalid_config(message).with_hint(format!("known values, best first: {known}")));
        }
        Ok(value)
    }

    /// Writes the controls into the checkpoint of the context's stage, and into those that were kept on the way.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, ctx: &RunContext<'_>) -> Result<()> {
        let kept = ctx.stage.kept_checkpoints()?.into_iter().map(|(_, dir)| dir);
        kept.chain([ctx.stage.checkpoint_dir()]).try_for_each(|dir| self.write(&dir))
    }

    /// Hands the controls of the model that a learner started from on to the model that it made, unless that has its own. Gives
    /// those that were handed on: a model that goes on learning still knows what it was asked with.
    ///
    /// # Errors
    /// When the controls cannot be read, or the disk refuses.
    pub fn hand_on(from: &Path, to: &Path) -> Result<Option<Self>> {
        if !from.join(FILE).is_file() || to.join(FILE).is_file() {
            return Ok(None);
        }
        let controls = Self::load(from)?;
        controls.write(to)?;
        Ok(Some(controls))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        farmhand_core::run::write_atomic(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, self).map_err(|error| Error::io("write", &path, error.into()))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))
        })
    }

    /// The controls in a model folder.
    ///
    /// # Errors
    /// When the model was trained without, or the file cannot be read or is newer than this farmhand.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::missing_input(format!("model `{}` was trained without controls", dir.display())).with_hint(
                    "use a model of a learner that conditions, such as `reward_conditioning`, or the policy without them",
                )
            }
            _ => Error::io("read", &path, error),
        })?;
        let controls: Self = serde_json::from_str(&text)
            .map_err(|error| Error::invalid_data(format!("`{}` does not hold controls", path.display())).with_source(error))?;
        if controls.format > FORMAT {
            let message = format!("`{}` has format {}, this farmhand reads up to {FORMAT}", path.display(), controls.format);
            return Err(Error::invalid_data(message).with_hint("use the farmhand that wrote it, or a newer one"));
        }
        Ok(controls)
    }
}

impl Ranges {
    /// The line of controls: a single one with one place for the value.
    #[must_use]
    pub fn control_line(self, key: &str, line: &str) -> Self {
        let fits = line.matches(PLACE).count() == 1 && !line.contains(['\n', '\r']);
        self.require(key, fits, "one line with one `{}` in the place of the value", format!("`{}`", line.escape_default()))
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents};
    use farmhand_models::{Ending, TextCodec};

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint};

    fn controls() -> Controls {
        Controls::of_values("Quality: {}", vec!["good".into(), "bad".into()])
    }

    #[test]
    fn a_control_is_the_first_line_of_the_prompt_and_never_part_of_the_response() {
        let plain = Instruction::new("Add.", Some("1 2"));
        let controlled = controls().apply(&plain, "bad");
        assert_eq!((controlled.instruction.as_str(), &controlled.id), ("Quality: bad\nAdd.", &plain.id));
        assert_eq!((&controlled.input, &controlled.history), (&plain.input, &plain.history));
        let codec = TextCodec::load(&tiny_checkpoint(&Stage::new()), None).expect("a codec");
        let encode = |instruction: &Instruction| codec.encode(instruction, "yes", Ending::WithEos).expect("encoded");
        let (with, without) = (encode(&controlled), encode(&plain));
        assert_eq!(with.response(), without.response());
        assert_eq!(with.prompt(), codec.prompt(&controlled).expect("encoded"));
        assert!(with.prompt().len() > without.prompt().len());
    }

    #[test]
    fn a_checkpoint_keeps_its_controls_and_one_without_says_so() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        std::fs::create_dir_all(ctx.stage.checkpoint_dir()).expect("made");
        let load = || Controls::load(&ctx.stage.checkpoint_dir());
        let error = load().expect_err("none");
        assert!(error.kind() == ErrorKind::MissingInput && error.message().contains("was trained without controls"), "{error}");
        controls().save(&ctx).expect("saved");
        assert_eq!(load().expect("read"), controls());
        Controls { format: 2, ..controls() }.save(&ctx).expect("saved");
        assert!(load().expect_err("newer").message().contains("format 2"));
        // A model that goes on from it keeps them, unless it has its own.
        controls().save(&ctx).expect("saved");
        let next = stage.path().join("next");
        std::fs::create_dir_all(&next).expect("made");
        assert_eq!(Controls::hand_on(&ctx.stage.checkpoint_dir(), &next).expect("read"), Some(controls()));
        assert_eq!(Controls::load(&next).expect("read"), controls());
        assert_eq!(Controls::hand_on(&ctx.stage.checkpoint_dir(), &next).expect("it has some"), None);
        assert_eq!(Controls::hand_on(stage.path(), &next).expect("there are none"), None);
    }

    #[test]
    fn only_known_values_can_be_asked_for_unless_values_are_open() {
        let controls = controls();
        assert_eq!((controls.best(), controls.value(None).expect("the best")), ("good", "good"));
        assert_eq!(controls.value(Some("bad")).expect("known"), "bad");
        let error = controls.value(Some("great")).expect_err("unknown");
        assert_eq!(error.hint(), Some("known values, best first: `good`, `bad`"));
        let open = Controls::open("Score: {}", "5.00".into());
        assert_eq!((open.value(None).expect("the best"), open.value(Some("-1.25")).expect("any")), ("5.00", "-1.25"));
        let n_problems = |line| Ranges::new().control_line("control", line).problems().len();
        assert_eq!(["Score: {}", "{}", "Score", "{} {}", "a {}\nb"].map(n_problems), [0, 0, 1, 1, 1]);
    }
}
