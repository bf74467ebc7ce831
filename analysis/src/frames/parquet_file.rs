//! Parquet files as tables: only the columns are read that a query names, one group of rows after the other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars_arrow::array::{Array, PrimitiveArray};
use polars_arrow::datatypes::{ArrowDataType, Field as ArrowField};
use polars_arrow::types::NativeType;
use serde_json::Value;

use super::columns::frame;
use super::source::Source;
use crate::parquet::{ParquetFile, json_values};

/// A Parquet file as a table.
pub(super) struct ParquetTable {
    path: PathBuf,
    file: ParquetFile<File>,
}

impl ParquetTable {
    /// Opens a file, and reads its description of itself.
    ///
    /// # Errors
    /// When it cannot be read or is not Parquet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: ParquetFile::open(path)? })
    }

    fn column(&self, field: &ArrowField) -> Result<Column> {
        let mut chunks: Vec<Box<dyn Array>> = Vec::new();
        for group in 0..self.file.n_groups() {
            for array in self.file.arrays(group, field)? {
                let array = as_shown(array)
                    .map_err(|error| error.context(format!("`{}`: column `{}`", self.path.display(), field.name)))?;
                chunks.push(array);
            }
        }
        if chunks.is_empty() {
            return Ok(Series::new_empty(field.name.clone(), &shown_type(field.dtype())).into_column());
        }
        let series = Series::try_from((field.name.clone(), chunks)).map_err(|error| {
            Error::invalid_data(format!("`{}`: column `{}` cannot be read", self.path.display(), field.name)).with_source(error)
        })?;
        Ok(series.into_column())
    }
}

impl Source for ParquetTable {
    fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.file.fields().map(|field| Field::new(field.name.clone(), shown_type(field.dtype()))).collect()))
    }

    fn read(&self, columns: Option<&[PlSmallStr]>) -> Result<DataFrame> {
        let fields: Vec<&ArrowField> = match columns {
            None => self.file.fields().collect(),
            Some(names) => names.iter().filter_map(|name| self.file.field(name)).collect(),
        };
        let columns = fields.into_iter().map(|field| self.column(field)).collect::<Result<Vec<_>>>()?;
        frame(self.n_rows()?, columns)
    }

    fn n_rows(&self) -> Result<usize> {
        Ok((0..self.file.n_groups()).map(|group| self.file.n_rows(group)).sum())
    }
}

/// The type in which a query sees a column: small whole numbers widened, and what SQL has no form for as text
/// (times as ISO 8601, lists and objects as JSON).
fn shown_type(dtype: &ArrowDataType) -> DataType {
    use ArrowDataType as Type;
    match dtype {
        Type::Boolean => DataType::Boolean,
        Type::Int8 | Type::Int16 | Type::Int32 => DataType::Int32,
        Type::UInt8 | Type::UInt16 | Type::UInt32 => DataType::UInt32,
        Type::Int64 => DataType::Int64,
        Type::UInt64 => DataType::UInt64,
        Type::Float32 => DataType::Float32,
        Type::Float64 | Type::Decimal(..) => DataType::Float64,
        Type::Dictionary(_, values, _) => shown_type(values),
        Type::Extension(extension) => shown_type(&extension.inner),
        _ => DataType::String,
    }
}

fn as_shown(array: Box<dyn Array>) -> Result<Box<dyn Array>> {
    use ArrowDataType as Type;
    Ok(match array.dtype() {
        Type::Int8 => widened::<i8, i32>(array.as_ref())?,
        Type::Int16 => widened::<i16, i32>(array.as_ref())?,
        Type::UInt8 => widened::<u8, u32>(array.as_ref())?,
        Type::UInt16 => widened::<u16, u32>(array.as_ref())?,
        Type::Boolean | Type::Int32 | Type::UInt32 | Type::Int64 | Type::UInt64 | Type::Float32 | Type::Float64 => array,
        Type::Utf8 | Type::LargeUtf8 | Type::Utf8View => array,
        Type::Decimal(..) => {
            let values: Vec<Option<f64>> = json_values(array.as_ref())?.iter().map(Value::as_f64).collect();
            PrimitiveArray::from(values).boxed()
        }
        _ => {
            let texts = json_values(array.as_ref())?.into_iter().map(|value| match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            });
            polars_arrow::array::Utf8ViewArray::from_slice(texts.collect::<Vec<Option<String>>>()).boxed()
        }
    })
}

fn widened<A: NativeType, B: NativeType + From<A>>(array: &dyn Array) -> Result<Box<dyn Array>> {
    let array: &PrimitiveArray<A> = array
        .as_any()
        .downcast_ref()
        .ok_or_else(|| Error::invalid_data(format!("values are not stored as their type {:?} says", array.dtype())))?;
    let values: Vec<Option<B>> = array.iter().map(|value| value.map(|value| B::from(*value))).collect();
    Ok(PrimitiveArray::from(values).boxed())
}
