//! `farmhand checkpoint recover`: a model from its base and a published weight difference.

use std::path::Path;

use farmhand_core::{CheckpointKind, Device, Error, EventSink, FindModel, Result};
use farmhand_models::{Recovery, SumCheck, WeightType, configure_threads, recover as restore};
use serde_json::json;

use crate::cli::args::{Cli, DtypeArg, RecoverArgs};
use crate::cli::{Terminal, print, print_json};
use crate::hub::Want;
use crate::pipeline::{CANCEL, Session};

/// Restores and prints where the model is.
pub(super) fn recover(args: &RecoverArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("the output folder `{}` is not empty", args.out.display());
        return Err(Error::invalid_config(message).with_hint("name a new or empty folder"));
    }
    configure_threads(args.threads.into());
    let session = Session::new(Device::Cpu, terminal)?;
    let models = session.models(Want::AnyWeights);
    let [base, difference] = [&args.base, &args.diff].map(|name| models.find_model(name, Path::new("")));
    let (base, difference) = (base?, difference?);
    let recovery = Recovery {
        base: base.path(),
        difference: difference.path(),
        out: &args.out,
        weight_type: match args.dtype {
            DtypeArg::F32 => WeightType::F32,
            DtypeArg::Bf16 => WeightType::Bf16,
            DtypeArg::F16 => WeightType::F16,
        },
        check: match args.expected_sum {
            _ if args.unchecked => SumCheck::Skip,
            Some(sum) => SumCheck::Expect(sum),
            None => SumCheck::Published,
        },
    };
    let made = restore(&recovery, &session, &CANCEL)?;
    match made.expected_sum {
        Some(expected) => session.info(&format!("  the tensors add up to {:.4}, expected {expected:.4}", made.sum)),
        None => session.warn(&format!("nothing says whether the base is the right one; the tensors add up to {:.4}", made.sum)),
    }
    if !made.whole.is_empty() {
        session.info(&format!("  stored whole in the difference: {}", made.whole.join(", ")));
    }
    if cli.json {
        return print_json(&json!({
            "checkpoint": args.out,
            "kind": made.kind,
            "n_parameters": made.n_parameters,
            "sum": made.sum,
            "expected_sum": made.expected_sum,
            "whole": made.whole,
            "n_added_rows": made.n_added_rows,
        }));
    }
    let kind = if made.kind == CheckpointKind::RewardModel { "reward model" } else { "language model" };
    session.info(&format!("  a {kind} of {:.2} M parameters", made.n_parameters as f64 / 1e6));
    print(&format!("{}\n", args.out.display()))
}
