//! What a run measured: the leaderboard of its report, and while there is none, what its evaluations say.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::types::EvalReport;
use serde_json::{Map, Value, json};

use super::folder::file_name;

/// The rows of the run's leaderboard; without a report, one row for each evaluation that is there.
pub(crate) fn rows(run: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(run.join("report/leaderboard.json"));
    let from_report = text.ok().and_then(|text| serde_json::from_str::<Vec<Map<String, Value>>>(&text).ok());
    from_report.filter(|rows| !rows.is_empty()).unwrap_or_else(|| {
        let row = |(method, reports): (String, Vec<EvalReport>)| {
            let mut row = Map::new();
            row.insert("model".to_owned(), json!(method));
            for metric in reports.iter().flat_map(|report| &report.metrics) {
                row.insert(metric.name.clone(), json!(metric.value));
                if let Some(error) = metric.std_error {
                    let name = if metric.name == "win_rate" {
                        "standard_error".to_owned()
                    } else {
                        format!("{}_standard_error", metric.name)
                    };
                    row.insert(name, json!(error));
                }
            }
            row
        };
        reports(run).into_iter().map(row).collect()
    })
}

/// The evaluations of a run, by method. One that is not whole yet is left out.
pub(crate) fn reports(run: &Path) -> BTreeMap<String, Vec<EvalReport>> {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let report = |folder: std::path::PathBuf| {
        let method = file_name(&folder).strip_prefix("evaluate-")?.to_owned();
        let text = std::fs::read_to_string(folder.join("report.json")).ok()?;
        Some((method, serde_json::from_str(&text).ok()?))
    };
    entries.filter_map(|entry| report(entry.path())).collect()
}
