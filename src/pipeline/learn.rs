//! Learning: a learner, its inputs, and the checkpoint it makes.

use std::path::Path;

use farmhand_core::data::{
    HasInstruction, ReadOptions, ReadReport, Share, read_demonstrations, read_instructions, read_labelled_completions,
    read_preference_pairs, read_ranked_lists, read_rated_completions, read_scored_completions, split,
};
use farmhand_core::types::{
    Demonstration, Instruction, LabelledCompletion, PreferencePair, RankedList, RatedCompletion, ScoredCompletion,
};
use farmhand_core::{
    Checkpoint, CheckpointKind, Error, Feedback, FeedbackKind, Learner, LearnerInputs, Result, RunContext, Seed,
};
use farmhand_models::catch_out_of_memory;
use farmhand_plugins::training::Controls;

/// Feedback of any kind, owned.
#[derive(Debug)]
pub enum OwnedFeedback {
    /// Answers to imitate.
    Demonstrations(Vec<Demonstration>),
    /// Better and worse answers.
    Preferences(Vec<PreferencePair>),
    /// Several scored answers an instruction.
    RankedLists(Vec<RankedList>),
    /// Scored answers.
    Scored(Vec<ScoredCompletion>),
    /// Answers called good or bad, each on its own.
    Labelled(Vec<LabelledCompletion>),
    /// Answers rated on several attributes.
    Rated(Vec<RatedCompletion>),
    /// Instructions alone.
    Prompts(Vec<Instruction>),
}

impl OwnedFeedback {
    /// Reads a file of the kind of feedback a learner takes, and tells what was left out.
    ///
    /// # Errors
    /// When the file cannot be read as such.
    pub fn read(kind: FeedbackKind, path: &Path, options: &ReadOptions, ctx: &RunContext<'_>) -> Result<Self> {
        let (feedback, report) = match kind {
            FeedbackKind::Demonstrations => {
                read_demonstrations(path, options).map(|(items, report)| (Self::Demonstrations(items), report))
            }
            FeedbackKind::Preferences => {
                read_preference_pairs(path, options).map(|(items, report)| (Self::Preferences(items), report))
            }
            FeedbackKind::RankedLists => {
                read_ranked_lists(path, options).map(|(items, report)| (Self::RankedLists(items), report))
            }
            FeedbackKind::Scored => read_scored_completions(path, options).map(|(items, report)| (Self::Scored(items), report)),
            FeedbackKind::Labelled => {
                read_labelled_completions(path, options).map(|(items, report)| (Self::Labelled(items), report))
            }
            FeedbackKind::Rated => read_rated_completions(path, options).map(|(items, report)| (Self::Rated(items), report)),
            FeedbackKind::Prompts => read_instructions(path, options).map(|(items, report)| (Self::Prompts(items), report)),
        }?;
        note_left_out(&report, ctx);
        Ok(feedback)
    }

    /// Splits off a share for validation, whole instructions at a time. Demonstrations and instructions, a share of 0, and sets too
    /// small to give any stay whole.
    ///
    /// # Errors
    /// When the share is not a fraction.
    pub fn hold_out(self, share: f64, seed: Seed) -> Result<(Self, Option<Self>)> {
        match self {
            whole if share <= 0.0 => Ok((whole, None)),
            Self::Preferences(items) => held_out_share(items, share, seed, Self::Preferences),
            Self::RankedLists(items) => held_out_share(items, share, seed, Self::RankedLists),
            Self::Scored(items) => held_out_share(items, share, seed, Self::Scored),
            Self::Labelled(items) => held_out_share(items, share, seed, Self::Labelled),
            Self::Rated(items) => held_out_share(items, share, seed, Self::Rated),
            whole @ (Self::Demonstrations(_) | Self::Prompts(_)) => Ok((whole, None)),
        }
    }

    /// The feedback, borrowed.
    pub fn borrow(&self) -> Feedback<'_> {
        match self {
            Self::Demonstrations(items) => Feedback::Demonstrations(items),
            Self::Preferences(items) => Feedback::Preferences(items),
            Self::RankedLists(items) => Feedback::RankedLists(items),
            Self::Scored(items) => Feedback::Scored(items),
            Self::Labelled(items) => Feedback::Labelled(items),
            Self::Rated(items) => Feedback::Rated(items),
            Self::Prompts(items) => Feedback::Prompts(items),
        }
    }
}

/// The records without a share of their instructions, and that share.
fn held_out_share<T: HasInstruction>(
    items: Vec<T>,
    share: f64,
    seed: Seed,
    kind: fn(Vec<T>) -> OwnedFeedback,
) -> Result<(OwnedFeedback, Option<OwnedFeedback>)> {
    let mut parts = split(items, &[("held out", Share::Fraction(share)), ("rest", Share::Rest)], seed)?.into_iter();
    let (held_out, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Ok(match (held_out.is_empty(), rest.is_empty()) {
        (true, _) => (kind(rest), None),
        (false, true) => (kind(held_out), None),
        (false, false) => (kind(rest), Some(kind(held_out))),
    })
}

/// Tells what of a file did not become data, if anything.
pub fn note_left_out(report: &ReadReport, ctx: &RunContext<'_>) {
    if !report.left_out().is_empty() {
        ctx.events.warn(&report.to_string());
    }
}

/// Checks a learner's requirements against what it is offered, and lets it learn. A reward model or annotator that it does not
/// require is not passed on.
///
/// # Errors
/// When something required is missing, or what the learner reports.
pub fn learn(learner: &mut dyn Learner, name: &str, mut inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let requires = learner.requires();
    if inputs.feedback.kind() != requires.feedback {
        let message = format!("learner `{name}` learns from {}, got {}", requires.feedback.name(), inputs.feedback.kind().name());
        return Err(Error::missing_input(message));
    }
    if inputs.feedback.is_empty() {
        return Err(Error::missing_input(format!("learner `{name}` got no {}", requires.feedback.name())));
    }
    inputs.reward_model = inputs.reward_model.filter(|_| requires.reward_model);
    if requires.reward_model && inputs.reward_model.is_none() {
        return Err(Error::missing_input(format!("learner `{name}` needs a reward model"))
            .with_hint("give one with `--reward-model DIR`"));
    }
    inputs.annotator = inputs.annotator.filter(|_| requires.annotator);
    if requires.annotator && inputs.annotator.is_none() {
        return Err(Error::missing_input(format!("learner `{name}` needs an annotator")));
    }
    let lower = "lower `micro_batch_tokens`, set `checkpoint_every`, or train adapters (`lora`), where the learner has them";
    let init = inputs.init.clone();
    let learned = catch_out_of_memory(lower, || learner.learn(inputs, ctx));
    let in_learner = |error: Error| if error.is_cancelled() { error } else { error.context(format_args!("learner `{name}`")) };
    let checkpoint = learned.map_err(in_learner)?;
    let kind = checkpoint.kind()?;
    if kind != requires.produces {
        return Err(Error::broken_contract(format!("learner `{name}` made a {kind:?}, it promised a {:?}", requires.produces)));
    }
    if kind == CheckpointKind::CausalLm
        && let Some(controls) = Controls::hand_on(init.path(), checkpoint.path())?
    {
        ctx.events.warn(&format!(
            "learner `{name}` goes on from a model that answers to controls, such as `{}`, and learns without them: the model keeps \
             them, but may follow them less; the policy `conditioned` asks with them",
            controls.best()
        ));
    }
    Ok(checkpoint)
}
