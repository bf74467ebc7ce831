//! `tokens_to_avoid` and `tokens_to_favor`: texts of the settings, as biases on a model's tokens.
//!
//! Which tokens a text is only the model's tokenizer knows. So the ids come from the options (`token_ids`), or from the server,
//! where it tells (vLLM does, OpenAI does not). Where neither does, the judge is asked without, and the user hears of it once.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use farmhand_core::{Error, Result, RunContext};
use farmhand_endpoints::Client;

use super::AlpacaEvalConfig;
use super::completions::Completions;

/// What is added to the logit of a token to avoid, and of one to favour, as in AlpacaFarm.
const AVOIDED: f64 = -100.0;
const FAVOURED: f64 = 7.0;

/// The biases of one judge.
pub(super) struct TokenBias {
    judge: String,
    model: String,
    avoid: Vec<String>,
    favour: Vec<String>,
    /// The ids of texts, as the options have them.
    given: BTreeMap<String, Vec<u32>>,
    /// Biases that the options have by id. They come last.
    by_id: BTreeMap<u32, f64>,
    found: OnceLock<BTreeMap<u32, f64>>,
}

impl TokenBias {
    /// Of the judge of that name, which asks `completions.model`.
    pub(super) fn new(judge: &str, completions: &Completions, options: &AlpacaEvalConfig) -> Self {
        Self {
            judge: judge.to_owned(),
            model: completions.model.clone(),
            avoid: completions.tokens_to_avoid.clone(),
            favour: completions.tokens_to_favor.clone(),
            given: options.token_ids.get(&completions.model).cloned().unwrap_or_default(),
            by_id: options.logit_bias.clone(),
            found: OnceLock::new(),
        }
    }

    /// The biases, as far as they were found.
    pub(super) fn biases(&self) -> &BTreeMap<u32, f64> {
        self.found.get().unwrap_or(&self.by_id)
    }

    /// Finds out, once. A text to avoid that is several tokens is left alone, for each of them is part of other words; of a text to
    /// favour every token is favoured.
    ///
    /// # Errors
    /// When the server could tell and fails to: asked without, the judge would be another one.
    pub(super) async fn find(&self, client: &Client, ctx: &RunContext<'_>) -> Result<()> {
        if self.found.get().is_some() {
            return Ok(());
        }
        let (mut biases, mut unknown, mut left_alone) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut server_tells = true;
        let texts = self.avoid.iter().map(|text| (text, AVOIDED)).chain(self.favour.iter().map(|text| (text, FAVOURED)));
        for (text, bias) in texts {
            match self.ids(text, client, &mut server_tells).await? {
                None => unknown.push(text.as_str()),
                Some(ids) if bias == AVOIDED && ids.len() > 1 => left_alone.push(text.as_str()),
                Some(ids) => biases.extend(ids.into_iter().map(|id| (id, bias))),
            }
        }
        biases.extend(self.by_id.clone());
        // Of several calls that find out at a time, one tells.
        if self.found.set(biases).is_ok() {
            let quoted = |texts: &[&str]| texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ");
            let Self { judge, model, .. } = self;
            if !unknown.is_empty() {
                ctx.events.warn(&format!(
                    "`{judge}` is asked without its bias on {}: the server does not tell which tokens of `{model}` these are; give \
                     their ids under `token_ids.\"{model}\"`",
                    quoted(&unknown)
                ));
            }
            if !left_alone.is_empty() {
                let texts = quoted(&left_alone);
                ctx.events.info(&format!("  `{judge}` does not avoid {texts}: several tokens of `{model}` each"));
            }
        }
        Ok(())
    }

    /// The tokens of a text; `None` when nobody knows. A server that did not tell is not asked again.
    async fn ids(&self, text: &str, client: &Client, server_tells: &mut bool) -> Result<Option<Vec<u32>>> {
        if let Some(ids) = self.given.get(text) {
            return Ok(Some(ids.clone()));
        }
        if !*server_tells {
            return Ok(None);
        }
        let told = match client.tokenize_text(&self.model, text).await {
            Ok(told) => told.filter(|ids| !ids.is_empty()),
            Err(failure) if failure.may_pass() => return Err(Error::from(failure)),
            Err(_) => None,
        };
        *server_tells = told.is_some();
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::loopback_judge::LoopbackJudge;
    use crate::testing::Desk;
    use farmhand_core::{ErrorKind, Event};
    use farmhand_endpoints::Decoding;
    use farmhand_endpoints::loopback::{Received, Reply};
    use serde_json::json;

    fn completions() -> Completions {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Completions {
            decoder: "openai_completions".to_owned(),
            server: None,
            model: "small".to_owned(),
            decoding: Decoding::default(),
            tools: Vec::new(),
            tool_choice: farmhand_endpoints::ToolChoice::Auto,
            is_chat_only: false,
            price_per_token: None,
            tokens_to_avoid: texts(&["Both", "Neither"]),
            tokens_to_favor: texts(&["Output (a)"]),
        }
    }

    fn warnings(desk: &Desk) -> Vec<String> {
        let text = |event| match event {
            Event::Message { level, text } if level == "warning" => Some(text),
            _ => None,
        };
        desk.events.take().into_iter().filter_map(text).collect()
    }

    fn found(
        options: &AlpacaEvalConfig,
        tokenize: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> (Result<BTreeMap<u32, f64>>, Vec<String>, usize) {
        let desk = Desk::new();
        let server = LoopbackJudge::start(tokenize);
        let client = Client::new(&server.options(), None).expect("a client");
        let bias = TokenBias::new("chatgpt_1", &completions(), options);
        let ctx = desk.context(0);
        let first = ctx.block_on(bias.find(&client, &ctx));
        let outcome = first.and_then(|()| ctx.block_on(bias.find(&client, &ctx)));
        (outcome.map(|()| bias.biases().clone()), warnings(&desk), server.n_asked())
    }

    #[test]
    fn ids_come_from_a_server_that_tells() {
        let tokenize = |request: &Received| {
            let ids = match request.body["prompt"].as_str() {
                Some("Both") => json!([7]),
                Some("Neither") => json!([8, 9]),
                _ => json!([1, 2, 3]),
            };
            Reply::json(200, &json!({ "tokens": ids }))
        };
        let options = AlpacaEvalConfig { logit_bias: BTreeMap::from([(2, -1.0), (50, 5.0)]), ..AlpacaEvalConfig::default() };
        let (biases, warnings, n_asked) = found(&options, tokenize);
        let expected = BTreeMap::from([(7, -100.0), (1, 7.0), (2, -1.0), (3, 7.0), (50, 5.0)]);
        assert_eq!((biases.expect("found"), warnings.len(), n_asked), (expected, 0, 3));
    }

    #[test]
    fn ids_come_from_the_options_of_the_model_that_is_asked() {
        let given = BTreeMap::from([("Both".to_owned(), vec![11]), ("Output (a)".to_owned(), vec![12, 13])]);
        let options =
            AlpacaEvalConfig { token_ids: BTreeMap::from([("small".to_owned(), given)]), ..AlpacaEvalConfig::default() };
        let (biases, warnings, n_asked) =
            found(&options, |_| Reply::json(404, &json!({ "error": { "message": "no such route" } })));
        assert_eq!(biases.expect("found"), BTreeMap::from([(11, -100.0), (12, 7.0), (13, 7.0)]));
        assert_eq!((warnings.len(), n_asked), (1, 1));
        assert!(warnings[0].contains("`Neither`") && warnings[0].contains("token_ids.\"small\""), "{}", warnings[0]);
    }

    #[test]
    fn a_server_that_could_tell_and_fails_fails_the_judging() {
        let (biases, warnings, _) =
            found(&AlpacaEvalConfig::default(), |_| Reply::json(500, &json!({ "error": { "message": "busy" } })));
        assert_eq!((biases.expect_err("not found").kind(), warnings.len()), (ErrorKind::RemoteService, 0));
    }
}
