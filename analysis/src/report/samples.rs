//! A few instructions with both answers and the verdict, side by side.

use farmhand_core::types::{Instruction, Judgement, Outcome, Preference};

use crate::html::escape;
use crate::number::fixed;
use crate::run_files::ModelFiles;

/// How many comparisons the page shows of each model.
const N_SAMPLES: usize = 4;

/// Characters of a text that the page shows at most.
const MAX_CHARS: usize = 2000;

/// The model's samples: those whose instruction ids come first. Ids are hashes of the content, so the choice is
/// arbitrary, the same in every repetition, and the same instructions for every model.
pub(super) fn samples(model: &ModelFiles) -> String {
    let mut judgements: Vec<&Judgement> = model.judgements.iter().collect();
    judgements
        .sort_by(|a, b| (&a.comparison.instruction.id, &a.comparison.id).cmp(&(&b.comparison.instruction.id, &b.comparison.id)));
    let shown: String = judgements.iter().take(N_SAMPLES).map(|judgement| sample(model, judgement)).collect();
    if !shown.is_empty() {
        let n = judgements.len().min(N_SAMPLES);
        return format!("<details>\n<summary>{n} of {} comparisons</summary>\n{shown}</details>\n", judgements.len());
    }
    answers_only(model)
}

fn answers_only(model: &ModelFiles) -> String {
    let mut completions: Vec<_> = model.completions.iter().collect();
    completions.sort_by(|a, b| (&a.instruction.id, a.sample).cmp(&(&b.instruction.id, b.sample)));
    let shown = completions.iter().take(N_SAMPLES).map(|completion| {
        let answer = column(model.model(), "", &completion.output);
        format!("<article>\n{}<div class=\"answers\">\n{answer}</div>\n</article>\n", question(&completion.instruction))
    });
    let shown: String = shown.collect();
    if shown.is_empty() {
        return shown;
    }
    let n = completions.len().min(N_SAMPLES);
    format!("<details>\n<summary>{n} of {} answers, not judged</summary>\n{shown}</details>\n", completions.len())
}

fn sample(model: &ModelFiles, judgement: &Judgement) -> String {
    let comparison = &judgement.comparison;
    let reference = comparison.generator_1.as_deref().or(model.reference()).unwrap_or("reference");
    let p = judgement.preference().map(Preference::p_second);
    let better = |wins: bool| if wins { " better" } else { "" };
    let left = column(&format!("{reference} (reference)"), better(p.is_some_and(|p| p < 0.5)), &comparison.output_1);
    let right = column(model.model(), better(p.is_some_and(|p| p > 0.5)), &comparison.output_2);
    format!(
        "<article>\n{}<div class=\"answers\">\n{left}{right}</div>\n<p class=\"verdict\">{}</p>\n</article>\n",
        question(&comparison.instruction),
        verdict(judgement, reference, model.model())
    )
}

fn question(instruction: &Instruction) -> String {
    let history = instruction
        .history
        .iter()
        .map(|turn| format!("<p class=\"turn\">{}</p><pre>{}</pre>\n", turn.role.name(), shortened(&turn.content)));
    format!("{}<pre class=\"instruction\">{}</pre>\n", history.collect::<String>(), shortened(&instruction.text()))
}

fn column(name: &str, class: &str, answer: &str) -> String {
    let answer =
        if answer.trim().is_empty() { "<em>(empty answer)</em>".to_owned() } else { format!("<pre>{}</pre>", shortened(answer)) };
    format!("<div class=\"answer{class}\">\n<h4>{}</h4>\n{answer}\n</div>\n", escape(name))
}

fn verdict(judgement: &Judgement, reference: &str, model: &str) -> String {
    let annotation = match &judgement.outcome {
        Outcome::Annotation(annotation) => annotation,
        Outcome::Failure(failure) => return format!("No verdict: {}.", failure.kind.label().replace('_', " ")),
    };
    let words = match annotation.preference {
        Preference::First => format!("{} is better", escape(reference)),
        Preference::Second => format!("{} is better", escape(model)),
        Preference::Tie => "tie".to_owned(),
        Preference::Graded(p) => format!("{} is better with probability {}", escape(model), fixed(p, 2)),
    };
    let noised = if annotation.noised { ", replaced by label noise" } else { "" };
    format!("Verdict of {}: <strong>{words}</strong>{noised}.", escape(&annotation.annotator))
}

/// The text, escaped, cut after so many characters with a note.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        None => escape(text),
        Some((end, _)) => {
            let rest = text[end..].chars().count();
            format!("{}<em> … and {rest} more characters</em>", escape(&text[..end]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunFiles;
    use crate::fixture;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ä".repeat(MAX_CHARS + 5);
        assert!(shortened(&long).ends_with("ä<em> … and 5 more characters</em>"));
        assert_eq!(shortened("a<b"), "a&lt;b");
    }

    #[test]
    fn every_model_shows_the_same_instructions_and_a_model_without_judgements_its_answers() {
        let dir = fixture::run();
        let mut run = RunFiles::read(dir.path()).expect("read");
        let instructions = |html: &str| {
            html.lines().filter(|line| line.starts_with("<pre class=\"instruction\">")).map(str::to_owned).collect::<Vec<_>>()
        };
        let [first, second] = [&run.models[0], &run.models[2]].map(|model| instructions(&samples(model)));
        assert_eq!(first.len(), N_SAMPLES);
        assert_eq!(first, second);
        run.models[0].judgements.clear();
        assert!(samples(&run.models[0]).contains("4 of 8 answers, not judged"));
        run.models[0].completions.clear();
        assert_eq!(samples(&run.models[0]), "");
    }
}
