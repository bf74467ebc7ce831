//! Direct preference optimisation: fits the policy to preference pairs without a reward model.
//!
//! Rafailov et al. 2023, <https://arxiv.org/abs/2305.18290>, equation 7: `−ln σ(β h)` with
//! `h = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)]`, log-probabilities summed over the response
//! and its end-of-sequence token. The other losses on the same log-ratios are links, see [`PairwiseLink`].
//!
//! The reference's log-probabilities are computed once, before training, and kept with the stage's state. With the policy
//! at the reference the logistic loss is ln 2.

use std::time::Instant;

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{
    AdamW, Ending, LanguageModel, OptimConfig, PromptFormat, StepPlan, TextCodec, TokenBatch, load_train_state, micro_batches,
    save_checkpoint, save_train_state, selected_log_probs, selected_log_probs_no_grad, sequence_sums, tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rl::pairwise::{LengthScale, LogRatios, PairwiseLink};
use crate::rl::reduction::{Reduction, StepTotals};
use crate::training::{Ranges, Record, TokenLimit, admit, ids_of};

register! {
    kind: Learner, name: "dpo", config: DpoConfig,
    summary: "direct preference optimisation and the other losses on pairwise log-ratios", paper: "https://arxiv.org/abs/2305.18290",
}

/// Options of `[learner.dpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Count the reference's log-probabilities as 0.
    pub reference_free: bool,
    /// Weight of the chosen answers' negative log-likelihood added to the loss, ≥ 0.
    pub nll_weight: f64,
    /// How that likelihood becomes one number per step; only with `nll_weight` above 0.
    pub nll_reduction: Reduction,
    /// Passes over the pairs, ≥ 1.
    pub epochs: u32,
    /// Pairs per optimiser step, ≥ 1.
    pub batch_size: usize,
    /// Longest prompt and answer together, in tokens; pairs with a longer side are left out and counted. Never more than the
    /// model's context.
    pub max_tokens: usize,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Pairs per forward pass at most, ≥ 1. Changes speed and memory, not the result.
    pub micro_batch_size: usize,
    /// Tokens per forward pass at most, padding included, ≥ 1. Changes speed and memory, not the result.
    pub micro_batch_tokens: usize,
    /// Steps between saved states, ≥ 1.
    pub save_every: u64,
    /// Steps between evaluations on the held-out pairs, ≥ 1; the last step always evaluates.
    pub validate_every: u64,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            link: PairwiseLink::Logistic,
            reference_free: false,
            nll_weight: 0.0,
            nll_reduction: Reduction::TokenMean,
            epochs: 2,
            batch_size: 64,
            max_tokens: 512,
            prompt: None,
            micro_batch_size: 16,
            micro_batch_tokens: 4096,
            save_every: 50,
            validate_every: 50,
            optim: OptimConfig { lr: 1e-6, ..OptimConfig::default() },
        }
    }
}

#[typetag::serde(name = "dpo")]
impl LearnerConfig for DpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Dpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = self.nll_weight == 0.0 && self.nll_reduction != Reduction::default();
        Ranges::new()
            .positive("beta", self.beta)
            .nested("link", self.link.problems())
            .not_negative("nll_weight", self.nll_weight)
            .require("nll_reduction", !unused, "`nll_weight` > 0 when it is set", "`nll_weight = 0`")
            .at_least_one("epochs", self.epochs as usize)
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("max_tokens", self.max_tokens)
            .at_least_one("micro_batch_size", self.micro_batch_size)
            .at_least_one("micro_batch_tokens", self.micro_batch_tokens)
            .at_least_one("save_every", self.save_every as usize)
            .at_least_one("validate_every", self.validate_every as usize)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

struct Dpo(DpoConfig);

impl Learner for Dpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let device = tch_device(ctx.device)?;
        let codec = TextCodec::load(inputs.init, config.prompt)?;
        let policy = LanguageModel::load(inputs.init.path(), device)?;

        let limit = TokenLimit { option: "max_tokens", max_tokens: config.max_tokens, context: policy.config().max_positions() };
        let encode = |pair: &PreferencePair| -> Result<Record<2>> {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos);
            let texts = [side(&pair.chosen)?, side(&pair.rejected)?];
            Ok(Record { margin: pair.margin.unwrap_or(0.0), ..Record::new(&pair.instruction.id, texts) })
        };
        let train = admit(inputs.feedback.preferences()?, "preference pairs", limit, true, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
            Some(pairs) if !pairs.is_empty() => admit(pairs, "held-out preference pairs", limit, true, ctx, encode)?,
            _ => Vec::new(),
        };

        let (train, held_out) = {
            // The policy has not moved yet, so without another reference it is the reference.
            let other = inputs.reference.map(|checkpoint| LanguageModel::load(checkpoint.path(), device)).transpose()?;
            let reference = other.as_ref().unwrap_or(&policy);
            let pairs = |records, name| Pairs::new(records, name, reference, &codec, config, ctx);
            (pairs(train, "reference_log_probs.jsonl")?, pairs(held_out, "held_out_reference_log_probs.jsonl")?)
        };
        policy.set_trainable(true);

        let plan = StepPlan::new(train.records.len(), config.batch_size, u64::from(config.epochs), ctx.seed.child("order", 0));
        let mut optim = AdamW::new(policy.parameters(), &config.optim, plan.n_steps());
        let resumed = load_train_state(ctx, &[("policy", policy.parameters())], &mut [("policy", &mut optim)])?;
        let start = resumed.map_or(0, |(step, _)| step);
        let mut progress = ctx.progress("preference optimisation", Some(plan.n_steps()), "steps");
        progress.advance(start);

        for step in start..plan.n_steps() {
            let cancelled = ctx.cancel.is_cancelled();
            if cancelled || (step > start && step % config.save_every == 0) {
                save_train_state(ctx, step, &[("policy", policy.parameters())], &[("policy", &optim)], &serde_json::Value::Null)?;
            }
            if cancelled {
                return Err(Error::cancelled());
            }

            let started = Instant::now();
            let picked = plan.items(step);
            let pass = run_pairs(&policy, &codec, &train, picked, config, true)?;
            let place = || format!("step {step}, preference pairs {}", ids_of(&train.records, picked));
            if !pass.loss.is_finite() {
                return Err(Error::non_finite(format!("the loss is {} at {}", pass.loss, place())).with_hint("lower `optim.lr`"));
            }
            let report = optim.step().map_err(|error| error.context(place()))?;

            ctx.scalar("dpo/loss", step, pass.loss);
            ctx.scalar("dpo/margin", step, pass.margin);
            ctx.scalar("dpo/accuracy", step, pass.accuracy);
            ctx.scalar("dpo/chosen_log_ratio", step, pass.chosen);
            ctx.scalar("dpo/rejected_log_ratio", step, pass.rejected);
            if config.nll_weight > 0.0 {
                ctx.scalar("dpo/nll", step, pass.nll);
            }
            ctx.scalar("dpo/grad_norm", step, report.grad_norm);
            ctx.scalar("dpo/lr", step, report.lr);
            let n_tokens: usize = picked.iter().map(|&i| train.records[i].n_tokens()).sum();
            ctx.scalar("dpo/tokens_per_sec", step, n_tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
            let last = step + 1 == plan.n_steps();
            if !held_out.records.is_empty() && (last || (step + 1) % config.validate_every == 0) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = run_pairs(&policy, &codec, &held_out, &all, config, false)?;
                ctx.scalar("dpo/validation_loss", step, pass.loss);
                ctx.scalar("dpo/validation_accuracy", step, pass.accuracy);
                ctx.scalar("dpo/validation_margin", step, pass.margin);
            }
            progress.advance(1);
        }
        save_checkpoint(&policy, &codec, "dpo", ctx)
    }
}

/// Pairs with the log-probabilities of the frozen reference.
struct Pairs {
    records: Vec<Record<2>>,
    /// Sums over the chosen and the rejected answer's tokens, in nats, one entry a record.
    reference: Vec<[f32; 2]>,
}

/// One line of the journal of reference log-probabilities: a pair's index and its two sums.
#[derive(Serialize, Deserialize)]
struct ReferenceLine(usize, [f32; 2]);

impl Pairs {
    /// Computes what the journal `name` of an interrupted run does not hold yet; zeros when the loss is reference-free.
    fn new(
        records: Vec<Record<2>>,
        name: &str,
        reference: &LanguageModel,
        codec: &TextCodec,
        config: &DpoConfig,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let mut sums = vec![[0.0; 2]; records.len()];
        if config.reference_free || records.is_empty() {
            return Ok(Self { records, reference: sums });
        }
        let (mut journal, lines) = ctx.stage.journal::<ReferenceLine>(name)?;
        let mut known = vec![false; records.len()];
        for ReferenceLine(i, values) in lines {
            let place = sums.get_mut(i).ok_or_else(|| {
                Error::invalid_data(format!("`{}` belongs to other pairs", journal.path().display())).with_hint("remove it")
            })?;
            (*place, known[i]) = (values, true);
        }
        let mut progress = ctx.progress("reference log-probabilities", Some(records.len() as u64), "pairs");
        for rows in micro_batches(&pair_lengths(&records), config.micro_batch_tokens, config.micro_batch_size) {
            progress.advance(rows.len() as u64);
            if rows.iter().all(|&row| known[row]) {
                continue;
            }
            ctx.cancel.check()?;
            let batch = batch_of(&records, &rows, codec, reference.device())?;
            let (log_probs, _) = selected_log_probs_no_grad(reference, &batch);
            let totals =
                Vec::<f32>::try_from(sequence_sums(&log_probs, &batch)).map_err(|error| Error::other(error.to_string()))?;
            let lines: Vec<_> =
                rows.iter().enumerate().map(|(j, &i)| ReferenceLine(i, [totals[j], totals[rows.len() + j]])).collect();
            if lines.iter().any(|line| line.1.iter().any(|value| !value.is_finite())) {
                let message =
                    format!("a reference log-probability is not finite, in preference pairs {}", ids_of(&records, &rows));
                return Err(Error::non_finite(message).with_hint("the reference model is broken"));
            }
            for ReferenceLine(i, values) in &lines {
                sums[*i] = *values;
            }
            journal.append(&lines)?;
        }
        Ok(Self { records, reference: sums })
    }
}

/// What some pairs tell; means over the pairs, log-ratios in nats.
#[derive(Default)]
struct Pass {
    loss: f64,
    /// β times the difference of the log-ratios: the implicit reward margin.
    margin: f64,
    /// Share of pairs with a positive margin; a margin of 0 counts half.
    accuracy: f64,
    chosen: f64,
    rejected: f64,
    nll: f64,
}

/// Runs the picked pairs through the policy, micro-batch by micro-batch; with `train`, adds the gradient of their loss.
fn run_pairs(
    policy: &LanguageModel,
    codec: &TextCodec,
    pairs: &Pairs,
    picked: &[usize],
    config: &DpoConfig,
    train: bool,
) -> Result<Pass> {
    let n = picked.len() as f64;
    let chosen_lengths: Vec<usize> = picked.iter().map(|&i| pairs.records[i].texts[0].response().len()).collect();
    let totals = StepTotals::of(&chosen_lengths).with_width(config.max_tokens);
    let mut pass = Pass::default();
    let lengths: Vec<usize> = picked.iter().map(|&i| 2 * pairs.records[i].longest()).collect();
    for rows in micro_batches(&lengths, config.micro_batch_tokens, config.micro_batch_size) {
        let rows: Vec<usize> = rows.into_iter().map(|row| picked[row]).collect();
        let batch = batch_of(&pairs.records, &rows, codec, policy.device())?;
        let selected = train.then(|| selected_log_probs(policy, &batch));
        let values = match &selected {
            Some(selected) => selected.values.shallow_clone(),
            None => selected_log_probs_no_grad(policy, &batch).0,
        };
        let ratios = log_ratios(&sequence_sums(&values, &batch), &batch.response_lengths(), pairs, &rows);
        let mut loss = config.link.losses(&ratios, config.beta).sum(Kind::Float) / n;
        if config.nll_weight > 0.0 {
            let lengths = &batch.response_lengths()[..rows.len()];
            let chosen = values.narrow(0, 0, lengths.iter().sum::<usize>() as i64);
            let nll = config.nll_reduction.reduce(&-chosen, lengths, totals);
            pass.nll += nll.double_value(&[]);
            loss += nll * config.nll_weight;
        }
        pass.loss += loss.double_value(&[]);
        let mean = |values: &Tensor| values.detach().sum(Kind::Double).double_value(&[]) / n;
        let margin = ratios.margin(LengthScale::Sum);
        pass.margin += config.beta * mean(&margin);
        pass.accuracy += mean(&((margin.sign() + 1.0) * 0.5));
        pass.chosen += mean(&ratios.chosen);
        pass.rejected += mean(&ratios.rejected);
        if let Some(selected) = selected {
            selected.backward(&loss);
        }
    }
    Ok(pass)
}

/// The log-ratios to the reference from the policy's sums `[2 · pairs]` and token counts, chosen answers first.
fn log_ratios(sums: &Tensor, lengths: &[usize], pairs: &Pairs, rows: &[usize]) -> LogRatios {
    let n = rows.len() as i64;
    let half = |side: usize| {
        let reference: Vec<f32> = rows.iter().map(|&i| pairs.reference[i][side]).collect();
        let lengths: Vec<f32> = lengths[side * rows.len()..][..rows.len()].iter().map(|&length| length as f32).collect();
        let on_device = |values: &[f32]| Tensor::from_slice(values).to_device(sums.device());
        (sums.narrow(0, side as i64 * n, n) - on_device(&reference), on_device(&lengths))
    };
    let ((chosen, chosen_lengths), (rejected, rejected_lengths)) = (half(0), half(1));
    LogRatios { chosen, rejected, chosen_lengths, rejected_lengths }
}

/// The two texts of some pairs in one batch: all chosen answers, then all rejected ones.
fn batch_of(records: &[Record<2>], rows: &[usize], codec: &TextCodec, device: tch::Device) -> Result<TokenBatch> {
    let side = |side: usize| rows.iter().map(move |&i| &records[i].texts[side]);
    let texts: Vec<_> = side(0).chain(side(1)).collect();
    TokenBatch::new(&texts, codec.tokenizer.pad_id(), device)
}

/// Tokens a pair takes in a forward pass: two rows as long as its longer side.
fn pair_lengths(records: &[Record<2>]) -> Vec<usize> {
    records.iter().map(|record| 2 * record.longest()).collect()
}
