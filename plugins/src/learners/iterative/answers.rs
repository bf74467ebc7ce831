//! A round's answers: sampled at one or several temperatures, then scored, and what of earlier rounds is used again.

use std::path::Path;

use farmhand_core::run::chunked;
use farmhand_core::types::{Comparison, Completion, Instruction, Judgement, SamplingParams, ScoredCompletion};
use farmhand_core::{Annotator, BuildContext, Error, Result, RewardModel, RewardModelSpec, RunContext, checked};

use crate::training::{Answerer, sample_answers, score_answers};

/// Comparisons judged between two writes of the journal.
const CHUNK: usize = 128;

/// Who scores the answers of a round.
pub(super) enum RoundScorer<'a> {
    RewardModel(&'a mut dyn RewardModel),
    Annotator(&'a dyn Annotator),
    /// A reward model that is made anew around the round's weights.
    Own(&'a RewardModelSpec, BuildContext<'a>),
}

/// `sampling.n` answers to each instruction, grouped by instruction: an equal share at each temperature, in their order.
pub(super) fn sample(
    who: Answerer<'_>,
    instructions: &[Instruction],
    sampling: &SamplingParams,
    temperatures: &[f64],
    ctx: &RunContext<'_>,
) -> Result<Vec<Completion>> {
    if temperatures.is_empty() {
        return sample_answers(who, instructions, sampling, "answers", ctx);
    }
    let share = sampling.n / temperatures.len() as u32;
    let mut by_temperature = Vec::with_capacity(temperatures.len());
    for (number, &temperature) in (0..).zip(temperatures) {
        let ctx = ctx.with_seed(ctx.seed.child("temperature", number));
        let sampling = SamplingParams { n: share, temperature, ..sampling.clone() };
        by_temperature.push(sample_answers(who, instructions, &sampling, &format!("answers-{number}"), &ctx)?.into_iter());
    }
    let mut answers = Vec::with_capacity(instructions.len() * sampling.n as usize);
    for _ in instructions {
        let first = answers.len();
        for answers_at in &mut by_temperature {
            answers.extend(answers_at.by_ref().take(share as usize));
        }
        (0..).zip(&mut answers[first..]).for_each(|(sample, answer): (u32, &mut Completion)| answer.sample = sample);
    }
    Ok(answers)
}

/// Scores answers, `n` to each instruction, and keeps them in the stage as `scored.jsonl`.
///
/// # Errors
/// When the answers do not come in groups of `n`, or what the scorer reports.
pub(super) fn score(
    scorer: &mut RoundScorer<'_>,
    answers: Vec<Completion>,
    n: usize,
    ctx: &RunContext<'_>,
) -> Result<Vec<ScoredCompletion>> {
    check_groups(&answers, n)?;
    let scored: Vec<ScoredCompletion> = match scorer {
        RoundScorer::RewardModel(model) => joined(score_answers(*model, &answers, "scores", ctx)?, answers),
        RoundScorer::Own(spec, build) => joined(score_answers(&mut *spec.build(build)?, &answers, "scores", ctx)?, answers),
        RoundScorer::Annotator(annotator) => judged(*annotator, answers, n, ctx)?,
    };
    ctx.stage.write_jsonl("scored.jsonl", &scored)?;
    Ok(scored)
}

fn joined(scores: Vec<f64>, answers: Vec<Completion>) -> Vec<ScoredCompletion> {
    answers.into_iter().zip(scores).map(|(completion, score)| ScoredCompletion { completion, score }).collect()
}

/// Each group of `n` answers is one instruction's, numbered from 0: who samples and who selects must agree on the number, for
/// otherwise answers to different instructions would be compared.
fn check_groups(answers: &[Completion], n: usize) -> Result<()> {
    let fits = |group: &[Completion]| {
        let numbered = (0..).zip(group).all(|(sample, answer): (u32, &Completion)| answer.sample == sample);
        group.len() == n && numbered && group.iter().all(|answer| answer.instruction.id == group[0].instruction.id)
    };
    match answers.chunks(n.max(1)).position(|group| !fits(group)) {
        None => Ok(()),
        Some(group) => {
            let id = &answers[group * n].instruction.id;
            Err(Error::broken_contract(format!(
                "expected {n} answers to instruction `{id}`, got another number or another order"
            )))
        }
    }
}

/// The share of the other answers to its instruction that an answer beats, by an annotator who compares all pairs of them; a tie and
/// an equal text count half. Instructions with a comparison that failed are left out and counted.
fn judged(annotator: &dyn Annotator, answers: Vec<Completion>, n: usize, ctx: &RunContext<'_>) -> Result<Vec<ScoredCompletion>> {
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
    let compare = |group: &[Completion]| {
        let unlike = pairs.iter().filter(|(i, j)| group[*i].output != group[*j].output);
        let of_pair =
            |&(i, j): &(usize, usize)| Comparison::new(group[i].instruction.clone(), &*group[i].output, &*group[j].output);
        unlike.map(of_pair).collect::<Vec<_>>()
    };
    let comparisons: Vec<Comparison> = answers.chunks(n).flat_map(compare).collect();
    let mut progress = ctx.progress("judging", Some(comparisons.len() as u64), "comparisons");
    let judgements: Vec<Judgement> = chunked(&comparisons, CHUNK, "judgements.jsonl", ctx, |chunk| {
        let judgements = ctx.block_on(checked::annotate(annotator, chunk, ctx))?;
        progress.advance(chunk.len() as u64);
        Ok(judgements)
    })?;
    let mut judgements = judgements.into_iter();
    let (mut scored, mut n_failed) = (Vec::with_capacity(answers.len()), 0);
    for group in answers.chunks(n) {
        let (mut wins, mut complete) = (vec![0.0; n], true);
        for &(i, j) in &pairs {
            let p_second = match group[i].output == group[j].output {
                true => Some(0.5),
                false => judgements.next().and_then(|judged| judged.preference()).map(|preference| preference.p_second()),
            };
            complete &= p_second.is_some();
            wins[i] += 1.0 - p_second.unwrap_or(0.5);
            wins[j] += p_second.unwrap_or(0.5);
        }
        if complete {
            let scores = wins.into_iter().map(|wins| wins / (n - 1) as f64);
            scored.extend(group.iter().cloned().zip(scores).map(|(completion, score)| ScoredCompletion { completion, score }));
        } else {
            n_failed += 1;
        }
    }
    if n_failed > 0 {
        let n_groups = answers.len() / n;
        let what = format!("the answers to {n_failed} of {n_groups} instructions could not all be compared");
        if scored.is_empty() {
            return Err(Error::invalid_data(what).with_hint("`judgements.jsonl` in the round's folder says why"));
        }
        ctx.events.warn(&format!("{what}; they are left out"));
    }
    Ok(scored)
}

/// The scored answers that an earlier round left in its folder.
///
/// # Errors
/// When they cannot be read.
pub(super) fn read_scored(folder: &Path) -> Result<Vec<ScoredCompletion>> {
    let path = folder.join("scored.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    let read = |line: &str| {
        serde_json::from_str(line)
            .map_err(|error| Error::invalid_data(format!("`{}` holds no scored answers", path.display())).with_source(error))
    };
    text.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use farmhand_core::types::{Annotation, FinishReason, Preference};
    use farmhand_core::{ErrorKind, PolicySpec, RecordedEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    /// Prefers the longer answer; refuses what it is told to.
    struct Longer(&'static str);

    #[async_trait]
    impl Annotator for Longer {
        fn id(&self) -> &str {
            "longer"
        }

        async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
            let judge = |comparison: &Comparison| match comparison.output_1.len().cmp(&comparison.output_2.len()) {
                _ if comparison.output_1 == self.0 => Err(Error::invalid_data("no")),
                std::cmp::Ordering::Less => Ok(Annotation::new("longer", Preference::Second)),
                std::cmp::Ordering::Equal => Ok(Annotation::new("longer", Preference::Tie)),
                std::cmp::Ordering::Greater => Ok(Annotation::new("longer", Preference::First)),
            };
            comparisons.iter().map(judge).collect()
        }
    }

    fn answers(outputs: &[[&str; 3]]) -> Vec<Completion> {
        let group = |(instruction, outputs): (Instruction, &[&str; 3])| {
            let answer = |(sample, output): (u32, &&str)| Completion {
                instruction: instruction.clone(),
                output: (*output).to_owned(),
                model: "test".to_owned(),
                sample,
                finish: FinishReason::Stop,
                n_tokens: 1,
                log_prob: None,
            };
            (0..).zip(outputs).map(answer).collect::<Vec<_>>()
        };
        instructions(outputs.len()).into_iter().zip(outputs).flat_map(group).collect()
    }

    #[test]
    fn an_answer_scores_the_share_of_the_others_that_it_beats() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let ctx = stage.context(&events);
        let items = answers(&[["a", "bbb", "cc"], ["dd", "dd", "e"], ["no", "x", "y"]]);
        let scored = score(&mut RoundScorer::Annotator(&Longer("no")), items, 3, &ctx).expect("judged");
        let scores: Vec<f64> = scored.iter().map(|answer| answer.score).collect();
        assert_eq!(scores, [0.0, 1.0, 0.5, 0.75, 0.75, 0.0]);
        assert!(format!("{:?}", events.take()).contains("1 of 3 instructions could not all be compared"));
        assert_eq!(read_scored(stage.stage.path()).expect("written"), scored);
        let failed =
            score(&mut RoundScorer::Annotator(&Longer("f")), answers(&[["f", "g", "h"]]), 3, &Stage::new().context(&events));
        assert!(failed.expect_err("nothing is left").message().contains("1 of 1 instructions"));
    }

    #[test]
    fn another_number_of_answers_than_the_selector_expects_is_an_error() {
        let items = answers(&[["a", "b", "c"], ["d", "e", "f"]]);
        assert!(check_groups(&items, 3).is_ok());
        for (items, n) in [(&items[..], 2), (&items[..], 6), (&items[..5], 3), (&items[1..], 3)] {
            assert_eq!(check_groups(items, n).expect_err("they do not fit").kind(), ErrorKind::BrokenContract);
        }
    }

    #[test]
    fn temperatures_share_the_answers_and_an_answer_does_not_depend_on_its_company() {
        let stage = Stage::new();
        let checkpoint = tiny_checkpoint(&stage);
        let policy = PolicySpec::from_json("causal_lm", "{}").expect("built in");
        let who =
            Answerer { policy: &policy, checkpoint: &checkpoint, base_dir: Path::new("."), models: &farmhand_core::FoldersOnly };
        let sampling = SamplingParams { n: 4, max_new_tokens: 6, ..SamplingParams::default() };
        let ask = |n: usize, temperatures: &[f64]| {
            let stage = Stage::new();
            sample(who, &instructions(n), &sampling, temperatures, &stage.context(&farmhand_core::NoEvents)).expect("answered")
        };
        let all = ask(3, &[1.0, 0.0]);
        assert!(check_groups(&all, 4).is_ok());
        for group in all.chunks(4) {
            assert_eq!(group[2].output, group[3].output, "greedy answers are the same");
            assert_ne!(group[0].output, group[1].output);
        }
        assert_eq!(ask(1, &[1.0, 0.0]), all[..4]);
        // Two shares at one temperature are not the same draws.
        let twice = ask(1, &[1.0, 1.0]);
        assert_ne!([&twice[0].output, &twice[1].output], [&twice[2].output, &twice[3].output]);
        assert_eq!(ask(2, &[]).len(), 8);
    }
}
