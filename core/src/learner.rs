//! The learner contract: turns a checkpoint and feedback into a better checkpoint.

use crate::annotator::Annotator;
use crate::checkpoint::{Checkpoint, CheckpointKind, FindModel};
use crate::component::BuildContext;
use crate::context::RunContext;
use crate::error::{Error, Problem, Result};
use crate::reward_model::RewardModel;
use crate::types::{
    Demonstration, Instruction, LabelledCompletion, PreferencePair, RankedList, RatedCompletion, ScoredCompletion,
};

/// What a learner learns from.
#[derive(Debug, Clone, Copy)]
pub enum Feedback<'a> {
    /// Answers to imitate.
    Demonstrations(&'a [Demonstration]),
    /// Better and worse answers.
    Preferences(&'a [PreferencePair]),
    /// Several scored answers an instruction, best first.
    RankedLists(&'a [RankedList]),
    /// Scored answers.
    Scored(&'a [ScoredCompletion]),
    /// Answers called good or bad, each on its own.
    Labelled(&'a [LabelledCompletion]),
    /// Answers rated on several attributes.
    Rated(&'a [RatedCompletion]),
    /// Instructions alone: the learner samples and scores its own answers.
    Prompts(&'a [Instruction]),
}

/// The kind of feedback, without the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackKind {
    /// Answers to imitate.
    Demonstrations,
    /// Better and worse answers.
    Preferences,
    /// Several scored answers an instruction.
    RankedLists,
    /// Scored answers.
    Scored,
    /// Answers called good or bad, each on its own.
    Labelled,
    /// Answers rated on several attributes.
    Rated,
    /// Instructions alone.
    Prompts,
}

impl FeedbackKind {
    /// The name messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demonstrations => "demonstrations",
            Self::Preferences => "preference pairs",
            Self::RankedLists => "ranked lists",
            Self::Scored => "scored completions",
            Self::Labelled => "labelled completions",
            Self::Rated => "rated completions",
            Self::Prompts => "instructions",
        }
    }
}

impl<'a> Feedback<'a> {
    /// Which kind it is.
    pub fn kind(&self) -> FeedbackKind {
        match self {
            Self::Demonstrations(_) => FeedbackKind::Demonstrations,
            Self::Preferences(_) => FeedbackKind::Preferences,
            Self::RankedLists(_) => FeedbackKind::RankedLists,
            Self::Scored(_) => FeedbackKind::Scored,
            Self::Labelled(_) => FeedbackKind::Labelled,
            Self::Rated(_) => FeedbackKind::Rated,
            Self::Prompts(_) => FeedbackKind::Prompts,
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Demonstrations(items) => items.len(),
            Self::Preferences(items) => items.len(),
            Self::RankedLists(items) => items.len(),
            Self::Scored(items) => items.len(),
            Self::Labelled(items) => items.len(),
            Self::Rated(items) => items.len(),
            Self::Prompts(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn mismatch(&self, expected: FeedbackKind) -> Error {
        Error::missing_input(format!("expected {}, got {}", expected.name(), self.kind().name()))
    }

    /// The demonstrations.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn demonstrations(&self) -> Result<&'a [Demonstration]> {
        match self {
            Self::Demonstrations(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Demonstrations)),
        }
    }

    /// The preference pairs.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn preferences(&self) -> Result<&'a [PreferencePair]> {
        match self {
            Self::Preferences(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Preferences)),
        }
    }

    /// The ranked lists.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn ranked_lists(&self) -> Result<&'a [RankedList]> {
        match self {
            Self::RankedLists(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::RankedLists)),
        }
    }

    /// The scored completions.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn scored(&self) -> Result<&'a [ScoredCompletion]> {
        match self {
            Self::Scored(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Scored)),
        }
    }

    /// The labelled completions.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn labelled(&self) -> Result<&'a [LabelledCompletion]> {
        match self {
            Self::Labelled(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Labelled)),
        }
    }

    /// The rated completions.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn rated(&self) -> Result<&'a [RatedCompletion]> {
        match self {
            Self::Rated(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Rated)),
        }
    }

    /// The instructions.
    ///
    /// # Errors
    /// When the feedback is of another kind.
    pub fn prompts(&self) -> Result<&'a [Instruction]> {
        match self {
            Self::Prompts(items) => Ok(items),
            other => Err(other.mismatch(FeedbackKind::Prompts)),
        }
    }
}

/// What a learner needs; checked against the experiment before anything is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirements {
    /// The kind of feedback it learns from.
    pub feedback: FeedbackKind,
    /// Whether it asks a reward model while it learns.
    pub reward_model: bool,
    /// Whether it asks an annotator while it learns.
    pub annotator: bool,
    /// What it makes.
    pub produces: CheckpointKind,
}

impl Requirements {
    /// Learns a policy from this kind of feedback and nothing else.
    pub fn policy_from(feedback: FeedbackKind) -> Self {
        Self { feedback, reward_model: false, annotator: false, produces: CheckpointKind::CausalLm }
    }

    /// Also asks a reward model while it learns.
    #[must_use]
    pub fn with_reward_model(mut self) -> Self {
        self.reward_model = true;
        self
    }

    /// Also asks an annotator while it learns.
    #[must_use]
    pub fn with_annotator(mut self) -> Self {
        self.annotator = true;
        self
    }
}

/// What a learner is given.
pub struct LearnerInputs<'a> {
    /// Where the policy starts.
    pub init: &'a Checkpoint,
    /// The frozen reference policy; most methods use `init` when it is absent.
    pub reference: Option<&'a Checkpoint>,
    /// What to learn from.
    pub feedback: Feedback<'a>,
    /// Held-out records of the same kind, for validation metrics; may be absent.
    pub validation: Option<Feedback<'a>>,
    /// Present exactly when required.
    pub reward_model: Option<&'a mut dyn RewardModel>,
    /// Present exactly when required.
    pub annotator: Option<&'a dyn Annotator>,
    /// Finds the models that the options of components inside the learner name.
    pub models: &'a dyn FindModel,
}

/// Turns a checkpoint and feedback into a better checkpoint.
pub trait Learner: Send {
    /// What it needs.
    fn requires(&self) -> Requirements;

    /// Learns and writes the result to `ctx.stage.checkpoint_dir()`. Saves its state as it goes, so that a killed and
    /// resumed run ends with the same bytes as an uninterrupted one. Where the stage asks for it
    /// ([`StageDir::kept_checkpoint_dir`](crate::run::StageDir::kept_checkpoint_dir)), a learner that makes a policy writes the
    /// policies on its way too, the last one excepted.
    ///
    /// # Errors
    /// When an input is missing or does not fit, a loss is not finite, or on cancellation.
    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint>;
}

/// The options of a learner, as `[learner.NAME]` holds them.
#[typetag::serde]
pub trait LearnerConfig: std::fmt::Debug + Send + Sync {
    /// Makes the learner.
    ///
    /// # Errors
    /// When the options do not fit what the context offers.
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>>;

    /// Values out of range and combinations that make no sense, paths relative to the options; touches no resources.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}
