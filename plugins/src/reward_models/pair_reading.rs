//! How a language model is asked which of two answers is better, and how its reply is read.
//!
//! The model reads instruction and both answers and replies with one of two letters; P(first is better) is the softmax over the
//! two letters' logits. Asked in both orders, the mean `(P(A ≻ B) + 1 − P(B ≻ A)) / 2` does not depend on which answer comes first
//! (RLHF Workflow, Dong et al. 2024, <https://arxiv.org/abs/2405.07863>, section 2.2).

use std::path::Path;

use farmhand_core::types::{Instruction, Message};
use farmhand_core::{BuildContext, Checkpoint, Error, Result, RunContext};
use farmhand_models::{
    BatchLayout, EncodedText, Ending, LanguageModel, PromptFormat, TextCodec, TokenBatch, selected_log_probs_no_grad,
    sequence_sums, tch_device,
};
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::training::MicroBatching;

const FILE: &str = "preference_model.json";

/// The two replies; kept in the checkpoint, so that a preference model is asked as it was trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairReading {
    /// What the model replies when the first, and when the second answer is better: one token each.
    pub labels: [String; 2],
}

impl Default for PairReading {
    fn default() -> Self {
        Self { labels: ["A", "B"].map(str::to_owned) }
    }
}

impl PairReading {
    /// The question as an instruction: what was asked, with what was said before, and the two answers under their letters.
    pub fn question(&self, asked: &Instruction, first: &str, second: &str) -> Instruction {
        let turn = |message: &Message| format!("{}: {}\n", message.role.name(), message.content);
        let before: String = asked.history.iter().map(turn).collect();
        let [a, b] = &self.labels;
        let text = format!("[CONTEXT] {before}{}\n[RESPONSE {a}] {first}\n[RESPONSE {b}] {second}", asked.text());
        Instruction::new(text, None)
    }

    /// The question with each reply: that the first, and that the second answer is better. Both have the same prompt.
    ///
    /// # Errors
    /// When it cannot be encoded, or the tokenizer has not one token for each reply.
    pub fn encode(&self, codec: &TextCodec, asked: &Instruction, first: &str, second: &str) -> Result<[EncodedText; 2]> {
        let question = self.question(asked, first, second);
        let [a, b] = [0, 1].map(|i| codec.encode(&question, &self.labels[i], Ending::Open));
        let (a, b) = (a?, b?);
        let fits = a.response().len() == 1 && b.response().len() == 1 && a.response() != b.response() && a.prompt() == b.prompt();
        if !fits {
            let [a, b] = &self.labels;
            let message = format!("the replies `{a}` and `{b}` are not one token each for this model");
            return Err(Error::invalid_config(message).with_hint("choose other `labels`, for example `[\"1\", \"2\"]`"));
        }
        Ok([a, b])
    }

    /// Writes it into the checkpoint of the context's stage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, ctx: &RunContext<'_>) -> Result<()> {
        let path = ctx.stage.checkpoint_dir().join(FILE);
        farmhand_core::run::write_atomic(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, self).map_err(|error| Error::io("write", &path, error.into()))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))
        })
    }

    /// What a model folder says; `A` and `B` when it says nothing.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::invalid_data(format!("`{}` does not say how pairs are read", path.display())).with_source(error)
        })
    }
}

/// P(first is better) from the log-probabilities of the two replies: the softmax over the two.
pub fn p_first(first: f64, second: f64) -> f64 {
    1.0 / (1.0 + (second - first).exp())
}

/// P(A ≻ B) from what the model said with A first, and with B first.
pub fn both_orders(p_a_first: f64, p_b_first: f64) -> f64 {
    0.5 * (p_a_first + 1.0 - p_b_first)
}

/// Two answers to one instruction.
#[derive(Debug, Clone, Copy)]
pub struct AnswerPair<'a> {
    /// What was asked.
    pub instruction: &'a Instruction,
    /// One answer.
    pub first: &'a str,
    /// The other.
    pub second: &'a str,
}

/// A preference model that is loaded.
#[derive(Debug)]
pub struct PairReader {
    codec: TextCodec,
    model: LanguageModel,
    reading: PairReading,
    micro: MicroBatching,
}

impl PairReader {
    /// Loads the model.
    ///
    /// # Errors
    /// When a file is missing or broken.
    pub fn load(
        checkpoint: &Checkpoint,
        prompt: Option<PromptFormat>,
        max_batch_tokens: Option<usize>,
        ctx: &BuildContext<'_>,
    ) -> Result<Self> {
        let codec = TextCodec::load(checkpoint, prompt)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        let reading = PairReading::load(checkpoint.path())?;
        let micro = MicroBatching::new(BatchLayout::Packed, max_batch_tokens, None, model.device());
        Ok(Self { codec, model, reading, micro })
    }

    /// P(first is better) of each pair, in [0, 1], asked in both orders. It does not depend on the other pairs.
    ///
    /// # Errors
    /// When a question is longer than the model's context, a number is not finite, or on cancellation.
    pub fn probabilities(&self, pairs: &[AnswerPair<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let mut questions = Vec::with_capacity(2 * pairs.len());
        for AnswerPair { instruction, first, second } in pairs {
            for (first, second) in [(first, second), (second, first)] {
                let texts = self.reading.encode(&self.codec, instruction, first, second)?;
                let (length, context) = (texts[0].ids.len(), self.model.config().max_positions());
                if length > context {
                    let message = format!(
                        "instruction `{}` with two answers has {length} tokens, the model's context is {context}",
                        instruction.id
                    );
                    return Err(Error::invalid_data(message).with_hint("use a preference model with a longer context"));
                }
                questions.push(texts);
            }
        }
        let all: Vec<usize> = (0..questions.len()).collect();
        let mut said = vec![0.0; questions.len()];
        let mut progress = ctx.progress("comparing", Some(questions.len() as u64), "questions");
        for rows in self.micro.groups_of(&all, |i| &questions[i]) {
            ctx.cancel.check()?;
            let texts: Vec<&EncodedText> = rows.iter().flat_map(|&row| &questions[row]).collect();
            let batch = TokenBatch::new(&texts, self.micro.layout, self.model.device())?;
            let sums = sequence_sums(&selected_log_probs_no_grad(&self.model, &batch).0, &batch);
            let values = Vec::<f64>::try_from(sums.to_kind(Kind::Double).to_device(tch::Device::Cpu))
                .map_err(|error| Error::other(error.to_string()))?;
            for (&row, replies) in rows.iter().zip(values.chunks(2)) {
                said[row] = p_first(replies[0], replies[1]);
                if !said[row].is_finite() {
                    let id = &pairs[row / 2].instruction.id;
                    return Err(Error::non_finite(format!("the preference between two answers to instruction `{id}`"))
                        .with_hint("the model diverged in training, or its checkpoint is broken"));
                }
            }
            progress.advance(rows.len() as u64);
        }
        Ok(said.chunks(2).map(|orders| both_orders(orders[0], orders[1])).collect())
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Role;
    use farmhand_core::{Device, NoEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn both_orders_are_averaged() {
        assert!((both_orders(0.8, 0.3) - 0.75).abs() < 1e-12);
        assert!((p_first(0.3, 0.3) - 0.5).abs() < 1e-12);
        assert!((p_first(-1.0, -1.0 - 4.0_f64.ln()) - 0.8).abs() < 1e-12);
        assert_eq!((p_first(0.0, -2e3), p_first(-2e3, 0.0)), (1.0, 0.0));
    }

    #[test]
    fn the_question_shows_the_conversation_and_both_answers() {
        let history = vec![Message { role: Role::User, content: "Hi.".to_owned() }];
        let asked = Instruction::with_history("Count.", Some("to two"), history);
        let question = PairReading::default().question(&asked, "1 2", "two");
        assert_eq!(question.instruction, "[CONTEXT] user: Hi.\nCount.\n\nto two\n[RESPONSE A] 1 2\n[RESPONSE B] two");
    }

    #[test]
    fn a_preference_is_antisymmetric_and_does_not_depend_on_the_other_pairs() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let build = BuildContext::new(Device::Cpu, stage.path());
        let reader = PairReader::load(&checkpoint, None, Some(100), &build).expect("loaded");
        let asked = instructions(3);
        let pair = |i: usize, first, second| AnswerPair { instruction: &asked[i], first, second };
        let pairs = [pair(0, "yes", "no"), pair(1, "one two three", "four"), pair(2, "yes", "yes"), pair(0, "no", "yes")];
        let together = reader.probabilities(&pairs, &ctx).expect("read");
        assert!((together[0] + together[3] - 1.0).abs() < 1e-6 && (together[2] - 0.5).abs() < 1e-6, "{together:?}");
        let alone = reader.probabilities(&pairs[1..2], &ctx).expect("read");
        assert!((alone[0] - together[1]).abs() < 1e-6);
        let long = "one two three four five six ".repeat(20);
        let error = reader.probabilities(&[pair(0, &long, "no")], &ctx).expect_err("too long");
        assert!(error.message().contains("the model's context is 96"), "{error}");
    }

    #[test]
    fn replies_that_are_not_one_token_are_refused() {
        let stage = Stage::new();
        let codec = TextCodec::load(&tiny_checkpoint(&stage), None).expect("a codec");
        for labels in [["Absolutely", "B"], ["A", "A"]] {
            let reading = PairReading { labels: labels.map(str::to_owned) };
            let error = reading.encode(&codec, &instructions(1)[0], "yes", "no").expect_err("not one token");
            assert!(error.message().contains("not one token each"), "{error}");
        }
    }
}
