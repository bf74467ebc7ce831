//! What is compared in a record: two answers of a pair, or those of a ranked list; and one pass of some records through the model.

use farmhand_core::types::{Instruction, PreferencePair, RankedList};
use farmhand_core::{Error, Feedback, Result, RunContext, Seed};
use farmhand_models::{ScalarModel, TextCodec, backward};
use tch::{Kind, Tensor, no_grad};

use super::{LearnFrom, RewardModelingConfig};
use crate::reward_models::ReadingRule;
use crate::rl::bradley_terry::{MarginRule, TieModel, centring_losses, preference_losses, weighted_sum};
use crate::rl::pair_accuracy::{PairReport, ScoredPair};
use crate::rl::ranked_lists::choice_losses;
use crate::training::{Record, TokenLimit, admit, record_batch, text_places};

/// Two answers of a record that are compared; places among its texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Comparison {
    better: usize,
    worse: usize,
    /// What the judge said, before any rule.
    margin: Option<f64>,
    /// What is subtracted from the difference of rewards.
    subtracted: f64,
    /// What the loss is multiplied by; a record's weights sum to 1 without scaling.
    weight: f64,
    is_tie: bool,
}

/// Records, and what is compared in each.
#[derive(Debug, Default)]
pub(super) struct Examples {
    pub(super) records: Vec<Record>,
    comparisons: Vec<Vec<Comparison>>,
    /// Under Plackett-Luce, the choices of each record: the chosen text, then those it was chosen over.
    choices: Vec<Vec<Vec<usize>>>,
}

/// An instruction's answers as the feedback has them, and what is compared.
struct Answers<'a> {
    instruction: &'a Instruction,
    texts: Vec<&'a str>,
    comparisons: Vec<Comparison>,
    choices: Vec<Vec<usize>>,
}

impl Examples {
    /// Encodes feedback of the kind that the configuration asks for; `held_out` is how messages call it.
    ///
    /// # Errors
    /// When it is of another kind, a margin is not on the scale that is read, or nothing is left.
    pub(super) fn new(
        feedback: Feedback<'_>,
        held_out: bool,
        config: &RewardModelingConfig,
        codec: &TextCodec,
        limit: TokenLimit,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let rule = ReadingRule { with_eos: config.with_eos };
        let (noun, answers) = match config.learn_from {
            LearnFrom::Pairs => ("preference pairs", pairs(feedback.preferences()?, config)?),
            _ => ("ranked lists", lists(feedback.ranked_lists()?, config, ctx)?),
        };
        let noun = if held_out { format!("held-out {noun}") } else { noun.to_owned() };
        let margins = || answers.iter().flat_map(|item| &item.comparisons).filter(|comparison| !comparison.is_tie);
        if config.margin != MarginRule::Ignored && !answers.is_empty() && margins().all(|one| one.margin.is_none()) {
            return Err(Error::invalid_data(format!("none of the {noun} has a margin"))
                .with_hint("set `margin = \"ignored\"`, or use data that says how much better an answer is"));
        }
        let encode = |item: &Answers<'_>| -> Result<Record> {
            let texts = item.texts.iter().map(|text| codec.encode(item.instruction, text, rule.ending()));
            Ok(Record::new(&item.instruction.id, texts.collect::<Result<Vec<_>>>()?))
        };
        let records = admit(&answers, &noun, limit, false, ctx, encode)?;
        let comparisons = records.iter().map(|record| answers[record.index].comparisons.clone()).collect();
        let choices = records.iter().map(|record| answers[record.index].choices.clone()).collect();
        Ok(Self { records, comparisons, choices })
    }
}

fn in_record(id: &str) -> impl Fn(Error) -> Error + '_ {
    move |error| error.context(format!("instruction `{id}`"))
}

/// A pair is a comparison of its two answers.
fn pairs<'a>(pairs: &'a [PreferencePair], config: &RewardModelingConfig) -> Result<Vec<Answers<'a>>> {
    let of_pair = |pair: &'a PreferencePair| {
        let (subtracted, weight) = config.margin.apply(pair.margin).map_err(in_record(&pair.instruction.id))?;
        let comparison = Comparison { better: 0, worse: 1, margin: pair.margin, subtracted, weight, is_tie: false };
        let texts = vec![pair.chosen.as_str(), pair.rejected.as_str()];
        Ok(Answers { instruction: &pair.instruction, texts, comparisons: vec![comparison], choices: Vec::new() })
    };
    pairs.iter().map(of_pair).collect()
}

/// Lists in which something can be compared; the others are counted in a warning.
fn lists<'a>(lists: &'a [RankedList], config: &RewardModelingConfig, ctx: &RunContext<'_>) -> Result<Vec<Answers<'a>>> {
    let mut kept = Vec::with_capacity(lists.len());
    for list in lists {
        let mut comparisons = compared(list, config).map_err(in_record(&list.instruction.id))?;
        let n = comparisons.len() as f64;
        comparisons.iter_mut().for_each(|comparison| comparison.weight /= n);
        if !comparisons.is_empty() {
            let choices = if config.learn_from == LearnFrom::PlackettLuce { choices_of(list) } else { Vec::new() };
            let texts = list.outputs.iter().map(String::as_str).collect();
            kept.push(Answers { instruction: &list.instruction, texts, comparisons, choices });
        }
    }
    let n_left_out = lists.len() - kept.len();
    if n_left_out > 0 {
        let what = format!("{n_left_out} of {} ranked lists have no two different answers to compare", lists.len());
        if kept.is_empty() {
            return Err(Error::invalid_data(format!("no ranked lists are left to learn from: {what}"))
                .with_hint("answers of equal score are compared only with `ties`"));
        }
        ctx.events.warn(&format!("{what}; they are left out"));
    }
    Ok(kept)
}

/// All pairs of different answers of a list: those of unequal score, and with a model of ties those of equal score. The margin is
/// the difference of the scores.
fn compared(list: &RankedList, config: &RewardModelingConfig) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for better in 0..list.outputs.len() {
        for worse in better + 1..list.outputs.len() {
            if list.outputs[better] == list.outputs[worse] {
                continue;
            }
            let difference = list.scores[better] - list.scores[worse];
            let is_tie = difference == 0.0;
            if is_tie && config.ties == TieModel::None {
                continue;
            }
            let margin = (!is_tie).then_some(difference);
            let (subtracted, weight) = if is_tie { (0.0, 1.0) } else { config.margin.apply(margin)? };
            comparisons.push(Comparison { better, worse, margin, subtracted, weight, is_tie });
        }
    }
    Ok(comparisons)
}

/// Each answer chosen over all answers of a lower score. Answers of equal score do not compete with each other.
fn choices_of(list: &RankedList) -> Vec<Vec<usize>> {
    let all = 0..list.outputs.len();
    let choice = |first: usize| {
        let worse = all.clone().filter(move |&other| list.scores[other] < list.scores[first]);
        std::iter::once(first).chain(worse).collect::<Vec<_>>()
    };
    all.clone().map(choice).filter(|choice| choice.len() > 1).collect()
}

/// What some records' rewards tell.
pub(super) struct Pass {
    /// The mean loss of a record.
    pub(super) loss: f64,
    /// Share of comparisons with a winner in which it has the higher reward; equal rewards count half.
    pub(super) accuracy: f64,
    /// Reward of the better minus the worse answer of a comparison.
    pub(super) margin: f64,
    /// Reward of all answers.
    pub(super) mean_reward: f64,
    /// How the comparisons with a winner come out; only of a pass without gradient.
    pub(super) report: Option<PairReport>,
}

/// Runs the picked records through the model, micro-batch by micro-batch; with the seed of an optimiser step, adds the gradient
/// of their mean loss.
pub(super) fn run_examples(
    model: &ScalarModel,
    examples: &Examples,
    picked: &[usize],
    config: &RewardModelingConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    let device = model.body.device();
    let records = &examples.records;
    // Loss, right verdicts, differences and rewards, summed; read once, for a look makes the host wait for the device.
    let mut totals = Tensor::zeros([4], (Kind::Double, device));
    let (mut n_comparisons, mut n_texts, mut scored) = (0, 0, Vec::new());
    let passes = &config.train.passes;
    for rows in passes.micro_batching(device).groups(records, picked) {
        let batch = record_batch(records, &rows, passes.layout, device, train)?;
        let rewards = match train {
            Some(_) => model.last_token_scores(&batch),
            None => no_grad(|| model.last_token_scores(&batch)),
        };
        let places = Places::new(records, &rows);
        let loss = batch_loss(&rewards, examples, &rows, &places, config);
        if train.is_some() {
            backward(&(&loss / picked.len() as f64));
        }
        let (wins, _) = split_comparisons(examples, &rows, &places);
        let difference = wins.differences(&rewards).detach();
        let correct = (difference.sign() + 1.0) * 0.5;
        let sums = [loss.detach(), correct, difference.shallow_clone(), rewards.detach()];
        totals += Tensor::stack(&sums.map(|numbers| numbers.sum(Kind::Double)), 0);
        n_comparisons += wins.weights.len();
        n_texts += places.n_texts;
        if train.is_none() {
            let differences = Vec::<f64>::try_from(difference.to_kind(Kind::Double).to_device(tch::Device::Cpu))
                .map_err(|error| Error::other(error.to_string()))?;
            scored.extend(differences.into_iter().zip(&wins.seen).map(|(difference, seen)| ScoredPair { difference, ..*seen }));
        }
    }
    let mean = |i: i64, n: usize| totals.double_value(&[i]) / n.max(1) as f64;
    let (loss, accuracy, margin) = (mean(0, picked.len()), mean(1, n_comparisons), mean(2, n_comparisons));
    Ok(Pass { loss, accuracy, margin, mean_reward: mean(3, n_texts), report: PairReport::of(&scored) })
}

/// Where the texts of some records stand in their batch.
struct Places {
    /// For each row, the places of its texts.
    of_row: Vec<Vec<i64>>,
    n_texts: usize,
}

impl Places {
    fn new(records: &[Record], rows: &[usize]) -> Self {
        let order = text_places(records, rows);
        let mut of_row: Vec<Vec<i64>> = rows.iter().map(|&row| vec![0; records[row].texts.len()]).collect();
        let number: std::collections::HashMap<usize, usize> =
            rows.iter().enumerate().map(|(number, &row)| (row, number)).collect();
        for (place, (row, text)) in order.iter().enumerate() {
            of_row[number[row]][*text] = place as i64;
        }
        Self { of_row, n_texts: order.len() }
    }
}

/// Comparisons of a batch, ready to be computed.
#[derive(Default)]
struct Compared {
    better: Vec<i64>,
    worse: Vec<i64>,
    subtracted: Vec<f64>,
    weights: Vec<f64>,
    /// What a report needs of each, its difference still 0.
    seen: Vec<ScoredPair>,
}

impl Compared {
    /// Reward of the better minus the worse answer, `[comparisons]`.
    fn differences(&self, rewards: &Tensor) -> Tensor {
        let (better, worse) = self.sides(rewards);
        better - worse
    }

    fn sides(&self, rewards: &Tensor) -> (Tensor, Tensor) {
        let pick = |places: &[i64]| rewards.index_select(0, &Tensor::from_slice(places).to_device(rewards.device()));
        (pick(&self.better), pick(&self.worse))
    }
}

/// The comparisons of some rows: those with a winner, and ties.
fn split_comparisons(examples: &Examples, rows: &[usize], places: &Places) -> (Compared, Compared) {
    let (mut wins, mut ties) = (Compared::default(), Compared::default());
    for (&row, places) in rows.iter().zip(&places.of_row) {
        for comparison in &examples.comparisons[row] {
            let length = |text: usize| examples.records[row].texts[text].response().len() as f64;
            let length_difference = length(comparison.better) - length(comparison.worse);
            let part = if comparison.is_tie { &mut ties } else { &mut wins };
            part.better.push(places[comparison.better]);
            part.worse.push(places[comparison.worse]);
            part.subtracted.push(comparison.subtracted);
            part.weights.push(comparison.weight);
            part.seen.push(ScoredPair { difference: 0.0, length_difference, margin: comparison.margin });
        }
    }
    (wins, ties)
}

/// The summed loss of some records.
fn batch_loss(rewards: &Tensor, examples: &Examples, rows: &[usize], places: &Places, config: &RewardModelingConfig) -> Tensor {
    if config.learn_from == LearnFrom::PlackettLuce {
        let of_row = |(row, places): (&usize, &Vec<i64>)| {
            let in_batch = |choice: &Vec<usize>| choice.iter().map(|&text| places[text] as usize).collect::<Vec<_>>();
            examples.choices[*row].iter().map(in_batch).collect::<Vec<_>>()
        };
        let choices: Vec<Vec<usize>> = rows.iter().zip(&places.of_row).flat_map(of_row).collect();
        return choice_losses(rewards, &choices).sum(Kind::Float);
    }
    let (wins, ties) = split_comparisons(examples, rows, places);
    let mut loss = Tensor::zeros([], (rewards.kind(), rewards.device()));
    for (part, is_tie) in [(&wins, false), (&ties, true)] {
        if part.weights.is_empty() {
            continue;
        }
        let (better, worse) = part.sides(rewards);
        let subtracted = Tensor::from_slice(&part.subtracted).to_kind(rewards.kind()).to_device(rewards.device());
        let delta = &better - &worse - subtracted;
        let mut losses = match is_tie {
            true => config.ties.tie_losses(&delta),
            false => preference_losses(&delta, config.ties, config.label_smoothing),
        };
        if config.centring > 0.0 {
            losses += centring_losses(&better, &worse) * config.centring;
        }
        loss += weighted_sum(&losses, &part.weights);
    }
    loss
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;

    use super::*;

    fn list(scores: &[f64]) -> RankedList {
        let outputs = (0..scores.len()).map(|i| format!("answer {i}")).collect();
        RankedList { instruction: Instruction::new("Ask.", None), outputs, scores: scores.to_vec() }
    }

    fn with(change: impl FnOnce(&mut RewardModelingConfig)) -> RewardModelingConfig {
        let mut config = RewardModelingConfig { learn_from: LearnFrom::AllPairs, ..RewardModelingConfig::default() };
        change(&mut config);
        config
    }

    #[test]
    fn pairs_of_unequal_answers_are_compared_and_ties_where_there_is_a_model_of_them() {
        let two = |config: &RewardModelingConfig, list: &RankedList| {
            compared(list, config).expect("compared").iter().map(|c| (c.better, c.worse, c.is_tie)).collect::<Vec<_>>()
        };
        let items = list(&[2.0, 1.0, 1.0]);
        assert_eq!(two(&with(|_| ()), &items), [(0, 1, false), (0, 2, false)]);
        let ties = with(|config| config.ties = TieModel::Davidson { nu: 1.0 });
        assert_eq!(two(&ties, &items), [(0, 1, false), (0, 2, false), (1, 2, true)]);
        let mut twice = items.clone();
        twice.outputs[1] = twice.outputs[0].clone();
        assert_eq!(two(&ties, &twice), [(0, 2, false), (1, 2, true)], "an answer is not compared with itself");
        let margins = with(|config| config.margin = MarginRule::Subtracted { weight: 0.5 });
        assert_eq!(compared(&list(&[3.0, 1.0]), &margins).expect("compared")[0].subtracted, 1.0);
    }

    #[test]
    fn a_choice_is_over_all_answers_of_a_lower_score() {
        assert_eq!(choices_of(&list(&[3.0, 2.0, 1.0])), [vec![0, 1, 2], vec![1, 2]]);
        assert_eq!(choices_of(&list(&[3.0, 3.0, 1.0])), [vec![0, 2], vec![1, 2]]);
        assert!(choices_of(&list(&[1.0, 1.0])).is_empty());
    }

    #[test]
    fn the_loss_of_a_list_is_the_mean_over_its_pairs_or_plackett_luces() {
        let config = with(|_| ());
        let item = list(&[1.0, 0.2, -0.5]);
        let record = |n: usize| Record::new("", vec![farmhand_models::EncodedText { ids: vec![7], response_start: 0 }; n]);
        let mut comparisons = compared(&item, &config).expect("compared");
        comparisons.iter_mut().for_each(|comparison| comparison.weight /= 3.0);
        let examples = Examples { records: vec![record(3)], comparisons: vec![comparisons], choices: vec![choices_of(&item)] };
        let loss = |rewards: &[f64], config: &RewardModelingConfig| {
            let places = Places::new(&examples.records, &[0]);
            batch_loss(&Tensor::from_slice(rewards), &examples, &[0], &places, config).double_value(&[])
        };
        // The sum over pairs is 0.975700.
        assert!((loss(&[1.0, 0.2, -0.5], &config) - 0.325_233).abs() < 1e-6);
        let ranking = with(|config| config.learn_from = LearnFrom::PlackettLuce);
        assert!((loss(&[-0.6, -0.775, -0.4], &ranking) - 2.016_819).abs() < 1e-6);
    }
}
