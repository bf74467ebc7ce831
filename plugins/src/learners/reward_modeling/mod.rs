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
mod tests {
    use std::path::Path;

    use farmhand_core::types::{PreferencePair, RankedList, Response};
    use farmhand_core::{Device, Feedback, RecordedEvents, RewardModelConfig, Seed};
    use farmhand_models::{AdapterOutput, BatchLayout, LoraConfig};

    use super::*;
    use crate::reward_models::BradleyTerryConfig;
    use crate::testing::{
        SPLITS, Stage, assert_resumes_exactly, assert_same_bytes, assert_same_gradients, fast_optim, lively_checkpoint, pairs,
        small_lora, take_gradients, tiny_checkpoint,
    };
    use crate::training::PassOptions;

    fn with(change: impl FnOnce(&mut RewardModelingConfig)) -> RewardModelingConfig {
        let mut config = RewardModelingConfig::default();
        let optim = fast_optim(1e-2);
        config.train =
            TrainOptions { epochs: 6, batch_size: 4, save_every: 4, validate_every: 4, optim, ..TrainOptions::default() };
        change(&mut config);
        config
    }

    fn config() -> RewardModelingConfig {
        with(|_| ())
    }

    fn learn(config: &RewardModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let all = pairs(24);
        let (train, held_out) = all.split_at(16);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback: Feedback::Preferences(train),
            validation: Some(Feedback::Preferences(held_out)),
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn it_learns_which_answers_are_better_and_scores_new_ones_as_trained() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let ctx = stage.context(&events);
        let checkpoint = learn(&with(|config| config.with_eos = true), &tiny_checkpoint(&stage), &ctx).expect("learned");
        let accuracy = events.scalars("reward_modeling/validation_accuracy");
        assert_eq!(accuracy.len(), 6);
        assert_eq!(accuracy[5].1, 1.0, "{accuracy:?}");
        assert!(events.scalars("reward_modeling/validation_loss")[5].1 < 0.2);
        assert!(events.scalars("reward_modeling/validation_brier")[5].1 < 0.1);

        assert_eq!(ReadingRule::load(checkpoint.path()).expect("read"), ReadingRule { with_eos: true });
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.reward_model = Some(&checkpoint);
        let mut model = BradleyTerryConfig::default().build(&build).expect("built");
        assert_eq!(model.checkpoint(), Some(&checkpoint));
        let new = &pairs(30)[24..];
        let side = |pick: fn(&PreferencePair) -> &str| {
            new.iter().map(move |pair| Response { instruction: &pair.instruction, output: pick(pair) }).collect::<Vec<_>>()
        };
        let chosen = model.score(&side(|pair| &pair.chosen), &ctx).expect("scored");
        let rejected = model.score(&side(|pair| &pair.rejected), &ctx).expect("scored");
        assert!(chosen.iter().zip(&rejected).all(|(chosen, rejected)| chosen > rejected), "{chosen:?} {rejected:?}");
        // A score depends on its item alone.
        let alone = model.score(&side(|pair| &pair.chosen)[3..4], &ctx).expect("scored")[0];
        assert!((alone - chosen[3]).abs() < 1e-5);
    }

    #[test]
    fn an_adapter_and_the_head_learn_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        for output in [AdapterOutput::Merged, AdapterOutput::Adapter] {
            let config = with(|config| config.train.passes.lora = Some(LoraConfig { output, ..small_lora() }));
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let learned = learn(&config, &init, &stage.context(&events)).expect("learned");
            let accuracy = events.scalars("reward_modeling/validation_accuracy");
            assert!(accuracy.last().expect("validated").1 > 0.8, "{accuracy:?}");
            let model = ScalarModel::load(learned.path(), tch::Device::Cpu).expect("loaded");
            let fresh = starting_model(&init, &stage.context(&events)).expect("made");
            assert_ne!(model.head.weight(), fresh.head.weight());
            assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config, &init, ctx));
        }
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = with(|config| config.train.passes.checkpoint_every = 1);
        let run = |config: &RewardModelingConfig, ctx: &RunContext<'_>| learn(config, &init, ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config(), &init, ctx));
        let by_tokens = with(|config| (config.train.batch_size, config.train.batch_tokens) = (16, Some(60)));
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&by_tokens, &init, ctx));
    }

    fn lists(n: usize) -> Vec<RankedList> {
        // The longest answer that begins with `good` is the best, two answers are as good as each other.
        let list = |pair: PreferencePair| RankedList {
            instruction: pair.instruction,
            outputs: vec![format!("{} yes", pair.chosen), pair.chosen, format!("{} no", pair.rejected), pair.rejected],
            scores: vec![2.0, 1.0, 0.0, 0.0],
        };
        pairs(n).into_iter().map(list).collect()
    }

    fn learn_lists(config: &RewardModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let all = lists(16);
        let (train, held_out) = all.split_at(12);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback: Feedback::RankedLists(train),
            validation: Some(Feedback::RankedLists(held_out)),
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn it_learns_the_order_of_lists_under_every_model_of_them() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for (learn_from, ties) in [
            (LearnFrom::AllPairs, TieModel::None),
            (LearnFrom::AllPairs, TieModel::RaoKupper { theta: 2.0 }),
            (LearnFrom::AllPairs, TieModel::Davidson { nu: 1.0 }),
            (LearnFrom::PlackettLuce, TieModel::None),
        ] {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let config = with(|config| (config.learn_from, config.ties, config.train.epochs) = (learn_from, ties, 10));
            assert_eq!(config.problems(), []);
            learn_lists(&config, &init, &stage.context(&events)).expect("learned");
            let accuracy = events.scalars("reward_modeling/validation_accuracy").last().expect("validated").1;
            assert!(accuracy > 0.9, "{learn_from:?} {ties:?}: {accuracy}");
            let interval = ["low", "high"].map(|end| events.scalars(&format!("reward_modeling/validation_accuracy_{end}")));
            assert!(interval[0].last() < interval[1].last());
            assert!(!events.scalars("reward_modeling/validation_calibration_error").is_empty());
            assert!(!events.scalars("reward_modeling/validation_accuracy_large_margin").is_empty());
        }
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| {
            learn_lists(&with(|config| config.learn_from = LearnFrom::PlackettLuce), &init, ctx)
        });
    }

    #[test]
    fn lists_in_which_nothing_is_better_are_counted_and_alone_an_error() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let mut items = lists(4);
        items[1].scores = vec![1.0; 4];
        let run = |items: &[RankedList], config: &RewardModelingConfig| {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let feedback = Feedback::RankedLists(items);
            let inputs = LearnerInputs {
                init: &init,
                reference: None,
                feedback,
                validation: None,
                reward_model: None,
                annotator: None,
                models: &farmhand_core::FoldersOnly,
            };
            let result = RewardModeling(config.clone()).learn(inputs, &stage.context(&events)).map(drop);
            (result, format!("{:?}", events.take()))
        };
        let config = with(|config| config.learn_from = LearnFrom::AllPairs);
        let (result, told) = run(&items, &config);
        result.expect("three lists are left");
        assert!(told.contains("1 of 4 ranked lists have no two different answers to compare"), "{told}");
        let (result, _) = run(&items[1..2], &config);
        assert!(result.expect_err("nothing to learn").message().contains("no ranked lists are left"));
        let ties = with(|config| (config.learn_from, config.ties) = (LearnFrom::AllPairs, TieModel::Davidson { nu: 1.0 }));
        run(&items[1..2], &ties).0.expect("ties teach that answers are alike");
    }

    #[test]
    fn a_margin_rule_without_margins_is_an_error() {
        let base = Stage::new();
        let config = with(|config| config.margin = MarginRule::Llama2Large);
        let error = learn(&config, &tiny_checkpoint(&base), &base.context(&farmhand_core::NoEvents)).expect_err("no margins");
        assert!(error.message().contains("none of the preference pairs has a margin"), "{error}");
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused_with_the_reason() {
        for config in [RewardModelingConfig::llama2(), RewardModelingConfig::helpsteer2(), RewardModelingConfig::instruct_gpt()] {
            assert_eq!(config.problems(), []);
        }
        let config = RewardModelingConfig {
            learn_from: LearnFrom::PlackettLuce,
            margin: MarginRule::Scaling,
            ties: TieModel::RaoKupper { theta: 1.0 },
            label_smoothing: 0.1,
            centring: 0.1,
            ..RewardModelingConfig::default()
        };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["margin", "ties.rao_kupper.theta", "ties", "label_smoothing", "centring"]);
        let ties = RewardModelingConfig { ties: TieModel::Davidson { nu: 1.0 }, ..RewardModelingConfig::default() };
        assert!(ties.problems()[0].message.contains("only ranked lists hold ties"));
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let model = with_head(&init);
        let ctx = base.context(&farmhand_core::NoEvents);
        let limit = TrainOptions::default().token_limit(96);
        let (all_pairs, mut all_lists) = (pairs(8), lists(8));
        // Lists of unequal length.
        all_lists[2].outputs.truncate(2);
        all_lists[2].scores.truncate(2);
        let picked: Vec<usize> = (0..8).collect();
        for config in [
            with(|config| config.centring = 0.01),
            with(|config| (config.learn_from, config.ties) = (LearnFrom::AllPairs, TieModel::RaoKupper { theta: 2.0 })),
            with(|config| config.learn_from = LearnFrom::PlackettLuce),
        ] {
            let feedback = match config.learn_from {
                LearnFrom::Pairs => Feedback::Preferences(&all_pairs),
                _ => Feedback::RankedLists(&all_lists),
            };
            let examples = Examples::new(feedback, false, &config, &codec, limit, &ctx).expect("encoded");
            let gradients = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let mut config = config.clone();
                config.train.passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                let loss = run_examples(&model, &examples, &picked, &config, Some(Seed::root(0))).expect("run").loss;
                (loss, take_gradients(&model.parameters()))
            };
            let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
            for (layout, size, tokens) in SPLITS {
                let (same_loss, same) = gradients(layout, size, tokens);
                assert!((loss - same_loss).abs() < 1e-6);
                assert_same_gradients(&same, &expected, 1e-6);
            }
        }
    }

    fn with_head(init: &Checkpoint) -> ScalarModel {
        let stage = Stage::new();
        let model = starting_model(init, &stage.context(&farmhand_core::NoEvents)).expect("made");
        model.set_trainable(true);
        model
    }
}
