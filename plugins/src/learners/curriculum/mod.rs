//! A curriculum over the difficulty of preference pairs, around any learner on pairs: easy pairs first, hard ones later.
//!
//! Contrastive post-training (Xu et al. 2023, <https://arxiv.org/abs/2310.02263>): at step t of T a pair comes from the
//! easy pool with probability α(t) = 1 − t/T and from the hard pool otherwise, in expectation the loss `α L_easy + (1 − α) L_hard`;
//! a pool that is used up is shuffled and used again. The controls are the other way round, and α = ½ throughout. Sorting all pairs
//! by difficulty and passing over them in that order is Curri-DPO's (Pattnaik et al. 2024, <https://arxiv.org/abs/2403.07230>).
//!
//! The paper's difficulty is which two models answered; here it is a number of the pair: how far its answers are apart. The
//! learner inside gets the pairs in the order of the curriculum and takes them as they come, in one pass with one optimiser and one
//! schedule of the learning rate, so that it resumes as it does alone.

use farmhand_core::component::find_component;
use farmhand_core::run::chunked;
use farmhand_core::types::{PreferencePair, Response};
use farmhand_core::{
    BuildContext, Checkpoint, ComponentKind, Error, Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, LearnerSpec,
    Problem, Requirements, Result, RewardModel, Rng, RunContext, Seed, checked, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::training::Ranges;

register! {
    kind: Learner, name: "curriculum", config: CurriculumConfig,
    summary: "easy pairs first and hard ones later, around any learner on preference pairs", paper: "https://arxiv.org/abs/2310.02263",
}

/// What makes a pair easy: the larger the number, the easier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// The reward model's score of the chosen minus that of the rejected answer.
    #[default]
    RewardGap,
    /// The pair's own margin.
    Margin,
    /// How sure the judge was.
    PChosen,
    /// The place in the data: the first pair is the easiest. For pairs of models whose strengths are known.
    GivenOrder,
}

/// How the share of easy pairs changes from the first to the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairSchedule {
    /// α(t) = 1 − t/T: the paper's.
    #[default]
    EasyToHard,
    /// α(t) = t/T.
    HardToEasy,
    /// α = ½: no curriculum.
    Mixed,
    /// Every pass over all pairs goes from the easiest to the hardest; there are no pools.
    Sorted,
}

/// Options of `[learner.curriculum]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// The learner that learns from the pairs. Its own `epochs`, `batch_size` and `order` are replaced.
    pub learner: LearnerSpec,
    /// What makes a pair easy.
    pub difficulty: Difficulty,
    /// How the share of easy pairs changes.
    pub schedule: PairSchedule,
    /// Share of all pairs that make up the easy pool, in (0, 1); the easiest ones.
    pub easy_share: f64,
    /// How many times as many pairs are drawn as there are, ≥ 1.
    pub epochs: u32,
    /// Records per optimiser step, ≥ 1.
    pub batch_size: usize,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        Self {
            learner: LearnerSpec::from_json("dpo", "{}").expect("a component of this crate"),
            difficulty: Difficulty::RewardGap,
            schedule: PairSchedule::EasyToHard,
            easy_share: 0.5,
            epochs: 2,
            batch_size: 64,
        }
    }
}

impl CurriculumConfig {
    /// The learner inside, told to take its records as they come.
    fn inner(&self) -> Result<LearnerSpec> {
        let name = self.learner.name();
        let mut options = options_of(&self.learner);
        for (key, value) in [("epochs", json!(1)), ("batch_size", json!(self.batch_size)), ("order", json!("given"))] {
            options[key] = value;
        }
        LearnerSpec::from_json(name, &options.to_string())
    }
}

fn options_of(spec: &LearnerSpec) -> Value {
    let written = serde_json::to_value(spec).expect("a spec is JSON");
    written.get(spec.name()).cloned().unwrap_or_else(|| json!({}))
}

/// Whether the learner has the options by which it is told an order.
fn takes_order(spec: &LearnerSpec) -> bool {
    let schema = find_component(ComponentKind::Learner, spec.name()).and_then(|info| info.schema().ok()).unwrap_or_default();
    ["order", "epochs", "batch_size"].iter().all(|key| schema["properties"].get(key).is_some())
}

#[typetag::serde(name = "curriculum")]
impl LearnerConfig for CurriculumConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        let name = self.learner.name();
        let learner = self.inner()?.build(ctx)?;
        let feedback = learner.requires().feedback;
        if feedback != FeedbackKind::Preferences {
            let message = format!("a curriculum orders preference pairs, but learner `{name}` learns from {}", feedback.name());
            return Err(Error::invalid_config(message).with_hint("name a learner on pairs: `dpo`, `orpo`, `simpo`, `cpo`"));
        }
        Ok(Box::new(Curriculum { config: self.clone(), learner }))
    }

    fn problems(&self) -> Vec<Problem> {
        let name = format!("`{}`", self.learner.name());
        let by_tokens = options_of(&self.learner).get("batch_tokens").is_some_and(|tokens| !tokens.is_null());
        Ranges::new()
            .nested("learner", self.learner.problems())
            .require("learner", takes_order(&self.learner), "a learner with the option `order`", name)
            .require("learner", !by_tokens, "steps of `batch_size` records", "`batch_tokens`")
            .require("easy_share", self.easy_share > 0.0 && self.easy_share < 1.0, "a number in (0, 1)", self.easy_share)
            .at_least_one("epochs", self.epochs as usize)
            .at_least_one("batch_size", self.batch_size)
            .problems()
    }
}

struct Curriculum {
    config: CurriculumConfig,
    learner: Box<dyn Learner>,
}

impl Learner for Curriculum {
    fn requires(&self) -> Requirements {
        let inner = self.learner.requires();
        Requirements { reward_model: inner.reward_model || self.config.difficulty == Difficulty::RewardGap, ..inner }
    }

    fn learn(&mut self, mut inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, learner } = self;
        let given = inputs.feedback.preferences()?;
        let pairs: Vec<PreferencePair> = given.iter().filter(|pair| pair.chosen != pair.rejected).cloned().collect();
        if pairs.len() < given.len() {
            let n = given.len() - pairs.len();
            ctx.events.warn(&format!("{n} of {} preference pairs have the same answer twice; they are left out", given.len()));
        }
        if pairs.len() < 2 {
            return Err(Error::missing_input(format!("a curriculum needs two preference pairs or more, got {}", pairs.len())));
        }
        let ease = match (config.difficulty, inputs.reward_model.as_deref_mut()) {
            (Difficulty::RewardGap, Some(reward_model)) => reward_gaps(&pairs, reward_model, ctx)?,
            (Difficulty::RewardGap, None) => {
                return Err(Error::missing_input("`difficulty = \"reward_gap\"` needs a reward model"));
            }
            (Difficulty::Margin, _) => known(pairs.iter().map(|pair| pair.margin), "margin", ctx)?,
            (Difficulty::PChosen, _) => known(pairs.iter().map(|pair| pair.p_chosen), "p_chosen", ctx)?,
            (Difficulty::GivenOrder, _) => (0..pairs.len()).map(|place| -(place as f64)).collect(),
        };
        if ease.windows(2).all(|two| two[0] == two[1]) {
            ctx.events.warn("all preference pairs are equally difficult: the curriculum orders nothing");
        }
        let easiest_first = easiest_first(&ease);
        let order = curriculum(&easiest_first, config, ctx.seed.child("curriculum", 0));
        log_order(&order, &easiest_first, config, ctx);
        let ordered: Vec<PreferencePair> = order.iter().map(|&i| pairs[i].clone()).collect();

        let wanted = learner.requires().reward_model;
        let reward_model: Option<&mut dyn RewardModel> = match inputs.reward_model {
            Some(model) if wanted => Some(model),
            _ => None,
        };
        let LearnerInputs { init, reference, validation, annotator, models, .. } = inputs;
        let feedback = Feedback::Preferences(&ordered);
        learner.learn(LearnerInputs { init, reference, feedback, validation, reward_model, annotator, models }, ctx)
    }
}

/// The score of the chosen minus that of the rejected answer of each pair, kept in the stage as they are made.
fn reward_gaps(pairs: &[PreferencePair], reward_model: &mut dyn RewardModel, ctx: &RunContext<'_>) -> Result<Vec<f64>> {
    const AT_A_TIME: usize = 128;
    let mut progress = ctx.progress("difficulty", Some(pairs.len() as u64), "preference pairs");
    chunked(pairs, AT_A_TIME, "difficulty.jsonl", ctx, |chunk| {
        let sides = chunk
            .iter()
            .flat_map(|pair| [&pair.chosen, &pair.rejected].map(|output| Response { instruction: &pair.instruction, output }));
        let scores = checked::score(reward_model, &sides.collect::<Vec<_>>(), ctx)?;
        progress.advance(chunk.len() as u64);
        Ok(scores.chunks(2).map(|pair| pair[0] - pair[1]).collect())
    })
}

/// A number that pairs may have; those without are the hardest.
fn known(numbers: impl Iterator<Item = Option<f64>>, key: &str, ctx: &RunContext<'_>) -> Result<Vec<f64>> {
    let numbers: Vec<Option<f64>> = numbers.collect();
    let n_missing = numbers.iter().filter(|number| number.is_none()).count();
    if n_missing == numbers.len() {
        return Err(Error::invalid_data(format!("the difficulty of a pair is its `{key}`, but no preference pair has one"))
            .with_hint("take another `difficulty`, such as `reward_gap`"));
    }
    if n_missing > 0 {
        ctx.events.warn(&format!("{n_missing} of {} preference pairs have no `{key}`; they count as the hardest", numbers.len()));
    }
    Ok(numbers.into_iter().map(|number| number.unwrap_or(f64::NEG_INFINITY)).collect())
}

/// The pairs by falling ease; equal ones as they are given.
fn easiest_first(ease: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ease.len()).collect();
    order.sort_by(|&a, &b| ease[b].total_cmp(&ease[a]));
    order
}

/// The share of easy pairs at step `t` of `n_steps`; none where there are no pools.
fn alpha(schedule: PairSchedule, t: usize, n_steps: usize) -> Option<f64> {
    let time = t as f64 / n_steps.max(1) as f64;
    match schedule {
        PairSchedule::EasyToHard => Some(1.0 - time),
        PairSchedule::HardToEasy => Some(time),
        PairSchedule::Mixed => Some(0.5),
        PairSchedule::Sorted => None,
    }
}

/// How many of `n` pairs are easy: at least one, and not all.
fn n_easy(n: usize, easy_share: f64) -> usize {
    ((n as f64 * easy_share).round() as usize).clamp(1, n - 1)
}

/// The pairs of all steps, one after another.
fn curriculum(easiest_first: &[usize], config: &CurriculumConfig, seed: Seed) -> Vec<usize> {
    let total = easiest_first.len() * config.epochs as usize;
    let n_steps = total.div_ceil(config.batch_size);
    let (easy, hard) = easiest_first.split_at(n_easy(easiest_first.len(), config.easy_share));
    let (mut easy, mut hard) = (Pool::new(easy, seed.child("easy", 0)), Pool::new(hard, seed.child("hard", 0)));
    let mut draws = seed.child("draws", 0).rng();
    let pair = |place: usize| match alpha(config.schedule, place / config.batch_size, n_steps) {
        Some(alpha) if draws.bernoulli(alpha) => easy.next(),
        Some(_) => hard.next(),
        None => easiest_first[place % easiest_first.len()],
    };
    (0..total).map(pair).collect()
}

/// Pairs that are drawn without repetition until all were, and then again.
struct Pool {
    all: Vec<usize>,
    left: Vec<usize>,
    rng: Rng,
}

impl Pool {
    fn new(all: &[usize], seed: Seed) -> Self {
        Self { all: all.to_vec(), left: Vec::new(), rng: seed.rng() }
    }

    fn next(&mut self) -> usize {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.rng.shuffle(&mut self.left);
        }
        self.left.pop().expect("a pool is not empty")
    }
}

/// Logs α and the share of easy pairs that were drawn, step by step.
fn log_order(order: &[usize], easiest_first: &[usize], config: &CurriculumConfig, ctx: &RunContext<'_>) {
    let mut is_easy = vec![false; easiest_first.len()];
    for &pair in &easiest_first[..n_easy(easiest_first.len(), config.easy_share)] {
        is_easy[pair] = true;
    }
    let n_steps = order.len().div_ceil(config.batch_size);
    for (step, pairs) in order.chunks(config.batch_size).enumerate() {
        if let Some(alpha) = alpha(config.schedule, step, n_steps) {
            ctx.scalar("curriculum/alpha", step as u64, alpha);
        }
        let share = pairs.iter().filter(|&&pair| is_easy[pair]).count() as f64 / pairs.len() as f64;
        ctx.scalar("curriculum/easy_share", step as u64, share);
    }
}

#[cfg(test)]
mod tests;
