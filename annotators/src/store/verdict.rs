//! One verdict as it is kept: what was judged, by whom, with which seed, and what came of it.

use std::fmt;
use std::sync::Arc;

use farmhand_core::types::{Annotation, Comparison, Failure, Judgement, Judging, Outcome};
use farmhand_core::{Error, ErrorKind};
use farmhand_endpoints::Date;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The address of a verdict: SHA-256 of the comparison's content in its order, the judge's identity and the seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerdictKey([u8; 32]);

/// Who judges, for good: two judges with the same name and other options are two judges.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judge {
    /// The name that results show.
    pub name: String,
    /// All that a verdict depends on besides the comparison and the seed, for example the options and the hashes of models.
    pub identity: String,
}

/// A comparison with what came of it, and where that came from.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVerdict {
    /// What was judged.
    pub comparison: Comparison,
    /// Who judged.
    pub judge: Arc<Judge>,
    /// The seed it was judged with; empty where none is known.
    pub seed: String,
    /// What came of it.
    pub outcome: StoredOutcome,
    /// When.
    pub date: Date,
    /// Columns of an imported record that have no meaning here; an export has them again.
    pub foreign: Map<String, Value>,
}

/// A verdict, or a typed failure that is not one.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredOutcome {
    /// A verdict.
    Verdict(Annotation),
    /// Why there is none.
    Failure {
        /// What went wrong, who was asked, what it cost.
        failure: Failure,
        /// Whether it may pass by itself.
        may_pass: bool,
    },
}

impl Judge {
    /// The judge whose verdicts were imported from a file that only names it.
    pub fn imported(name: &str) -> Self {
        Self { name: name.to_owned(), identity: "imported".to_owned() }
    }
}

impl VerdictKey {
    /// The key of a judge's verdict on a comparison.
    pub fn of(comparison: &Comparison, judge: &Judge, seed: &str) -> Self {
        // The comparison's id is short; its whole content tells what that confuses.
        let Comparison { id, instruction, output_1, output_2, .. } = comparison;
        let mut hash = Sha256::new().chain_update(b"farmhand verdict v1");
        for part in [&judge.name, &judge.identity, seed, id, &instruction.id, &instruction.instruction, output_1, output_2] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for VerdictKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerdictKey(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl StoredVerdict {
    /// Its key.
    pub fn key(&self) -> VerdictKey {
        VerdictKey::of(&self.comparison, &self.judge, &self.seed)
    }

    /// As a line of an annotations file.
    pub fn into_judgement(self) -> Judgement {
        let outcome = match self.outcome {
            StoredOutcome::Verdict(annotation) => Outcome::Annotation(annotation),
            StoredOutcome::Failure { failure, .. } => Outcome::Failure(failure),
        };
        Judgement { comparison: self.comparison, outcome }
    }
}

impl StoredOutcome {
    /// What is kept of a judge's result. Nothing is kept of a failure that is not the judge's: a stop, a missing file, a spent
    /// budget, a mistake in the configuration.
    pub fn of(result: &Result<Annotation, Error>) -> Option<Self> {
        match result {
            Ok(annotation) => Some(Self::Verdict(annotation.clone())),
            Err(error) => {
                let of_judge =
                    matches!(error.kind(), ErrorKind::UnparsableAnswer | ErrorKind::RefusedAnswer | ErrorKind::RemoteService);
                of_judge.then(|| Self::Failure { failure: error.into(), may_pass: error.is_retryable() })
            }
        }
    }

    /// The result that was kept, for nothing and at once.
    ///
    /// # Errors
    /// The failure, when it is one.
    pub fn into_result(self) -> Result<Annotation, Error> {
        let zero = |value: Option<f64>| value.map(|_| 0.0);
        match self {
            Self::Verdict(annotation) => Ok(Annotation {
                cached: true,
                cost_usd: zero(annotation.cost_usd),
                time_secs: zero(annotation.time_secs),
                ..annotation
            }),
            Self::Failure { failure: Failure { kind, message, judging }, may_pass } => {
                let judging =
                    Judging { cached: true, cost_usd: zero(judging.cost_usd), time_secs: zero(judging.time_secs), ..judging };
                let error = Error::new(kind, message).with_judging(judging);
                Err(if may_pass { error.retryable() } else { error })
            }
        }
    }

    /// Whether the comparison is not judged again: a verdict settles it; a failure does unless it may pass by itself or the
    /// user wants failures retried.
    pub fn settles(&self, retry_failures: bool) -> bool {
        match self {
            Self::Verdict(_) => true,
            Self::Failure { may_pass, .. } => !may_pass && !retry_failures,
        }
    }

    /// What it cost, in US dollars, if that is known.
    pub fn cost_usd(&self) -> Option<f64> {
        match self {
            Self::Verdict(annotation) => annotation.cost_usd,
            Self::Failure { failure, .. } => failure.judging.cost_usd,
        }
    }

    /// How long it took, in seconds, if that is known.
    pub fn time_secs(&self) -> Option<f64> {
        match self {
            Self::Verdict(annotation) => annotation.time_secs,
            Self::Failure { failure, .. } => failure.judging.time_secs,
        }
    }
}
