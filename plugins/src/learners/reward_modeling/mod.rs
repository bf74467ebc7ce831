//! Reward modelling: a scalar head on the language model's body, fitted to comparisons of answers.
//!
//! Bradley-Terry: `−ln σ(r_w − r_l)` for the rewards of a better and a worse answer, read at the last real token (Ouyang et al.
//! 2022, <https://arxiv.org/abs/2203.02155>, equation 1). What papers change in it is an option: margins and scaling
//! ([`MarginRule`]), ties ([`TieModel`]), centring `c (r_w + r_l)²` after Eisenstein et al. 2023, label smoothing ε as in
//! conservative DPO, and what a record is ([`LearnFrom`]): a pair, all pairs of a ranked list averaged, or a list's likelihood
//! under Plackett and Luce. The loss of a step is the mean over its records.

mod examples;

use farmhand_core::{
    BuildContext, Checkpoint, CheckpointKind, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{LanguageModel, ScalarHead, ScalarModel, TextCodec, save_scalar_checkpoint, tch_device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::examples::{Examples, run_examples};
use crate::reward_models::ReadingRule;
use crate::rl::bradley_terry::{MarginRule, TieModel};
use crate::training::{Ranges, Task, TrainOptions, Training, shuffled_steps, start_training};

register! {
    kind: Learner, name: "reward_modeling", config: RewardModelingConfig,
    summary: "a reward model from preference pairs or ranked lists (Bradley-Terry, Plackett-Luce)",
    paper: "https://arxiv.org/abs/2203.02155",
    presets: {
        "llama2": "Llama 2: ratings 0 to 3 as margins, one pass, batches of 512 pairs" => RewardModelingConfig::llama2(),
        "helpsteer2_preference": "HelpSteer2-Preference: the loss scaled by the strength of the preference" => RewardModelingConfig::helpsteer2(),
        "instruct_gpt": "InstructGPT: all pairs of a prompt's ranked answers are one record" => RewardModelingConfig::instruct_gpt(),
    },
}

/// What a record is, and how its answers make a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LearnFrom {
    /// A preference pair.
    #[default]
    Pairs,
    /// A ranked list: the mean over all its pairs of answers, so that a prompt counts the same however many answers it has
    /// (InstructGPT). Answers of equal score are compared only with `ties`.
    AllPairs,
    /// A ranked list: its negative log-likelihood under Plackett and Luce, each answer chosen over those of a lower score (Zhu et
    /// al. 2023, <https://arxiv.org/abs/2301.11270>). Answers of equal score do not compete. Not normalised: long lists weigh more.
    PlackettLuce,
}

/// Options of `[learner.reward_modeling]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RewardModelingConfig {
    /// What it learns from: preference `pairs`, or ranked lists as `all_pairs` or `plackett_luce`.
    pub learn_from: LearnFrom,
    /// What the margin of a pair does; in a list, the difference of two scores is the margin.
    pub margin: MarginRule,
    /// How ties come about; only with `learn_from = "all_pairs"`, for preference pairs have none.
    pub ties: TieModel,
    /// Share ε of labels taken to be wrong, in [0, 0.5): `−(1−ε) ln P(w|Δ) − ε ln P(w|−Δ)`.
    pub label_smoothing: f64,
    /// Weight c of `(r_w + r_l)²`, which keeps rewards around 0, ≥ 0.
    pub centring: f64,
    /// Read the reward at an end-of-sequence token after the answer instead of at the answer's last token. AlpacaFarm does not.
    pub with_eos: bool,
    /// Records are pairs or lists; more than one pass over them over-fits quickly.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for RewardModelingConfig {
    fn default() -> Self {
        Self {
            learn_from: LearnFrom::Pairs,
            margin: MarginRule::Ignored,
            ties: TieModel::None,
            label_smoothing: 0.0,
            centring: 0.0,
            with_eos: false,
            train: TrainOptions { batch_size: 16, ..TrainOptions::default() },
        }
    }
}

impl RewardModelingConfig {
    /// Llama 2, section 3.2.2 and table 27: one pass, 512 pairs a step, a learning rate of 1e-5, warm-up over 3 % of the steps.
    /// There the rate falls to a tenth, here to 0.
    pub fn llama2() -> Self {
        let mut config = Self { margin: MarginRule::Llama2Small, ..Self::default() };
        config.train.batch_size = 512;
        config
    }

    /// The scaled Bradley-Terry loss of HelpSteer2-Preference (Wang et al. 2024, <https://arxiv.org/abs/2410.01257>).
    pub fn helpsteer2() -> Self {
        Self { margin: MarginRule::Scaling, ..Self::default() }
    }

    /// InstructGPT's ranked answers (Ouyang et al. 2022, appendix C.2): all pairs of a prompt's 4 to 9 answers are one record, 64 of
    /// them a step, one pass, a learning rate of 9e-6. There it falls to a tenth, here to 0.
    pub fn instruct_gpt() -> Self {
        let mut config = Self { learn_from: LearnFrom::AllPairs, ..Self::default() };
        config.train.batch_size = 64;
        config.train.optim.lr = 9e-6;
        config
    }
}

#[typetag::serde(name = "reward_modeling")]
impl LearnerConfig for RewardModelingConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RewardModeling(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let ranking = self.learn_from == LearnFrom::PlackettLuce;
        let no_ties = self.ties == TieModel::None || self.learn_from == LearnFrom::AllPairs;
        let of_pairs = "nothing with `learn_from = \"plackett_luce\"`, whose choices are not pairs";
        Ranges::new()
            .nested("margin", self.margin.problems())
            .require("margin", !ranking || self.margin == MarginRule::Ignored, of_pairs, "a rule")
            .nested("ties", self.ties.problems())
            .require("ties", no_ties, "`learn_from = \"all_pairs\"`: only ranked lists hold ties", "a model of ties")
            .require("label_smoothing", (0.0..0.5).contains(&self.label_smoothing), "a number in [0, 0.5)", self.label_smoothing)
            .require("label_smoothing", !ranking || self.label_smoothing == 0.0, of_pairs, self.label_smoothing)
            .not_negative("centring", self.centring)
            .require("centring", !ranking || self.centring == 0.0, of_pairs, self.centring)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct RewardModeling(RewardModelingConfig);

impl Learner for RewardModeling {
    fn requires(&self) -> Requirements {
        let feedback = match self.0.learn_from {
            LearnFrom::Pairs => FeedbackKind::Preferences,
            _ => FeedbackKind::RankedLists,
        };
        Requirements { produces: CheckpointKind::RewardModel, ..Requirements::policy_from(feedback) }
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let codec = TextCodec::load(inputs.init, config.train.passes.prompt)?;
        let ScalarModel { body, head } = starting_model(inputs.init, ctx)?;
        head.set_trainable(true);
        body.set_precision(config.train.passes.precision);
        let body = start_training(body, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let model = ScalarModel { body, head };

        let limit = config.train.token_limit(model.body.config().max_positions());
        let train = Examples::new(inputs.feedback, false, config, &codec, limit, ctx)?;
        let held_out = match inputs.validation {
            Some(feedback) if !feedback.is_empty() => Examples::new(feedback, true, config, &codec, limit, ctx)?,
            _ => Examples::default(),
        };

        let records = if config.learn_from == LearnFrom::Pairs { "preference pairs" } else { "ranked lists" };
        let task = Task { learner: "reward_modeling", role: "reward model", doing: "reward modelling", records };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| run_examples(&model, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training =
            Training::start(task, &model.body, model.trained(), &train.records, plan, &config.train, ctx, dry_run)?;
        while let Some(step) = training.next_step()? {
            let pass = run_examples(&model, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            training.log(&step, &[("accuracy", pass.accuracy), ("margin", pass.margin), ("mean_reward", pass.mean_reward)]);
            if !held_out.records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = run_examples(&model, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss)]);
                for (name, number) in pass.report.iter().flat_map(|report| &report.numbers) {
                    training.log(&step, &[(&format!("validation_{name}"), *number)]);
                }
            }
        }
        let checkpoint = save_scalar_checkpoint(&model, &codec, "reward_modeling", ctx)?;
        ReadingRule { with_eos: config.with_eos }.save(ctx)?;
        Ok(checkpoint)
    }
}

/// A reward model goes on from its own head, a language model gets a new one.
fn starting_model(init: &Checkpoint, ctx: &RunContext<'_>) -> Result<ScalarModel> {
    let device = tch_device(ctx.device)?;
    match init.kind()? {
        CheckpointKind::RewardModel => ScalarModel::load(init.path(), device),
        CheckpointKind::CausalLm => {
            let body = LanguageModel::load(init.path(), device)?;
            let head = ScalarHead::random(body.config().hidden_size(), ctx.seed.child("head", 0), device);
            Ok(ScalarModel::from_language_model(body, head))
        }
    }
}

#[cfg(test)]
mod tests;
