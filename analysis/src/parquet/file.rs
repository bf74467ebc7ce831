//! A Parquet file, of which single columns of single groups of rows are read, and nothing else.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use farmhand_core::{Error, Result};
use polars_arrow::array::Array;
use polars_arrow::datatypes::{ArrowDataType, ArrowSchema, Field};
use polars_parquet::read::{
    BasicDecompressor, ColumnChunkMetadata, FileMetadata, PageReader, RowGroupMetadata, column_iter_to_arrays, infer_schema,
    read_metadata,
};

/// A Parquet file whose description of itself has been read, and nothing else yet. May be read by several threads.
pub(crate) struct ParquetFile<R> {
    name: PathBuf,
    reader: Mutex<R>,
    metadata: FileMetadata,
    schema: ArrowSchema,
}

impl ParquetFile<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read or is not Parquet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        Self::new(path, file)
    }
}

impl<R: Read + Seek> ParquetFile<R> {
    /// A file that is open; `name` names it in messages.
    ///
    /// # Errors
    /// When it cannot be read or is not Parquet.
    pub(crate) fn new(name: &Path, mut reader: R) -> Result<Self> {
        let unreadable = |error| {
            Error::invalid_data(format!("`{}` is not a Parquet file that can be read", name.display())).with_source(error)
        };
        let (metadata, schema) = guarded(name, || {
            let metadata = read_metadata(&mut reader).map_err(unreadable)?;
            let schema = infer_schema(&metadata).map_err(unreadable)?;
            Ok((metadata, schema))
        })?;
        Ok(Self { name: name.to_owned(), reader: Mutex::new(reader), metadata, schema })
    }

    /// The columns, in the file's order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.schema.iter_values()
    }

    /// The column of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.schema.get(name)
    }

    /// Groups of rows.
    pub(crate) fn n_groups(&self) -> usize {
        self.metadata.row_groups.len()
    }

    /// How many rows a group says it has. It is believed only when a column's values bear it out.
    pub(crate) fn n_rows(&self, group: usize) -> usize {
        self.metadata.row_groups[group].num_rows()
    }

    /// One column of one group of rows: dictionaries resolved, as many values as the group has rows.
    ///
    /// # Errors
    /// When the file is damaged, or the disk refuses.
    pub(crate) fn arrays(&self, group: usize, field: &Field) -> Result<Vec<Box<dyn Array>>> {
        let group = &self.metadata.row_groups[group];
        guarded(&self.name, || self.column(group, field).map_err(|error| error.context(format!("`{}`", self.name.display()))))
    }

    fn column(&self, group: &RowGroupMetadata, field: &Field) -> Result<Vec<Box<dyn Array>>> {
        let failed = |error| Error::invalid_data(format!("column `{}` cannot be read", field.name)).with_source(error);
        let missing = || Error::invalid_data(format!("column `{}` is missing from a group of rows", field.name));
        let chunks = group.columns_under_root_iter(&field.name).ok_or_else(missing)?;
        let chunks: Vec<&ColumnChunkMetadata> = chunks.collect();
        let mut columns = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let pages = self.bytes(chunk, field)?;
            let pages = PageReader::new(Cursor::new(pages.into()), chunk, Vec::new(), usize::MAX);
            columns.push(BasicDecompressor::new(pages, Vec::new()));
        }
        let types = chunks.iter().map(|chunk| &chunk.descriptor().descriptor.primitive_type).collect();
        let field = Field::new(field.name.clone(), plain(field.dtype()), field.is_nullable);
        let (arrays, _) = column_iter_to_arrays(columns, types, field.clone(), None).map_err(failed)?;
        // The group's own count is believed only when the values bear it out.
        let (expected, got) = (group.num_rows(), arrays.iter().map(|array| array.len()).sum::<usize>());
        if got != expected {
            return Err(Error::invalid_data(format!("column `{}` has {got} values in a group of {expected} rows", field.name)));
        }
        Ok(arrays)
    }

    /// The bytes of a column's pages.
    fn bytes(&self, chunk: &ColumnChunkMetadata, field: &Field) -> Result<Vec<u8>> {
        let beyond = || {
            Error::invalid_data(format!("column `{}` lies beyond the end of the file", field.name))
                .with_hint("the file is cut short; download or write it again")
        };
        let range = chunk.byte_range();
        let length = range.end.checked_sub(range.start).ok_or_else(beyond)?;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let io = |error| Error::io("read", &self.name, error);
        reader.seek(SeekFrom::Start(range.start)).map_err(io)?;
        // Not `vec![0; length]`: a damaged file may claim any length.
        let mut bytes = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(beyond()) }
    }
}

/// The page reader trusts a file's own description of itself and panics where that lies.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(Error::invalid_data(format!("`{}` is a damaged Parquet file", path.display()))
            .with_hint("download or write it again; `farmhand` also reads JSON, JSONL and their .gz and .zst forms"))
    })
}

/// The type without dictionaries and extensions: how the values are stored in Parquet's pages anyway.
fn plain(dtype: &ArrowDataType) -> ArrowDataType {
    let inner = |field: &Field| Box::new(Field::new(field.name.clone(), plain(field.dtype()), field.is_nullable));
    match dtype {
        ArrowDataType::Dictionary(_, values, _) => plain(values),
        ArrowDataType::Extension(extension) => plain(&extension.inner),
        ArrowDataType::List(field) => ArrowDataType::List(inner(field)),
        ArrowDataType::LargeList(field) => ArrowDataType::LargeList(inner(field)),
        ArrowDataType::FixedSizeList(field, size) => ArrowDataType::FixedSizeList(inner(field), *size),
        ArrowDataType::Struct(fields) => ArrowDataType::Struct(fields.iter().map(|field| *inner(field)).collect()),
        other => other.clone(),
    }
}
