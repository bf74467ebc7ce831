//! SteerLM 2.0: own answers, weighted so that the policy comes to the law that attributes and answers ask for.
//!
//! Wang et al. 2024, <https://arxiv.org/abs/2406.08673>. Wanted is `P(y|a,x) ∝ P(a|x,y) P(y|x)`. Of n answers y_i drawn
//! from the policy Q' of the first round behind the attributes a,
//!
//! `w_i = softmax_i(ln P(a|x,y_i) + ln P(y_i|x) − ln Q'(y_i|a,x))`, `b_i = softmax_i(ln Q(y_i|a,x) − ln Q'(y_i|a,x))`,
//!
//! and the loss is `−Σ_i (w_i − b_i) ln Q(y_i|a,x)`, the mean over instructions, with w and b constant; its gradient is that of the
//! divergence from the wanted law to Q, and it vanishes where Q is that law. Log-probabilities are of whole answers. P(y|x) is the
//! model that the learner was given, asked without attributes; P(a|x,y) is normal around the attribute models' predictions.

use farmhand_core::types::{Completion, RatedCompletion};
use farmhand_core::{Checkpoint, Result, RunContext, Seed};
use farmhand_models::{LanguageModel, save_checkpoint, selected_log_probs, sequence_sums};
use tch::{Kind, Tensor};

use super::TASK;
use super::labels::Labels;
use crate::rl::selection::softmax_weights;
use crate::training::{
    Imitated, PassOptions, Record, Rounds, Task, TrainOptions, Training, admit, answer_log_probs, record_batch, shuffled_steps,
    start_training, text_places,
};

/// The answers to one instruction behind one combination of attributes.
pub(super) struct Group {
    /// The answers behind the attributes.
    answers: Vec<Imitated>,
    /// w of each answer; they sum to 1.
    wanted: Vec<f64>,
    /// `ln Q'` of each answer, in nats.
    sampled: Vec<f64>,
}

/// The groups of answers to each instruction: `asked` are the answers behind their attributes, `rated` the same ones with plain
/// instructions and the attribute models' ratings, `wanted_labels` the attributes that each instruction stood behind, `sampler` and
/// `prior` the models of Q' and P(y|x).
pub(super) fn groups(
    (asked, rated): (&[Completion], &[RatedCompletion]),
    wanted_labels: &[String],
    std: f64,
    (sampler, prior): (&Checkpoint, &Checkpoint),
    passes: &PassOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<Group>> {
    let n = asked.len() / wanted_labels.len().max(1);
    let sampled = answer_log_probs(sampler, &asked.iter().collect::<Vec<_>>(), passes, ctx)?;
    let plain: Vec<&Completion> = rated.iter().map(|answer| &answer.completion).collect();
    let prior = answer_log_probs(prior, &plain, passes, ctx)?;
    let group = |(i, label): (usize, &String)| {
        let places = i * n..(i + 1) * n;
        let log_attributes: Vec<f64> =
            rated[places.clone()].iter().map(|answer| Labels::log_likelihood(label, &answer.ratings, std)).collect();
        Group {
            answers: asked[places.clone()].iter().map(Imitated::sampled).collect(),
            wanted: wanted(&log_attributes, &prior[places.clone()], &sampled[places.clone()]),
            sampled: sampled[places].to_vec(),
        }
    };
    Ok(wanted_labels.iter().enumerate().map(group).collect())
}

/// `softmax(ln P(a|x,y) + ln P(y|x) − ln Q')`.
fn wanted(log_attributes: &[f64], prior: &[f64], sampled: &[f64]) -> Vec<f64> {
    let logits: Vec<f64> = (0..sampled.len()).map(|i| log_attributes[i] + prior[i] - sampled[i]).collect();
    shares(&logits)
}

fn shares(logits: &[f64]) -> Vec<f64> {
    softmax_weights(logits, 1.0).iter().map(|weight| weight / logits.len() as f64).collect()
}

/// `w − b` of each answer of a group, whose log-probabilities under the policy are `log_probs`.
fn coefficients(group: &Group, log_probs: &[f64]) -> Vec<f64> {
    let ratios: Vec<f64> = log_probs.iter().zip(&group.sampled).map(|(own, sampled)| own - sampled).collect();
    group.wanted.iter().zip(shares(&ratios)).map(|(wanted, own)| wanted - own).collect()
}

/// Trains the policy from `init` on the groups and saves it in the context's stage.
pub(super) fn learn(
    groups: &[Group],
    init: &Checkpoint,
    rounds: &Rounds,
    train: &TrainOptions,
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    let events = rounds.later_steps(ctx)?;
    let ctx = &RunContext { events: &events, ..*ctx };
    let (codec, policy) = train.passes.load(init, ctx)?;
    let policy = start_training(policy, &train.passes, init, ctx.seed.child("lora", 0))?;
    let limit = train.token_limit(policy.config().max_positions());
    let records = admit(groups, "groups of answers", limit, true, ctx, |group: &Group| {
        let encode = |answer: &Imitated| codec.encode(&answer.instruction, &answer.output, answer.ending);
        let texts = group.answers.iter().map(encode).collect::<Result<Vec<_>>>()?;
        Ok(Record::new(&group.answers[0].instruction.id, texts))
    })?;
    let pass = |picked: &[usize], seed| run_groups(&policy, groups, &records, picked, &train.passes, seed);
    let plan = shuffled_steps(&records, train, ctx);
    Rounds::note_steps(plan.n_steps(), ctx)?;
    let dry_run = |rows: &[usize]| pass(rows, ctx.seed).map(drop);
    let task = Task { records: "groups of answers", doing: "matching attributes", ..TASK };
    let mut training =
        Training::start(task, &policy, policy.trained(), &records, plan, train, ctx, dry_run)?.keeping(&policy, &codec)?;
    while let Some(step) = training.next_step()? {
        let (loss, distance) = pass(&step.picked, step.seed)?;
        training.apply(&step, loss)?;
        training.log(&step, &[("distance", distance)]);
    }
    save_checkpoint(&policy, &codec, TASK.learner, ctx)
}

/// Adds the gradient of the picked groups' mean loss to the policy. Gives the loss, and the mean of `½ Σ_i |w_i − b_i|`: 0 where the
/// policy is the wanted law as far as its answers show.
fn run_groups(
    policy: &LanguageModel,
    groups: &[Group],
    records: &[Record],
    picked: &[usize],
    passes: &PassOptions,
    seed: Seed,
) -> Result<(f64, f64)> {
    let n = picked.len() as f64;
    let (mut loss, mut distance) = (0.0, 0.0);
    for rows in passes.micro_batching(policy.device()).groups(records, picked) {
        let batch = record_batch(records, &rows, passes.layout, policy.device(), Some(seed))?;
        let selected = selected_log_probs(policy, &batch);
        let sums = sequence_sums(&selected.values, &batch);
        let values = Vec::<f32>::try_from(sums.detach().to_device(tch::Device::Cpu)).expect("a vector of floats");
        let places = text_places(records, &rows);
        let mut of_text = vec![0.0; places.len()];
        for &row in &rows {
            let texts: Vec<usize> = (0..places.len()).filter(|&text| places[text].0 == row).collect();
            let log_probs: Vec<f64> = texts.iter().map(|&text| f64::from(values[text])).collect();
            for (text, coefficient) in texts.into_iter().zip(coefficients(&groups[records[row].index], &log_probs)) {
                of_text[text] = -coefficient / n;
                loss -= coefficient * f64::from(values[text]) / n;
                distance += coefficient.abs() / 2.0 / n;
            }
        }
        let weights = Tensor::from_slice(&of_text).to_kind(sums.kind()).to_device(sums.device());
        selected.backward(&(sums * weights).sum(Kind::Float));
    }
    Ok((loss, distance))
}

#[cfg(test)]
mod tests {
    use farmhand_models::{Ending, TextCodec};

    use super::*;
    use crate::testing::{SPLITS, Stage, assert_same_gradients, lively_checkpoint, scored, take_gradients};

    const SAMPLED: [f64; 3] = [-1.8, -3.1, -2.0];

    fn group() -> Group {
        let answers = scored(&[0.0; 3]).iter().map(|answer| Imitated::sampled(&answer.completion)).collect();
        let wanted = wanted(&[-0.2, -1.0, -0.5], &[-2.2, -2.8, -2.1], &SAMPLED);
        Group { answers, wanted, sampled: SAMPLED.to_vec() }
    }

    #[test]
    fn weights_and_loss_match_the_goldens() {
        let group = group();
        for (got, golden) in group.wanted.iter().zip([0.344_253, 0.311_493, 0.344_253]) {
            assert!((got - golden).abs() < 1e-6, "{:?}", group.wanted);
        }
        // Where the policy is still the sampler, every answer counts a third.
        let coefficients = coefficients(&group, &SAMPLED);
        let loss: f64 = coefficients.iter().zip(SAMPLED).map(|(coefficient, log_prob)| -coefficient * log_prob).sum();
        assert!((loss + 0.026_208).abs() < 1e-6, "{loss}");
        assert!(coefficients.iter().sum::<f64>().abs() < 1e-12);
    }

    #[test]
    fn the_gradient_vanishes_at_the_wanted_law_and_is_that_of_the_divergence_elsewhere() {
        // At Q with ratios to Q' proportional to w, nothing is left to learn.
        let group = group();
        let at_law: Vec<f64> = group.wanted.iter().zip(SAMPLED).map(|(wanted, sampled)| sampled + wanted.ln() + 0.7).collect();
        assert!(coefficients(&group, &at_law).iter().all(|coefficient| coefficient.abs() < 1e-12));
        // −Σ w ln b as a function of ln Q has the gradient b − w.
        let log_probs = [-1.0, -2.0, -3.0];
        let divergence = |log_probs: &[f64]| {
            let ratios: Vec<f64> = log_probs.iter().zip(SAMPLED).map(|(own, sampled)| own - sampled).collect();
            group.wanted.iter().zip(shares(&ratios)).map(|(wanted, own)| -wanted * own.ln()).sum::<f64>()
        };
        for (i, coefficient) in coefficients(&group, &log_probs).into_iter().enumerate() {
            let at = |step: f64| {
                let mut moved = log_probs;
                moved[i] += step;
                divergence(&moved)
            };
            assert!(((at(1e-6) - at(-1e-6)) / 2e-6 + coefficient).abs() < 1e-8);
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = lively_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let groups: Vec<Group> = (0..4).map(|_| group()).collect();
        let outputs = ["yes", "the cat sat", "no", "one two three", "bad", "a good answer"];
        let record = |index: usize| {
            let text = |i: usize| {
                let instruction = &groups[index].answers[index % 3].instruction;
                codec.encode(instruction, outputs[(index + i) % 6], Ending::WithEos).expect("encoded")
            };
            Record { index, ..Record::new("", [text(0), text(1), text(2)]) }
        };
        let records: Vec<Record> = (0..4).map(record).collect();
        let run = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
            let (loss, distance) = run_groups(&policy, &groups, &records, &[3, 1, 0, 2], &passes, Seed::root(0)).expect("run");
            (loss, distance, take_gradients(policy.parameters()))
        };
        let (loss, distance, expected) = run(farmhand_models::BatchLayout::Padded, 8, 4096);
        assert!(distance > 0.01 && distance < 1.0);
        for (layout, size, tokens) in SPLITS {
            let (same, _, gradients) = run(layout, size, tokens);
            assert!((same - loss).abs() < 1e-4 * loss.abs().max(1.0), "{same} {loss}");
            assert_same_gradients(&gradients, &expected, 1e-4);
        }
    }
}
