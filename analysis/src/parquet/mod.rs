//! Parquet files as JSON records and back, for the data files that come as Parquet.

mod file;
mod read;
mod values;
mod write;

pub(crate) use file::ParquetFile;
pub use read::{read_options, read_parquet_records};
pub(crate) use values::json_values;
pub(crate) use write::described;
pub use write::write_parquet_records;

/// One record: what a line of a JSON-lines file holds.
pub type Record = serde_json::Map<String, serde_json::Value>;
