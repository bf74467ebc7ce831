//! What learners on preference pairs share: pairs as records, and a pass that adds the loss of each pair and, where a method has
//! it, the negative log-likelihood of one of its texts. A pair's first text is the chosen answer, its second one the rejected.

use std::path::Path;

use farmhand_core::types::PreferencePair;
use farmhand_core::{LearnerInputs, Result, RunContext, Seed};
use farmhand_models::{BatchLayout, EncodedText, Ending, TextCodec};
use tch::{Kind, Tensor};

use super::learner_options::TrainOptions;
use super::records::{Record, admit};
use super::reference::Reference;
use super::text_pass::{TextLogProbs, TextPass};
use crate::rl::pairwise::LogRatios;
use crate::rl::reduction::{Reduction, StepTotals};

/// The pairs to learn from and the held-out ones, encoded; the second list is empty when there are none. `context` is the
/// model's.
///
/// # Errors
/// When the feedback is of another kind, a pair cannot be encoded, or none is left.
pub fn admit_pairs(
    inputs: &LearnerInputs<'_>,
    codec: &TextCodec,
    options: &TrainOptions,
    context: usize,
    ctx: &RunContext<'_>,
) -> Result<[Vec<Record>; 2]> {
    let limit = options.token_limit(context);
    let encode = |pair: &PreferencePair| -> Result<Record> {
        let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos);
        let texts = [side(&pair.chosen)?, side(&pair.rejected)?];
        Ok(Record { margin: pair.margin.unwrap_or(0.0), ..Record::new(&pair.instruction.id, texts) })
    };
    let train = admit(inputs.feedback.preferences()?, "preference pairs", limit, true, ctx, encode)?;
    let held_out = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
        Some(pairs) if !pairs.is_empty() => admit(pairs, "held-out preference pairs", limit, true, ctx, encode)?,
        _ => Vec::new(),
    };
    Ok([train, held_out])
}

/// The negative log-likelihood of one text of each record, added to a loss.
#[derive(Debug, Clone, Copy)]
pub struct TextNll {
    /// Its weight, ≥ 0; 0 leaves it out.
    pub weight: f64,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Which text of a record; 0 is the chosen answer.
    pub text: usize,
    /// The longest text allowed, in tokens; only the reduction `fixed_norm` uses it.
    pub max_tokens: usize,
}

impl TextNll {
    /// Of the chosen answers.
    pub fn of_chosen(weight: f64, reduction: Reduction, options: &TrainOptions) -> Self {
        Self { weight, reduction, text: 0, max_tokens: options.max_tokens }
    }

    /// None at all.
    pub fn off() -> Self {
        Self { weight: 0.0, reduction: Reduction::TokenMean, text: 0, max_tokens: 0 }
    }
}

/// What some pairs tell.
#[derive(Debug, Clone, Copy)]
pub struct PairPass<const N: usize> {
    /// The mean loss of the pairs and the weighted negative log-likelihood together.
    pub loss: f64,
    /// The negative log-likelihood, in nats, without its weight; 0 when it is left out.
    pub nll: f64,
    /// Means over the pairs of what the closure gave, the pairs' own loss first.
    pub means: [f64; N],
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. `losses` gives
/// the loss of each pair and other numbers to be averaged, each `[pairs]`.
///
/// # Errors
/// When a batch cannot be made.
pub fn run_pairs<const N: usize>(
    pass: &TextPass<'_>,
    picked: &[usize],
    nll: TextNll,
    train: Option<Seed>,
    losses: impl Fn(&TextLogProbs) -> [Tensor; N],
) -> Result<PairPass<N>> {
    let n = picked.len() as f64;
    let lengths: Vec<usize> = picked.iter().map(|&i| pass.records[i].texts[nll.text].response().len()).collect();
    let totals = StepTotals::of(&lengths).with_width(nll.max_tokens);
    let (loss, means) = pass.run(picked, train, |texts| {
        let numbers = losses(texts);
        let mut loss = numbers[0].sum(Kind::Float) / n;
        if nll.weight > 0.0 {
            // The weight of each token in the step's likelihood; 0 for those of other texts.
            let weights = texts.of_tokens(|i, _| match texts.places[i].1 == nll.text {
                true => nll.weight * nll.reduction.token_weight(texts.lengths[i], totals),
                false => 0.0,
            });
            loss -= (&texts.tokens * weights).sum(Kind::Float);
        }
        (loss, numbers.map(|numbers| numbers.detach().sum(Kind::Double) / n))
    })?;
    let nll = if nll.weight > 0.0 { (loss - means[0]) / nll.weight } else { 0.0 };
    Ok(PairPass { loss, nll, means })
}

/// Differences in favour of the chosen answers `[pairs]` as what users look at: themselves, and 1 where they are positive, 0 where
/// they are negative, ½ where they are 0.
pub fn margin_and_accuracy(differences: &Tensor) -> [Tensor; 2] {
    let margin = differences.detach();
    let accuracy = (margin.sign() + 1.0) * 0.5;
    [margin, accuracy]
}

/// The log-probability of each text, `[texts]`, in which tokens past the length of the pair's shorter answer count `ld_alpha`, in
/// [0, 1]: LD-DPO (Liu et al. 2024, <https://arxiv.org/abs/2409.06411>).
pub fn discounted_sums(texts: &TextLogProbs, records: &[Record], ld_alpha: f64) -> Tensor {
    if ld_alpha == 1.0 {
        return texts.sums();
    }
    let weights = texts.of_tokens(|i, token| if token < shared_length(&records[texts.places[i].0]) { 1.0 } else { ld_alpha });
    texts.sums_of(&(&texts.tokens * weights))
}

/// The reference's counterpart of [`discounted_sums`]: for each record one number a text, in nats. `cache_dir` as in
/// [`Reference::sums`].
///
/// # Errors
/// As [`Reference::sums`].
pub fn reference_sums(
    records: &[Record],
    reference: &mut Reference<'_>,
    ld_alpha: f64,
    layout: BatchLayout,
    cache_dir: Option<&Path>,
    ctx: &RunContext<'_>,
) -> Result<Vec<Vec<f32>>> {
    let mut sums = reference.sums(records, 1.0, layout, cache_dir, ctx)?;
    if ld_alpha < 1.0 {
        // A model that reads from left to right says the same of an answer's start whether it goes on or not.
        let starts: Vec<Record> = records.iter().map(shared_starts).collect();
        let starts = reference.sums(&starts, 1.0, layout, cache_dir, ctx)?;
        for (whole, start) in sums.iter_mut().flatten().zip(starts.into_iter().flatten()) {
            *whole = start + ld_alpha as f32 * (*whole - start);
        }
    }
    Ok(sums)
}

/// The log-ratios of pairs to a reference, from the log-probability of each text `[texts]` and the reference's, one entry a record.
/// A pair's gap is its record's margin.
pub fn pair_log_ratios(texts: &TextLogProbs, sums: &Tensor, records: &[Record], reference: &[Vec<f32>]) -> LogRatios {
    let reference = texts.of_texts(|i| f64::from(reference[texts.places[i].0][texts.places[i].1]));
    let gaps = texts.of_texts(|i| records[texts.places[i].0].margin);
    let sides = |numbers: &Tensor| [0, 1].map(|text| texts.nth(numbers, text));
    let ([policy_w, policy_l], [reference_w, reference_l]) = (sides(sums), sides(&reference));
    let [lengths_w, lengths_l] = sides(&texts.counts());
    let ratios = LogRatios::new([&policy_w, &policy_l], [&reference_w, &reference_l], [&lengths_w, &lengths_l]);
    LogRatios { gaps: texts.nth(&gaps, 0), ..ratios }
}

/// Tokens of the shortest response of a record.
fn shared_length(record: &Record) -> usize {
    record.texts.iter().map(|text| text.response().len()).min().unwrap_or(0)
}

/// A record whose responses end where the shortest of them does.
fn shared_starts(record: &Record) -> Record {
    let shared = shared_length(record);
    let cut = |text: &EncodedText| EncodedText { ids: text.ids[..text.response_start + shared].to_vec(), ..*text };
    Record { texts: record.texts.iter().map(cut).collect(), ..record.clone() }
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;
    use farmhand_models::LanguageModel;

    use super::*;
    use crate::rl::pairwise::PairwiseLink;
    use crate::testing::{Stage, pair_records, tiny_checkpoint};
    use crate::training::PassOptions;

    #[test]
    fn tokens_past_the_shorter_answer_are_discounted_in_policy_and_reference_alike() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 6);
        let all: Vec<usize> = (0..6).collect();
        let passes = PassOptions::default();
        let mut seen = Vec::new();
        for ld_alpha in [0.0, 0.5, 1.0] {
            let mut reference = Reference::new(&init, None, &policy).expect("fits");
            let layout = BatchLayout::Packed;
            let sums = reference_sums(&records, &mut reference, ld_alpha, layout, None, &stage.context(&NoEvents)).expect("run");
            let (difference, [total]) = TextPass::new(&policy, &records, &passes)
                .run(&all, None, |texts| {
                    let own = discounted_sums(texts, &records, ld_alpha);
                    let same = texts.of_texts(|i| f64::from(sums[texts.places[i].0][texts.places[i].1]));
                    ((&own - same).abs().max(), [own.sum(Kind::Double)])
                })
                .expect("run");
            assert!(difference < 1e-4, "{difference} at {ld_alpha}");
            seen.push(total);
        }
        assert!(seen[0] > seen[1] && seen[1] > seen[2] && (seen[0] + seen[2] - 2.0 * seen[1]).abs() < 1e-3, "{seen:?}");
    }

    #[test]
    fn the_discount_matches_trl() {
        // Four pairs of eight and ten tokens, log-probabilities spread evenly.
        let sides = [([-12.0, -20.5, -7.25, -33.0], 8), ([-14.0, -18.0, -9.75, -33.25], 10)];
        let text = |length: usize| EncodedText { ids: vec![7; length + 1], response_start: 1 };
        let records: Vec<Record> = (0..4).map(|_| Record::new("", [text(8), text(10)])).collect();
        let tokens = sides.iter().flat_map(|(sums, n)| sums.iter().flat_map(move |sum| std::iter::repeat_n(sum / *n as f64, *n)));
        let tokens = Tensor::from_slice(&tokens.collect::<Vec<f64>>());
        let places = (0..8).map(|i| (i % 4, i / 4)).collect();
        let texts = TextLogProbs::new(tokens, [[8; 4], [10; 4]].concat(), places);
        let sums = Vec::<f64>::try_from(discounted_sums(&texts, &records, 0.5)).expect("numbers");
        let expected = [-12.0, -20.5, -7.25, -33.0, -12.6, -16.2, -8.775, -29.925];
        assert!(sums.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{sums:?}");
        // The reference's, of eight and ten tokens too, and the loss at β = 0.1.
        let reference = [-13.0, -21.0, -8.0, -31.5, -12.15, -17.55, -7.65, -27.9];
        let halves = |numbers: &[f64]| [0, 4].map(|from| Tensor::from_slice(&numbers[from..from + 4]));
        let ([w, l], [ref_w, ref_l]) = (halves(&sums), halves(&reference));
        let lengths = [8.0, 10.0].map(|length: f64| w.ones_like() * length);
        let ratios = LogRatios::new([&w, &l], [&ref_w, &ref_l], [&lengths[0], &lengths[1]]);
        let losses = Vec::<f64>::try_from(PairwiseLink::Logistic.losses(&ratios, 0.1)).expect("numbers");
        let golden = [0.623_273_01, 0.736_550_03, 0.603_785_29, 0.667_241_67];
        assert!(losses.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{losses:?}");
        // The likelihood of the chosen answers, averaged over their tokens.
        let [chosen, _] = [0, 1].map(|text| texts.nth(&texts.sums(), text).sum(Kind::Double).double_value(&[]));
        assert!((-chosen / 32.0 - 2.273_437_5).abs() < 1e-9);
    }

    #[test]
    fn an_even_margin_counts_half() {
        let [margin, accuracy] = margin_and_accuracy(&Tensor::from_slice(&[0.5, -2.0, 0.0]));
        assert_eq!(Vec::<f64>::try_from(margin).expect("numbers"), [0.5, -2.0, 0.0]);
        assert_eq!(Vec::<f64>::try_from(accuracy).expect("numbers"), [1.0, 0.0, 0.5]);
    }
}
