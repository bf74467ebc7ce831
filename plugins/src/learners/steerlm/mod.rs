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
mod tests {
    use std::path::Path;

    use farmhand_core::{Device, Feedback, RecordedEvents};

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, fast_optim, instructions, likelihood, scored, small_lora, tiny_checkpoint,
    };

    /// Answers rated on quality, and every other one on toxicity.
    fn rated(qualities: &[f64]) -> Vec<RatedCompletion> {
        let rate = |(i, answer): (usize, farmhand_core::types::ScoredCompletion)| {
            let mut ratings = BTreeMap::from([("quality".to_owned(), answer.score)]);
            if i % 2 == 0 {
                ratings.insert("toxicity".to_owned(), 4.0 - answer.score);
            }
            RatedCompletion { completion: answer.completion, ratings }
        };
        scored(qualities).into_iter().enumerate().map(rate).collect()
    }

    fn config(bootstrap: Option<Bootstrap>) -> SteerlmConfig {
        let train = TrainOptions { epochs: 12, batch_size: 4, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
        SteerlmConfig { train, bootstrap, control: "say {}".into(), ..SteerlmConfig::default() }
    }

    fn bootstrap() -> Bootstrap {
        let length = RewardModelSpec::from_json("length", r#"{"scale": 0.2}"#).expect("built in");
        Bootstrap {
            attribute_models: [("quality".to_owned(), length)].into(),
            sampling: SamplingParams { max_new_tokens: 6, top_k: 50, ..SamplingParams::default() },
            ..Bootstrap::default()
        }
    }

    fn learn(config: &SteerlmConfig, rated: &[RatedCompletion], init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let feedback = Feedback::Rated(rated);
        let validation = Some(feedback);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback,
            validation,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn ratings_are_rounded_half_to_even_within_the_scale_and_written_in_order() {
        let answers = rated(&[4.0, 4.0, 0.0, 3.0]);
        let labels = Labels::of(&answers, &config(None)).expect("rated");
        // The authors' annotation.
        let ratings = [3.4, 2.5, 0.6, 5.2, -0.3];
        assert_eq!(ratings.map(|rating| labels.value(rating)), [3, 2, 1, 4, 0]);
        let all: Vec<String> = answers.iter().map(|answer| labels.written(&answer.ratings)).collect();
        assert_eq!(all, ["quality:4,toxicity:0", "quality:4", "quality:0,toxicity:4", "quality:3"]);
        assert_eq!(labels.wanted, [("quality:4".to_owned(), 1), ("quality:4,toxicity:0".to_owned(), 1)]);
        let ordered = SteerlmConfig { attributes: vec!["toxicity".into(), "quality".into()], ..config(None) };
        let labels = Labels::of(&answers, &ordered).expect("rated");
        assert_eq!(labels.written(&answers[0].ratings), "toxicity:0,quality:4");
        let kind = SteerlmConfig { leading: Some("toxicity".into()), ..ordered };
        assert_eq!(Labels::of(&answers, &kind).expect("rated").wanted, [("toxicity:4,quality:0".to_owned(), 1)]);
    }

    #[test]
    fn the_attributes_decide_which_answer_is_given() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let mut answers = rated(&(0..12).map(|i| f64::from(i % 2) * 4.0).collect::<Vec<_>>());
        // A good and a bad answer to each of six questions.
        let questions = instructions(6);
        for (i, answer) in answers.iter_mut().enumerate() {
            answer.completion.instruction = questions[i / 2].clone();
            answer.completion.output = if answer.ratings["quality"] > 2.0 { "good" } else { "bad" }.to_owned();
            answer.ratings.remove("toxicity");
        }
        let config = SteerlmConfig { train: TrainOptions { epochs: 50, ..config(None).train }, ..config(None) };
        let learned = learn(&config, &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        let controls = Controls::load(learned.path()).expect("saved");
        assert_eq!(controls.best(), "quality:4");
        let margin = |value: &str| {
            let instruction = controls.apply(&answers[3].completion.instruction, value);
            likelihood(&learned, &instruction, "good") - likelihood(&learned, &instruction, "bad")
        };
        assert!(margin("quality:4") > 2.0 && margin("quality:0") < -2.0, "{} {}", margin("quality:4"), margin("quality:0"));
    }

    #[test]
    fn a_second_round_adds_own_answers_with_the_attribute_models_ratings() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
        let learned =
            learn(&config(Some(bootstrap())), &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        // 6 answers in steps of 4 and 12 epochs, then 12 answers.
        assert_eq!(events.scalars("steerlm/loss").len(), 12 * 2 + 12 * 3);
        assert_eq!(events.scalars("steerlm/quality").len(), 1);
        let own = std::fs::read_to_string(stage.stage.path().join("rounds/01/rated.jsonl")).expect("kept");
        assert_eq!(own.lines().count(), 6);
        assert!(!own.contains("say quality"), "the plain question is kept");
        assert_eq!(Controls::load(learned.path()).expect("saved").best(), "quality:4");
    }

    #[test]
    fn a_second_round_by_weights_moves_the_policy_towards_answers_with_the_wanted_attributes() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
        let mut config = config(Some(Bootstrap {
            sampling: SamplingParams { n: 4, max_new_tokens: 6, ..SamplingParams::default() },
            update: BootstrapUpdate::Posterior { std: 0.5 },
            ..bootstrap()
        }));
        config.train.optim = fast_optim(5e-3);
        learn(&config, &answers, &init, &stage.context(&events)).expect("learned");
        let distance = events.scalars("steerlm/distance");
        assert_eq!(distance.len(), 12 * 2);
        let mean = |steps: &[(u64, f64)]| steps.iter().map(|(_, distance)| distance).sum::<f64>() / steps.len() as f64;
        assert!(mean(&distance[20..]) < 0.8 * mean(&distance[..4]), "{distance:?}");
        assert_resumes_exactly("steerlm/loss", 32, |ctx| learn(&config, &answers, &init, ctx));
    }

    #[test]
    fn nothing_to_steer_by_and_options_that_make_no_sense_are_refused() {
        let error = Labels::of(&rated(&[2.0; 4]), &config(None)).err().expect("constant");
        assert!(error.message().contains("all 4 answers have the value 2 of `quality`"), "{error}");
        let unknown = SteerlmConfig { leading: Some("wit".into()), ..config(None) };
        let error = Labels::of(&rated(&[1.0, 2.0]), &unknown).err().expect("unknown");
        assert!(error.message().contains("no answer is rated on `wit`"), "{error}");
        let mut unrated = rated(&[1.0, 2.0]);
        unrated.iter_mut().for_each(|answer| answer.ratings.clear());
        assert!(Labels::of(&unrated, &config(None)).err().expect("none").message().contains("no answer is rated"));
        let wrong = SteerlmConfig {
            attributes: vec!["a:b".into()],
            leading: Some("quality".into()),
            highest: 0.0,
            bootstrap: Some(Bootstrap::default()),
            ..config(None)
        };
        let paths = |config: &SteerlmConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(&wrong), ["attributes", "leading", "highest", "bootstrap.attribute_models"]);
        let alone = Bootstrap { update: BootstrapUpdate::Posterior { std: 0.0 }, ..bootstrap() };
        assert_eq!(paths(&config(Some(alone))), ["bootstrap.update.posterior.std", "bootstrap.sampling.n"]);
        assert!(config(Some(bootstrap())).problems().is_empty());
    }

    #[test]
    fn answers_without_ratings_get_no_control_and_are_counted() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let mut answers = rated(&[4.0, 0.0, 3.0]);
        answers[1].ratings.clear();
        learn(&config(None), &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        assert!(format!("{:?}", events.take()).contains("1 of 3 answers have none of the attributes"));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
        let mut with_lora = config(None);
        with_lora.train.passes.lora = Some(small_lora());
        for (config, step) in [(config(Some(bootstrap())), 40), (with_lora, 12)] {
            assert_resumes_exactly("steerlm/loss", step, |ctx| learn(&config, &answers, &init, ctx));
        }
    }
}
