//! `farmhand evaluate annotators`: what is known of judges.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_analysis::{
    JudgeFiles, Order, PEOPLE, ReadJudges, judge_charts, judges_csv, judges_markdown, judges_terminal, read_judges, read_options,
    read_ranking,
};
use farmhand_annotators::seeding::is_switched_in_alpaca_eval;
use farmhand_core::types::Judgement;
use farmhand_core::{Error, EventSink, Result, Seed};
use farmhand_evaluators::agreement::AgreementReport;
use farmhand_evaluators::judges::leanings::is_same_family;
use farmhand_evaluators::judges::pairwise::{PairwiseAgreement, pairwise};
use farmhand_evaluators::judges::{JudgeOptions, JudgeReport, measure};
use serde_json::json;

use crate::cli::Terminal;
use crate::cli::args::{AnnotatorsArgs, Cli, ShownArg, TableFormat};

/// Prints what is known of judges.
pub(super) fn annotators(args: &AnnotatorsArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let in_alpaca_eval = |asked: &str| is_switched_in_alpaca_eval(asked, 0);
    let files = JudgeFiles {
        judges: &args.judgements,
        people: &args.humans,
        pools: args.members,
        order: match args.shown {
            ShownArg::Recorded => Order::Recorded,
            ShownArg::AsGiven => Order::AsGiven,
            ShownArg::AlpacaEval => Order::Rule(&in_alpaca_eval),
        },
        options: read_options(args.skip_bad_records),
    };
    let read = read_judges(&files)?;
    read.notes.iter().for_each(|note| terminal.info(note));
    for (judge, _) in &args.own {
        if read.verdicts.judge(judge).is_none() {
            let known = read.verdicts.judges.join("`, `");
            return Err(
                Error::invalid_config(format!("`--own`: no judge is called `{judge}`")).with_hint(format!("judges: `{known}`"))
            );
        }
    }
    let reports = measured(args, &read, terminal)?;
    let seed = Seed::root(args.seed);
    let matrix = pairwise(&read.verdicts, args.resamples, seed.child("pairwise", 0));
    let pools: Vec<(&str, AgreementReport)> =
        read.pools.iter().filter_map(|(name, judgements)| Some((name.as_str(), among(judgements, args, seed)?))).collect();
    if let Some(folder) = &args.charts {
        for chart in judge_charts(&read.verdicts, &reports, &matrix)? {
            for file in chart.write(folder)? {
                terminal.info(&format!("wrote {}", file.display()));
            }
        }
    }
    match args.format {
        Some(TableFormat::Csv) if !cli.json => crate::cli::print(&judges_csv(&reports)),
        Some(TableFormat::Md) if !cli.json => {
            crate::cli::print(&format!("{}{}", judges_markdown(&reports), beside(&pools, &matrix, "### ")))
        }
        None if !cli.json => crate::cli::print(&format!("{}{}", judges_terminal(&reports), beside(&pools, &matrix, ""))),
        _ => {
            let members: BTreeMap<&str, &AgreementReport> = pools.iter().map(|(name, report)| (*name, report)).collect();
            crate::cli::print_json(&json!({ "judges": reports, "pairwise": matrix, "members": members }))
        }
    }
}

/// Everyone, the people first, without noise and at each rate of it.
fn measured(args: &AnnotatorsArgs, read: &ReadJudges, terminal: &Terminal) -> Result<Vec<JudgeReport>> {
    let ranking = args.ranking.as_deref().map(|file| read_ranking(file, args.ranking_column.as_deref())).transpose()?;
    let people = read.verdicts.judge(PEOPLE);
    let mut rates = vec![0.0];
    rates.extend(args.noise.iter().copied().filter(|rate| *rate > 0.0));
    let mut reports = Vec::new();
    for (judge, name) in read.verdicts.judges.iter().enumerate() {
        let given: Vec<&str> =
            args.own.iter().filter(|(judge, _)| judge == name).map(|(_, generator)| generator.as_str()).collect();
        let is_own = |generator: &str| {
            if given.is_empty() { is_same_family(name, generator) } else { given.contains(&generator) }
        };
        for p_flip in &rates {
            // Noise is the judges'; the people are the truth.
            if *p_flip > 0.0 && Some(judge) == people {
                continue;
            }
            let options = JudgeOptions {
                n_resamples: args.resamples,
                seed: Seed::root(args.seed).child_text("judge", name),
                least_verdicts: args.least_verdicts,
                ranking: ranking.clone(),
                p_flip: *p_flip,
                ..JudgeOptions::default()
            };
            reports.push(measure(&read.verdicts, judge, people, &is_own, &options));
        }
    }
    let ranks_nobody = |report: &JudgeReport| report.metric("ranking_spearman").is_none();
    if let Some(file) = args.ranking.as_deref().filter(|_| reports.iter().all(ranks_nobody)) {
        terminal.info(&no_common_models(file, args.least_verdicts));
    }
    Ok(reports)
}

fn no_common_models(file: &Path, least: usize) -> String {
    format!("`{}` ranks fewer than three models that a judge has {least} verdicts on, so no ranking is compared", file.display())
}

/// How far the members of a pool agree; nothing where no two judged the same.
fn among(judgements: &[Judgement], args: &AnnotatorsArgs, seed: Seed) -> Option<AgreementReport> {
    let report = AgreementReport::of(judgements, args.resamples, seed);
    (!report.pairs.is_empty()).then_some(report)
}

/// How far members of pools, and every two judges, agree.
fn beside(pools: &[(&str, AgreementReport)], matrix: &[PairwiseAgreement], heading: &str) -> String {
    let mut text = String::new();
    let between = |interval: Option<[f64; 2]>, scale: f64| {
        interval.map(|[low, high]| format!(" [{:.3}, {:.3}]", low * scale, high * scale)).unwrap_or_default()
    };
    for (name, report) in pools {
        text += &format!("\n{heading}Agreement among {name}: {} annotators\n\n", report.raters.len());
        for measure in &report.overall {
            let value = measure.value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
            text += &format!("- {}: {value}{}\n", measure.name.replace('_', " "), between(measure.interval, 1.0));
        }
        if let Some(left_out) = &report.leave_one_out {
            text += &format!("- one against the rest: {:.3}\n", left_out.score);
        }
    }
    if matrix.len() > 1 || pools.is_empty() && !matrix.is_empty() {
        text += &format!("\n{heading}Agreement of every two (%)\n\n");
        for two in matrix {
            let interval = two.interval.map(|[low, high]| format!(" [{low:.1}, {high:.1}]")).unwrap_or_default();
            text += &format!("- {} – {}: {:.1}{interval}, {} pairs\n", two.judges[0], two.judges[1], two.agreement, two.n);
        }
    }
    text
}
