//! The data that travels between stages: every type is serde, has a JSON form and round-trips.

mod annotation;
mod comparison;
mod completion;
mod demonstration;
mod human_judgement;
mod instruction;
mod judging_cost;
mod preference;
mod report;
mod unordered_pair;

pub use annotation::{Annotation, AnnotatorId, Failure, Judgement, Judging, Outcome, Preference, ShownOrder};
pub use comparison::{Comparison, Response};
pub use completion::{Completion, FinishReason, ModelId, SamplingParams};
pub use demonstration::Demonstration;
pub use human_judgement::HumanJudgement;
pub use instruction::{Instruction, Message, Role};
pub use judging_cost::JudgingCost;
pub use preference::{LabelledCompletion, PreferencePair, RankedList, RatedCompletion, ScoredCompletion};
pub use report::{EvalReport, Metric};
pub use unordered_pair::UnorderedPair;

use sha2::{Digest, Sha256};

/// A stable id of some texts: the first 16 hexadecimal digits of the SHA-256 over their lengths and bytes.
pub fn content_id<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
