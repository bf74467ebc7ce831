//! `farmhand label`: people judge pairs of answers in a browser.

use std::path::{Path, PathBuf};

use farmhand_core::{Error, EventSink, Result};
use farmhand_web::ListenOptions;
use farmhand_web::label::{LabelOptions, LabelSession, LabelSummary};

use super::Terminal;
use super::args::{Cli, LabelArgs, ListenArgs};
use crate::pipeline::{CANCEL, read_options};

/// Serves until Ctrl-C, which is the usual end and no failure.
pub(super) fn label(args: &LabelArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let options = LabelOptions {
        data: args.data.clone(),
        out: args.out.clone().map_or_else(|| beside(&args.data), Ok)?,
        gold: args.gold.clone(),
        gold_every: args.gold_every,
        overlap: args.overlap,
        rubric: args.rubric.clone(),
        seed: args.seed,
        reading: read_options(args.skip_bad_records),
    };
    let session = LabelSession::open(&options)?;
    terminal.note(&format!("{}: {}", args.data.display(), session.found()));
    if args.export {
        return print_summary(&session.export()?, cli);
    }
    let listen = listen_options(&args.listen, args.port, terminal);
    let summary = session.serve(listen, &CANCEL, |urls| {
        if cli.json {
            return super::print(&format!("{}\n", serde_json::to_string(urls).expect("addresses are JSON")));
        }
        super::print(&format!("raters:   {}\noperator: {}\n", urls.raters, urls.operator))?;
        terminal.note("Ctrl-C ends and writes the files");
        Ok(())
    })?;
    print_summary(&summary, cli)
}

fn print_summary(summary: &LabelSummary, cli: &Cli) -> Result<()> {
    if cli.json {
        return super::print(&format!("{}\n", serde_json::to_string(summary).expect("a summary is JSON")));
    }
    let mut text = format!(
        "{} labels by {} raters; {} of {} verdicts\n",
        summary.n_labels, summary.n_raters, summary.n_done, summary.n_wanted
    );
    text.extend(summary.files.iter().map(|file| format!("{}\n", file.display())));
    super::print(&text)
}

/// `pairs.jsonl.gz` is labelled in `pairs.labels`.
fn beside(data: &Path) -> Result<PathBuf> {
    let name = data.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.split('.').find(|part| !part.is_empty()));
    let Some(stem) = stem else {
        return Err(Error::missing_input(format!("`{}` is not the name of a file", data.display()))
            .with_hint("name a file of comparisons, and with `--out` a folder for the labels"));
    };
    Ok(data.with_file_name(format!("{stem}.labels")))
}

/// Where to listen; warns of what others may see.
pub(super) fn listen_options(args: &ListenArgs, port: u16, terminal: &Terminal) -> ListenOptions {
    if !args.listen.is_loopback() {
        terminal.warn(&format!(
            "`--listen {}`: other machines can reach this page, and nothing is encrypted; whoever has the address can open it",
            args.listen
        ));
    }
    ListenOptions { address: args.listen, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lie_beside_their_data() {
        for (data, folder) in [("a/pairs.jsonl.gz", "a/pairs.labels"), ("x.json", "x.labels"), ("a/.hidden", "a/hidden.labels")] {
            assert_eq!(beside(Path::new(data)).expect("a name"), Path::new(folder));
        }
        assert!(beside(Path::new("..")).is_err());
    }
}
