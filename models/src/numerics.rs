//! What numbers depend on, as text: two computations with equal descriptions give the same bits.

use std::path::Path;

use farmhand_core::run::file_hash;
use farmhand_core::types::content_id;
use farmhand_core::{ADAPTER_CONFIG, Error, Result};
use tch::{Device, Kind};

use crate::language_model::LanguageModel;
use crate::model_folders::ModelFolders;

/// Raised with every change (here, in the shim or of libtorch) after which a forward pass may give other bits than before.
const ENGINE_VERSION: u32 = 1;

/// The engine as far as the bits of a model's forward pass depend on it: its version, the type of activations, the kind of
/// device, the processor and the number of threads. GPUs of different models are not told apart.
pub fn engine_numerics(model: &LanguageModel) -> String {
    describe(model.device(), model.kind())
}

fn describe(device: Device, kind: Kind) -> String {
    let device = if device == Device::Cpu { "cpu" } else { "gpu" };
    format!("engine {ENGINE_VERSION}, {kind:?}, {device}, {}, {} threads", processor(), tch::get_num_threads())
}

/// A hash of everything that a model's numbers depend on: the configuration and the weights of its folder, and when that is an
/// adapter's, of the folders below it; not the tokenizer.
///
/// # Errors
/// When a folder cannot be read, or the base model of an adapter is missing.
pub fn model_content_hash(dir: &Path) -> Result<String> {
    let folders = ModelFolders::of(dir)?;
    let mut parts = Vec::new();
    for dir in folders.adapters().map(|(adapter, _)| adapter).chain([folders.whole()]) {
        let failed = |error| Error::io("list", dir, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let is_config = name == "config.json" || name == ADAPTER_CONFIG;
            if is_config || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let hash = file_hash(&dir.join(&name))?;
            parts.extend([name, hash]);
        }
    }
    Ok(content_id(parts.iter().map(String::as_str)))
}

/// The processor's own name, for its kernels are chosen by it.
#[cfg(target_arch = "x86_64")]
fn processor() -> String {
    let leaves = 0x8000_0002..=0x8000_0004_u32;
    if std::arch::x86_64::__cpuid(0x8000_0000).eax < *leaves.end() {
        return std::env::consts::ARCH.to_owned();
    }
    let bytes: Vec<u8> = leaves
        .map(std::arch::x86_64::__cpuid)
        .flat_map(|part| [part.eax, part.ebx, part.ecx, part.edx])
        .flat_map(u32::to_le_bytes)
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> String {
    std::env::consts::ARCH.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_model_follows_its_configuration_and_weights_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        let hash = || model_content_hash(dir.path()).expect("hashed");
        write("config.json", "{}");
        write("model.safetensors", "1");
        let first = hash();
        write("tokenizer.json", "{}");
        write("farmhand.json", "{}");
        assert_eq!(hash(), first);
        write("model.safetensors", "2");
        let second = hash();
        write("config.json", "{ }");
        assert!(second != first && hash() != second);
        assert!(model_content_hash(&dir.path().join("absent")).is_err());

        // An adapter's numbers are also those of its base.
        let adapter = dir.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        std::fs::write(adapter.join(ADAPTER_CONFIG), r#"{ "base_model_name_or_path": ".." }"#).expect("written");
        let with_adapter = || model_content_hash(&adapter).expect("hashed");
        let first = with_adapter();
        write("model.safetensors", "3");
        assert!(with_adapter() != first && with_adapter() != hash());
    }

    #[test]
    fn the_description_names_what_the_bits_depend_on() {
        let text = describe(Device::Cpu, Kind::Float);
        assert!(text.starts_with("engine ") && text.contains(", cpu, ") && text.ends_with(" threads"), "{text}");
        assert_ne!(describe(Device::Cuda(0), Kind::Float), text);
        assert_ne!(describe(Device::Cpu, Kind::BFloat16), text);
    }
}
