//! A stage on the user's own files: a session, the output folder with its lock, and the component with its overrides.

use std::path::{Path, PathBuf};

use farmhand_core::component::{find_component, unknown_component};
use farmhand_core::config::check_options;
use farmhand_core::run::{Manifest, RunDir, SPENDING, StageDir, StagePlan, StageStatus};
use farmhand_core::types::SamplingParams;
use farmhand_core::{BuildContext, Checkpoint, ComponentKind, Device, Error, FindModel, Problem, Result, RunContext, Seed};
use serde_json::{Value, json};

use super::Terminal;
use super::args::{Common, DeviceArg, SamplingArgs};
use crate::cache_dir::cache_dir;
use crate::hub::Want;
use crate::pipeline::Session;

/// The name of the one stage in an output folder, as far as the seed tree is concerned.
const STAGE: &str = "stage";

/// One stage in one output folder. Running the same command again goes on after an interruption, and does nothing when
/// the outputs are there.
pub(super) struct StageFolder {
    /// What the stage shares with the program.
    pub(super) session: Session,
    seed: u64,
    redo: bool,
    out: PathBuf,
    run: RunDir,
    plan: StagePlan,
}

impl From<DeviceArg> for Device {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
        }
    }
}

impl StageFolder {
    /// Opens and locks the output folder. `files` and `models` are what the stage reads.
    pub(super) fn open(
        name: &str,
        out: &Path,
        common: &Common,
        options: Value,
        (files, models): (&[&Path], &[&Checkpoint]),
        mut session: Session,
    ) -> Result<Self> {
        farmhand_models::configure_threads(common.threads.into());
        let models = models.iter().flat_map(|model| model.inputs());
        let inputs = files.iter().map(|path| (*path).to_owned()).chain(models);
        let mut inputs = inputs.map(|path| absolute(&path)).collect::<Result<Vec<_>>>()?;
        inputs.sort();
        refuse_foreign(out)?;
        let run = RunDir::open(out)?;
        session.log_to(&out.join("events.jsonl"))?;
        session.enter_stage(name);
        let template = common.template.map(super::args::TemplateArg::name);
        let options = json!({ "command": name, "seed": common.seed, "template": template, "options": options });
        let plan = StagePlan { name: ".".to_owned(), options, inputs };
        Ok(Self { session, seed: common.seed, redo: common.redo, out: out.to_owned(), run, plan })
    }

    /// The seed of the work.
    pub(super) fn seed_of(common: &Common) -> Seed {
        Seed::root(common.seed).child(STAGE, 0)
    }

    /// Caps what paid requests may cost, over all runs of the command in this folder.
    pub(super) fn with_budget(mut self, budget_usd: Option<f64>) -> Result<Self> {
        self.session.cap(budget_usd, &self.out)?;
        Ok(self)
    }

    /// Does the work unless it was done before; tells which.
    pub(super) fn work(mut self, work: impl FnOnce(&RunContext<'_>, &BuildContext<'_>) -> Result<()>) -> Result<()> {
        let status = self.run.status(&self.plan, self.redo)?;
        if status == StageStatus::Done {
            self.session.terminal.note(&format!("{}: done before, nothing to do", self.out.display()));
            return Ok(());
        }
        let stage: StageDir = self.run.begin(&self.plan, status)?;
        // An interrupted stage goes on with the same models, whatever has become of their branch on the hub.
        self.run.record_models(&self.session.hub.commits())?;
        let ctx = self.session.context(&stage, Seed::root(self.seed).child(STAGE, 0));
        let models = self.session.models(Want::Model);
        let budget = self.session.budget.as_ref();
        let cache_dir = cache_dir();
        let cache_dir = cache_dir.as_deref();
        let build = BuildContext { models: &models, budget, cache_dir, ..BuildContext::new(ctx.device, Path::new(".")) };
        let done = work(&ctx, &build);
        self.run.record_models(&self.session.hub.commits())?;
        done.map_err(|error| if error.is_cancelled() { error.with_hint("run the same command again to go on") } else { error })?;
        self.run.finish(&self.plan, &stage)
    }
}

/// An output folder is new, empty, or one that this command made.
fn refuse_foreign(out: &Path) -> Result<()> {
    let made_here = out.join("manifest.json").is_file() || out.join("state").is_dir();
    let holds_files = std::fs::read_dir(out).is_ok_and(|entries| {
        entries.flatten().any(|entry| ![".lock", "events.jsonl", SPENDING].iter().any(|ours| entry.file_name() == *ours))
    });
    if holds_files && !made_here {
        return Err(Error::invalid_config(format!(
            "the output folder `{}` holds files that farmhand did not write",
            out.display()
        ))
        .with_hint("name a new or empty folder"));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::missing_input(format!("there is no file or folder `{}`", path.display())));
    }
    std::path::absolute(path).map_err(|error| Error::io("resolve", path, error))
}

/// The session of a command that writes to `out`. When the folder holds an earlier run, the session stays with its models.
pub(super) fn session_for(out: &Path, common: &Common, terminal: Terminal) -> Result<Session> {
    let session = Session::new(common.device.into(), terminal)?;
    session.hub.stay_with(&Manifest::read(&out.join("manifest.json"))?.models);
    Ok(session)
}

/// The model in a folder or on the hub, with the prompt format the user chose.
pub(super) fn open_model(name: &Path, common: &Common, session: &Session) -> Result<Checkpoint> {
    let model = session.models(Want::Model).find_model(name, Path::new(""))?;
    Ok(model.with_prompt_format(common.template.map(super::args::TemplateArg::name)))
}

/// A model that is no policy, so that no prompt format applies to it.
pub(super) fn open_reward_model(name: Option<&PathBuf>, session: &Session) -> Result<Option<Checkpoint>> {
    name.map(|name| session.models(Want::Model).find_model(name, Path::new(""))).transpose()
}

/// A component's default options with the user's `--set` applied, checked, all problems at once.
pub(super) fn options_with_overrides(kind: ComponentKind, name: &str, set: &[String]) -> Result<Value> {
    let info = find_component(kind, name).ok_or_else(|| {
        let (message, hint) = unknown_component(kind, name);
        Error::invalid_config(message).with_hint(hint)
    })?;
    let mut document = farmhand_core::config::Document::parse(Path::new("--set"), "")?;
    for assignment in set {
        document.set(assignment)?;
    }
    let problems = check_options(info, document.values());
    if !problems.is_empty() {
        return Err(document.problems_error(&problems).context(format_args!("options of {} `{name}`", kind.noun())));
    }
    Ok(document.values().clone())
}

/// One error for what is wrong with a component's values.
pub(super) fn refuse(problems: &[Problem], kind: ComponentKind, name: &str) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    // As `--set` names them: without the component's name in front.
    let named_for_set = |problem: &Problem| {
        let path = problem.path.strip_prefix(name).map(|rest| rest.trim_start_matches('.')).unwrap_or(&problem.path);
        Problem { path: path.to_owned(), ..problem.clone() }
    };
    let problems: Vec<Problem> = problems.iter().map(named_for_set).collect();
    let text = farmhand_core::config::render_problems(&problems, |_| format!("{} `{name}`", kind.noun()));
    Err(Error::invalid_config(format!("options out of range:\n{text}")))
}

/// Sampling as the command line says, defaults elsewhere.
pub(super) fn sampling(args: &SamplingArgs, n: u32) -> Result<SamplingParams> {
    let defaults = SamplingParams::default();
    let sampling = SamplingParams {
        n,
        temperature: args.temperature.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        min_p: args.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        max_new_tokens: args.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        stop: args.stop.clone(),
        log_probs: args.log_probs,
    };
    let problems = sampling.problems();
    if problems.is_empty() {
        return Ok(sampling);
    }
    let text = farmhand_core::config::render_problems(&problems, |key| format!("--{}", key.replace('_', "-")));
    Err(Error::invalid_config(format!("sampling options out of range:\n{text}")))
}

/// Works with a stage whose folder is for nothing and goes at once.
///
/// # Errors
/// When the folder cannot be made, or what the work reports.
pub(super) fn with_scratch_stage<T>(work: impl FnOnce(&StageDir) -> Result<T>) -> Result<T> {
    let scratch = std::env::temp_dir().join(format!("farmhand-dry-run-{}", std::process::id()));
    let done = work(&StageDir::create(&scratch)?);
    let _ = std::fs::remove_dir_all(&scratch);
    done
}
