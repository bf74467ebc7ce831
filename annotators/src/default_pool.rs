//! The embedded pool: eight simulated raters who want different things, in place of AlpacaFarm's thirteen prompts.
//!
//! They share what nearly everyone wants (say something, do not loop, stay with the question) and differ in the rest, as
//! AlpacaFarm's annotators do: some like long answers and some short ones, one likes lists, two lean towards the answer they
//! see first (these are shown the answers in a drawn order), one is careless. No model is behind them: they see the surface of a
//! text, not whether it is true. With the majority of three people they agree on 63 % of the 831 pairs of PandaLM's human test
//! set that have one (tests/people.rs); for members who read, give a `rater` a `model`, or add a judge to `members`.

use farmhand_core::AnnotatorSpec;

use crate::order_swap::OrderSwapConfig;
use crate::pool::{PoolConfig, PoolMember};
use crate::rater::{RaterConfig, TasteWeights};

/// The members of the default pool, all with weight 1.
pub(crate) fn default_members() -> Vec<PoolMember> {
    let shared =
        TasteWeights { length: 1.0, distinct: 1.5, overlap: 1.0, echo: -1.0, ending: 0.5, list: 0.0, not_empty: 1.0, model: 0.0 };
    let taste = |length_target: f64, temperature: f64, weights: TasteWeights| RaterConfig {
        length_target,
        temperature,
        weights,
        ..RaterConfig::default()
    };
    vec![
        // A bit of everything, at a paragraph's length.
        member("balanced", taste(400.0, 0.2, shared.clone())),
        // Wants everything covered: long answers that take up the whole question.
        member("thorough", taste(1200.0, 0.2, TasteWeights { length: 2.0, overlap: 1.5, ..shared.clone() })),
        // Has no time: a sentence will do.
        member("brief", taste(120.0, 0.2, TasteWeights { length: 2.0, ..shared.clone() })),
        // Cares for the subject, and that it is not just said back.
        member("on_topic", taste(300.0, 0.2, TasteWeights { length: 0.5, overlap: 3.0, echo: -2.0, ..shared.clone() })),
        // Cannot stand loops and answers that break off.
        member("tidy", taste(300.0, 0.2, TasteWeights { length: 0.5, distinct: 3.0, ending: 1.5, ..shared.clone() })),
        // Undecided between answers of about the same worth.
        member("lenient", RaterConfig { tie_band: 0.1, ..taste(500.0, 0.1, shared.clone()) }),
        // Likes short lists, and a little whatever comes first.
        shuffled(
            "list_lover",
            RaterConfig { order_bias: 0.1, ..taste(250.0, 0.3, TasteWeights { list: 1.0, ..shared.clone() }) },
        ),
        // Barely reads: much noise, and a weakness for the first answer.
        shuffled("careless", RaterConfig { order_bias: 0.3, ..taste(600.0, 1.0, shared) }),
    ]
}

/// The annotator that wrappers hold when none is named: the default pool.
pub(crate) fn default_annotator() -> AnnotatorSpec {
    // Not read from text, for reading a member asks wrappers for their default, which is this.
    AnnotatorSpec::of("pool", PoolConfig::default())
}

fn member(name: &str, config: RaterConfig) -> PoolMember {
    PoolMember { name: name.to_owned(), weight: 1.0, annotator: rater(name, config) }
}

/// A member who is shown the answers in a drawn order.
fn shuffled(name: &str, config: RaterConfig) -> PoolMember {
    let annotator = AnnotatorSpec::of("order_swap", OrderSwapConfig::around(rater(name, config)));
    PoolMember { name: name.to_owned(), weight: 1.0, annotator }
}

fn rater(name: &str, config: RaterConfig) -> AnnotatorSpec {
    AnnotatorSpec::of("rater", RaterConfig { name: name.to_owned(), ..config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Desk, comparison};
    use farmhand_core::types::Preference;
    use farmhand_core::{AnnotatorConfig, BuildContext, Device};

    /// The share of 400 instructions on which the default pool prefers `better` to `worse`, ties counted half.
    fn win_rate(better: &str, worse: &str) -> f64 {
        let desk = Desk::new();
        let pool = PoolConfig::default().build(&BuildContext::new(Device::Cpu, desk.dir.path())).expect("built");
        let pairs: Vec<_> = (0..400).map(|i| comparison(i, worse, better)).collect();
        let p: f64 = desk.preferences(&*pool, &pairs).into_iter().map(Preference::p_second).sum();
        p / 400.0
    }

    #[test]
    fn the_pool_prefers_sense_to_loops_and_to_silence() {
        let good = "The animal you ask about is a small mammal. It lives in forests, eats seeds, and sleeps through the winter.";
        let looped =
            "the animal the animal the animal the animal the animal the animal the animal the animal the animal the animal";
        assert!(win_rate(good, "") > 0.9, "{}", win_rate(good, ""));
        assert!(win_rate(good, looped) > 0.85, "{}", win_rate(good, looped));
    }

    #[test]
    fn the_pool_is_of_two_minds_about_length() {
        let short = "The animal is a fox. It hunts at night, eats mice and berries, and lives in a den.";
        let long = "Foxes are small relatives of wolves and dogs. They dig dens at the edge of woods and raise four to six cubs there \
                    each spring. Most hunt alone after dusk, listening for voles under grass or snow before they pounce. Berries, \
                    beetles, eggs and scraps round out what they eat, so towns suit them well. A bushy tail helps with balance and \
                    keeps the nose warm in winter. Few live beyond five years in the wild; cars and mange kill many of them.";
        let rate = win_rate(long, short);
        assert!((0.2..0.8).contains(&rate), "{rate}");
    }
}
