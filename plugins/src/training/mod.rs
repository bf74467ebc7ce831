//! What every learner needs around its loop: records that fit, options in range, a reference, the part that
//! is trained, memory.

mod answers;
mod control;
mod fine_tuning;
mod imitation;
mod judging;
mod kept;
mod learner_options;
mod lists;
mod log_prob_cache;
mod log_ratios;
mod memory;
mod micro_batching;
mod on_policy;
mod options;
mod own_pairs;
mod pair_update;
mod pairs;
mod policy_update;
mod records;
mod reference;
mod rollout_options;
mod rollouts;
mod rounds;
mod scored_answers;
mod steps;
mod text_pass;
mod trained_part;

pub use answers::{Answerer, sample_answers, score_answers};
pub use control::Controls;
pub use fine_tuning::{FineTuning, Imitated};
pub use imitation::{imitation_loss, imitation_step};
pub use judging::{Judge, JudgedBy, Verdicts};
pub use kept::KeptCheckpoints;
pub use learner_options::{PassOptions, RecordOrder, TrainOptions};
pub use lists::{Lists, TiedAnswers};
pub use log_ratios::{answer_log_probs, log_kl, log_ratios};
pub use memory::{MemoryNeeds, Trainee, held, held_beside};
pub use micro_batching::MicroBatching;
pub use on_policy::{OnPolicy, OnPolicyModels, OnPolicyTask, TrainedPart};
pub use options::Ranges;
pub use own_pairs::own_pairs;
pub use pair_update::JudgedPairs;
pub use pairs::{
    PairPass, TextNll, admit_pairs, discounted_sums, margin_and_accuracy, pair_log_ratios, reference_sums, run_pairs,
};
pub use policy_update::{MicroBatch, MicroLoss, PolicyUpdate, micro_step, step_totals, update_policy};
pub use records::{Record, TokenLimit, admit, ids_of, record_batch, text_places};
pub use reference::{Reference, is_same_model, load_reference, standing_reference};
pub use rollout_options::{RolloutOptions, fitting_prompts};
pub use rollouts::{Opponent, Partition, Sampled, Sampler, Scores};
pub use rounds::{LaterSteps, Round, RoundStart, Rounds};
pub use scored_answers::{answerable, best_answers, instructions_of_round, log_scored, scored_answers, scores_of};
pub use steps::{Step, Task, Training, shuffled_steps};
pub use text_pass::{TextLogProbs, TextPass};
pub use trained_part::start_training;
