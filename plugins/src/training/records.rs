//! Which records a learner can use: too long ones are left out and counted, never cut.

use farmhand_core::{Error, Result, RunContext, Seed};
use farmhand_models::{BatchLayout, EncodedText, TokenBatch};

/// A record as token ids: one text for a demonstration, two for a pair, more for a list.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place among the records given, from 0.
    pub index: usize,
    /// The id of its instruction, for messages.
    pub id: String,
    /// How much better the first of two texts is, ≥ 0; 0 when nobody said.
    pub margin: f64,
    /// Its texts.
    pub texts: Vec<EncodedText>,
}

impl Record {
    /// A record without a margin; [`admit`] sets its place.
    pub fn new(id: &str, texts: impl Into<Vec<EncodedText>>) -> Self {
        Self { index: 0, id: id.to_owned(), margin: 0.0, texts: texts.into() }
    }

    /// The longest of its texts, in tokens.
    pub fn longest(&self) -> usize {
        self.texts.iter().map(|text| text.ids.len()).max().unwrap_or(0)
    }

    /// All its texts together, in tokens.
    pub fn n_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.ids.len()).sum()
    }
}

/// The longest text a learner takes.
#[derive(Debug, Clone, Copy)]
pub struct TokenLimit {
    /// The name of the learner's option.
    pub option: &'static str,
    /// The option: tokens of a whole text at most.
    pub max_tokens: usize,
    /// What the model's context has room for; never exceeded, whatever the option says.
    pub context: usize,
}

/// Encodes records and leaves out those that are longer than the limit, or, with `needs_response`, whose response has no
/// token to learn from. What is left out is counted in a warning; `noun` names the records in it (`demonstrations`).
///
/// # Errors
/// When there are no records, all are left out, or one cannot be encoded.
pub fn admit<R>(
    records: &[R],
    noun: &str,
    limit: TokenLimit,
    needs_response: bool,
    ctx: &RunContext<'_>,
    encode: impl Fn(&R) -> Result<Record> + Sync,
) -> Result<Vec<Record>>
where
    R: Sync,
{
    if records.is_empty() {
        return Err(Error::missing_input(format!("there are no {noun} to learn from")));
    }
    let max_tokens = limit.max_tokens.min(limit.context);
    let (mut kept, mut longest, mut n_long, mut n_empty) = (Vec::with_capacity(records.len()), 0, 0, 0);
    for (index, record) in encode_all(records, noun, ctx, encode)?.into_iter().enumerate() {
        let record = Record { index, ..record };
        if record.longest() > max_tokens {
            n_long += 1;
            longest = longest.max(record.longest());
        } else if needs_response && record.texts.iter().any(|text| text.response_start == text.ids.len()) {
            n_empty += 1;
        } else {
            kept.push(record);
        }
    }
    let limit_name = if limit.context < limit.max_tokens {
        "the room in the model's context".to_owned()
    } else {
        format!("`{}`", limit.option)
    };
    let n = records.len();
    let long = format!("{n_long} of {n} {noun} are longer than {limit_name} of {max_tokens} tokens (the longest has {longest})");
    let empty = format!("{n_empty} of {n} {noun} have a response without a token to learn from");
    if kept.is_empty() {
        let why = if n_empty == 0 { long } else { format!("{long}; {empty}") };
        return Err(Error::invalid_data(format!("no {noun} are left to learn from: {why}"))
            .with_hint(format!("raise `{}`, use a model with a longer context, or shorten the data", limit.option)));
    }
    if n_long > 0 {
        ctx.events.warn(&format!("{long}; they are left out"));
    }
    if n_empty > 0 {
        ctx.events.warn(&format!("{empty}; they are left out"));
    }
    Ok(kept)
}

/// Encodes records on as many threads as tensors have, in the order of the records. One thread encodes about 240 000 tokens a
/// second: nothing beside training on a CPU, but much of an epoch on a GPU. Grouping and laying out batches take a hundredth of
/// that and stay where the step is.
fn encode_all<R: Sync>(
    records: &[R],
    noun: &str,
    ctx: &RunContext<'_>,
    encode: impl Fn(&R) -> Result<Record> + Sync,
) -> Result<Vec<Record>> {
    const AT_A_TIME: usize = 256;
    let n_threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let mut progress = ctx.progress("tokenising", Some(records.len() as u64), noun);
    let mut encoded = Vec::with_capacity(records.len());
    for part in records.chunks(n_threads * AT_A_TIME) {
        ctx.cancel.check()?;
        let stretches: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
            let work = |records: &'_ [R]| records.iter().map(&encode).collect();
            let threads: Vec<_> = part.chunks(AT_A_TIME).map(|records| scope.spawn(move || work(records))).collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|encoded| encoded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for stretch in stretches {
            encoded.extend(stretch?);
        }
        progress.advance(part.len() as u64);
    }
    Ok(encoded)
}

/// Some records as one batch: the first texts of all of them, then the second ones, and so on. With the seed of an optimiser step
/// the batch is one of training: an adapter's dropout follows the records' instructions, so that it does not depend on how the
/// step is split.
///
/// # Errors
/// When a text is empty or too long for the layout.
pub fn record_batch(
    records: &[Record],
    rows: &[usize],
    layout: BatchLayout,
    device: tch::Device,
    train: Option<Seed>,
) -> Result<TokenBatch> {
    let places = text_places(records, rows);
    let texts: Vec<&EncodedText> = places.iter().map(|&(row, text)| &records[row].texts[text]).collect();
    let batch = TokenBatch::new(&texts, layout, device)?;
    Ok(match train {
        Some(seed) => {
            let seeds: Vec<Seed> = places.iter().map(|&(row, _)| seed.child_text("dropout", &records[row].id)).collect();
            batch.with_dropout(&seeds)
        }
        None => batch,
    })
}

/// The texts of [`record_batch`] in the batch's order: the record, an index into `records`, and which of its texts it is.
pub fn text_places(records: &[Record], rows: &[usize]) -> Vec<(usize, usize)> {
    let most = rows.iter().map(|&row| records[row].texts.len()).max().unwrap_or(0);
    let with_text = |text: usize| rows.iter().filter(move |&&row| text < records[row].texts.len()).map(move |&row| (row, text));
    (0..most).flat_map(with_text).collect()
}

/// The ids of some records, for the message of an error: the first eight, then how many more.
pub fn ids_of(records: &[Record], picked: &[usize]) -> String {
    let shown: Vec<String> = picked.iter().take(8).map(|&i| format!("`{}`", records[i].id)).collect();
    let more = picked.len().saturating_sub(8);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use farmhand_core::RecordedEvents;

    use super::*;
    use crate::testing::with_context;

    fn record(id: &usize) -> Result<Record> {
        // As many tokens as the number says, the last of them the response; ten has no response.
        let ids = vec![7; *id];
        let response_start = if *id == 10 { 10 } else { id - 1 };
        Ok(Record::new(&format!("r{id}"), [EncodedText { ids, response_start }]))
    }

    #[test]
    fn long_and_empty_records_are_left_out_and_counted() {
        let events = RecordedEvents::default();
        let limit = TokenLimit { option: "max_tokens", max_tokens: 12, context: 64 };
        let kept = with_context(&events, |ctx| admit(&[3, 13, 10, 12, 40], "demonstrations", limit, true, ctx, record))
            .expect("some are left");
        assert_eq!(kept.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["r3", "r12"]);
        let text = format!("{:?}", events.take());
        assert!(text.contains("2 of 5 demonstrations are longer than `max_tokens` of 12 tokens (the longest has 40)"), "{text}");
        assert!(text.contains("1 of 5 demonstrations have a response without a token"), "{text}");
        assert_eq!(ids_of(&kept, &[1, 0]), "`r12`, `r3`");
    }

    #[test]
    fn many_threads_keep_the_order_and_report_the_first_error() {
        let events = RecordedEvents::default();
        let numbers: Vec<usize> = (0..2000).collect();
        let encode = |number: &usize| match number % 700 {
            699 => Err(Error::invalid_data(number.to_string())),
            _ => Ok(Record::new(&number.to_string(), [EncodedText { ids: Vec::new(), response_start: 0 }])),
        };
        with_context(&events, |ctx| {
            let encoded = encode_all(&numbers[..699], "numbers", ctx, encode).expect("encoded");
            assert!(encoded.iter().enumerate().all(|(number, record)| record.id == number.to_string()));
            assert_eq!(encode_all(&numbers, "numbers", ctx, encode).expect_err("two fail").message(), "699");
            ctx.cancel.cancel();
            assert!(encode_all(&numbers, "numbers", ctx, encode).expect_err("stopped").is_cancelled());
        });
    }

    #[test]
    fn a_batch_holds_first_texts_first_also_of_lists_of_unequal_length() {
        let text = |n: usize| EncodedText { ids: vec![7; n], response_start: 1 };
        let records =
            [vec![text(2), text(3)], vec![text(4)], vec![text(5), text(6), text(7)]].map(|texts| Record::new("", texts));
        assert_eq!(text_places(&records, &[2, 1, 0]), [(2, 0), (1, 0), (0, 0), (2, 1), (0, 1), (2, 2)]);
        let batch = record_batch(&records, &[2, 1, 0], BatchLayout::Packed, tch::Device::Cpu, None).expect("made");
        assert_eq!(batch.response_lengths(), [4, 3, 1, 5, 2, 6]);
    }

    #[test]
    fn nothing_left_is_an_error_that_names_the_limit() {
        let events = RecordedEvents::default();
        let limit = TokenLimit { option: "max_tokens", max_tokens: 512, context: 8 };
        let error =
            with_context(&events, |ctx| admit(&[9, 11], "pairs", limit, true, ctx, record)).expect_err("all are too long");
        assert!(error.message().contains("the room in the model's context of 8 tokens"), "{error}");
        assert!(with_context(&events, |ctx| admit(&[], "pairs", limit, true, ctx, record)).is_err());
    }
}
