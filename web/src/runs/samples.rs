//! Answers side by side, and judgements with what the judge said: a page at a time.

use std::path::Path;

use farmhand_core::Result;
use farmhand_core::types::{Completion, Instruction, Judgement, Outcome};
use serde_json::{Value, json};

use super::line_index::{Kind, LineIndices};
use super::stages::stages;
use crate::markdown;

/// Characters of a text that are shown.
const MAX_TEXT: usize = 20_000;

/// Answers of one model to one instruction that are shown.
const MAX_SAMPLES: usize = 8;

/// What a page of a list holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageOf {
    /// The first entry, from 0.
    pub(crate) from: usize,
    /// Entries at most.
    pub(crate) n: usize,
}

/// A text as the page shows it, cut where it is too long to be read.
fn shown(text: &str) -> Value {
    let cut = text.char_indices().nth(MAX_TEXT).map(|(at, _)| at);
    json!({ "text": markdown::read(&text[..cut.unwrap_or(text.len())]), "cut": cut.is_some() })
}

fn shown_instruction(instruction: &Instruction) -> Value {
    let turn = |message: &farmhand_core::types::Message| json!({ "role": message.role.name(), "shown": shown(&message.content) });
    json!({
        "instruction": shown(&instruction.instruction),
        "input": instruction.input.as_deref().map(shown),
        "history": instruction.history.iter().map(turn).collect::<Vec<_>>(),
    })
}

/// A judgement as the page shows it; a line that is none says so.
fn shown_judgement(line: &str, with_answers: bool) -> Value {
    let Ok(judgement) = serde_json::from_str::<Judgement>(line) else {
        return json!({ "unreadable": line.chars().take(200).collect::<String>() });
    };
    let comparison = &judgement.comparison;
    let mut value = match &judgement.outcome {
        Outcome::Annotation(annotation) => json!({
            "preference": annotation.preference.code(), "annotator": annotation.annotator, "order": annotation.shown,
            "raw": annotation.raw, "scores": annotation.scores, "cost_usd": annotation.cost_usd,
            "time_secs": annotation.time_secs, "cached": annotation.cached, "noised": annotation.noised,
        }),
        Outcome::Failure(failure) => json!({
            "failure": failure.kind.label(), "message": failure.message, "annotator": failure.judging.annotator,
            "order": failure.judging.shown, "raw": failure.judging.raw, "cost_usd": failure.judging.cost_usd,
        }),
    };
    // What the judge said is shown letter by letter.
    if let Some(raw) = value["raw"].as_str() {
        let raw: String = raw.chars().take(MAX_TEXT).collect();
        value["raw"] = json!(markdown::verbatim(&raw));
    }
    if with_answers {
        value["question"] = shown_instruction(&comparison.instruction);
        value["outputs"] = json!([shown(&comparison.output_1), shown(&comparison.output_2)]);
        value["generators"] = json!([comparison.generator_1, comparison.generator_2]);
    }
    value
}

/// A page of a stage's judgements.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn judgements(file: &Path, indices: &LineIndices, kind: Option<Kind>, page: PageOf) -> Result<Value> {
    let index = indices.of(file)?;
    let lines = index.of_kind(kind);
    let here: Vec<usize> = lines.iter().copied().skip(page.from).take(page.n).collect();
    let texts = index.read(file, &here)?;
    let entry = |(line, text): (&usize, &String)| {
        let mut value = shown_judgement(text, true);
        value["line"] = json!(line + 1);
        value
    };
    let entries: Vec<Value> = here.iter().zip(&texts).map(entry).collect();
    Ok(json!({ "total": lines.len(), "entries": entries }))
}

/// A page of instructions with what every model answered, and how the answers were judged.
///
/// # Errors
/// When a file is there and cannot be read.
pub(crate) fn side_by_side(run: &Path, indices: &LineIndices, page: PageOf) -> Result<Value> {
    let (stages, _) = stages(run);
    let sources: Vec<String> =
        stages.into_iter().filter(|stage| stage.has_completions && stage.name.starts_with("generate-")).map(|s| s.name).collect();
    let Some(first) = sources.first() else { return Ok(json!({ "total": 0, "entries": [], "models": [] })) };
    let path = |stage: &str, name: &str| run.join(stage).join(name);
    let leading = indices.of(&path(first, "completions.jsonl"))?;
    let here: Vec<usize> = (page.from..leading.len()).take(page.n).collect();
    let mut entries = Vec::new();
    for text in leading.read(&path(first, "completions.jsonl"), &here)? {
        let Ok(completion) = serde_json::from_str::<Completion>(&text) else {
            entries.push(json!({ "unreadable": text.chars().take(200).collect::<String>() }));
            continue;
        };
        let id = &completion.instruction.id;
        let mut answers = Vec::new();
        for stage in &sources {
            let method = stage.trim_start_matches("generate-");
            let about = |file: &Path| -> Result<Vec<String>> {
                let index = indices.of(file)?;
                let lines: Vec<usize> = index.about(id).iter().map(|line| *line as usize).take(MAX_SAMPLES).collect();
                index.read(file, &lines)
            };
            let given = about(&path(stage, "completions.jsonl"))?;
            let outputs = given.iter().filter_map(|text| serde_json::from_str::<Completion>(text).ok());
            let outputs: Vec<Value> = outputs
                .map(|answer| json!({ "shown": shown(&answer.output), "finish": answer.finish, "n_tokens": answer.n_tokens }))
                .collect();
            let judged = about(&path(&format!("evaluate-{method}"), "judgements.jsonl"))?;
            let judgements: Vec<Value> = judged.iter().map(|text| shown_judgement(text, false)).collect();
            answers.push(json!({ "model": method, "outputs": outputs, "judgements": judgements }));
        }
        entries.push(json!({ "question": shown_instruction(&completion.instruction), "answers": answers }));
    }
    let models: Vec<&str> = sources.iter().map(|stage| stage.trim_start_matches("generate-")).collect();
    Ok(json!({ "total": leading.len(), "entries": entries, "models": models }))
}
