//! The engine behind a pipe: one JSON command a line in, one JSON answer a line out.
//!
//! `models/benches/against_transformers.py` drives it to compare numbers and times with transformers, step by step in one
//! run. Commands: `load`, `save`, `logits`, `greedy`, `scalar`, `train` (see [`Command`]).

#![expect(clippy::print_stdout, reason = "answers go to standard output")]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use farmhand_core::types::SamplingParams;
use farmhand_core::{Error, Result, Seed};
use farmhand_models::{
    BatchLayout, EncodedText, GenerateOptions, GenerationRequest, LanguageModel, ScalarHead, ScalarModel, TokenBatch,
    configure_threads, generate, selected_log_probs, write_safetensors,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    /// Reads a model folder.
    Load(PathBuf),
    /// Writes the model to a folder.
    Save(PathBuf),
    /// Writes the logits of one sequence to a safetensors file, as tensor `logits` `[t, v]`.
    Logits { ids: Vec<u32>, file: PathBuf },
    /// Generates `n` tokens after each prompt and answers with them and the seconds.
    Greedy { prompts: Vec<Vec<u32>>, n: u32 },
    /// Puts a random scalar head on the model in `from`, writes it to `to`, and answers with the rows' scores.
    Scalar { from: PathBuf, to: PathBuf, rows: Vec<Vec<u32>> },
    /// Mean negative log-probability from `start` on, and its gradients; answers with the loss, the norm of the gradient
    /// when `norm` is set (it takes time too), and the seconds.
    Train { rows: Vec<Vec<u32>>, start: usize, norm: bool },
}

fn main() -> Result<()> {
    configure_threads(0);
    let mut model = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Error::io("read", Path::new("standard input"), error))?;
        let command = serde_json::from_str(&line).map_err(|error| Error::invalid_data("not a command").with_source(error))?;
        println!("{}", answer(command, &mut model)?);
    }
    Ok(())
}

fn answer(command: Command, model: &mut Option<LanguageModel>) -> Result<Value> {
    let start = Instant::now();
    if let Command::Load(dir) = command {
        *model = Some(LanguageModel::load(&dir, Device::Cpu)?);
        return Ok(json!({ "seconds": start.elapsed().as_secs_f64() }));
    }
    let model = model.as_ref().ok_or_else(|| Error::missing_input("no model is loaded"))?;
    match command {
        Command::Load(_) => unreachable!("answered above"),
        Command::Save(dir) => model.save(&dir)?,
        Command::Logits { ids, file } => {
            let logits = no_grad(|| model.logits(&model.hidden_of(&ids)));
            write_safetensors(&file, [("logits", &logits)], &BTreeMap::new())?;
        }
        Command::Greedy { prompts, n } => {
            let sampling = SamplingParams { temperature: 0.0, max_new_tokens: n, ..SamplingParams::default() };
            let options = GenerateOptions { sampling, eos: Vec::new(), max_batch: prompts.len(), ..GenerateOptions::default() };
            let requests: Vec<_> = prompts.into_iter().map(|prompt| GenerationRequest { prompt, seed: Seed::root(0) }).collect();
            let generated = generate(model, None, &requests, &options, &mut |_| Ok(()))?;
            let seconds = start.elapsed().as_secs_f64();
            let tokens: Vec<_> = generated.into_iter().map(|generated| generated.tokens).collect();
            return Ok(json!({ "tokens": tokens, "seconds": seconds }));
        }
        Command::Scalar { from, to, rows } => {
            let body = LanguageModel::load(&from, Device::Cpu)?;
            let head = ScalarHead::random(body.config().hidden_size(), Seed::root(1), Device::Cpu);
            let model = ScalarModel::from_language_model(body, head);
            model.save(&to)?;
            let texts: Vec<_> = rows.into_iter().map(|ids| EncodedText { ids, response_start: 1 }).collect();
            let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu)?;
            let scores = no_grad(|| Vec::<f32>::try_from(model.last_token_scores(&batch)).expect("one score a row"));
            return Ok(json!({ "scores": scores }));
        }
        Command::Train { rows, start: response_start, norm } => {
            model.set_trainable(true);
            model.parameters().iter().for_each(|(_, tensor)| tensor.shallow_clone().zero_grad());
            let texts: Vec<_> = rows.into_iter().map(|ids| EncodedText { ids, response_start }).collect();
            let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu)?;
            let start = Instant::now();
            let selected = selected_log_probs(model, &batch);
            let loss = -selected.values.mean(Kind::Float);
            selected.backward(&loss);
            let seconds = start.elapsed().as_secs_f64();
            let squares = |(_, tensor): &(String, Tensor)| tensor.grad().square().sum(Kind::Double).double_value(&[]);
            let norm = norm.then(|| model.parameters().iter().map(squares).sum::<f64>().sqrt());
            model.set_trainable(false);
            return Ok(json!({ "loss": loss.double_value(&[]), "gradient_norm": norm, "seconds": seconds }));
        }
    }
    Ok(json!({ "seconds": start.elapsed().as_secs_f64() }))
}
