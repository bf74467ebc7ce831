//! AlpacaEval's judges: a folder of its `evaluators_configs`, or of AlpacaFarm's annotators, as it is.
//!
//! Prompts, parsers, batches, function calls, likelihoods, the order of the answers: everything follows the settings. What does
//! not, on purpose:
//!
//! * An example's text never moves anything in the prompt (see [`prompt`](crate::chat::prompt)).
//! * A batch whose reply does not hold exactly as many verdicts as examples fails as a whole, as in AlpacaEval; which examples share
//!   a batch follows from their content and the seed, not from their position in a file. With `alone` each has a sheet of its own.
//! * `tokens_to_avoid` and `tokens_to_favor` name texts whose token ids only the model's tokenizer knows: the server is asked for
//!   them, or `token_ids` has them; where neither helps, the judge is asked without and says so once. `logit_bias` takes ids.
//! * Most of the models are retired: `model` or `models` name others, `server` another place.
//! * Settings of a model that AlpacaEval would run by itself (`vllm_local_completions`, `huggingface_local_completions`) need a
//!   `server` that serves it.
//!
//! A file with several judges is a pool: the member for an instruction is drawn as AlpacaEval draws it.

mod completions;
mod parser_settings;
mod reader;
mod settings;
mod sheets;
mod table;
mod token_bias;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, Forecast, Problem, Result, RunContext, register};
use farmhand_endpoints::EndpointOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chat::ask_options::KeepOptions;
use crate::join_all::join_all;
use crate::seeding::{Draw, Seeding};
use crate::tie_if_identical::TieIfIdentical;

use reader::SettingsJudge;

pub use completions::Completions;
pub use settings::{JudgeSettings, Prompts, read_settings, settings};
pub use yaml::Yaml;

register! {
    kind: Annotator, name: "alpaca_eval", config: AlpacaEvalConfig,
    summary: "a judge of AlpacaEval or AlpacaFarm, by its own settings and prompts",
    paper: "https://arxiv.org/abs/2305.14387",
    presets: {
        "alpaca_farm_pool": "AlpacaFarm's pool of thirteen, drawn as in its first version; its retired models' successors"
            => AlpacaEvalConfig::alpaca_farm_pool(),
    },
}

/// Options of `[annotator.alpaca_eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct AlpacaEvalConfig {
    /// A folder of AlpacaEval's `evaluators_configs` or AlpacaFarm's annotators, or a YAML file of theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// The one judge to take out of a file with several; unset: all of them, as a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The model to ask instead of the settings'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The models to ask instead of those that the settings name, by their names there: `{ "gpt-4-0314" = "gpt-4o" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, String>,
    /// The server to ask instead of the settings' provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<EndpointOptions>,
    /// How prompts are sent: `auto`, the default, `chat` or `completions`.
    pub route: Route,
    /// How the order of the answers and the members of a pool are drawn: `alpaca_eval`, the default, or another way.
    pub seeding: Seeding,
    /// The number in the seed of those draws; `farmhand`'s own way follows the run's seed instead.
    pub seeding_seed: u64,
    /// Show each example on a sheet of its own, the other places filled with padding: dearer, but a verdict then depends on its
    /// comparison alone.
    pub alone: bool,
    /// The tokens of texts that the settings avoid or favour, by the model that is asked and the text, for servers that do not tell:
    /// `{ "judge-7b" = { "Both" = [12] } }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub token_ids: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
    /// Added to the logits of these token ids, in [−100, 100].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f64>,
    /// What replies cost, and where they are kept. A price in the settings counts before the price table.
    #[serde(flatten)]
    pub keep: KeepOptions,
}

/// How prompts are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// A prompt in ChatML as a conversation; a plain one as a text to go on from, unless the provider knows conversations alone.
    #[default]
    Auto,
    /// Every prompt as a conversation, a plain one as the user's only turn.
    Chat,
    /// Every prompt as a text to go on from; one in ChatML cannot be.
    Completions,
}

impl Default for AlpacaEvalConfig {
    fn default() -> Self {
        Self {
            config: None,
            member: None,
            model: None,
            models: BTreeMap::new(),
            server: None,
            route: Route::Auto,
            seeding: Seeding::AlpacaEval,
            seeding_seed: 0,
            alone: false,
            token_ids: BTreeMap::new(),
            logit_bias: BTreeMap::new(),
            keep: KeepOptions::default(),
        }
    }
}

impl AlpacaEvalConfig {
    /// The pool of AlpacaFarm's `annotator_pool_v0`: thirteen judges, of whom one is drawn for each instruction by the instruction and
    /// its input. Its prompts are AlpacaFarm's, so `config` names their folder.
    fn alpaca_farm_pool() -> Self {
        let models =
            [("gpt-4-0314", "gpt-4o"), ("gpt-3.5-turbo-0301", "gpt-3.5-turbo"), ("text-davinci-003", "gpt-3.5-turbo-instruct")];
        let models = models.map(|(retired, successor)| (retired.to_owned(), successor.to_owned())).into();
        Self { models, seeding: Seeding::AlpacaFarm01, ..Self::default() }
    }
}

#[typetag::serde(name = "alpaca_eval")]
impl AnnotatorConfig for AlpacaEvalConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let path = self.config.as_ref().ok_or_else(missing_config)?;
        let path = ctx.resolve(path);
        let mut all = read_settings(&path)?;
        if let Some(member) = &self.member {
            let names: Vec<String> = all.iter().map(|settings| settings.name.clone()).collect();
            all.retain(|settings| settings.name == *member);
            if all.is_empty() {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let message = format!("`member`: `{}` has no judge `{member}`", path.display());
                return Err(Error::invalid_config(message).with_hint(farmhand_core::config::did_you_mean(member, &known)));
            }
        }
        let mut judges = Vec::new();
        for settings in all {
            let context = format!("`{}`: `{}`", path.display(), settings.name);
            judges.push(SettingsJudge::build(settings, self, ctx).map_err(|error| error.context(context))?);
        }
        let stem = path.file_name().map_or_else(|| "alpaca_eval".to_owned(), |name| name.to_string_lossy().into_owned());
        let name = if judges.len() == 1 { judges[0].id().to_owned() } else { stem };
        Ok(TieIfIdentical::around(AlpacaEval { name, judges, seeding: self.seeding, seeding_seed: self.seeding_seed }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.config.is_none() {
            let error = missing_config();
            problems.push(
                Problem::new("config", "a folder or file of settings is needed").with_hint(error.hint().unwrap_or_default()),
            );
        }
        if let Some(server) = &self.server {
            problems.extend(server.problems().into_iter().map(|problem| problem.under("server")));
        }
        problems.extend(self.keep.problems(self.server.as_ref()));
        for (token, bias) in &self.logit_bias {
            if !(-100.0..=100.0).contains(bias) {
                problems
                    .push(Problem::new(format!("logit_bias.{token}"), format!("expected a number in [−100, 100], got {bias}")));
            }
        }
        problems
    }
}

fn missing_config() -> Error {
    Error::invalid_config("`config`: a folder or file of settings is needed")
        .with_hint("for example `config = \"evaluators_configs/weighted_alpaca_eval_gpt4_turbo\"`")
}

/// One judge, or several of which one is drawn for each instruction.
struct AlpacaEval {
    name: String,
    judges: Vec<SettingsJudge>,
    seeding: Seeding,
    seeding_seed: u64,
}

impl AlpacaEval {
    /// The judge for this instruction: uniform over the order of the file.
    fn judge_for(&self, comparison: &Comparison, ctx: &RunContext<'_>) -> usize {
        let n = self.judges.len();
        match self.seeding.python(Draw::Member, &comparison.instruction, self.seeding_seed) {
            _ if n == 1 => 0,
            Some(mut python) => python.choices(n),
            None => ctx.seed.child_text("pool member", &comparison.instruction.id).rng().below(n),
        }
    }
}

#[async_trait]
impl Annotator for AlpacaEval {
    fn id(&self) -> &str {
        &self.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let chosen: Vec<usize> = comparisons.iter().map(|comparison| self.judge_for(comparison, ctx)).collect();
        let ask = |(i, judge)| -> std::pin::Pin<Box<dyn Future<Output = Vec<Result<Annotation>>> + Send + '_>> {
            let of = comparisons.iter().zip(&chosen).filter(|(_, member)| **member == i);
            let theirs: Vec<Comparison> = of.map(|(comparison, _)| comparison.clone()).collect();
            Box::pin(ask_member(judge, theirs, *ctx))
        };
        let answers = join_all(self.judges.iter().enumerate().map(ask).collect()).await;
        let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
        let lost = || Err(Error::broken_contract("a judge gave no result for a comparison"));
        chosen.iter().map(|member| answers[*member].next().unwrap_or_else(lost)).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.judges.iter().filter_map(SettingsJudge::comparisons_at_once).max()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let mut forecast = Forecast::default();
        for (i, judge) in self.judges.iter().enumerate() {
            let theirs = comparisons.iter().filter(|comparison| self.judge_for(comparison, ctx) == i);
            forecast += judge.forecast(&theirs.cloned().collect::<Vec<_>>(), ctx)?;
        }
        Ok(forecast)
    }
}

async fn ask_member(judge: &SettingsJudge, comparisons: Vec<Comparison>, ctx: RunContext<'_>) -> Vec<Result<Annotation>> {
    if comparisons.is_empty() { Vec::new() } else { judge.annotate(&comparisons, &ctx).await }
}
