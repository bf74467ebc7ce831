//! Parquet files as JSON records and back, for the data files that come as Parquet.

mod read;
mod values;
mod write;

pub use read::read_parquet_records;
pub use write::write_parquet_records;

/// One record: what a line of a JSON-lines file holds.
pub type Record = serde_json::Map<String, serde_json::Value>;
