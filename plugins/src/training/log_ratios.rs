//! How far a policy has moved on single answers: log-probabilities of whole answers under it and under another model.

use farmhand_core::types::{Completion, ScoredCompletion};
use farmhand_core::{Checkpoint, Result, RunContext};
use farmhand_models::{EncodedText, TokenBatch, selected_log_probs_no_grad, sequence_sums};

use super::fine_tuning::Imitated;
use super::learner_options::PassOptions;
use super::reference::is_same_model;
use super::rounds::Round;

/// `log π(y|x) − log π_ref(y|x)` of each answer, in nats: summed over its tokens, with its end unless it was cut off, at temperature
/// 1 whatever it was sampled at. All 0 where both are the same model.
///
/// Answers are tokenised anew, which may give other tokens than were sampled; of one that no longer fits a model's context, what fits
/// counts.
///
/// # Errors
/// When a model cannot be loaded, or on cancellation.
pub fn log_ratios(
    policy: &Checkpoint,
    reference: &Checkpoint,
    answers: &[&Completion],
    passes: &PassOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    if is_same_model(policy, reference)? {
        return Ok(vec![0.0; answers.len()]);
    }
    let mut ratios = answer_log_probs(policy, answers, passes, ctx)?;
    let reference = answer_log_probs(reference, answers, passes, ctx)?;
    ratios.iter_mut().zip(reference).for_each(|(ratio, reference)| *ratio -= reference);
    Ok(ratios)
}

/// The log-ratios of a round's answers under the weights that the round starts with, against `reference`; their mean is logged as
/// `LEARNER/kl`, an estimate of the divergence of one from the other in nats an answer.
///
/// # Errors
/// As [`log_ratios`].
pub fn log_kl(
    learner: &str,
    round: &Round,
    reference: &Checkpoint,
    answers: &[ScoredCompletion],
    passes: &PassOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    let answers: Vec<&Completion> = answers.iter().map(|answer| &answer.completion).collect();
    let ratios = log_ratios(&round.start, reference, &answers, passes, ctx)?;
    ctx.scalar(&format!("{learner}/kl"), round.number, ratios.iter().sum::<f64>() / ratios.len().max(1) as f64);
    Ok(ratios)
}

/// `log π(y|x)` of each answer, in nats: summed over its tokens, with its end unless it was cut off, at temperature 1.
///
/// # Errors
/// As [`log_ratios`].
pub fn answer_log_probs(
    checkpoint: &Checkpoint,
    answers: &[&Completion],
    passes: &PassOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    let (codec, model) = passes.load(checkpoint, ctx)?;
    let encode = |answer: &&Completion| -> Result<EncodedText> {
        let answer = Imitated::sampled(answer);
        let mut text = codec.encode(&answer.instruction, &answer.output, answer.ending)?;
        let place = || format!("the prompt of instruction `{}`", answer.instruction.id);
        model.check_length(text.response_start).map_err(|error| error.context(place()))?;
        text.ids.truncate(model.config().max_positions());
        Ok(text)
    };
    let texts = answers.iter().map(encode).collect::<Result<Vec<_>>>()?;
    // An empty answer that was cut off has no token, and so the probability 1.
    let all: Vec<usize> = (0..texts.len()).filter(|&i| !texts[i].response().is_empty()).collect();
    let mut sums = vec![0.0; texts.len()];
    let mut progress = ctx.progress("measuring log-probabilities", Some(all.len() as u64), "answers");
    for rows in passes.micro_batching(model.device()).groups_of(&all, |i| std::slice::from_ref(&texts[i])) {
        ctx.cancel.check()?;
        let batch = TokenBatch::new(&rows.iter().map(|&i| &texts[i]).collect::<Vec<_>>(), passes.layout, model.device())?;
        let (values, _) = selected_log_probs_no_grad(&model, &batch);
        let of_rows =
            Vec::<f32>::try_from(sequence_sums(&values, &batch).to_device(tch::Device::Cpu)).expect("a vector of floats");
        rows.iter().zip(of_rows).for_each(|(&row, sum)| sums[row] = f64::from(sum));
        progress.advance(rows.len() as u64);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;
    use farmhand_models::BatchLayout;

    use super::*;
    use crate::testing::{Stage, likelihood, lively_checkpoint, scored, tiny_checkpoint, tiny_checkpoint_with};

    #[test]
    fn of_an_answer_beyond_the_context_what_fits_counts() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let short = tiny_checkpoint_with(&stage, "short", 24);
        let mut answer = scored(&[0.0]).remove(0).completion;
        answer.output = "one two three four five six ".repeat(8);
        let measured = answer_log_probs(&short, &[&answer], &PassOptions::default(), &ctx).expect("measured")[0];
        // About 20 tokens of about 1/300 each.
        assert!((-140.0..-60.0).contains(&measured), "{measured}");
    }

    #[test]
    fn ratios_are_differences_of_whole_answers_and_0_against_itself() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let (policy, reference) = (lively_checkpoint(&stage), tiny_checkpoint(&stage));
        let scored = scored(&[0.0; 5]);
        let answers: Vec<&Completion> = scored.iter().map(|scored| &scored.completion).collect();
        let expected: Vec<f64> = answers
            .iter()
            .map(|answer| {
                let of = |checkpoint| likelihood(checkpoint, &answer.instruction, &answer.output);
                of(&policy) - of(&reference)
            })
            .collect();
        for (layout, micro_batch_size) in [(BatchLayout::Packed, None), (BatchLayout::Padded, Some(2))] {
            let passes = PassOptions { layout, micro_batch_size, ..PassOptions::default() };
            let ratios = log_ratios(&policy, &reference, &answers, &passes, &ctx).expect("measured");
            assert!(ratios.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{ratios:?} {expected:?}");
            assert_eq!(log_ratios(&policy, &policy, &answers, &passes, &ctx).expect("measured"), [0.0; 5]);
        }
        stage.cancel.cancel();
        let error = log_ratios(&policy, &reference, &answers, &PassOptions::default(), &ctx).expect_err("stopped");
        assert!(error.is_cancelled());
    }
}
