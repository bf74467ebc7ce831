//! AlpacaEval's annotation files: whatever one holds, every record becomes a judgement with a verdict in range or a failure, or the
//! file is refused.

#![no_main]

use std::cell::RefCell;
use std::io::{Seek, Write};

use farmhand_core::data::{ReadOptions, read_judgements};
use libfuzzer_sys::fuzz_target;
use tempfile::NamedTempFile;

thread_local! {
    static FILE: RefCell<NamedTempFile> =
        RefCell::new(tempfile::Builder::new().suffix(".json").tempfile().expect("a temporary file"));
}

fuzz_target!(|text: &[u8]| {
    FILE.with_borrow_mut(|file| {
        file.as_file().set_len(0).expect("emptied");
        file.rewind().expect("rewound");
        file.write_all(text).expect("written");
        let Ok((judgements, report)) = read_judgements(file.path(), &ReadOptions::default()) else { return };
        assert!(!judgements.is_empty() && report.n_records > 0);
        for preference in judgements.iter().filter_map(|judgement| judgement.preference()) {
            assert!((1.0..=2.0).contains(&preference.code()), "{preference:?}");
        }
    });
});
