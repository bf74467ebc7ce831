//! How well the run's reward models order pairs that none of them has seen.

use std::collections::BTreeSet;

use crate::html::escape;
use crate::number::fixed;
use crate::run_files::{AnswerScores, MeasuredRewardModel, trained_reward_model};
use crate::table::{Align, Table};

/// Which were asked without being trained, by name and what scores, and a table of those that were measured; nothing when there
/// are neither.
pub(super) fn reward_models(measured: &[MeasuredRewardModel], untrained: &[(String, String)]) -> Option<String> {
    let parts = [not_trained(untrained), table(measured)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.concat())
}

fn not_trained(untrained: &[(String, String)]) -> Option<String> {
    let told = |(name, scorer): &(String, String)| {
        format!("<code>{}</code>, which scores by <code>{}</code>", escape(name), escape(scorer))
    };
    let told = untrained.iter().map(told).collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then(|| format!("<p>Not trained in this run: {told}.</p>\n"))
}

/// A row each of those that were measured.
fn table(measured: &[MeasuredRewardModel]) -> Option<String> {
    let first = measured.first()?;
    let columns = [("Reward model", Align::Left), ("Scores by", Align::Left)]
        .into_iter()
        .chain(
            ["Accuracy (%)", "95 % interval", "Brier", "Calibration error", "Better is longer (%)", "Better is shorter (%)"]
                .map(right),
        )
        .map(|(header, align)| (header.to_owned(), align));
    let rows = measured.iter().map(|model| {
        let percent = |name: &str| model.numbers.get(name).map(|share| fixed(100.0 * share, 1));
        let number = |name: &str| model.numbers.get(name).map(|number| fixed(*number, 3)).unwrap_or_default();
        let interval = percent("accuracy_low").zip(percent("accuracy_high")).map(|(low, high)| format!("{low} – {high}"));
        vec![
            name_of(&model.model).to_owned(),
            model.scorer.clone(),
            percent("accuracy").unwrap_or_default(),
            interval.unwrap_or_default(),
            number("brier"),
            number("calibration_error"),
            percent("accuracy_chosen_longer").unwrap_or_default(),
            percent("accuracy_chosen_shorter").unwrap_or_default(),
        ]
    });
    let note = format!(
        "<p>On {} annotated pairs whose instructions no reward model learned from: how often the chosen answer scores more, how far \
         its probability is from certainty and from how often it is right, and accuracy where the chosen answer is the longer and \
         the shorter one.</p>\n",
        first.n
    );
    Some(note + &Table::new(columns.collect(), rows.collect()).html() + &by_dataset(measured))
}

/// Accuracy on each data set of the pairs, with the plain mean over data sets, as RewardBench has it; empty where there is one.
fn by_dataset(measured: &[MeasuredRewardModel]) -> String {
    let datasets: BTreeSet<&str> =
        measured.iter().flat_map(|model| model.numbers.keys()).filter_map(|name| name.strip_prefix("accuracy/")).collect();
    if datasets.is_empty() {
        return String::new();
    }
    let counts = |dataset: &str| measured.iter().find_map(|model| model.numbers.get(&format!("n_pairs/{dataset}")));
    let header = |dataset: &&str| {
        let n = counts(dataset).map(|n| format!(" (n = {})", fixed(*n, 0))).unwrap_or_default();
        (format!("{dataset}{n}"), Align::Right)
    };
    let columns = [("Reward model".to_owned(), Align::Left), ("Mean over data sets".to_owned(), Align::Right)];
    let columns = columns.into_iter().chain(datasets.iter().map(header)).collect();
    let row = |model: &MeasuredRewardModel| {
        let percent = |name: &str| model.numbers.get(name).map(|share| fixed(100.0 * share, 1)).unwrap_or_default();
        let cells = datasets.iter().map(|dataset| percent(&format!("accuracy/{dataset}")));
        [name_of(&model.model).to_owned(), percent("accuracy_over_datasets")].into_iter().chain(cells).collect()
    };
    let table = Table::new(columns, measured.iter().map(row).collect());
    format!("<p>Accuracy (%) on the pairs of each data set.</p>\n{}", table.html())
}

fn right(header: &str) -> (&str, Align) {
    (header, Align::Right)
}

/// The name in `[reward_models]`, or of the one without.
fn name_of(stage: &str) -> &str {
    trained_reward_model(stage).flatten().unwrap_or(AnswerScores::REWARD_MODEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reward_model_has_a_row_and_what_was_not_measured_stays_empty() {
        assert_eq!(reward_models(&[], &[]), None);
        let untrained = [("reward_model", "http"), ("gold", "length")].map(|(name, scorer)| (name.to_owned(), scorer.to_owned()));
        assert_eq!(
            reward_models(&[], &untrained).expect("a sentence"),
            "<p>Not trained in this run: <code>reward_model</code>, which scores by <code>http</code>; <code>gold</code>, which \
             scores by <code>length</code>.</p>\n"
        );
        let measured: Vec<MeasuredRewardModel> = [
            r#"{"model":"reward-model","scorer":"ensemble","n":40,"numbers":{"accuracy":0.725,"accuracy_low":0.57,"accuracy_high":0.84,"brier":0.2,"calibration_error":0.081}}"#,
            r#"{"model":"reward-model-judge","scorer":"preference_model","n":40,"numbers":{"accuracy":0.5,"accuracy_chosen_longer":1.0,"accuracy/koala":0.75,"n_pairs/koala":8,"accuracy_over_datasets":0.625}}"#,
        ]
        .iter()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
        let html = reward_models(&measured, &[]).expect("a table");
        for part in ["On 40 annotated pairs", "reward_model", "judge", "72.5", "57.0 – 84.0", "0.081", "100.0"] {
            assert!(html.contains(part), "no `{part}` in {html}");
        }
        assert_eq!(html.matches("<tr").count(), 3 + 3);
        for part in ["koala (n = 8)", "75.0", "62.5"] {
            assert!(html.contains(part), "no `{part}` in {html}");
        }
    }
}
