//! The reward models of an experiment: each trained as soon as its feedback is there, or not trained here at all, found by its
//! name, and all measured on the same pairs that none of them has seen.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::config::{ExperimentConfig, RewardModelStage, trained_name, trained_names};
use farmhand_core::data::{self, ReadOptions};
use farmhand_core::types::{Comparison, PreferencePair};
use farmhand_core::{
    AnnotatorSpec, BuildContext, Checkpoint, Error, FeedbackKind, FindModel, LearnerSpec, Result, RewardModelSpec, RunContext,
    Seed, checked,
};
use farmhand_plugins::rl::pair_accuracy::ScoredPair;
use serde::Serialize;
use serde_json::{Value, json};

use super::repetition::Repetition;
use super::requirements::requires;
use super::supply::PAIRS;
use super::{Experiment, to_json};
use crate::pipeline::learn::OwnedFeedback;
use crate::pipeline::{PairScores, reward_model_spec, score_pairs_by};

/// The stage that compares the reward models.
pub(in crate::pipeline) const MEASURE: &str = "measure-reward-models";

/// The reward model, and the annotator, that read what `preference_modeling` makes.
const PREFERENCE_MODEL: &str = "preference_model";

/// A reward model of the experiment: `None` for `[reward_model]`, or its name in `[reward_models]`.
pub(in crate::pipeline) type Name = Option<String>;

/// The reward models that are trained, in the order in which they are.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct TrainingOrder {
    /// Those whose feedback is there before any of them.
    pub(in crate::pipeline) first: Vec<Name>,
    /// Those that learn from ratings which a stage makes, for which it may ask the others.
    pub(in crate::pipeline) rated: Vec<Name>,
}

impl TrainingOrder {
    /// # Errors
    /// When a learner cannot be built.
    pub(in crate::pipeline) fn of(config: &ExperimentConfig, base_dir: &Path) -> Result<Self> {
        let mut order = Self::default();
        let named = config.reward_models.iter().map(|(name, stage)| (Some(name.clone()), stage));
        for (name, stage) in config.reward_model.iter().map(|stage| (None, stage)).chain(named) {
            let Some(learner) = &stage.learner else { continue };
            let kind = requires(learner, config, base_dir)?.feedback;
            let rated = kind == FeedbackKind::Rated && config.feedback.files.of(kind).is_none();
            if rated { order.rated.push(name) } else { order.first.push(name) }
        }
        Ok(order)
    }
}

/// The stage that trains a reward model.
pub(in crate::pipeline) fn stage_name(name: Option<&str>) -> String {
    name.map_or_else(|| "reward-model".to_owned(), |name| format!("reward-model-{name}"))
}

/// The table of a reward model.
pub(in crate::pipeline) fn stage_of<'a>(name: Option<&str>, config: &'a ExperimentConfig) -> Option<&'a RewardModelStage> {
    match name {
        None => config.reward_model.as_ref(),
        Some(name) => config.reward_models.get(name),
    }
}

/// How a trained reward model scores when nothing says so.
fn default_scorer(learner: Option<&LearnerSpec>) -> RewardModelSpec {
    let built_in = |name| RewardModelSpec::from_json(name, "{}").expect("the reward models are built in");
    match learner.map(LearnerSpec::name) {
        Some("preference_modeling") => built_in(PREFERENCE_MODEL),
        Some("attribute_regression") => built_in("attributes"),
        _ => reward_model_spec(),
    }
}

/// The share of the annotated pairs on which the reward models are measured: what no learner has seen, where there are learners;
/// otherwise the smallest share that one asks for. 0 when nothing is measured.
pub(in crate::pipeline) fn measured_share(config: &ExperimentConfig) -> f64 {
    let stages = || config.reward_model_stages().map(|(_, stage)| stage);
    // The part that a smaller share holds out lies in that of a larger one.
    let smallest = |shares: &mut dyn Iterator<Item = f64>| shares.reduce(f64::min);
    smallest(&mut stages().filter(|stage| stage.learner.is_some()).map(|stage| stage.held_out))
        .or_else(|| smallest(&mut stages().map(|stage| stage.held_out).filter(|share| *share > 0.0)))
        .unwrap_or(0.0)
}

/// A reward model of the experiment that can be asked.
#[derive(Debug, Clone)]
pub(super) struct OwnModel {
    /// What was trained; `None` for one without a learner.
    pub(super) checkpoint: Option<Checkpoint>,
    stage: RewardModelStage,
}

impl OwnModel {
    /// How it scores answers.
    pub(super) fn scorer(&self) -> RewardModelSpec {
        self.stage.scorer.clone().unwrap_or_else(|| default_scorer(self.stage.learner.as_ref()))
    }

    /// What scores in the place of a trained one.
    pub(super) fn untrained_scorer(&self) -> Option<&RewardModelSpec> {
        self.stage.scorer.as_ref().filter(|_| self.checkpoint.is_none())
    }

    /// Whether its accuracy is wanted.
    fn is_measured(&self) -> bool {
        self.checkpoint.is_some() || self.stage.held_out > 0.0
    }

    /// What the configuration says about that, for the record of a stage.
    pub(super) fn written_scorer(&self) -> Value {
        to_json(&self.stage.scorer)
    }
}

/// The reward models that can be asked so far: those that need no training, and those that have been trained.
#[derive(Debug, Default)]
pub(super) struct OwnModels(BTreeMap<Name, OwnModel>);

impl OwnModels {
    /// The one of this name, or of `[reward_model]` without one.
    pub(super) fn get(&self, name: Option<&str>) -> Option<&OwnModel> {
        self.0.get(&name.map(str::to_owned))
    }

    /// What was trained under this name, or for `[reward_model]` without one.
    pub(super) fn checkpoint(&self, name: Option<&str>) -> Option<&Checkpoint> {
        self.get(name)?.checkpoint.as_ref()
    }

    /// Those of `[reward_models]` that score an answer by itself, by name; a preference model only compares.
    pub(super) fn named_scorers(&self) -> impl Iterator<Item = (&str, &OwnModel)> {
        let scorers = self.0.iter().filter(|(_, model)| model.scorer().name() != PREFERENCE_MODEL);
        scorers.filter_map(|(name, model)| Some((name.as_deref()?, model)))
    }

    /// The checkpoints that options name, at any depth.
    pub(super) fn named_in(&self, options: &Value) -> Vec<&Checkpoint> {
        let names = trained_names(options);
        names.iter().filter_map(|(_, name)| self.checkpoint(Some(name))).collect()
    }
}

/// Finds the experiment's own reward models by name and all others as ever.
#[derive(Debug)]
pub(super) struct FindTrained<'a> {
    pub(super) own_models: &'a OwnModels,
    pub(super) others: &'a dyn FindModel,
}

impl FindTrained<'_> {
    fn own(&self, name: &Path) -> Option<Result<Checkpoint>> {
        let name = trained_name(name)?;
        let missing = || {
            let when = if self.own_models.get(Some(name)).is_some() { "here" } else { "yet" };
            Error::missing_input(format!("reward model `{name}` is not trained {when}"))
        };
        Some(self.own_models.checkpoint(Some(name)).cloned().ok_or_else(missing))
    }
}

impl FindModel for FindTrained<'_> {
    fn find_model(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        self.own(name).unwrap_or_else(|| self.others.find_model(name, base_dir))
    }

    fn find_description(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        self.own(name).unwrap_or_else(|| self.others.find_description(name, base_dir))
    }
}

/// What the held-out pairs tell about a reward model.
#[derive(Debug, Serialize)]
struct Measured {
    /// `reward-model`, or `reward-model-NAME`: the stage that trained it, if one did.
    model: String,
    /// How it scores.
    scorer: String,
    /// Pairs.
    n: usize,
    /// Shares and means by name; see [`PairScores::numbers`].
    numbers: BTreeMap<String, f64>,
}

/// How a reward model orders pairs. A preference model is asked about the two answers themselves, and pairs that it cannot read are
/// left out; any other gives each answer a score.
fn measure(
    scorer: &RewardModelSpec,
    pairs: &[PreferencePair],
    build: &BuildContext<'_>,
    ctx: &RunContext<'_>,
) -> Result<PairScores> {
    if scorer.name() != PREFERENCE_MODEL {
        return score_pairs_by(&mut *scorer.build(build)?, pairs, ctx);
    }
    let written = to_json(scorer)[PREFERENCE_MODEL].clone();
    let shared =
        ["model", "prompt", "max_batch_tokens"].into_iter().filter_map(|key| Some((key.to_owned(), written.get(key)?.clone())));
    let options = Value::Object(shared.filter(|(_, value)| !value.is_null()).collect());
    let judge = AnnotatorSpec::from_json(PREFERENCE_MODEL, &options.to_string())?.build(build)?;
    let ask = |pair: &PreferencePair| Comparison::new(pair.instruction.clone(), &*pair.chosen, &*pair.rejected);
    let judgements = ctx.block_on(checked::annotate(&*judge, &pairs.iter().map(ask).collect::<Vec<_>>(), ctx))?;
    let length = |text: &str| text.chars().count() as f64;
    let judged = pairs.iter().zip(&judgements).filter_map(|(pair, judgement)| {
        let p_chosen = (1.0 - judgement.preference()?.p_second()).clamp(1e-12, 1.0 - 1e-12);
        let scored = ScoredPair {
            difference: (p_chosen / (1.0 - p_chosen)).ln(),
            length_difference: length(&pair.chosen) - length(&pair.rejected),
            margin: pair.margin,
        };
        Some((pair, scored))
    });
    let (read, scored): (Vec<&PreferencePair>, Vec<ScoredPair>) = judged.unzip();
    PairScores::of(&read, &scored).ok_or_else(|| Error::invalid_data("it can read none of the pairs"))
}

impl Experiment<'_> {
    /// Trains those that have a learner, and measures them all.
    pub(super) fn reward_models(&mut self, start: &Checkpoint) -> Result<()> {
        let order = TrainingOrder::of(&self.config, &self.base_dir)?;
        let named = self.config.reward_models.iter().map(|(name, stage)| (Some(name.clone()), stage));
        let all = self.config.reward_model.iter().map(|stage| (None, stage)).chain(named);
        for (name, stage) in all.filter(|(_, stage)| stage.learner.is_none()) {
            self.own_models.0.insert(name, OwnModel { checkpoint: None, stage: stage.clone() });
        }
        for name in &order.first {
            self.reward_model(name.as_deref(), start)?;
        }
        if !order.rated.is_empty() {
            self.rate(start)?;
        }
        for name in &order.rated {
            self.reward_model(name.as_deref(), start)?;
        }
        self.measure_reward_models(start)
    }

    fn reward_model(&mut self, name: Option<&str>, start: &Checkpoint) -> Result<()> {
        let Some(stage) = stage_of(name, &self.config).cloned() else { return Ok(()) };
        let Some(learner) = &stage.learner else { return Ok(()) };
        let kind = requires(learner, &self.config, &self.base_dir)?.feedback;
        let file = self.feedback_file(kind, true);
        let only = Repetition::only(self.config.seed);
        let learning = super::methods::Learning::of_reward_model(start, stage.held_out);
        let done = self.learn(&stage_name(name), learner, file, learning, only)?;
        let checkpoint = Some(Checkpoint::open(done.checkpoint_dir())?);
        self.own_models.0.insert(name.map(str::to_owned), OwnModel { checkpoint, stage });
        Ok(())
    }

    /// The seed by which feedback is held out from reward models, the same for all of them.
    pub(super) fn held_out_seed(&self) -> Seed {
        Repetition::only(self.config.seed).root().child(&stage_name(None), 0).child("held out", 0)
    }

    /// How each reward model orders the annotated pairs that none of them learned from.
    fn measure_reward_models(&mut self, start: &Checkpoint) -> Result<()> {
        let measured = self.own_models.0.iter().filter(|(_, model)| model.is_measured());
        let models: Vec<(String, OwnModel)> =
            measured.map(|(name, model)| (stage_name(name.as_deref()), model.clone())).collect();
        let share = measured_share(&self.config);
        if models.is_empty() || share <= 0.0 {
            return Ok(());
        }
        let scorers: BTreeMap<&String, Value> = models.iter().map(|(name, model)| (name, to_json(&model.scorer()))).collect();
        let options = json!({ "held_out": share, "scorers": scorers });
        let own = models.iter().filter_map(|(_, model)| model.checkpoint.as_ref());
        let inputs = super::with_models(PAIRS, std::iter::once(start).chain(own));
        let (pairs, seed) = (self.input(PAIRS), self.held_out_seed());
        self.stage(MEASURE, options, inputs, |_, ctx, build| {
            let (pairs, _) = data::read_preference_pairs(&pairs, &ReadOptions::default())?;
            let Some(OwnedFeedback::Preferences(pairs)) = OwnedFeedback::Preferences(pairs).hold_out(share, seed)?.1 else {
                ctx.events.warn("no annotated pair is held out from the reward models: there are too few to measure them");
                return ctx.stage.write_jsonl::<Measured>("report.jsonl", &[]).map(|_| ());
            };
            let mut measured = Vec::new();
            for (name, model) in &models {
                let build = BuildContext { policy: Some(start), reward_model: model.checkpoint.as_ref(), ..*build };
                let scorer = model.scorer();
                let scores = match measure(&scorer, &pairs, &build, ctx) {
                    Ok(scores) => scores,
                    Err(error) if error.is_cancelled() => return Err(error),
                    // What cannot be read here is told; the methods may still ask for what can.
                    Err(error) => {
                        ctx.events.warn(&format!("{name} (`{}`) could not be measured: {error}", scorer.name()));
                        continue;
                    }
                };
                let percent = |name: &str| scores.all.get(name).map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", 100.0 * share));
                ctx.events.info(&format!(
                    "  {name} (`{}`) orders {} of {} held-out pairs rightly, {} where the better answer is longer, {} where it is shorter",
                    scorer.name(),
                    percent("accuracy"),
                    scores.all.n,
                    percent("accuracy_chosen_longer"),
                    percent("accuracy_chosen_shorter"),
                ));
                let scorer = scorer.name().to_owned();
                measured.push(Measured { model: name.clone(), scorer, n: scores.all.n, numbers: scores.numbers() });
            }
            ctx.stage.write_jsonl("report.jsonl", &measured).map(|_| ())
        })?;
        Ok(())
    }
}
