//! Where the two sides come from: methods of a run, evaluation folders, files of judgements.

use std::collections::BTreeSet;
use std::path::Path;

use farmhand_core::config::did_you_mean;
use farmhand_core::data::read_judgements;
use farmhand_core::types::Judgement;
use farmhand_core::{Error, Result};

use super::Side;
use crate::judgement_table::{JudgementTable, TableOptions};
use crate::parquet::read_options;
use crate::repetitions::split_seed;
use crate::run_files::{evaluated_methods, read_evaluation, read_evaluation_folder};

/// The file of an evaluation folder that holds its judgements.
const JUDGEMENTS: &str = "judgements.jsonl";

/// Two models of one source: methods of a run directory, or models of a file of judgements. `dpo` means every repetition of a
/// method, `dpo@1` the one with seed 1.
///
/// # Errors
/// When the source cannot be read, lacks one of them, or both are the same.
pub fn sides_of_one(source: &Path, a: &str, b: &str) -> Result<[Side; 2]> {
    if a == b {
        return Err(itself(&format!("`{a}`")));
    }
    if is_run(source) {
        return Ok([of_run(source, a)?, of_run(source, b)?]);
    }
    let judged = judged_in(source)?;
    Ok([judged.side(a, source)?, judged.side(b, source)?])
}

/// A model of each of two sources. `method` names it; it may be left out where a source holds one model.
///
/// # Errors
/// When a source cannot be read, lacks the model or holds several and none is named, or both are the same.
pub fn sides_of_two(a: &Path, b: &Path, method: Option<&str>) -> Result<[Side; 2]> {
    let same = std::fs::canonicalize(a).ok().zip(std::fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b);
    if same {
        return Err(itself(&format!("`{}`", a.display())));
    }
    let read = |path: &Path| -> Result<Side> {
        if is_run(path) {
            let method = method.map_or_else(|| the_only_method(path), |method| Ok(method.to_owned()))?;
            return of_run(path, &method);
        }
        let judged = judged_in(path)?;
        let name = method.map_or_else(|| the_only(&judged.models(path), path), |method| Ok(method.to_owned()))?;
        let mut side = judged.side(&name, path)?;
        if path.is_dir() {
            let seed = *side.seeds().iter().next().unwrap_or(&None);
            side.add_scores(seed, &read_evaluation_folder(path, &name)?.scores);
        }
        Ok(side)
    };
    let mut sides = [read(a)?, read(b)?];
    if sides[0].name == sides[1].name {
        for (side, path) in sides.iter_mut().zip([a, b]) {
            side.name = format!("{} ({})", side.name, path.display());
        }
    }
    Ok(sides)
}

fn itself(what: &str) -> Error {
    Error::invalid_config(format!("{what} is compared with itself"))
        .with_hint("name two different models: the difference of a model from itself is nothing")
}

fn is_run(path: &Path) -> bool {
    path.is_dir() && !path.join(JUDGEMENTS).is_file()
}

/// The methods of a run directory by name, each with whether it is one repetition's.
fn methods_of(run: &Path) -> Result<Vec<String>> {
    let methods = evaluated_methods(run)?;
    if methods.is_empty() {
        return Err(Error::missing_input(format!("`{}` holds no evaluated model", run.display())).with_hint(
            "name a run directory of `farmhand run`, an evaluation folder of `farmhand evaluate`, or a file of judgements",
        ));
    }
    Ok(methods)
}

fn of_run(run: &Path, name: &str) -> Result<Side> {
    let folders = methods_of(run)?;
    let chosen: Vec<&String> = folders.iter().filter(|folder| *folder == name || split_seed(folder).0 == name).collect();
    if chosen.is_empty() {
        let known: BTreeSet<&str> = folders.iter().map(|folder| split_seed(folder).0).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(
            Error::missing_input(format!("`{}` has no method `{name}`", run.display())).with_hint(did_you_mean(name, &known))
        );
    }
    let models = chosen.iter().map(|folder| Ok((split_seed(folder).1, read_evaluation(run, folder)?)));
    let models: Vec<_> = models.collect::<Result<_>>()?;
    Ok(Side::of_models(name, models.iter().map(|(seed, model)| (*seed, model))))
}

fn the_only_method(run: &Path) -> Result<String> {
    let names: BTreeSet<String> = methods_of(run)?.iter().map(|folder| split_seed(folder).0.to_owned()).collect();
    the_only(&names, run)
}

fn the_only(names: &BTreeSet<String>, path: &Path) -> Result<String> {
    match names.first() {
        Some(only) if names.len() == 1 => Ok(only.clone()),
        _ => {
            let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(Error::missing_input(format!("`{}` holds {} models: {list}", path.display(), names.len()))
                .with_hint("name one with `--method NAME`, or two of one source: `farmhand compare SOURCE A B`"))
        }
    }
}

/// A file of judgements.
enum Judged {
    /// One with texts.
    Full(Vec<Judgement>),
    /// One of the compact form: indices, preferences and lengths.
    Compact(Box<JudgementTable>),
}

fn judged_in(path: &Path) -> Result<Judged> {
    let file = if path.is_dir() { path.join(JUDGEMENTS) } else { path.to_owned() };
    if !file.is_file() {
        return Err(Error::missing_input(format!("there is no `{}`", path.display())).with_hint(
            "a source is a run directory, an evaluation folder, or a file of judgements; `farmhand compare RUN A B` compares methods",
        ));
    }
    match read_judgements(&file, &read_options(false)) {
        Ok((judgements, _)) => Ok(Judged::Full(judgements)),
        // The table of judgements knows the compact form; of any other, the first reader tells what is wrong.
        Err(error) => JudgementTable::read(&[&file], &TableOptions::default())
            .map(|table| Judged::Compact(Box::new(table)))
            .map_err(|_| error),
    }
}

impl Judged {
    fn models(&self, path: &Path) -> BTreeSet<String> {
        match self {
            Self::Full(judgements) => judgements.iter().map(|judgement| model_of(judgement, path).to_owned()).collect(),
            Self::Compact(table) => table.models().iter().map(str::to_owned).collect(),
        }
    }

    fn side(&self, name: &str, path: &Path) -> Result<Side> {
        let models = self.models(path);
        if !models.contains(name) {
            let known: Vec<&str> = models.iter().map(String::as_str).collect();
            return Err(
                Error::missing_input(format!("`{}` has no model `{name}`", path.display())).with_hint(did_you_mean(name, &known))
            );
        }
        let mut side = Side::new(name);
        match self {
            Self::Full(judgements) => {
                let chosen = judgements.iter().filter(|judgement| model_of(judgement, path) == name).cloned();
                side.add(None, &chosen.collect::<Vec<Judgement>>());
            }
            Self::Compact(table) => side.add_rows(table, name),
        }
        Ok(side)
    }
}

/// The name of a judgement's model; what its file is called when it has none.
fn model_of<'a>(judgement: &'a Judgement, path: &'a Path) -> &'a str {
    let stem = || path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
    judgement.comparison.generator_2.as_deref().unwrap_or_else(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn refused(result: Result<[Side; 2]>) -> String {
        let error = result.expect_err("refused");
        format!("{error}\n{}", error.hint().unwrap_or_default())
    }

    #[test]
    fn methods_of_a_run_are_found_with_all_their_seeds_or_one() {
        let dir = fixture::repeated_run();
        let [a, b] = sides_of_one(dir.path(), "ppo", "dpo").expect("read");
        assert_eq!((a.seeds().len(), b.seeds().len(), a.n_failed), (3, 3, 3));
        let [one, _] = sides_of_one(dir.path(), "ppo@1", "sft").expect("read");
        assert_eq!(one.seeds(), BTreeSet::from([Some(1)]));
        let text = refused(sides_of_one(dir.path(), "ppp", "dpo"));
        assert!(text.contains("has no method `ppp`") && text.contains("did you mean `ppo`?"), "{text}");
        assert!(refused(sides_of_one(dir.path(), "dpo", "dpo")).contains("`dpo` is compared with itself"));
    }

    #[test]
    fn two_sources_are_folders_files_or_runs_with_a_method() {
        let dir = fixture::run();
        let other = fixture::run();
        let folder = |run: &tempfile::TempDir, name: &str| run.path().join(format!("evaluate-{name}"));
        let [a, b] = sides_of_two(&folder(&dir, "ppo"), &folder(&dir, "dpo").join(JUDGEMENTS), None).expect("read");
        assert_eq!((a.name.as_str(), b.name.as_str(), a.answers.len()), ("ppo", "dpo", 8));
        let [a, b] = sides_of_two(dir.path(), other.path(), Some("dpo")).expect("read");
        assert!(a.name.starts_with("dpo (") && a.name != b.name, "{} {}", a.name, b.name);
        let text = refused(sides_of_two(dir.path(), other.path(), None));
        assert!(text.contains("holds 4 models: `best_of_n`, `dpo`, `ppo`, `sft`") && text.contains("--method"), "{text}");
        assert!(refused(sides_of_two(dir.path(), dir.path(), Some("dpo"))).contains("compared with itself"));
        assert!(refused(sides_of_two(dir.path(), &dir.path().join("no.json"), Some("dpo"))).contains("there is no `"));
        let empty = tempfile::tempdir().expect("a folder");
        assert!(refused(sides_of_one(empty.path(), "a", "b")).contains("holds no evaluated model"));
    }

    #[test]
    fn a_file_with_several_models_gives_two_of_them() {
        let dir = fixture::run();
        let text: String = ["ppo", "dpo"]
            .map(|name| std::fs::read_to_string(dir.path().join(format!("evaluate-{name}")).join(JUDGEMENTS)).expect("readable"))
            .concat();
        let file = dir.path().join("all.jsonl");
        std::fs::write(&file, text).expect("written");
        let [a, b] = sides_of_one(&file, "dpo", "ppo").expect("read");
        assert_eq!((a.answers.len(), b.answers.len()), (8, 8));
        let text = refused(sides_of_one(&file, "dpo", "pop"));
        assert!(text.contains("has no model `pop`") && text.contains("`ppo`"), "{text}");
    }

    #[test]
    fn files_of_lengths_without_texts_are_compared_by_their_indices() {
        let dir = tempfile::tempdir().expect("a folder");
        let lines = |of: fn(u32) -> f64| -> String {
            let line =
                |i: u32| format!("{{\"index\": {i}, \"preference\": {}, \"len_1\": 300, \"len_2\": {}}}\n", of(i), 250 + i);
            (0..40).map(line).collect()
        };
        let file = |name: &str, of: fn(u32) -> f64| {
            let path = dir.path().join(name);
            std::fs::write(&path, lines(of)).expect("written");
            path
        };
        let good = file("good.jsonl", |i| if i % 4 == 0 { 1.0 } else { 2.0 });
        let bad = file("bad.jsonl", |i| if i % 4 == 0 { 2.0 } else { 1.0 });
        let [a, b] = sides_of_two(&good, &bad, None).expect("read");
        assert_eq!((a.name.as_str(), b.name.as_str(), a.answers.len()), ("good", "bad", 40));
        let found = super::super::compare(&a, &b, farmhand_core::Seed::root(0)).expect("compared");
        assert_eq!(found.differences[0].difference, 50.0);
        assert!(found.differences.iter().any(|found| found.name == "avg_length") && found.better == Some("good".to_owned()));
    }
}
