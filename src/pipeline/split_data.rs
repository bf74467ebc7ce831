//! Data: instructions and answers, read or made, in one file a split.

use std::path::Path;

use farmhand_analysis::read_options;
use farmhand_core::config::{DataConfig, SPLITS};
use farmhand_core::data::{self, ReadOptions, Share};
use farmhand_core::types::Demonstration;
use farmhand_core::{Error, Result, RunContext};

use super::learn::note_left_out;

/// Writes `<split>.jsonl` for every split that has records.
///
/// # Errors
/// When a file cannot be read, or holds fewer instructions than the splits want.
pub(super) fn split_data(config: &DataConfig, base_dir: &Path, ctx: &RunContext<'_>) -> Result<()> {
    for (name, demonstrations) in splits(config, base_dir, ctx)? {
        if demonstrations.is_empty() {
            continue;
        }
        ctx.events.info(&format!("  {name}: {} records", demonstrations.len()));
        ctx.stage.write_jsonl(&format!("{name}.jsonl"), &demonstrations)?;
    }
    Ok(())
}

fn splits(config: &DataConfig, base_dir: &Path, ctx: &RunContext<'_>) -> Result<Vec<(String, Vec<Demonstration>)>> {
    let options = read_options(config.skip_bad_records);
    if !config.files.is_empty() {
        let files = config.files.iter().map(|(name, file)| Ok((name.clone(), read(&base_dir.join(file), &options, ctx)?)));
        return files.collect();
    }
    let all = match (&config.file, config.synthetic) {
        (Some(file), _) => read(&base_dir.join(file), &options, ctx)?,
        (None, Some(n)) => data::synthetic::generate(n, ctx.seed.child("synthetic", 0)),
        (None, None) => return Err(Error::invalid_config("`data` names neither `synthetic` nor `file` nor `files`")),
    };
    let sizes = &config.split;
    let wanted = [sizes.sft, sizes.preference, sizes.unlabeled, sizes.val, sizes.eval];
    let shares: Vec<(&str, Share)> = SPLITS.into_iter().zip(wanted.map(Share::Count)).collect();
    let parts = data::split(all, &shares, ctx.seed.child("split", 0))?;
    Ok(SPLITS.into_iter().map(str::to_owned).zip(parts).collect())
}

fn read(path: &Path, options: &ReadOptions, ctx: &RunContext<'_>) -> Result<Vec<Demonstration>> {
    let (demonstrations, report) = data::read_demonstrations(path, options)?;
    note_left_out(&report, ctx);
    Ok(demonstrations)
}
