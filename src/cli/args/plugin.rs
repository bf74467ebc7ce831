//! `farmhand plugin`: crates of one's own as shared libraries.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `farmhand plugin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand plugin new my_method                     a crate with a learner that works, in my_method/
  farmhand plugin build my_method                   compiles it to my_method/my-method.so
  farmhand --plugin my_method describe my_method    its options, like those of a built-in
  farmhand plugin check my_method                   whether it fits this farmhand, without running any of it

An experiment names its plugins: `plugins = [\"my_method\"]`, from the file's own folder on; other commands take `--plugin`. A folder
stands for every `.so` in it. Nothing else is loaded. A plugin runs inside farmhand: load only what you trust.")]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// The subcommands of `farmhand plugin`.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Write a crate with a component that works, to put your own in its place.
    New(PluginNewArgs),
    /// Compile a plugin so that it fits this farmhand.
    Build(PluginBuildArgs),
    /// Compare plugins with this farmhand, field by field, without running any of them.
    Check(PluginCheckArgs),
}

/// `farmhand plugin new`.
#[derive(Debug, Args)]
pub struct PluginNewArgs {
    /// The component's name: lower-case words joined by `_`.
    pub name: String,
    /// What it is.
    #[arg(long, value_enum, default_value_t = PluginKind::Learner)]
    pub kind: PluginKind,
    /// The folder to write; unset: one of the component's name here.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The folder of farmhand's sources; unset: where this program was built.
    #[arg(long, value_name = "DIR")]
    pub farmhand: Option<PathBuf>,
}

/// `farmhand plugin build`.
#[derive(Debug, Args)]
pub struct PluginBuildArgs {
    /// The crate's folder.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Compile for speed; takes several times as long. Needed only where the plugin's own Rust code is what takes the time.
    #[arg(long)]
    pub release: bool,
    /// Start again from the versions of packages that this farmhand uses: the crate's Cargo.lock is replaced. Needed after farmhand was
    /// updated.
    #[arg(long)]
    pub update: bool,
    /// The folder of farmhand's sources; unset: where this program was built.
    #[arg(long, value_name = "DIR")]
    pub farmhand: Option<PathBuf>,
}

/// `farmhand plugin check`.
#[derive(Debug, Args)]
pub struct PluginCheckArgs {
    /// Plugins, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `--kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PluginKind {
    /// Learns from feedback.
    Learner,
    /// Answers instructions.
    Policy,
    /// Scores answers.
    RewardModel,
    /// Judges pairs of answers.
    Annotator,
    /// Measures.
    Evaluator,
}
