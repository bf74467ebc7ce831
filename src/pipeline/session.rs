//! What one invocation of the program holds: the runtime, the terminal, the flag that Ctrl-C sets, the device.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use farmhand_core::run::{EventLog, Ledger, SPENDING, StageDir};
use farmhand_core::{Budget, CancelFlag, Device, Event, EventSink, Executor, Result, RunContext, Seed};

use super::phase_meter::PhaseMeter;
use crate::cli::Terminal;
use crate::hub::{FoldersAndHub, Hub, Want};

/// Set by Ctrl-C and SIGTERM.
pub static CANCEL: CancelFlag = CancelFlag::new();

/// The one tokio runtime.
pub struct TokioExecutor(tokio::runtime::Runtime);

impl TokioExecutor {
    /// Starts the runtime.
    ///
    /// # Errors
    /// When the operating system refuses threads.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.map(Self).map_err(|error| farmhand_core::Error::other("cannot start the network runtime").with_source(error))
    }
}

impl Executor for TokioExecutor {
    fn block_on<'a>(&self, future: Pin<Box<dyn Future<Output = ()> + Send + 'a>>) {
        self.0.block_on(future);
    }
}

/// What every stage of one invocation shares.
pub struct Session {
    /// Where tensors live.
    pub device: Device,
    /// The terminal.
    pub terminal: Terminal,
    /// Where models with an id come from.
    pub hub: Hub,
    /// What paid requests may cost; unset: without limit.
    pub budget: Option<Budget>,
    executor: TokioExecutor,
    log: Option<EventLog>,
    meter: PhaseMeter,
}

impl Session {
    /// A session that shows its events on the terminal.
    ///
    /// # Errors
    /// When the operating system refuses threads.
    pub fn new(device: Device, terminal: Terminal) -> Result<Self> {
        let (hub, executor) = (Hub::from_environment(), TokioExecutor::new()?);
        Ok(Self { device, terminal, hub, budget: None, executor, log: None, meter: PhaseMeter::default() })
    }

    /// Also records events in a file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn log_to(&mut self, path: &Path) -> Result<()> {
        self.log = Some(EventLog::open(path)?);
        Ok(())
    }

    /// Caps what paid requests may cost, over all runs that share the folder.
    ///
    /// # Errors
    /// When what was spent before cannot be read.
    pub fn cap(&mut self, budget_usd: Option<f64>, folder: &Path) -> Result<()> {
        let budget = |limit| -> Result<Budget> { Ok(Budget::with_ledger(limit, Ledger::open(folder.join(SPENDING))?)) };
        self.budget = budget_usd.map(budget).transpose()?;
        Ok(())
    }

    /// Names the stage that the next recorded events belong to.
    pub fn enter_stage(&self, stage: &str) {
        if let Some(log) = &self.log {
            log.enter_stage(stage);
        }
    }

    /// What finds the models that configurations and options name.
    pub fn models(&self, want: Want) -> FoldersAndHub<'_> {
        FoldersAndHub { hub: &self.hub, want, events: self, cancel: &CANCEL }
    }

    /// The context of a stage.
    pub fn context<'a>(&'a self, stage: &'a StageDir, seed: Seed) -> RunContext<'a> {
        RunContext { stage, seed, device: self.device, events: self, cancel: &CANCEL, executor: &self.executor }
    }
}

impl Session {
    fn pass_on(&self, event: Event) {
        if let Some(log) = &self.log {
            log.emit(event.clone());
        }
        self.terminal.emit(event);
    }
}

impl EventSink for Session {
    fn emit(&self, event: Event) {
        match &event {
            Event::PhaseStarted { phase, .. } => self.meter.start(phase, self.device),
            Event::PhaseFinished { phase, .. } => {
                if let Some(figures) = self.meter.finish(phase, self.device) {
                    self.pass_on(Event::PhaseMeasured { phase: phase.clone(), figures });
                }
            }
            _ => {}
        }
        self.pass_on(event);
    }
}
