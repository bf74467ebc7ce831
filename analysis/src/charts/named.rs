//! A chart as files.

use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};

use super::{Chart, png, svg};

/// A drawn chart with the name of its files.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedChart {
    /// The files' name, without ending.
    pub name: &'static str,
    /// The chart as an SVG document.
    pub svg: String,
    /// The chart as a PNG file.
    pub png: Vec<u8>,
}

impl NamedChart {
    /// Draws a chart.
    ///
    /// # Errors
    /// When it cannot be drawn, which no data causes.
    pub fn draw<C: Chart>(name: &'static str, chart: &C) -> Result<Self> {
        Ok(Self { name, svg: svg(chart)?, png: png(chart)? })
    }

    /// Writes `NAME.svg` and `NAME.png` into a folder, which is made if need be.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2]> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
        let files = ["svg", "png"].map(|ending| folder.join(format!("{}.{ending}", self.name)));
        for (file, bytes) in files.iter().zip([self.svg.as_bytes(), &self.png]) {
            std::fs::write(file, bytes).map_err(|error| Error::io("write", file, error))?;
        }
        Ok(files)
    }
}
