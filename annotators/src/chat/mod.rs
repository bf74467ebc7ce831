//! Judges that are language models behind a server: prompts, parsers, and the loop that asks.
//!
//! * [`alpaca_eval`]: AlpacaEval's and AlpacaFarm's judges by their own settings.
//! * [`weighted`], [`ranking`], [`chain_of_thought`], [`rubric`]: judges with prompts of our own.
//!
//! They differ in what they write ([`prompt`]) and in how they read ([`parsers`]); one loop asks for all of them: what a store
//! knows is not asked again, a reply is kept before it is read, and a reply that cannot be read is a failure with the reply, its
//! price and the order in which the answers were shown.
//!
//! A judge is one table of a configuration. Shown in one order each judge has its bias; [`order_swap`](crate::order_swap) draws
//! the order, [`both_orders`](crate::both_orders) asks in both:
//!
//! ```toml
//! [annotator.both_orders.inner.weighted]
//! model = "gpt-4o-mini"
//! server = { base_url = "https://api.openai.com/v1", api_key_env = "OPENAI_API_KEY" }
//! ```

pub mod alpaca_eval;
pub mod ask_options;
pub mod chain_of_thought;
pub mod parsers;
pub mod prompt;
pub mod ranking;
pub mod rubric;
pub mod weighted;

mod ask;
mod json_reply;
mod judging;
mod one_by_one;
mod own_prompt;
mod own_question;
mod reading;

#[cfg(test)]
mod loopback_judge;
#[cfg(test)]
mod tests;
