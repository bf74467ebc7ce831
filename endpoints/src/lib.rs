//! A client for servers that speak OpenAI's HTTP interface (OpenAI itself, vLLM, and what is compatible with them) or
//! Anthropic's.
//!
//! A [`Client`] asks for completions of a prompt ([`Client::complete`]), for the next turn of a conversation
//! ([`Client::chat`], for many of them at a day's leisure [`Client::in_batches`]), for the models a server has
//! ([`Client::served_models`]) and, where a server tells, how it tokenises ([`Client::tokenize_text`],
//! [`Client::tokenize_messages`]), or posts JSON to whatever route ([`Client::post_json`]). It shares requests among keys and places, bounds how many are under way and how many go out
//! in a minute, tries again what may pass, waits as long as a server asks, leaves a failing server alone, counts tokens, and
//! tells the ways a request can fail apart ([`FailureKind`]).
//!
//! The futures it gives back may be polled by any executor, for the network runs on this crate's own thread; [`wait`] runs
//! one from blocking code, also inside another runtime. Dropping a future ends its request.
//!
//! ```no_run
//! use farmhand_core::types::{Message, Role};
//! use farmhand_endpoints::{ApiKey, ChatRequest, Client, EndpointOptions, wait};
//!
//! let options = EndpointOptions { base_url: "https://api.openai.com/v1".to_owned(), ..EndpointOptions::default() };
//! let client = Client::new(&options, Some(ApiKey::from_env("OPENAI_API_KEY")?))?;
//! let question = Message { role: Role::User, content: "Which answer is better?".to_owned() };
//! let answer = wait(client.chat(ChatRequest::new("gpt-4o-mini", vec![question])))?;
//! println!("{} ({} tokens)", answer.text, client.usage().completion_tokens);
//! # Ok::<(), farmhand_core::Error>(())
//! ```

#[cfg(test)]
mod against_servers;
mod answer;
mod api_key;
mod asked_wait;
mod attempt;
mod backoff;
mod batch;
mod chat;
mod circuit;
mod client;
mod completions;
mod date;
mod decoding;
mod estimate;
mod failure;
mod in_parallel;
pub mod loopback;
mod network_thread;
mod options;
mod other_routes;
mod price_table;
mod question;
mod served_models;
mod server_url;
mod stop;
mod token_bucket;
mod tokenize;
mod turns;
mod upstream;
mod usage;

pub use answer::{Answer, Finish, TokenLogProb};
pub use api_key::ApiKey;
pub use backoff::Backoff;
pub use batch::{BatchOptions, BatchProgress};
pub use chat::{AnswerFormat, ChatRequest, Tool, ToolCall, ToolChoice};
pub use client::Client;
pub use completions::{CompletionRequest, Prompt};
pub use date::Date;
pub use decoding::{Decoding, VllmDecoding};
pub use estimate::RequestEstimate;
pub use failure::{Failure, FailureKind};
pub use network_thread::wait;
pub use options::{Account, Api, EndpointOptions, FurtherEndpoint};
pub use price_table::{ModelPrice, PriceOptions, PriceTable, Pricing};
pub use served_models::ServedModel;
pub use usage::{Prices, Usage};
