//! The loss of Quark: imitation, the exact divergence from the reference, and entropy.

use farmhand_core::{Result, Seed};
use farmhand_models::{EncodedText, LanguageModel, native};
use tch::{Kind, Tensor, no_grad};

use super::config::{KlDirection, QuarkConfig};
use super::exploration::{Bins, Prompts};
use super::{TrainedBins, config};
use crate::rl::full_distribution::{entropy, kl_divergence, log_distributions};
use crate::rl::reduction::{Reduction, StepTotals};
use crate::training::{Record, record_batch};

/// Logits in one chunk; a chunk's whole graph exists at once, several tensors of this size.
const CHUNK_LOGITS: usize = 1 << 23;

/// The answers of an optimiser step: for the policy behind their controls, for the reference behind the plain prompt.
pub(super) struct StepRecords {
    pub(super) policy: Vec<Record>,
    reference: Vec<Record>,
}

impl StepRecords {
    pub(super) fn new(drawn: &[(usize, usize)], bins: &Bins, prompts: &[Prompts], config: &QuarkConfig) -> Self {
        let record = |&(place, bin): &(usize, usize), conditioned: bool| {
            let answer = &bins.pool[place];
            let prompts = &prompts[answer.prompt];
            let prompt = if conditioned { &prompts.of_bins[bin] } else { &prompts.plain };
            let ids = [prompt.as_slice(), &answer.tokens].concat();
            Record { index: place, ..Record::new(&prompts.id, [EncodedText { ids, response_start: prompt.len() }]) }
        };
        let conditioned = config.train_on == TrainedBins::AllConditioned;
        Self {
            policy: drawn.iter().map(|drawn| record(drawn, conditioned)).collect(),
            reference: drawn.iter().map(|drawn| record(drawn, false)).collect(),
        }
    }

    /// The tokens that the policy is trained on and passes over.
    pub(super) fn n_tokens(&self) -> usize {
        self.policy.iter().map(Record::n_tokens).sum()
    }
}

/// What a step's answers tell; `loss` reduced as the options say, the others means over tokens, in nats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) loss: f64,
    pub(super) nll: f64,
    pub(super) kl: f64,
    pub(super) entropy: f64,
}

/// Adds the gradient of a step's loss to the policy, micro-batch by micro-batch.
pub(super) fn accumulate(
    policy: &LanguageModel,
    reference: &LanguageModel,
    records: &StepRecords,
    config: &QuarkConfig,
    seed: Seed,
) -> Result<Terms> {
    let all: Vec<usize> = (0..records.policy.len()).collect();
    let lengths: Vec<usize> = records.policy.iter().map(|record| record.texts[0].response().len()).collect();
    let totals = StepTotals::of(&lengths).with_width(config.max_new_tokens as usize);
    let (device, layout) = (policy.device(), config.passes.layout);
    // Loss, then sums of the three terms over tokens; read once, for a look makes the host wait for the device.
    let mut sums = Tensor::zeros([4], (Kind::Double, device));
    for rows in config.passes.micro_batching(device).groups(&records.policy, &all) {
        let batch = record_batch(&records.policy, &rows, layout, device, Some(seed))?;
        let plain = record_batch(&records.reference, &rows, layout, device, None)?;
        let weights = Reduction::token_weights(config.reduction, &batch.response_lengths(), totals, Kind::Float, device);
        let hidden = policy.hidden(&batch).index_select(0, &batch.predict_rows);
        let reference_hidden = no_grad(|| reference.hidden(&plain).index_select(0, &plain.predict_rows));
        // The gradient goes in two steps, so that the logits of few positions exist at a time: from the losses to the hidden states
        // (and the output head), then through the body.
        let leaf = hidden.detach().set_requires_grad(true);
        let chunk = (CHUNK_LOGITS / policy.config().vocab_size().max(1)).max(1) as i64;
        let n = batch.n_response_tokens() as i64;
        for start in (0..n).step_by(chunk as usize) {
            let part = |tensor: &Tensor| tensor.narrow(0, start, chunk.min(n - start));
            let log_p = log_distributions(&policy.logits(&part(&leaf)));
            let log_ref = no_grad(|| log_distributions(&reference.logits(&part(&reference_hidden))));
            let terms = TokenTerms::new(&log_p, &log_ref, &part(&batch.targets), config.kl_direction);
            let loss = (terms.losses(config.kl_weight, config.entropy_weight) * part(&weights)).sum(Kind::Float);
            farmhand_models::backward(&loss);
            let numbers = [&loss, &terms.nll, &terms.kl, &terms.entropy];
            sums += Tensor::stack(&numbers.map(|numbers| numbers.detach().sum(Kind::Double)), 0);
        }
        if hidden.requires_grad() {
            native::backward(&[&hidden], &[&leaf.grad().to_kind(hidden.kind())]);
        }
    }
    let [loss, nll, kl, entropy] = [0, 1, 2, 3].map(|i| sums.double_value(&[i]));
    let n = totals.n_tokens.max(1) as f64;
    Ok(Terms { loss, nll: nll / n, kl: kl / n, entropy: entropy / n })
}

/// The three terms of each token, `[n]`, in nats.
struct TokenTerms {
    nll: Tensor,
    kl: Tensor,
    entropy: Tensor,
}

impl TokenTerms {
    /// `log_p` and `log_ref` are `[n, v]`, `targets` `[n]` the answer's tokens.
    fn new(log_p: &Tensor, log_ref: &Tensor, targets: &Tensor, direction: config::KlDirection) -> Self {
        let kl = match direction {
            KlDirection::FromPolicy => kl_divergence(log_p, log_ref),
            KlDirection::FromReference => kl_divergence(log_ref, log_p),
        };
        let nll = -log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        Self { nll, kl, entropy: entropy(log_p) }
    }

    /// `−log π(y_t) + β KL_t − α H_t`.
    fn losses(&self, kl_weight: f64, entropy_weight: f64) -> Tensor {
        &self.nll + &self.kl * kl_weight - &self.entropy * entropy_weight
    }
}

#[cfg(test)]
mod tests {
    use farmhand_models::{BatchLayout, TextCodec};

    use super::*;
    use crate::learners::quark::exploration::Explored;
    use crate::testing::{SPLITS, Stage, assert_same_gradients, lively_checkpoint, take_gradients, tiny_checkpoint};
    use crate::training::{PassOptions, TrainOptions, imitation_step};

    fn distributions(logits: &[f64]) -> Tensor {
        log_distributions(&Tensor::from_slice(logits).unsqueeze(0))
    }

    #[test]
    fn the_loss_of_a_token_matches_the_goldens_of_code_and_paper() {
        let (policy, reference) = (distributions(&[1.0, 0.0, -1.0]), distributions(&[0.5, 0.5, -1.0]));
        let loss = |direction, entropy_weight| {
            let terms = TokenTerms::new(&policy, &reference, &Tensor::from_slice(&[0i64]), direction);
            terms.losses(0.05, entropy_weight).double_value(&[0])
        };
        assert!((loss(KlDirection::FromPolicy, 0.06) - 0.362_741).abs() < 1e-6);
        assert!((loss(KlDirection::FromReference, 0.0) - 0.413_040).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_of_a_token_is_that_of_finite_differences() {
        let (logits, reference) = ([1.0, 0.0, -1.0, 0.4], distributions(&[0.5, 0.5, -1.0, 0.0]));
        for direction in [KlDirection::FromPolicy, KlDirection::FromReference] {
            let loss = |log_p: &Tensor| {
                TokenTerms::new(log_p, &reference, &Tensor::from_slice(&[2i64]), direction).losses(0.3, 0.2).sum(Kind::Double)
            };
            let leaf = Tensor::from_slice(&logits).set_requires_grad(true);
            loss(&log_distributions(&leaf.unsqueeze(0))).backward();
            for i in 0..4 {
                let at = |step: f64| {
                    let mut moved = logits;
                    moved[i] += step;
                    loss(&distributions(&moved)).double_value(&[])
                };
                let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((leaf.grad().double_value(&[i as i64]) - expected).abs() < 1e-8, "{direction:?}");
            }
        }
    }

    /// Answers of two bins to two instructions, of unequal length.
    fn fixture(config: &QuarkConfig) -> (Stage, LanguageModel, LanguageModel, StepRecords) {
        let stage = Stage::new();
        let load =
            |checkpoint: &farmhand_core::Checkpoint| LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        let (policy, reference) = (load(&lively_checkpoint(&stage)), load(&tiny_checkpoint(&stage)));
        policy.set_trainable(true);
        let codec = TextCodec::load(&tiny_checkpoint(&stage), None).expect("a codec");
        let ids = |text: &str| codec.tokenizer.encode(text).expect("encoded");
        let prompts: Vec<Prompts> = ["one", "two three"]
            .map(|text| Prompts::for_test(text, vec![ids(&format!("good {text}")), ids(&format!("bad {text}"))], ids(text)))
            .into();
        let answers = ["yes", "the cat sat", "no", "one two three four", "a good answer", "bad"];
        let explored = |(i, text): (usize, &&str)| Explored {
            prompt: i % 2,
            output: (*text).to_owned(),
            tokens: ids(text),
            ended: false,
            score: i as f64,
        };
        let config = QuarkConfig { bins: 2, ..config.clone() };
        let bins = Bins::with(None, answers.iter().enumerate().map(explored).collect(), &config).expect("they differ");
        let drawn: Vec<(usize, usize)> = (0..6).map(|place| (place, usize::from(place < 3))).collect();
        let records = StepRecords::new(&drawn, &bins, &prompts, &config);
        (stage, policy, reference, records)
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        for (reduction, train_on) in
            [(Reduction::TokenMean, TrainedBins::AllConditioned), (Reduction::FixedNorm, TrainedBins::BestPlain)]
        {
            let base = QuarkConfig { reduction, train_on, kl_weight: 0.3, ..QuarkConfig::default() };
            let (_stage, policy, reference, records) = fixture(&base);
            let run = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                let config = QuarkConfig { passes, ..base.clone() };
                let terms = accumulate(&policy, &reference, &records, &config, Seed::root(0)).expect("run");
                (terms, take_gradients(policy.parameters()))
            };
            let (terms, expected) = run(BatchLayout::Padded, 8, 4096);
            assert!(terms.kl > 0.01 && terms.entropy > 0.1 && terms.nll > 0.1, "{terms:?}");
            for (layout, size, tokens) in SPLITS {
                let (same, gradients) = run(layout, size, tokens);
                assert!((same.loss - terms.loss).abs() < 1e-5 * terms.loss.abs().max(1.0), "{same:?} {terms:?}");
                assert_same_gradients(&gradients, &expected, 2e-6);
            }
        }
    }

    #[test]
    fn controls_reach_the_policy_alone_and_receive_no_loss() {
        let (_stage, policy, _, records) = fixture(&QuarkConfig::default());
        for (own, plain) in records.policy.iter().zip(&records.reference) {
            assert_eq!(own.texts[0].response(), plain.texts[0].response());
            assert_ne!(own.texts[0].prompt(), plain.texts[0].prompt());
        }
        // Where no control is written, policy and reference read the same, and the divergence of a model from itself is 0.
        let plain = QuarkConfig { train_on: TrainedBins::BestPlain, ..QuarkConfig::default() };
        let (.., records) = fixture(&plain);
        let terms = accumulate(&policy, &policy, &records, &plain, Seed::root(0)).expect("run");
        assert!(terms.kl.abs() < 1e-6, "{terms:?}");
    }

    #[test]
    fn without_controls_divergence_and_entropy_it_is_imitation() {
        let config = QuarkConfig {
            train_on: TrainedBins::BestPlain,
            kl_weight: 0.0,
            entropy_weight: 0.0,
            reduction: Reduction::TokenMean,
            ..QuarkConfig::default()
        };
        let (_stage, policy, reference, records) = fixture(&config);
        let loss = accumulate(&policy, &reference, &records, &config, Seed::root(0)).expect("run").loss;
        let gradients = take_gradients(policy.parameters());
        let (all, options): (Vec<usize>, _) = ((0..records.policy.len()).collect(), TrainOptions::default());
        let imitated =
            imitation_step(&policy, &records.policy, None, &all, Reduction::TokenMean, &options, Seed::root(0)).expect("run");
        assert!((loss - imitated).abs() < 1e-5, "{loss} and {imitated}");
        assert_same_gradients(&take_gradients(policy.parameters()), &gradients, 1e-5);
    }
}
