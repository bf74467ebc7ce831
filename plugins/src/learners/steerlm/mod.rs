//! SteerLM: imitate rated answers, each behind a line with its ratings, and ask for the ratings one wants.
//!
//! Dong et al. 2023, <https://arxiv.org/abs/2310.05344>. Attribute-conditioned fine-tuning, `−log π(y_t | a, x, y_<t)` over all
//! answers, good and bad, with a = `quality:4,toxicity:0` from the answer's ratings: whole numbers on the raters' scale, attributes in
//! a fixed order, those without a rating left out. The line is the first of the instruction ([`crate::training::Controls`]) and never
//! trained on. The policy `conditioned` asks for the combination that occurs most often among those with the highest value of the
//! leading attribute, for combinations that nobody was given may be out of reach; `ask` there names any other.
//!
//! With `bootstrap`, a second round follows: the model answers the instructions behind combinations drawn from those with the highest
//! leading attribute, and attribute models rate these answers. Then either the model that the learner was given is fine-tuned on
//! ratings of both kinds, or, as SteerLM 2.0 does, the model of the first round on its own answers with weights (`posterior`).
//!
//! Differences: the paper's attribute model writes the values as text; here there is one reward model for each attribute, asked for a
//! number, as in the authors' later code, which rounds it half to even within the scale. The label stands before the instruction
//! instead of between it and the answer.
//!
//! * `labels`: ratings as text.
//! * `posterior`: the second round of SteerLM 2.0.

mod labels;
mod posterior;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use farmhand_core::types::{Completion, Instruction, RatedCompletion, SamplingParams};
use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements, Result,
    RewardModelSpec, RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::labels::{Labels, distinct};
use crate::rl::reduction::Reduction;
use crate::training::{
    Answerer, Controls, FineTuning, Ranges, RoundStart, Rounds, Task, TrainOptions, answerable, sample_answers, score_answers,
};

register! {
    kind: Learner, name: "steerlm", config: SteerlmConfig,
    summary: "imitation of rated answers behind their attributes", paper: "https://arxiv.org/abs/2310.05344",
}

/// Options of `[learner.steerlm]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct SteerlmConfig {
    /// The attributes in the order in which they are written; empty: all that occur, by name.
    pub attributes: Vec<String>,
    /// The attribute whose highest value is asked for; by default `quality`, otherwise `helpfulness`, otherwise the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leading: Option<String>,
    /// The lowest value of the raters' scale; ratings below count as it.
    pub lowest: f64,
    /// The highest value of the raters' scale; ratings above count as it. The paper's scale goes to 9, the authors' code to 4.
    pub highest: f64,
    /// The first line of a conditioned instruction, with `{}` in the place of the attributes.
    pub control: String,
    /// A second round on the model's own answers; by default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are rated answers. The paper's steps take 128 of them.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// A second round, on the model's own answers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// A reward model for each attribute, by its name; its score is the attribute's value on the raters' scale: `attributes` with one
    /// weight of 1, for example. Each names its model.
    pub attribute_models: BTreeMap<String, RewardModelSpec>,
    /// The policy that answers; by default `causal_lm` with the weights of the first round.
    pub policy: PolicySpec,
    /// How it answers. The paper samples from the 50 likeliest tokens.
    pub sampling: SamplingParams,
    /// How the policy learns from these answers.
    pub update: BootstrapUpdate,
}

/// How the second round learns from the model's own answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BootstrapUpdate {
    /// Fine-tuning on the rated answers and these together, each behind its attributes.
    Imitate {
        /// Which weights it starts from; the paper does not say.
        start: RoundStart,
    },
    /// SteerLM 2.0: from the first round's weights on, the answers to each instruction weighted so that the policy comes to
    /// `P(a|x,y) P(y|x)`. `sampling.n` is 2 or more, and sampling at temperature 1 from all tokens is what the weights assume.
    Posterior {
        /// Standard deviation of the attribute models' predictions, > 0, on the raters' scale: small ones trust them more.
        std: f64,
    },
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            attribute_models: BTreeMap::new(),
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { top_k: 50, ..SamplingParams::default() },
            update: BootstrapUpdate::Imitate { start: RoundStart::Initial },
        }
    }
}

impl Default for SteerlmConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, weight_decay: 0.01, ..OptimConfig::default() };
        Self {
            attributes: Vec::new(),
            leading: None,
            lowest: 0.0,
            highest: 4.0,
            control: "Attributes of the answer: {}".to_owned(),
            bootstrap: None,
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 5, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "steerlm")]
impl LearnerConfig for SteerlmConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Steerlm { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let known = |name: &String| self.attributes.is_empty() || self.attributes.contains(name);
        let written = |name: &String| !name.is_empty() && !name.contains([':', ',', '\n', '{', '}']);
        let mut ranges = Ranges::new()
            .require("attributes", self.attributes.iter().all(written), "names without `:` and `,`", self.attributes.join(" "))
            .require(
                "leading",
                self.leading.iter().all(known),
                "one of `attributes`",
                self.leading.as_deref().unwrap_or_default(),
            )
            .require("highest", self.highest > self.lowest && self.highest.is_finite(), "a number above `lowest`", self.highest)
            .require("lowest", self.lowest.is_finite(), "a number", self.lowest)
            .control_line("control", &self.control)
            .train(&self.train, Self::default().train.batch_size);
        if let Some(bootstrap) = &self.bootstrap {
            ranges = ranges
                .rounds(2, &self.train.passes)
                .nested("bootstrap.policy", bootstrap.policy.problems())
                .nested("bootstrap.sampling", bootstrap.sampling.problems())
                .require(
                    "bootstrap.attribute_models",
                    !bootstrap.attribute_models.is_empty() && bootstrap.attribute_models.keys().all(known),
                    "a reward model for at least one of the attributes, and for no others",
                    bootstrap.attribute_models.keys().cloned().collect::<Vec<_>>().join(", "),
                );
            if let BootstrapUpdate::Posterior { std } = bootstrap.update {
                let n = bootstrap.sampling.n;
                ranges = ranges.positive("bootstrap.update.posterior.std", std).require(
                    "bootstrap.sampling.n",
                    n >= 2,
                    "2 answers or more to weigh against each other",
                    n,
                );
            }
            for (name, spec) in &bootstrap.attribute_models {
                ranges = ranges.nested(&format!("bootstrap.attribute_models.{name}"), spec.problems());
            }
        }
        ranges.problems()
    }
}

struct Steerlm {
    config: SteerlmConfig,
    /// Where relative paths in the options of the policy and the attribute models start.
    base_dir: PathBuf,
}

const TASK: Task = Task { learner: "steerlm", role: "policy", doing: "fine-tuning behind attributes", records: "rated answers" };

impl Learner for Steerlm {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Rated)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let rated = inputs.feedback.rated()?;
        let labels = Labels::of(rated, config)?;
        let controls = Controls::open(&config.control, labels.wanted[0].0.clone());
        let answers = labels.conditioned(rated, &controls);
        let n_unrated = answers.iter().zip(rated).filter(|(answer, rated)| answer.instruction == rated.completion.instruction);
        let n_unrated = n_unrated.count();
        if n_unrated > 0 {
            ctx.events.warn(&format!("{n_unrated} of {} answers have none of the attributes and get no control", rated.len()));
        }
        let held_out = match inputs.validation.map(|feedback| feedback.rated()).transpose()? {
            Some(rated) => labels.conditioned(rated, &controls),
            None => Vec::new(),
        };
        let tuning =
            FineTuning { task: TASK, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
        let Some(bootstrap) = &config.bootstrap else {
            let checkpoint = tuning.learn(&answers, &held_out, ctx)?;
            controls.save(ctx)?;
            return Ok(checkpoint);
        };

        let mut rounds = Rounds::open(2, inputs.init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let ctx = &round.context(ctx);
            let tuning = FineTuning { rounds: Some(&rounds), ..tuning };
            if round.number == 0 {
                tuning.learn(&answers, &held_out, ctx)?;
                rounds.finish(round)?;
                continue;
            }
            let n = bootstrap.sampling.n as usize;
            let behind = |(asked, label): (&Instruction, &String)| controls.apply(asked, label);
            let all = distinct(rated);
            let drawn = labels.draw(&all, ctx);
            let asked: Vec<Instruction> = all.iter().zip(&drawn).map(behind).collect();
            let asked = answerable(&asked, inputs.init, &config.train, ctx)?;
            let fits: BTreeSet<&String> = asked.iter().map(|instruction| &instruction.id).collect();
            let kept = all.into_iter().zip(drawn).filter(|(instruction, _)| fits.contains(&instruction.id));
            let (instructions, wanted): (Vec<Instruction>, Vec<String>) = kept.unzip();
            let who = Answerer { policy: &bootstrap.policy, checkpoint: &round.start, base_dir, models: inputs.models };
            let asked = sample_answers(who, &asked, &bootstrap.sampling, "answers", ctx)?;
            let own = rate(&asked, &instructions, n, &bootstrap.attribute_models, who, ctx)?;
            match bootstrap.update {
                BootstrapUpdate::Imitate { start } => {
                    let all = [answers.clone(), labels.conditioned(&own, &controls)].concat();
                    FineTuning { init: start.of(&round, inputs.init), ..tuning }.learn(&all, &held_out, ctx)?;
                }
                BootstrapUpdate::Posterior { std } => {
                    let models = (&round.start, inputs.init);
                    let groups = posterior::groups((&asked, &own), &wanted, std, models, &config.train.passes, ctx)?;
                    posterior::learn(&groups, &round.start, &rounds, &config.train, ctx)?;
                }
            }
            rounds.finish(round)?;
        }
        let checkpoint = rounds.result(ctx)?;
        controls.save(ctx)?;
        Ok(checkpoint)
    }
}

/// The answers with the attribute models' ratings, and with the plain instructions, `n` answers to each. Their means are logged.
fn rate(
    answers: &[Completion],
    instructions: &[Instruction],
    n: usize,
    models: &BTreeMap<String, RewardModelSpec>,
    who: Answerer<'_>,
    ctx: &RunContext<'_>,
) -> Result<Vec<RatedCompletion>> {
    let plain = |(i, answer): (usize, &Completion)| Completion { instruction: instructions[i / n].clone(), ..answer.clone() };
    let answers: Vec<Completion> = answers.iter().enumerate().map(plain).collect();
    let mut ratings: Vec<BTreeMap<String, f64>> = vec![BTreeMap::new(); answers.len()];
    let build = who.build_context(ctx.device);
    for (i, (name, spec)) in models.iter().enumerate() {
        // One at a time: each may be a model of its own.
        let mut model = spec.build(&build)?;
        let scores = score_answers(&mut *model, &answers, &format!("ratings-{i}"), ctx)?;
        ctx.scalar(&format!("steerlm/{name}"), 1, scores.iter().sum::<f64>() / scores.len().max(1) as f64);
        for (ratings, score) in ratings.iter_mut().zip(scores) {
            ratings.insert(name.clone(), score);
        }
    }
    let rated: Vec<_> =
        answers.into_iter().zip(ratings).map(|(completion, ratings)| RatedCompletion { completion, ratings }).collect();
    ctx.stage.write_jsonl("rated.jsonl", &rated)?;
    Ok(rated)
}

#[cfg(test)]
mod tests;
