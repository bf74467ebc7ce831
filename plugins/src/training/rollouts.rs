//! Sampling inside a learner: prompts in shuffled passes, responses of the policy as it is now, and what the models say about
//! their tokens.
//!
//! A response depends on its place in the run and the weights alone, never on what is sampled beside it, so that a run that goes
//! on after a stop samples the same. Log-probabilities are measured in the very micro-batches of the update's first pass: the
//! probability ratio of the first optimiser step is exactly 1.

use std::collections::BTreeMap;
use std::time::Instant;

use farmhand_core::types::{FinishReason, Instruction, Response, SamplingParams};
use farmhand_core::{Error, NoEvents, Result, RewardModel, RunContext, Seed, checked};
use farmhand_models::{
    GenerateOptions, Generated, GenerationRequest, HeldModel, LanguageModel, Mixture, ModelConfig, PassSize, Storage, TextCodec,
    TokenBatch, computed_tokens, epoch_order, generate, generate_from_mixture, selected_log_probs_no_grad_at,
};
use tch::{Kind, Tensor, no_grad};

use super::learner_options::PassOptions;
use super::memory::{MemoryNeeds, Trainee};
use super::records::{Record, ids_of, record_batch, text_places};
use super::rollout_options::RolloutOptions;
use crate::rl::rollout::RolloutBatch;

/// What a learner samples from.
#[derive(Clone, Copy)]
pub struct Sampler<'a> {
    /// How.
    pub options: &'a RolloutOptions,
    /// How texts pass through the models.
    pub passes: &'a PassOptions,
    /// The policy's tokenizer and prompt format.
    pub codec: &'a TextCodec,
    /// All instructions, as given.
    pub instructions: &'a [Instruction],
    /// The prompts of those that fit, see [`super::fitting_prompts`].
    pub prompts: &'a [Record],
    /// The policy.
    pub policy: &'a LanguageModel,
}

/// Whom the policy's responses are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Opponent<'a> {
    /// A model.
    Model(&'a LanguageModel),
    /// The geometric mixture of the policy with a model, token by token.
    Mixture {
        /// The model.
        with: &'a LanguageModel,
        /// Its weight, in [0, 1]; 0 is the policy itself.
        weight: f64,
    },
}

/// Sampled responses.
pub struct Sampled {
    /// Prompt and response of each, in the order they were drawn, the samples of a prompt one after the other. `id` and `index`
    /// are those of the instruction.
    pub records: Vec<Record>,
    /// The responses as text.
    pub outputs: Vec<String>,
    /// Whether each has its end-of-sequence token.
    pub ended: Vec<bool>,
    /// Seconds that sampling took.
    pub secs: f64,
}

impl Sampled {
    /// Tokens of each response.
    pub fn lengths(&self) -> Vec<usize> {
        self.records.iter().map(|record| record.texts[0].response().len()).collect()
    }

    /// The share of responses with their end-of-sequence token.
    pub fn ended_share(&self) -> f64 {
        self.ended.iter().filter(|ended| **ended).count() as f64 / self.ended.len().max(1) as f64
    }

    /// What there is to tell of them, for [`super::OnPolicy::log`].
    pub fn scalars(&self) -> [(&'static str, f64); 4] {
        let n_tokens = self.lengths().iter().sum::<usize>() as f64;
        [
            ("response_length", n_tokens / self.records.len().max(1) as f64),
            ("ended", self.ended_share()),
            ("rollout_secs", self.secs),
            ("sampled_tokens_per_sec", n_tokens / self.secs.max(1e-9)),
        ]
    }

    /// Adds the responses of another round of sampling.
    pub fn append(&mut self, other: Self) {
        self.records.extend(other.records);
        self.outputs.extend(other.outputs);
        self.ended.extend(other.ended);
        self.secs += other.secs;
    }

    /// The responses at these places.
    #[must_use]
    pub fn only(&self, places: &[usize]) -> Self {
        Self {
            records: places.iter().map(|&place| self.records[place].clone()).collect(),
            outputs: places.iter().map(|&place| self.outputs[place].clone()).collect(),
            ended: places.iter().map(|&place| self.ended[place]).collect(),
            secs: self.secs,
        }
    }
}

/// Scores of sampled responses.
pub struct Scores {
    /// As the reward model gave them.
    pub plain: Vec<f64>,
    /// After the rule for a missing end.
    pub rewards: Vec<f64>,
    /// Seconds that scoring took.
    pub secs: f64,
}

impl Scores {
    /// The mean score, before penalties.
    pub fn mean(&self) -> f64 {
        self.plain.iter().sum::<f64>() / self.plain.len().max(1) as f64
    }
}

/// The records of each optimiser step of one pass over a round, cut into micro-batches: steps, micro-batches, rows.
pub type Partition = Vec<Vec<Vec<usize>>>;

impl<'a> Sampler<'a> {
    /// The prompts of the draws `first..first + n`, as places among the prompts: shuffled passes over all of them, one after the
    /// other.
    pub fn draw(&self, first: u64, n: usize, ctx: &RunContext<'_>) -> Vec<usize> {
        let n_prompts = self.prompts.len();
        let mut orders: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let pick = |draw: u64| {
            let (epoch, place) = (draw / n_prompts as u64, (draw % n_prompts as u64) as usize);
            orders.entry(epoch).or_insert_with(|| epoch_order(n_prompts, ctx.seed.child("prompts", 0), epoch))[place]
        };
        (first..first + n as u64).map(pick).collect()
    }

    /// `samples_per_prompt` responses to each of the prompts of the draws `first..first + n`.
    ///
    /// # Errors
    /// What generation reports, and on cancellation.
    pub fn sample(&self, first: u64, n: usize, ctx: &RunContext<'_>) -> Result<Sampled> {
        let requests = self.requests("rollout", first, n, ctx);
        self.generate(Opponent::Model(self.policy), &requests, &self.options.sampling(), ctx)
    }

    /// Prompts and random streams of `samples_per_prompt` responses to each of the prompts of the draws `first..first + n`.
    fn requests(&self, purpose: &str, first: u64, n: usize, ctx: &RunContext<'_>) -> Vec<(usize, Seed)> {
        let group = self.options.samples_per_prompt as u64;
        let places = (first * group..).map(|place| ctx.seed.child(purpose, place));
        let prompts = self.draw(first, n, ctx).into_iter().flat_map(|prompt| std::iter::repeat_n(prompt, group as usize));
        prompts.zip(places).collect()
    }

    /// The same from an opponent of the policy; its random numbers are others.
    ///
    /// # Errors
    /// As [`Sampler::sample`], and when a mixture's models do not fit together.
    pub fn sample_opponent(&self, opponent: Opponent<'_>, first: u64, n: usize, ctx: &RunContext<'_>) -> Result<Sampled> {
        let requests = self.requests("opponent", first, n, ctx);
        self.generate(opponent, &requests, &self.options.sampling(), ctx)
    }

    /// The policy's greedy response to each of the prompts of the draws `first..first + n`.
    ///
    /// # Errors
    /// What generation reports, and on cancellation.
    pub fn sample_greedy(&self, first: u64, n: usize, ctx: &RunContext<'_>) -> Result<Sampled> {
        let requests: Vec<(usize, Seed)> = self.draw(first, n, ctx).into_iter().map(|prompt| (prompt, ctx.seed)).collect();
        let greedy =
            SamplingParams { temperature: 0.0, max_new_tokens: self.options.max_new_tokens, ..SamplingParams::default() };
        self.generate(Opponent::Model(self.policy), &requests, &greedy, ctx)
    }

    fn generate(
        &self,
        from: Opponent<'_>,
        requests: &[(usize, Seed)],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Sampled> {
        let Self { codec, prompts, .. } = *self;
        let drawn: Vec<&Record> = requests.iter().map(|&(prompt, _)| &prompts[prompt]).collect();
        let request =
            |(record, &(_, seed)): (&&Record, &(usize, Seed))| GenerationRequest { prompt: record.texts[0].ids.clone(), seed };
        let generation: Vec<GenerationRequest> = drawn.iter().zip(requests).map(request).collect();
        let options = GenerateOptions {
            sampling: sampling.clone(),
            eos: codec.stop_ids(),
            max_batch: self.options.generation_batch,
            ..GenerateOptions::default()
        };
        let started = Instant::now();
        let (tokenizer, mut on_done) = (Some(&codec.tokenizer), |_| ctx.cancel.check());
        let generated = match from {
            Opponent::Model(model) => generate(model, tokenizer, &generation, &options, &mut on_done)?,
            Opponent::Mixture { with, weight } => {
                let mixture = Mixture { other: with, weight };
                generate_from_mixture(self.policy, mixture, tokenizer, &generation, &options, &mut on_done)?
            }
        };
        let record = |(prompt, response): (&&Record, &Generated)| Record {
            index: prompt.index,
            ..Record::new(&prompt.id, [codec.encode_tokens(&prompt.texts[0].ids, &response.tokens)])
        };
        Ok(Sampled {
            records: drawn.iter().zip(&generated).map(record).collect(),
            outputs: generated.iter().map(|response| codec.decode(&response.tokens)).collect(),
            ended: generated.iter().map(|response| response.finish == FinishReason::Stop).collect(),
            secs: started.elapsed().as_secs_f64(),
        })
    }

    /// The reward model's score of each response.
    ///
    /// # Errors
    /// What the reward model reports.
    pub fn score(&self, sampled: &Sampled, reward_model: &mut dyn RewardModel, ctx: &RunContext<'_>) -> Result<Scores> {
        let responses: Vec<Response<'_>> = sampled
            .records
            .iter()
            .zip(&sampled.outputs)
            .map(|(record, output)| Response { instruction: &self.instructions[record.index], output })
            .collect();
        let started = Instant::now();
        // The round has its own progress; a bar for every scoring would drown it.
        let plain = checked::score(reward_model, &responses, &RunContext { events: &NoEvents, ..*ctx })?;
        let rewards =
            plain.iter().zip(&sampled.ended).map(|(&score, &ended)| self.options.missing_end.apply(score, ended)).collect();
        Ok(Scores { plain, rewards, secs: started.elapsed().as_secs_f64() })
    }

    /// The partition of pass `epoch` of round `step` into optimiser steps of `batch_size` records.
    pub fn partition(&self, records: &[Record], batch_size: usize, step: u64, epoch: u32, ctx: &RunContext<'_>) -> Partition {
        let order = epoch_order(records.len(), ctx.seed.child("minibatches", step), u64::from(epoch));
        let micro = self.passes.micro_batching(self.policy.device());
        order.chunks(batch_size).map(|rows| micro.groups(records, rows)).collect()
    }

    /// What `run` says about every response token, flat `[tokens]`, on the CPU, without gradient: the texts of the first record,
    /// then those of the second, and so on. `run` gets the micro-batches of `partition`, `names` say what its numbers are.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn measure<const N: usize>(
        &self,
        records: &[Record],
        partition: &Partition,
        names: [&str; N],
        run: impl Fn(&TokenBatch) -> [Tensor; N],
    ) -> Result<[Tensor; N]> {
        let first_text: Vec<usize> =
            records.iter().scan(0, |sum, record| Some(std::mem::replace(sum, *sum + record.texts.len()))).collect();
        let n_texts = records.iter().map(|record| record.texts.len()).sum::<usize>();
        let mut columns: [Vec<Tensor>; N] = std::array::from_fn(|_| (0..n_texts).map(|_| Tensor::new()).collect());
        for rows in partition.iter().flatten() {
            let batch = record_batch(records, rows, self.passes.layout, self.policy.device(), None)?;
            let numbers = no_grad(|| run(&batch));
            let sizes: Vec<i64> = batch.response_lengths().into_iter().map(|length| length as i64).collect();
            for ((column, flat), name) in columns.iter_mut().zip(numbers).zip(names) {
                if flat.isfinite().all().int64_value(&[]) == 0 {
                    let message = format!("a {name} is not finite, of responses to {}", ids_of(records, rows));
                    return Err(Error::non_finite(message).with_hint("lower `optim.lr`"));
                }
                let parts = flat.to_device(tch::Device::Cpu).split_with_sizes(&sizes, 0);
                for ((row, text), part) in text_places(records, rows).into_iter().zip(parts) {
                    column[first_text[row] + text] = part;
                }
            }
        }
        Ok(columns.map(|column| Tensor::cat(&column, 0)))
    }

    /// The log-probabilities of sampled responses, one text a record, under the policy and the reference, in a block of `width`
    /// columns or as many as the longest response has tokens; and the mean entropy of the distributions they were drawn from, in
    /// nats.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn roll_out(
        &self,
        records: &[Record],
        partition: &Partition,
        reference: Option<&LanguageModel>,
        width: Option<usize>,
    ) -> Result<(RolloutBatch, f64)> {
        let temperature = self.options.temperature;
        let names = ["log-probability", "reference log-probability", "entropy"];
        let [log_probs, reference, entropies] = self.measure(records, partition, names, |batch| {
            let (log_probs, entropies) = selected_log_probs_no_grad_at(self.policy, batch, temperature);
            let reference = match reference {
                Some(reference) => selected_log_probs_no_grad_at(reference, batch, temperature).0,
                None => log_probs.shallow_clone(),
            };
            [log_probs, reference, entropies]
        })?;
        let lengths: Vec<usize> = records.iter().map(|record| record.texts[0].response().len()).collect();
        let width = width.unwrap_or_else(|| lengths.iter().copied().max().unwrap_or(0));
        let entropy = entropies.mean(Kind::Double).double_value(&[]);
        Ok((RolloutBatch::new(width, lengths, &log_probs, &reference), entropy))
    }

    /// The largest records that an update can meet, as many as `texts` responses to one prompt each: the longest prompts with
    /// responses of `max_new_tokens` tokens, in a first micro-batch; and whether a step of `batch_size` records may have more
    /// micro-batches.
    pub fn largest_pass(&self, texts: usize, batch_size: usize) -> (Vec<Record>, bool) {
        let response = vec![self.codec.end_id(); self.options.max_new_tokens as usize];
        let mut longest: Vec<&Record> = self.prompts.iter().collect();
        longest.sort_by_key(|record| (std::cmp::Reverse(record.longest()), record.index));
        let full = |record: &&Record| {
            let text = self.codec.encode_tokens(&record.texts[0].ids, &response);
            Record { index: record.index, ..Record::new(&record.id, vec![text; texts]) }
        };
        let records: Vec<Record> = longest.iter().cycle().take(batch_size).map(full).collect();
        let all: Vec<usize> = (0..records.len()).collect();
        let groups = self.passes.micro_batching(self.policy.device()).groups(&records, &all);
        let first = groups.first().map(|rows| rows.iter().map(|&row| records[row].clone()).collect()).unwrap_or_default();
        (first, groups.len() > 1)
    }
}

impl Sampler<'_> {
    /// What models and passes take: `trained` with the policy first, frozen ones beside it, and the reward model. `largest` and
    /// `is_one_of_many` are those of [`Sampler::largest_pass`].
    ///
    /// # Errors
    /// When the reward model's sizes cannot be read.
    pub fn memory_needs(
        &self,
        trained: Vec<HeldModel>,
        mut frozen: Vec<HeldModel>,
        largest: &[Record],
        is_one_of_many: bool,
        reward_model: Option<&dyn RewardModel>,
    ) -> Result<MemoryNeeds> {
        if let Some(checkpoint) = reward_model.and_then(RewardModel::checkpoint) {
            frozen.push(HeldModel::frozen("reward model", &ModelConfig::load(checkpoint.path())?, false, Storage::F32));
        }
        let first = pass_size(largest, self.passes);
        let checkpoint_every = self.passes.checkpoint_every;
        let trainee = Trainee { first, later: is_one_of_many.then_some(first), checkpoint_every };
        let rows = self.options.generation_batch.min(self.options.n_responses());
        let length = largest.iter().map(Record::longest).max().unwrap_or(0);
        Ok(MemoryNeeds::reinforcement(trained, frozen, trainee, rows, length))
    }
}

/// The size of a pass over some records.
fn pass_size(records: &[Record], passes: &PassOptions) -> PassSize {
    let texts = records.iter().flat_map(|record| &record.texts);
    PassSize {
        tokens: records.iter().map(|record| computed_tokens(&record.texts, passes.layout)).sum(),
        predicted: texts.map(|text| text.response().len()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;

    use super::*;
    use crate::rl::reward_shaping::MissingEnd;
    use crate::testing::{LikesE, Stage, instructions, tiny_checkpoint};
    use crate::training::fitting_prompts;

    fn with_sampler(options: &RolloutOptions, check: impl FnOnce(&Sampler<'_>, &RunContext<'_>)) {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let (instructions, ctx, passes) = (instructions(5), stage.context(&NoEvents), PassOptions::default());
        let prompts = fitting_prompts(&instructions, 96, &codec, options, &ctx).expect("they fit");
        let sampler =
            Sampler { options, passes: &passes, codec: &codec, instructions: &instructions, prompts: &prompts, policy: &policy };
        check(&sampler, &ctx);
    }

    fn options() -> RolloutOptions {
        RolloutOptions { samples_per_prompt: 3, max_new_tokens: 6, ..RolloutOptions::default() }
    }

    #[test]
    fn every_pass_draws_every_prompt_once_and_a_response_depends_on_its_place_alone() {
        with_sampler(&options(), |sampler, ctx| {
            let draws = sampler.draw(0, 10, ctx);
            for pass in draws.chunks(5) {
                let mut sorted = pass.to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, [0, 1, 2, 3, 4]);
            }
            assert_eq!(sampler.draw(3, 4, ctx), draws[3..7]);
            let (all, some) = (sampler.sample(0, 4, ctx).expect("sampled"), sampler.sample(2, 2, ctx).expect("sampled"));
            assert_eq!((all.outputs.len(), &all.outputs[6..]), (12, &some.outputs[..]));
            let of_prompts: Vec<usize> = all.records.iter().map(|record| record.index).collect();
            assert_eq!(of_prompts.iter().step_by(3).copied().collect::<Vec<_>>(), draws[..4]);
            assert!(of_prompts.chunks(3).all(|group| group[0] == group[1] && group[1] == group[2]));
            assert!(all.outputs[0] != all.outputs[1] || all.outputs[1] != all.outputs[2]);
            let greedy = sampler.sample_greedy(0, 10, ctx).expect("sampled");
            let place = |prompt: usize, pass: usize| draws[5 * pass..][..5].iter().position(|&draw| draw == prompt);
            let (first, second) = (place(0, 0).expect("drawn"), 5 + place(0, 1).expect("drawn"));
            assert_eq!(greedy.outputs[first], greedy.outputs[second], "greedy responses to one prompt are the same");
        });
    }

    #[test]
    fn scores_have_the_penalty_of_a_missing_end_and_the_plain_ones_do_not() {
        with_sampler(&RolloutOptions { missing_end: MissingEnd::Subtract(2.0), ..options() }, |sampler, ctx| {
            let sampled = sampler.sample(0, 5, ctx).expect("sampled");
            let scores = sampler.score(&sampled, &mut LikesE, ctx).expect("scored");
            assert!(sampled.ended.iter().any(|ended| !ended));
            for ((plain, reward), ended) in scores.plain.iter().zip(&scores.rewards).zip(&sampled.ended) {
                assert!((plain - reward - if *ended { 0.0 } else { 2.0 }).abs() < 1e-12);
            }
        });
    }

    #[test]
    fn measured_numbers_stand_in_the_order_of_records_and_their_texts() {
        with_sampler(&options(), |sampler, ctx| {
            let sampled = sampler.sample(0, 4, ctx).expect("sampled").records;
            // Records of two texts each.
            let text = |row: usize| sampled[row].texts[0].clone();
            let records: Vec<Record> = (0..6).map(|row| Record::new(&sampled[row].id, [text(row), text(11 - row)])).collect();
            let partition = sampler.partition(&records, 4, 0, 0, ctx);
            assert_eq!(partition.len(), 2);
            let ids = |batch: &TokenBatch| [batch.targets.to_kind(Kind::Float)];
            let [targets] = sampler.measure(&records, &partition, ["id"], ids).expect("measured");
            let expected: Vec<f32> = records
                .iter()
                .flat_map(|record| &record.texts)
                .flat_map(|text| text.response().iter().map(|&id| id as f32))
                .collect();
            assert_eq!(Vec::<f32>::try_from(targets).expect("numbers"), expected);
            let broken = |batch: &TokenBatch| [batch.targets.to_kind(Kind::Float) / 0.0 * 0.0];
            let error = sampler.measure(&records, &partition, ["number"], broken).expect_err("not a number");
            assert!(error.message().contains("a number is not finite"), "{error}");
        });
    }

    #[test]
    fn the_largest_pass_has_the_longest_prompt_and_response() {
        with_sampler(&options(), |sampler, _| {
            let longest = sampler.prompts.iter().map(Record::longest).max().expect("prompts");
            let (records, is_one_of_many) = sampler.largest_pass(2, 4);
            assert!(records.len() == 4 && !is_one_of_many);
            assert_eq!(records[0].longest(), longest + 6);
            assert_eq!(records[0].texts.len(), 2);
            let passes = PassOptions { micro_batch_size: Some(3), ..PassOptions::default() };
            let (records, is_one_of_many) = Sampler { passes: &passes, ..*sampler }.largest_pass(1, 4);
            assert!(records.len() == 3 && is_one_of_many);
        });
    }
}
