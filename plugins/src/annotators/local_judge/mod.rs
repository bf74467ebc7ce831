//! A causal language model as a judge: the verdict is how likely it finds the name of the second answer after a judge's prompt.
//!
//! Nothing is sampled. Both verdict texts are scored after the same prompt, log π(v | prompt) = Σ log π(vₜ | prompt, v₍<ₜ₎), and
//! P(second) = exp ℓ₂ / (exp ℓ₁ + exp ℓ₂), with half of a tie's share added where a tie can be said: what sampling the verdict many
//! times would tend to. One pass over the prompt serves all verdicts. The model sees the answers in the order of the comparison;
//! `order_swap` around it evens out what it thinks of places (Zheng et al. 2023, <https://arxiv.org/abs/2306.05685>, section 3.4).

mod prompt;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Instruction, Judging, Message, Preference, ShownOrder};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Checkpoint, Error, Problem, Result, RunContext, register};
use farmhand_models::{
    BatchLayout, EncodedText, Ending, LanguageModel, PromptFormat, TextCodec, TokenBatch, selected_log_probs_no_grad,
    sequence_sums, tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

use self::prompt::{JudgePrompt, Shown};
use crate::rl::pairwise::LengthScale;
use crate::training::{MicroBatching, Ranges};

register! {
    kind: Annotator, name: "local_judge", config: LocalJudgeConfig,
    summary: "a causal language model as a judge: the likelihood of its verdict after a judge's prompt",
    paper: "https://arxiv.org/abs/2306.05685",
}

const EMBEDDED: &str = include_str!("prompt.toml");

/// Options of `[annotator.local_judge]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalJudgeConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The judging model's folder or hub id; by default the policy of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How the prompt's messages become text; by default the model's chat template where it has one, otherwise plain text, the
    /// messages one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<PromptFormat>,
    /// The prompt, in place of the embedded one: a TOML file with `[[messages]]`, which can show `instruction`, `output_1`,
    /// `output_2`, `first` and `second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
    /// What plain text ends with, on a line of its own, before the verdict and a space; a chat template says by itself whose turn
    /// it is, so there it is not used.
    pub cue: String,
    /// What the model says when the first answer is better; any text, of one token or several.
    pub first: String,
    /// What it says when the second answer is better.
    pub second: String,
    /// What it says of a tie; without it there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie: Option<String>,
    /// The verdict's log-probability, or its mean per token, for verdicts of unequal length.
    pub per: LengthScale,
    /// Say only which answer is better, not how surely; a tie where both are equally likely, or a tie is likeliest.
    pub binary: bool,
    /// Tokens per forward pass at most, ≥ 1. By default one comparison a pass on the CPU, where its verdict then has the same bits
    /// whatever is judged beside it, and 8192 tokens on a GPU. Changes speed and memory, and a verdict by rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

impl Default for LocalJudgeConfig {
    fn default() -> Self {
        Self {
            name: "local_judge".to_owned(),
            model: None,
            format: None,
            prompt: None,
            cue: "The better answer is Answer".to_owned(),
            first: "A".to_owned(),
            second: "B".to_owned(),
            tie: None,
            per: LengthScale::Sum,
            binary: false,
            max_batch_tokens: None,
        }
    }
}

#[typetag::serde(name = "local_judge")]
impl AnnotatorConfig for LocalJudgeConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let prompt = match &self.prompt {
            None => JudgePrompt::parse(EMBEDDED)?,
            Some(path) => {
                let path = ctx.resolve(path);
                let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read the prompt", &path, error))?;
                JudgePrompt::parse(&text).map_err(|error| error.context(format_args!("`{}`", path.display())))?
            }
        };
        let checkpoint = ctx.policy_checkpoint(self.model.as_deref())?;
        let codec = codec(&checkpoint, self.format)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        Ok(Box::new(LocalJudge { config: self.clone(), prompt, reader: Mutex::new(Reader { codec, model }) }))
    }

    fn problems(&self) -> Vec<Problem> {
        let verdicts = self.verdicts();
        let distinct = verdicts.iter().enumerate().all(|(i, verdict)| !verdicts[..i].contains(verdict));
        Ranges::new()
            .require("name", !self.name.is_empty(), "a name", "an empty text")
            .require("first", verdicts.iter().all(|verdict| !verdict.is_empty()), "verdicts of at least one character", "none")
            .require("second", distinct, "verdicts that differ", "the same twice")
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

impl LocalJudgeConfig {
    /// The verdict texts: first, second, tie.
    fn verdicts(&self) -> Vec<&str> {
        [Some(self.first.as_str()), Some(&self.second), self.tie.as_deref()].into_iter().flatten().collect()
    }
}

/// The checkpoint's codec in the format that is asked for, else chat where there is a template, else plain.
fn codec(checkpoint: &Checkpoint, format: Option<PromptFormat>) -> Result<TextCodec> {
    let codec = TextCodec::load(checkpoint, format)?;
    if format.is_some() {
        return Ok(codec);
    }
    let has_template = codec.tokenizer.chat_template_source().is_some();
    TextCodec::new(codec.tokenizer, if has_template { PromptFormat::Chat } else { PromptFormat::None })
}

/// Tensors may move between threads but not be shared.
struct Reader {
    codec: TextCodec,
    model: LanguageModel,
}

struct LocalJudge {
    config: LocalJudgeConfig,
    prompt: JudgePrompt,
    reader: Mutex<Reader>,
}

impl LocalJudge {
    /// The prompt with each verdict; the prompt is the same in all.
    fn encode(&self, comparison: &Comparison, reader: &Reader) -> Result<Vec<EncodedText>> {
        let Comparison { instruction, output_1, output_2, .. } = comparison;
        let LocalJudgeConfig { first, second, .. } = &self.config;
        let messages = self.prompt.fill(&Shown { instruction, output_1, output_2, first, second })?;
        let plain = reader.codec.format == PromptFormat::None;
        let question = if plain { joined(&messages, &self.config.cue) } else { conversation(messages) };
        let encode = |verdict: &str| {
            // Plain text goes on after a space; a chat template has its own way.
            let space = if plain && !question.instruction.ends_with(char::is_whitespace) { " " } else { "" };
            reader.codec.encode(&question, &format!("{space}{verdict}"), Ending::Open)
        };
        let texts = self.config.verdicts().into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let (longest, context) =
            (texts.iter().map(|text| text.ids.len()).max().unwrap_or(0), reader.model.config().max_positions());
        if longest > context {
            let message = format!("the judge's prompt with its verdict has {longest} tokens, the model's context is {context}");
            return Err(
                Error::invalid_data(message).with_hint("judge shorter answers, or with a model that has a longer context")
            );
        }
        if texts.iter().any(|text| text.response().is_empty()) {
            return Err(Error::invalid_config("a verdict has no tokens for this model"));
        }
        Ok(texts)
    }

    fn annotation(&self, log_probs: &[f64]) -> Result<Annotation> {
        if let Some(broken) = log_probs.iter().find(|log_prob| !log_prob.is_finite()) {
            return Err(Error::non_finite(format!("the model gives a verdict the log-probability {broken}"))
                .with_hint("it diverged in training, or its checkpoint is broken"));
        }
        let shares = shares(log_probs);
        let [first, second] = [shares[0], shares[1]];
        let tie = shares.get(2).copied().unwrap_or(0.0);
        let preference = match self.config.binary {
            false => Preference::from_p_second((second + tie / 2.0).min(1.0))?,
            true if first > second.max(tie) => Preference::First,
            true if second > first.max(tie) => Preference::Second,
            true => Preference::Tie,
        };
        let said = self.config.verdicts().into_iter().zip(log_probs).map(|(verdict, l)| format!("{verdict}: {l:.6}"));
        Ok(Annotation {
            scores: Some([log_probs[0], log_probs[1]]),
            raw: Some(said.collect::<Vec<_>>().join(", ")),
            ..Annotation::new(self.config.name.clone(), preference)
        })
    }

    /// The log-probabilities of each question's verdicts, summed over tokens or averaged.
    fn log_probs(&self, questions: &[&[EncodedText]], model: &LanguageModel) -> Result<Vec<Vec<f64>>> {
        let texts: Vec<&EncodedText> = questions.iter().copied().flatten().collect();
        let batch = TokenBatch::new(&texts, BatchLayout::Packed, model.device())?;
        let sums = sequence_sums(&selected_log_probs_no_grad(model, &batch).0, &batch);
        let sums = Vec::<f64>::try_from(sums.to_kind(Kind::Double).to_device(tch::Device::Cpu))
            .map_err(|error| Error::other(error.to_string()))?;
        let scale = |(sum, text): (f64, &&EncodedText)| match self.config.per {
            LengthScale::Sum => sum,
            LengthScale::Mean => sum / text.response().len() as f64,
        };
        let values: Vec<f64> = sums.into_iter().zip(&texts).map(scale).collect();
        Ok(values.chunks(self.config.verdicts().len()).map(<[f64]>::to_vec).collect())
    }

    /// The failure of one comparison, with who was asked.
    fn failed(&self, error: Error) -> Error {
        let judging =
            Judging { annotator: Some(self.config.name.clone()), shown: Some(ShownOrder::AsGiven), ..Judging::default() };
        error.with_judging(judging)
    }
}

#[async_trait]
impl Annotator for LocalJudge {
    fn id(&self) -> &str {
        &self.config.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let questions: Vec<Result<Vec<EncodedText>>> =
            comparisons.iter().map(|comparison| self.encode(comparison, &reader)).collect();
        let asked: Vec<usize> = (0..questions.len()).filter(|i| questions[*i].is_ok()).collect();
        let texts = |i: usize| questions[i].as_deref().unwrap_or_default();
        let device = reader.model.device();
        let alone = self.config.max_batch_tokens.is_none() && device == tch::Device::Cpu;
        let micro = MicroBatching::new(BatchLayout::Packed, self.config.max_batch_tokens, alone.then_some(1), device);
        let mut verdicts: Vec<Option<Result<Annotation>>> = questions.iter().map(|_| None).collect();
        let mut progress = ctx.progress("judging", Some(comparisons.len() as u64), "comparisons");
        for group in micro.groups_of(&asked, texts) {
            let judged = ctx
                .cancel
                .check()
                .and_then(|()| self.log_probs(&group.iter().map(|i| texts(*i)).collect::<Vec<_>>(), &reader.model));
            match judged {
                Ok(log_probs) => {
                    group.iter().zip(log_probs).for_each(|(i, values)| verdicts[*i] = Some(self.annotation(&values)));
                }
                Err(error) if error.is_cancelled() => return comparisons.iter().map(|_| Err(Error::cancelled())).collect(),
                Err(error) => group.iter().for_each(|i| verdicts[*i] = Some(Err(Error::new(error.kind(), error.to_string())))),
            }
            progress.advance(group.len() as u64);
        }
        let result = |(question, verdict): (Result<Vec<EncodedText>>, Option<Result<Annotation>>)| {
            let verdict = question.and_then(|_| verdict.expect("every question that could be written was asked"));
            verdict.map_err(|error| self.failed(error))
        };
        questions.into_iter().zip(verdicts).map(result).collect()
    }
}

/// Probabilities, in proportion to exp of the log-probabilities.
fn shares(log_probs: &[f64]) -> Vec<f64> {
    let highest = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = log_probs.iter().map(|log_prob| (log_prob - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The messages as a conversation that ends with the user's.
fn conversation(mut messages: Vec<Message>) -> Instruction {
    let last = messages.pop().map_or_else(String::new, |last| last.content);
    Instruction::with_history(last, None, messages)
}

/// The messages as one text, a blank line between, the cue at the end.
fn joined(messages: &[Message], cue: &str) -> Instruction {
    let texts = messages.iter().map(|message| message.content.as_str());
    let parts: Vec<&str> = texts.chain((!cue.is_empty()).then_some(cue)).collect();
    Instruction::new(parts.join("\n\n"), None)
}

#[cfg(test)]
mod tests {
    use farmhand_core::{Device, ErrorKind, NoEvents, checked};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint_with};

    const SHORT: &str = "[[messages]]\nrole = \"user\"\ncontent = \"{{ instruction }} {{ output_1 }} or {{ output_2 }}\"\n";

    fn comparisons() -> Vec<Comparison> {
        let answers = [("yes", "no"), ("a good answer", "the cat sat"), ("count one two three four five six", ""), ("no", "yes")];
        instructions(4).into_iter().zip(answers).map(|(asked, (a, b))| Comparison::new(asked, a, b)).collect()
    }

    fn judge(stage: &Stage, config: LocalJudgeConfig) -> Result<Box<dyn Annotator>> {
        let checkpoint = tiny_checkpoint_with(stage, "judge", 96);
        std::fs::write(stage.path().join("short.toml"), SHORT).expect("written");
        let build = BuildContext { policy: Some(&checkpoint), ..BuildContext::new(Device::Cpu, stage.path()) };
        config.build(&build)
    }

    fn short(config: LocalJudgeConfig) -> LocalJudgeConfig {
        let format = Some(PromptFormat::None);
        LocalJudgeConfig { format, prompt: Some("short.toml".into()), cue: String::new(), ..config }
    }

    #[test]
    fn the_verdict_is_the_likelihood_of_the_second_name_by_hand() {
        let stage = Stage::new();
        let config = short(LocalJudgeConfig { first: "yes or".into(), second: "no".into(), ..LocalJudgeConfig::default() });
        let judge = judge(&stage, config).expect("built");
        let checkpoint = tiny_checkpoint_with(&stage, "judge", 96);
        let codec = TextCodec::load(&checkpoint, None).expect("a codec");
        let model = LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        let comparison = comparisons().remove(1);
        let text = format!("{} a good answer or the cat sat", comparison.instruction.text());
        // All logits of the whole text at once, the verdict's picked one by one.
        let likelihood = |verdict: &str| -> f64 {
            let text =
                codec.encode(&Instruction::new(text.clone(), None), &format!(" {verdict}"), Ending::Open).expect("encoded");
            let log_probs = model.logits(&model.hidden_of(&text.ids)).log_softmax(-1, Kind::Double);
            (text.response_start..text.ids.len()).map(|t| log_probs.double_value(&[t as i64 - 1, i64::from(text.ids[t])])).sum()
        };
        let (first, second) = (likelihood("yes or"), likelihood("no"));
        let ctx = stage.context(&NoEvents);
        let judgements = ctx.block_on(checked::annotate(&*judge, &[comparison], &ctx)).expect("judged");
        let annotation = judgements[0].annotation().expect("a verdict");
        let [one, two] = annotation.scores.expect("log-probabilities");
        assert!((one - first).abs() < 1e-4 && (two - second).abs() < 1e-4, "{one} {first}, {two} {second}");
        assert!((annotation.preference.p_second() - 1.0 / (1.0 + (first - second).exp())).abs() < 1e-5);
        assert!(annotation.raw.as_deref().is_some_and(|raw| raw.starts_with("yes or: -")));
    }

    #[test]
    fn a_verdict_does_not_depend_on_what_is_judged_beside_it() {
        let stage = Stage::new();
        let all = comparisons();
        let ctx = stage.context(&NoEvents);
        let verdicts = |judge: &dyn Annotator, pairs: &[Comparison]| -> Vec<Annotation> {
            ctx.block_on(judge.annotate(pairs, &ctx)).into_iter().map(|result| result.expect("a verdict")).collect()
        };
        let alone = judge(&stage, short(LocalJudgeConfig::default())).expect("built");
        let together = verdicts(&*alone, &all);
        let mut backwards: Vec<Comparison> = all.clone();
        backwards.reverse();
        let mut again = verdicts(&*alone, &backwards);
        again.reverse();
        assert_eq!(together, again);
        for (pair, expected) in all.iter().zip(&together) {
            assert_eq!(verdicts(&*alone, std::slice::from_ref(pair)), std::slice::from_ref(expected));
        }
        let batched = judge(&stage, short(LocalJudgeConfig { max_batch_tokens: Some(500), ..LocalJudgeConfig::default() }));
        for (one, other) in together.iter().zip(verdicts(&*batched.expect("built"), &all)) {
            assert!((one.preference.p_second() - other.preference.p_second()).abs() < 1e-6);
        }
    }

    #[test]
    fn a_prompt_beyond_the_context_fails_alone_and_says_who_was_asked() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let mut pairs = comparisons();
        pairs.insert(1, Comparison::new(instructions(1).remove(0), "one two three four five six ".repeat(20), "no"));
        let judge = judge(&stage, short(LocalJudgeConfig::default())).expect("built");
        let results = ctx.block_on(judge.annotate(&pairs, &ctx));
        let failed: Vec<usize> = (0..results.len()).filter(|i| results[*i].is_err()).collect();
        assert_eq!(failed, [1]);
        let error = results[1].as_ref().expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains("the model's context is 96"), "{error}");
        assert_eq!(error.judging().and_then(|judging| judging.annotator.as_deref()), Some("local_judge"));
        // The embedded prompt alone is longer than this model's context.
        let embedded = super::tests::judge(&stage, LocalJudgeConfig::default()).expect("built");
        assert!(ctx.block_on(embedded.annotate(&pairs[..1], &ctx))[0].is_err());
    }

    #[test]
    fn ties_lengths_and_plain_verdicts() {
        let three = [-1.0, -2.0, -0.5].map(|l: f64| l.exp());
        let sum: f64 = three.iter().sum();
        let expected: Vec<f64> = three.iter().map(|share| share / sum).collect();
        assert!(shares(&[-1.0, -2.0, -0.5]).iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-15));
        let stage = Stage::new();
        let built = |binary, tie: Option<&str>| LocalJudge {
            config: LocalJudgeConfig { binary, tie: tie.map(str::to_owned), ..LocalJudgeConfig::default() },
            prompt: JudgePrompt::parse(SHORT).expect("a prompt"),
            reader: {
                let checkpoint = tiny_checkpoint_with(&stage, "judge", 96);
                let codec = codec(&checkpoint, None).expect("a codec");
                Mutex::new(Reader { codec, model: LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded") })
            },
        };
        let p = built(false, Some("C")).annotation(&[-1.0, -2.0, -0.5]).expect("a verdict").preference.p_second();
        assert!((p - (expected[1] + expected[2] / 2.0)).abs() < 1e-15);
        assert_eq!(built(true, Some("C")).annotation(&[-1.0, -2.0, -0.5]).expect("a verdict").preference, Preference::Tie);
        assert_eq!(built(true, None).annotation(&[-2.0, -1.0]).expect("a verdict").preference, Preference::Second);
        assert_eq!(built(true, None).annotation(&[-2.0, -2.0]).expect("a verdict").preference, Preference::Tie);
        let error = built(false, None).annotation(&[f64::NAN, -1.0]).expect_err("broken");
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        let same =
            LocalJudgeConfig { first: "A".into(), second: "A".into(), max_batch_tokens: Some(0), ..LocalJudgeConfig::default() };
        let paths: Vec<String> = same.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["second", "max_batch_tokens"]);
        // The mean per token is the sum over fewer tokens.
        let per = |per| {
            let config =
                short(LocalJudgeConfig { first: "yes or no".into(), second: "no".into(), per, ..LocalJudgeConfig::default() });
            let judge = judge(&stage, config).expect("built");
            let ctx = stage.context(&NoEvents);
            let results = ctx.block_on(judge.annotate(&comparisons()[..1], &ctx));
            results.into_iter().next().expect("one").expect("a verdict").scores.expect("log-probabilities")
        };
        let (sums, means) = (per(LengthScale::Sum), per(LengthScale::Mean));
        assert!(means[0] > sums[0] / 1.5 && sums[0] < sums[1]);
    }
}
