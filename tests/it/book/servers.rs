//! What the book's commands talk to: a hub with small models under the names of large ones, and a server that behaves as vLLM does.

use std::path::Path;

use farmhand_core::Checkpoint;
use farmhand_endpoints::loopback::Loopback;
use farmhand_models::TextCodec;

use self::fake_vllm::Behaviour;
use crate::command::files_below;
use crate::hub_server::{HubServer, working_model};

#[path = "../../../plugins/src/policies/openai_server/fake_vllm.rs"]
mod fake_vllm;

/// A hub with the models that the book names: a small one that works, and differences to the base in `models/tests/golden_recovery`.
pub(super) fn hub(folder: &Path) -> HubServer {
    let differences = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden_recovery/sft"));
    let differences: Vec<(String, Vec<u8>)> =
        differences.into_iter().map(|(name, contents)| (name.to_string_lossy().into_owned(), contents)).collect();
    let small = working_model(&folder.join("on-the-hub"));
    let models = [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", small),
        ("tatsu-lab/alpaca-farm-sft10k-wdiff", differences.clone()),
        ("tatsu-lab/alpaca-farm-ppo-sim-wdiff", differences),
    ];
    HubServer::start_all(models.map(|(repo, files)| (repo.to_owned(), files)))
}

/// What `vllm serve CHECKPOINT` starts: the checkpoint's tokenizer, and answers that follow from the prompt.
pub(super) fn vllm(checkpoint: &Path) -> Result<Loopback, String> {
    let codec = Checkpoint::open(checkpoint).and_then(|checkpoint| TextCodec::load(&checkpoint, None));
    let codec = codec.map_err(|error| error.to_string())?;
    let root = checkpoint.to_string_lossy().into_owned();
    Ok(fake_vllm::start(codec, Behaviour { max_model_len: 2048, root, ..Behaviour::default() }))
}
