//! How far a policy has moved on single answers: log-probabilities of whole answers under it and under another model.

use farmhand_core::types::Completion;
use farmhand_core::{Checkpoint, Result, RunContext};
use farmhand_models::{EncodedText, TokenBatch, selected_log_probs_no_grad, sequence_sums};

use super::fine_tuning::Imitated;
use super::learner_options::PassOptions;
use super::reference::is_same_model;

/// `log π(y|x) − log π_ref(y|x)` of each answer, in nats: summed over its tokens, with its end unless it was cut off, at temperature
/// 1 whatever it was sampled at. All 0 where both are the same model.
///
/// # Errors
/// When a model cannot be loaded, an answer does not fit one, or on cancellation.
pub fn log_ratios(
    policy: &Checkpoint,
    reference: &Checkpoint,
    answers: &[Completion],
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

/// `log π(y|x)` of each answer, in nats: summed over its tokens, with its end unless it was cut off, at temperature 1.
///
/// # Errors
/// As [`log_ratios`].
pub fn answer_log_probs(
    checkpoint: &Checkpoint,
    answers: &[Completion],
    passes: &PassOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    let (codec, model) = passes.load(checkpoint, ctx)?;
    let encode = |answer: &Completion| -> Result<EncodedText> {
        let answer = Imitated::sampled(answer);
        let text = codec.encode(&answer.instruction, &answer.output, answer.ending)?;
        let place = || format!("an answer to instruction `{}`", answer.instruction.id);
        model.check_length(text.ids.len()).map_err(|error| error.context(place()))?;
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
    use crate::testing::{Stage, likelihood, lively_checkpoint, scored, tiny_checkpoint};

    #[test]
    fn ratios_are_differences_of_whole_answers_and_0_against_itself() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let (policy, reference) = (lively_checkpoint(&stage), tiny_checkpoint(&stage));
        let answers: Vec<Completion> = scored(&[0.0; 5]).into_iter().map(|scored| scored.completion).collect();
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
