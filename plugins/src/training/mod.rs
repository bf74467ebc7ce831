//! What every learner needs around its loop: records that fit, options in range, a reference, the part that
//! is trained, memory.

mod answers;
mod imitation;
mod learner_options;
mod log_prob_cache;
mod memory;
mod micro_batching;
mod options;
mod records;
mod reference;
mod rounds;
mod steps;
mod trained_part;

pub use answers::{Answerer, sample_answers, score_answers};
pub use imitation::{imitation_loss, imitation_step};
pub use learner_options::{PassOptions, TrainOptions};
pub use memory::{MemoryNeeds, Trainee, held};
pub use micro_batching::MicroBatching;
pub use options::Ranges;
pub use records::{Record, TokenLimit, admit, ids_of, record_batch, text_places};
pub use reference::{Reference, is_same_model, load_reference};
pub use rounds::{Round, Rounds};
pub use steps::{Step, Task, Training, shuffled_steps};
pub use trained_part::start_training;
