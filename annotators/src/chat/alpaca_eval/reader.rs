//! One judge by its settings: writes its prompts, reads its replies.

use std::collections::BTreeMap;

use farmhand_core::types::{Annotation, Comparison, Preference};
use farmhand_core::{BuildContext, Error, Forecast, Result, RunContext};
use farmhand_endpoints::{ChatRequest, CompletionRequest, Decoding, Prices, Prompt as Text};
use serde_json::{Value, json};

use super::settings::JudgeSettings;
use super::sheets::sheets;
use super::token_bias::TokenBias;
use super::{AlpacaEvalConfig, Route};
use crate::chat::ask::{Asker, Question};
use crate::chat::judging::{Interview, Sheet, Verdict, Verdicts, forecast, judge};
use crate::chat::parsers::Reply;
use crate::chat::prompt::{Example, PlaceholderTemplate, Prompt};
use crate::failures;
use crate::seeding::{Draw, Seeding};

/// A judge that is ready to be asked.
pub(super) struct SettingsJudge {
    settings: JudgeSettings,
    asker: Asker,
    bias: TokenBias,
    seeding: Seeding,
    seeding_seed: u64,
    alone: bool,
}

impl SettingsJudge {
    pub(super) fn build(mut settings: JudgeSettings, options: &AlpacaEvalConfig, ctx: &BuildContext<'_>) -> Result<Self> {
        let completions = &mut settings.completions;
        let Some(server) = options.server.clone().or_else(|| completions.server.clone()) else {
            let decoder = &completions.decoder;
            return Err(Error::invalid_config(format!("`{decoder}` runs the model by itself, which is not supported"))
                .with_hint(
                    "serve the model, for example with `vllm serve`, and set `server.base_url`; or let a local judge read it",
                ));
        };
        let renamed = options.model.as_ref().or_else(|| options.models.get(&completions.model));
        if let Some(model) = renamed {
            completions.model.clone_from(model);
        }
        let bias = TokenBias::new(&settings.name, completions, options);
        // Another server than the settings' is asked as that server is, not as their provider would be.
        let is_chat_only = completions.is_chat_only && options.server.is_none();
        let per_million = |price: f64| Prices { prompt: price * 1e6, cached_prompt: None, completion: price * 1e6 };
        let mut keep = options.keep.clone();
        let settings_price = completions.price_per_token.filter(|_| renamed.is_none()).map(per_million);
        keep.price.prices = keep.price.prices.or(settings_price);
        let prompts = &mut settings.prompts;
        for prompt in prompts.with_inputs.iter_mut().chain([&mut prompts.without_inputs]) {
            *prompt = routed(prompt.clone(), options.route, is_chat_only)?;
        }
        let asker = Asker::new(&server, &keep, ctx)?;
        let (seeding, seeding_seed, alone) = (options.seeding, options.seeding_seed, options.alone);
        Ok(Self { settings, asker, bias, seeding, seeding_seed, alone })
    }

    pub(super) fn comparisons_at_once(&self) -> Option<usize> {
        self.asker.comparisons_at_once()
    }

    pub(super) fn id(&self) -> &str {
        &self.settings.name
    }

    pub(super) async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        if let Err(error) = self.bias.find(self.asker.client(), ctx).await {
            return failures::repeat(&error, comparisons.len());
        }
        let sheets = self.sheets(comparisons, ctx);
        judge(self, &self.asker, comparisons, &sheets, ctx).await
    }

    /// Which comparisons are shown together.
    fn sheets(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Sheet> {
        let of = |with_input: bool| {
            let members: Vec<usize> =
                (0..comparisons.len()).filter(|i| self.shows_input(&comparisons[*i]) == with_input).collect();
            let template = if with_input { self.settings.prompts.with_inputs.as_ref() } else { None };
            let batch_size = template.unwrap_or(&self.settings.prompts.without_inputs).batch_size();
            sheets(&members, comparisons, batch_size, self.alone, ctx.seed)
        };
        [of(false), of(true)].concat()
    }

    pub(super) fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let sheets = self.sheets(comparisons, ctx);
        forecast(self, &self.asker, comparisons, &sheets, ctx)
    }

    /// Whether the prompt for this comparison has a place of its own for the input.
    fn shows_input(&self, comparison: &Comparison) -> bool {
        self.settings.prompts.with_inputs.is_some() && comparison.instruction.input.is_some()
    }
}

/// A prompt in the form in which it is sent.
fn routed(prompt: PlaceholderTemplate, route: Route, is_chat_only: bool) -> Result<PlaceholderTemplate> {
    match route {
        Route::Chat => Ok(prompt.into_chat()),
        Route::Auto if is_chat_only => Ok(prompt.into_chat()),
        Route::Auto => Ok(prompt),
        Route::Completions if prompt.is_chat() => {
            Err(Error::invalid_config("`route`: a prompt in ChatML is a conversation and cannot be sent as a text to go on from"))
        }
        Route::Completions => Ok(prompt),
    }
}

impl Interview for SettingsJudge {
    fn id(&self) -> &str {
        &self.settings.name
    }

    fn is_switched(&self, comparison: &Comparison, ctx: &RunContext<'_>) -> bool {
        if !self.settings.is_randomize_output_order {
            return false;
        }
        match self.seeding.python(Draw::Order, &comparison.instruction, self.seeding_seed) {
            Some(mut python) => python.choices(2) == 1,
            None => ctx.seed.child_text("order swap", &comparison.instruction.id).rng().bernoulli(0.5),
        }
    }

    fn write(&self, shown: &[Comparison], sheet: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let with_input = self.shows_input(&shown[0]);
        let prompts = &self.settings.prompts;
        let template = if with_input { prompts.with_inputs.as_ref() } else { None }.unwrap_or(&prompts.without_inputs);
        let show = if with_input { Example::with_input } else { Example::merged };
        let mut examples: Vec<Example> = shown.iter().map(show).collect();
        examples.resize(sheet.n_places, Example::padding());
        let prompt = template.fill(&examples).map_err(Error::invalid_config)?.remove(0);
        let question = self.question(prompt);
        let decoding = &self.settings.completions.decoding;
        // A greedy reply, and the likelihoods of a first token, are the same whatever the seed.
        let is_certain = decoding.temperature == 0.0 || (decoding.log_probs.is_some() && decoding.max_tokens == 1);
        let seed = || ctx.seed.child_text("judge's reply", &question.canonical().to_string()).to_i64().unsigned_abs();
        let sample_seed = if is_certain { 0 } else { seed() };
        Ok((question, sample_seed))
    }

    fn read(&self, reply: Reply<'_>, sheet: &Sheet) -> Verdicts {
        let verdicts = self.settings.parser.verdicts(reply, sheet.n_places)?;
        let notes = self.notes(reply);
        let verdict = |preference: Preference| Verdict { notes: notes.clone(), ..Verdict::from(preference) };
        Ok(verdicts.into_iter().take(sheet.members.len()).map(|read| read.map(verdict)).collect())
    }

    /// AlpacaEval's chain of thought says which output each name in the explanation is: the one of rank 1 is the preferred one.
    fn finish(&self, mut annotation: Annotation) -> Annotation {
        let ranks = annotation.notes.remove(RANKS);
        if let Some(models) = ranks.as_ref().and_then(|ranks| referenced_models(ranks, annotation.preference)) {
            annotation.notes.insert("referenced_models".to_owned(), models);
        }
        annotation
    }
}

/// Where the ranking waits in the notes until the preferred output is known.
const RANKS: &str = "ordered_models";

impl SettingsJudge {
    fn question(&self, prompt: Prompt) -> Question {
        let completions = &self.settings.completions;
        let logit_bias = self.bias.biases().clone();
        let (model, decoding) = (completions.model.clone(), Decoding { logit_bias, ..completions.decoding.clone() });
        match prompt {
            Prompt::Chat(messages) => Question::Chat(ChatRequest {
                decoding,
                tools: completions.tools.clone(),
                tool_choice: completions.tool_choice.clone(),
                ..ChatRequest::new(model, messages)
            }),
            Prompt::Plain(text) => Question::Completion(CompletionRequest { model, prompt: Text::Text(text), decoding }),
        }
    }

    /// What the settings keep of a reply in JSON beside the verdict.
    fn notes(&self, reply: Reply<'_>) -> BTreeMap<String, Value> {
        let mut notes = BTreeMap::new();
        if self.settings.note_keys.is_empty() && !self.settings.notes_models {
            return notes;
        }
        let Ok(document) = serde_json::from_str::<Value>(reply.text) else { return notes };
        for key in &self.settings.note_keys {
            if let Some(value) = document.get(key) {
                notes.insert(key.clone(), value.clone());
            }
        }
        if self.settings.notes_models
            && let Some(ranks) = document.get(RANKS)
        {
            notes.insert(RANKS.to_owned(), ranks.clone());
        }
        notes
    }
}

/// Which output each name of a ranking of two is: the one of rank 1 is the preferred output.
fn referenced_models(ranks: &Value, preference: Preference) -> Option<Value> {
    let preferred = match preference {
        Preference::First => 1,
        Preference::Second => 2,
        Preference::Tie | Preference::Graded(_) => return None,
    };
    let entries = ranks.as_array().filter(|entries| entries.len() == 2)?;
    let mut models = serde_json::Map::new();
    for entry in entries {
        let (model, rank) = (entry.get("model")?.as_str()?, entry.get("rank")?.as_f64()?);
        let output = if rank == 1.0 { preferred } else { 3 - preferred };
        models.insert(model.to_owned(), json!(format!("output_{output}")));
    }
    (models.len() == 2).then_some(Value::Object(models))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AlpacaEval's expectation.
    #[test]
    fn the_name_of_rank_one_is_the_preferred_output() {
        let ranks = json!([{ "model": "M", "rank": 1 }, { "model": "m", "rank": 2 }]);
        let expected = json!({ "M": "output_2", "m": "output_1" });
        assert_eq!(referenced_models(&ranks, Preference::Second), Some(expected));
        assert_eq!(referenced_models(&ranks, Preference::Tie), None);
        assert_eq!(referenced_models(&json!([{ "model": "M" }]), Preference::First), None);
    }
}
