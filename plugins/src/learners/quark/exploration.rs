//! Exploration: answers to the instructions behind the best control, their scores, and the pool they go into.

use farmhand_core::types::{FinishReason, Instruction, Response, SamplingParams};
use farmhand_core::{Error, NoEvents, Result, RewardModel, RunContext, Seed, checked};
use farmhand_models::{
    EncodedText, GenerateOptions, GenerationRequest, LanguageModel, ModelConfig, TextCodec, epoch_order, generate,
};
use serde::{Deserialize, Serialize};

use super::config::{Pool, QuarkConfig, TrainedBins};
use crate::rl::selection::{all_equal, mean_and_std, quantiles};
use crate::training::{Controls, Record, TokenLimit, admit};

/// An answer in the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Explored {
    /// Its instruction, as a place among the prompts.
    pub(super) prompt: usize,
    /// The answer, to be read.
    pub(super) output: String,
    /// The answer as it was sampled, with its end-of-sequence token unless it was cut off.
    pub(super) tokens: Vec<u32>,
    /// Whether it ended by itself.
    pub(super) ended: bool,
    /// Its score, after what is done about a missing end.
    pub(super) score: f64,
}

/// The prompts of an instruction: behind the control of each bin, and plain.
pub(super) struct Prompts {
    /// The instruction's place among those given.
    index: usize,
    pub(super) id: String,
    pub(super) of_bins: Vec<Vec<u32>>,
    pub(super) plain: Vec<u32>,
}

impl Prompts {
    /// The prompts of all instructions that leave room for a whole answer.
    pub(super) fn of(
        instructions: &[Instruction],
        model: &ModelConfig,
        codec: &TextCodec,
        config: &QuarkConfig,
        controls: &Controls,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Self>> {
        let (context, answer) = (model.max_positions(), config.max_new_tokens as usize);
        if answer >= context {
            return Err(Error::invalid_config(format!(
                "`max_new_tokens` = {answer} leaves no room for a prompt in the model's context of {context} tokens"
            )));
        }
        let limit = TokenLimit { option: "max_prompt_tokens", max_tokens: config.max_prompt_tokens, context: context - answer };
        let records = admit(instructions, "instructions", limit, false, ctx, |instruction| {
            let prompt = |instruction: &Instruction| -> Result<EncodedText> {
                let ids = codec.prompt(instruction)?;
                Ok(EncodedText { response_start: ids.len(), ids })
            };
            let conditioned = controls.values().iter().map(|value| prompt(&controls.apply(instruction, value)));
            let texts = conditioned.chain(std::iter::once(prompt(instruction))).collect::<Result<Vec<_>>>()?;
            Ok(Record::new(&instruction.id, texts))
        })?;
        let prompts = |record: Record| {
            let mut of_bins: Vec<Vec<u32>> = record.texts.into_iter().map(|text| text.ids).collect();
            let plain = of_bins.pop().unwrap_or_default();
            Self { index: record.index, id: record.id, of_bins, plain }
        };
        Ok(records.into_iter().map(prompts).collect())
    }

    /// The longest of them, in tokens.
    pub(super) fn longest(&self) -> usize {
        self.of_bins.iter().map(Vec::len).chain([self.plain.len()]).max().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn for_test(id: &str, of_bins: Vec<Vec<u32>>, plain: Vec<u32>) -> Self {
        Self { index: 0, id: id.to_owned(), of_bins, plain }
    }
}

/// What an exploration works with.
pub(super) struct Explorer<'a> {
    pub(super) config: &'a QuarkConfig,
    pub(super) codec: &'a TextCodec,
    pub(super) instructions: &'a [Instruction],
    pub(super) prompts: &'a [Prompts],
}

impl Explorer<'_> {
    /// The answers of exploration `round`: read if it was made before, otherwise sampled, scored and kept. The first one asks
    /// without a control, for the policy knows none yet.
    pub(super) fn explore(
        &self,
        round: u64,
        policy: &LanguageModel,
        reward_model: &mut dyn RewardModel,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Explored>> {
        let file = format!("explored-{round:05}.jsonl");
        if let Some(explored) = read(&ctx.stage.path().join(&file))? {
            return Ok(explored);
        }
        let Self { config, codec, .. } = *self;
        let first = round * config.rollout_size as u64;
        let drawn = draw(self.prompts.len(), first, config.rollout_size, ctx.seed);
        let plain = round == 0 || config.train_on == TrainedBins::BestPlain;
        let request = |(i, &prompt): (usize, &usize)| {
            let prompts = &self.prompts[prompt];
            let prompt = if plain { &prompts.plain } else { &prompts.of_bins[0] };
            GenerationRequest { prompt: prompt.clone(), seed: ctx.seed.child("explore", first + i as u64) }
        };
        let requests: Vec<GenerationRequest> = drawn.iter().enumerate().map(request).collect();
        let sampling = SamplingParams {
            temperature: config.temperature,
            max_new_tokens: config.max_new_tokens,
            ..SamplingParams::default()
        };
        let options =
            GenerateOptions { sampling, eos: codec.stop_ids(), max_batch: config.generation_batch, ..GenerateOptions::default() };
        let generated = generate(policy, Some(&codec.tokenizer), &requests, &options, &mut |_| ctx.cancel.check())?;

        let outputs: Vec<String> = generated.iter().map(|answer| codec.decode(&answer.tokens)).collect();
        let instruction = |&prompt: &usize| &self.instructions[self.prompts[prompt].index];
        let answers: Vec<Response<'_>> =
            drawn.iter().zip(&outputs).map(|(prompt, output)| Response { instruction: instruction(prompt), output }).collect();
        let scores = checked::score(reward_model, &answers, &RunContext { events: &NoEvents, ..*ctx })?;
        let explored: Vec<Explored> = drawn
            .into_iter()
            .zip(&generated)
            .zip(outputs.iter().zip(scores))
            .map(|((prompt, answer), (output, score))| {
                let ended = answer.finish == FinishReason::Stop;
                let (output, tokens) = (output.clone(), answer.tokens.clone());
                Explored { prompt, output, tokens, ended, score: config.missing_end.apply(score, ended) }
            })
            .collect();
        ctx.stage.write_jsonl(&file, &explored)?;
        Ok(explored)
    }
}

fn scores_of(answers: &[Explored]) -> Vec<f64> {
    answers.iter().map(|answer| answer.score).collect()
}

/// Logs what an exploration brought, at the optimiser step that follows it.
pub(super) fn log_explored(explored: &[Explored], step: u64, ctx: &RunContext<'_>) {
    let (mean, std) = mean_and_std(&scores_of(explored));
    let n = explored.len().max(1) as f64;
    let n_tokens: usize = explored.iter().map(|answer| answer.tokens.len()).sum();
    let ended = explored.iter().filter(|answer| answer.ended).count() as f64;
    let numbers = [("reward", mean), ("reward_std", std), ("response_length", n_tokens as f64 / n), ("ended", ended / n)];
    for (name, number) in numbers {
        ctx.scalar(&format!("quark/{name}"), step, number);
    }
}

fn read(path: &std::path::Path) -> Result<Option<Vec<Explored>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let read = |line: &str| {
        serde_json::from_str(line).map_err(|error| {
            Error::invalid_data(format!("`{}` does not hold explored answers", path.display())).with_source(error)
        })
    };
    text.lines().map(read).collect::<Result<Vec<_>>>().map(Some)
}

/// The prompts of the draws `first..first + count`: shuffled passes over all of them, one after the other.
fn draw(n_prompts: usize, first: u64, count: usize, seed: Seed) -> Vec<usize> {
    let n = n_prompts as u64;
    let mut order = (u64::MAX, Vec::new());
    let pick = |draw: u64| {
        if order.0 != draw / n {
            order = (draw / n, epoch_order(n_prompts, seed.child("prompts", 0), draw / n));
        }
        order.1[(draw % n) as usize]
    };
    (first..first + count as u64).map(pick).collect()
}

/// The pool, sorted into bins.
pub(super) struct Bins {
    pub(super) pool: Vec<Explored>,
    /// The places in the pool of each bin's answers, the best bin first.
    members: Vec<Vec<usize>>,
}

impl Bins {
    /// The bins of a pool after another exploration.
    ///
    /// # Errors
    /// When all answers in it score alike.
    pub(super) fn with(before: Option<Self>, explored: Vec<Explored>, config: &QuarkConfig) -> Result<Self> {
        let mut pool = match (before, config.pool) {
            (Some(bins), Pool::Growing) => bins.pool,
            _ => Vec::new(),
        };
        pool.extend(explored);
        let scores = scores_of(&pool);
        if all_equal(&scores) {
            let message = format!("all {} answers in the pool have the same score: there are no bins", pool.len());
            return Err(Error::invalid_data(message)
                .with_hint("raise `temperature` or `rollout_size`, or use a reward model that tells answers apart"));
        }
        let mut members = vec![Vec::new(); config.bins];
        for (place, bin) in quantiles(&scores, config.bins)?.into_iter().enumerate() {
            members[bin].push(place);
        }
        Ok(Self { pool, members })
    }

    /// The lowest score in the best bin.
    pub(super) fn best_from(&self) -> f64 {
        self.members[0].iter().map(|&place| self.pool[place].score).fold(f64::INFINITY, f64::min)
    }

    /// The answers of an optimiser step, as places in the pool with their bins: each from a bin drawn uniformly from those that are
    /// trained on, and uniformly within it.
    pub(super) fn draw(&self, config: &QuarkConfig, seed: Seed) -> Vec<(usize, usize)> {
        let mut rng = seed.child("draw", 0).rng();
        let n_bins = match config.train_on {
            TrainedBins::AllConditioned => self.members.len(),
            TrainedBins::BestPlain => 1,
        };
        let one = |_| {
            let bin = rng.below(n_bins);
            (self.members[bin][rng.below(self.members[bin].len())], bin)
        };
        (0..config.batch_size).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(scores: &[f64]) -> Vec<Explored> {
        let answer =
            |(prompt, &score): (usize, &f64)| Explored { prompt, output: String::new(), tokens: vec![1], ended: true, score };
        scores.iter().enumerate().map(answer).collect()
    }

    fn config(bins: usize, pool: Pool, train_on: TrainedBins) -> QuarkConfig {
        QuarkConfig { bins, pool, train_on, batch_size: 3000, ..QuarkConfig::default() }
    }

    #[test]
    fn a_growing_pool_is_put_into_bins_anew_and_the_newest_one_forgets() {
        let (old, new) = ([7.0, 6.0, 5.0, 4.0], [9.0, 8.0, 1.0, 0.0, -1.0]);
        let growing = config(3, Pool::Growing, TrainedBins::AllConditioned);
        let first = Bins::with(None, pool(&old), &growing).expect("they differ");
        assert_eq!(first.members, [vec![0], vec![1], vec![2, 3]]);
        let both = Bins::with(Some(first), pool(&new), &growing).expect("they differ");
        assert_eq!(both.members, [vec![0, 4, 5], vec![1, 2, 3], vec![6, 7, 8]]);
        assert_eq!(both.best_from(), 7.0);
        let newest = config(3, Pool::Newest, TrainedBins::AllConditioned);
        let second = Bins::with(Some(both), pool(&new), &newest).expect("they differ");
        assert_eq!(second.members, [vec![0], vec![1], vec![2, 3, 4]]);
        assert!(Bins::with(None, pool(&[0.1; 5]), &newest).is_err());
        assert!(Bins::with(None, pool(&[0.1, 0.2]), &newest).is_err(), "fewer answers than bins");
    }

    #[test]
    fn bins_are_drawn_alike_however_large_they_are() {
        let config_of = |train_on| config(2, Pool::Growing, train_on);
        let bins = Bins::with(None, pool(&[3.0, 2.0, 1.0, 0.0, -1.0]), &config_of(TrainedBins::AllConditioned)).expect("differ");
        let drawn = bins.draw(&config_of(TrainedBins::AllConditioned), Seed::root(1));
        let best = drawn.iter().filter(|(_, bin)| *bin == 0).count();
        assert!((1400..1600).contains(&best), "{best} of 3000 from the smaller bin");
        assert!(drawn.iter().all(|&(place, bin)| (place < 2) == (bin == 0)));
        let best = bins.draw(&config_of(TrainedBins::BestPlain), Seed::root(1));
        assert!(best.iter().all(|&(place, bin)| place < 2 && bin == 0));
    }

    #[test]
    fn draws_pass_over_all_prompts_before_one_comes_again() {
        let seed = Seed::root(2);
        let all = draw(5, 0, 15, seed);
        for pass in all.chunks(5) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
        assert_eq!(draw(5, 3, 6, seed), all[3..9]);
    }
}
