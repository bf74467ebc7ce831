//! A Hugging Face tokenizer folder: text to ids and back, the special tokens, and the files to write back as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use farmhand_core::{Error, Result};
use serde_json::Value;

use crate::model_folders::ModelFolders;

/// The files of a tokenizer that are read, kept byte for byte and written back.
pub(crate) const FILES: [&str; 9] = [
    TOKENIZER_FILE,
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE_FILE,
    GENERATION_FILE,
];
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";
pub(crate) const TEMPLATE_FILE: &str = "chat_template.jinja";
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

/// Turns text into token ids and back.
///
/// Text is text: a special token's spelling inside it, such as `<|im_end|>` in a user's question, is tokenised as the
/// characters it consists of. Only [`Tokenizer::encode_markup`], meant for text a template wrote, reads special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    markup: tokenizers::Tokenizer,
    plain: tokenizers::Tokenizer,
    files: BTreeMap<&'static str, Vec<u8>>,
    vocab_size: usize,
    /// Ids below `vocab_size` that no token has.
    gaps: Vec<u32>,
    /// Rows of the embedding of the model it is used with, if that is known.
    n_rows: Option<usize>,
    /// Special tokens, longest spelling first.
    specials: Vec<(String, u32)>,
    special_starts: BTreeSet<char>,
    special_ids: BTreeSet<u32>,
    eos: Vec<u32>,
    bos: Option<u32>,
    pad: Option<u32>,
    adds_bos: bool,
    named: BTreeMap<String, String>,
    chat_template: Option<String>,
    /// Whether text tokenised apart gives the same ids as the same text after other text.
    continues_plainly: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder; for an adapter's folder without one, that of the model it changes.
    ///
    /// # Errors
    /// When there is no `tokenizer.json`, a file cannot be read or is malformed, or no end-of-sequence token is known.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_from(&ModelFolders::of(dir)?)
    }

    /// As [`Tokenizer::load`] from folders that were looked up.
    pub(crate) fn load_from(folders: &ModelFolders) -> Result<Self> {
        let dir = folders.first(|dir| dir.join(TOKENIZER_FILE).is_file()).unwrap_or(folders.whole());
        let mut files = BTreeMap::new();
        for name in FILES {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => drop(files.insert(name, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path, error)),
            }
        }
        if !files.contains_key(TOKENIZER_FILE) {
            return Err(Error::missing_input(format!("`{}` holds no tokenizer.json", dir.display())).with_hint(
                "an older model folder can be converted with transformers: `AutoTokenizer.from_pretrained(dir).save_pretrained(dir)`",
            ));
        }
        let model_config = read_optional_json(&folders.whole().join("config.json"))?;
        Self::from_files(files, model_config.as_ref()).map_err(|error| error.context(format!("tokenizer of `{}`", dir.display())))
    }

    pub(crate) fn from_files(files: BTreeMap<&'static str, Vec<u8>>, model_config: Option<&Value>) -> Result<Self> {
        let json = |name: &'static str| -> Result<Value> {
            let Some(bytes) = files.get(name) else { return Ok(Value::Null) };
            serde_json::from_slice(bytes).map_err(|error| Error::invalid_data(format!("`{name}` is not JSON")).with_source(error))
        };
        let bytes = files.get(TOKENIZER_FILE).ok_or_else(|| Error::missing_input("there is no tokenizer.json"))?;
        let mut markup = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| Error::invalid_data("`tokenizer.json` is not a tokenizer").with_source(error))?;
        // Lengths are the caller's business: a tokenizer that cuts or pads in silence would break the response span.
        markup.with_padding(None);
        markup.with_truncation(None).map_err(|error| Error::other("cannot switch off truncation").with_source(error))?;

        let (config, map, generation) = (json(CONFIG_FILE)?, json("special_tokens_map.json")?, json(GENERATION_FILE)?);
        let model_config = model_config.unwrap_or(&Value::Null);
        let named = named_tokens(&config, &map);
        let id_of = |name: &str| named.get(name).and_then(|token| markup.token_to_id(token));
        let (bos, pad) = (id_of("bos_token"), id_of("pad_token"));

        let mut eos: Vec<u32> = id_of("eos_token").into_iter().collect();
        eos.extend(ids_in(&generation["eos_token_id"]));
        if eos.is_empty() {
            eos.extend(ids_in(&model_config["eos_token_id"]));
        }
        if eos.is_empty() {
            // Old GPT-2 and Llama folders leave the name to the tokenizer's class.
            eos.extend(["<|endoftext|>", "</s>"].iter().find_map(|token| markup.token_to_id(token)));
        }
        let mut seen = BTreeSet::new();
        eos.retain(|id| seen.insert(*id));

        let added = markup.get_added_tokens_decoder();
        let special_ids: BTreeSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let mut specials: Vec<(String, u32)> =
            added.iter().filter(|(_, token)| token.special).map(|(id, token)| (token.content.clone(), *id)).collect();
        specials.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));

        let ids: BTreeSet<u32> = markup.get_vocab(true).into_values().collect();
        let vocab_size = ids.last().map_or(0, |id| *id as usize + 1);
        let gaps = (0..vocab_size as u32).filter(|id| !ids.contains(id)).collect();
        if eos.is_empty() {
            return Err(Error::invalid_data("no end-of-sequence token is known")
                .with_hint("name it as `eos_token` in tokenizer_config.json"));
        }
        if let Some(id) = eos.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::invalid_data(format!("end-of-sequence id {id} is not in the vocabulary of {vocab_size} tokens")));
        }

        let mut plain = markup.clone();
        plain.set_encode_special_tokens(true);
        let mut tokenizer = Self {
            chat_template: chat_template(&config, files.get(TEMPLATE_FILE))?,
            markup,
            plain,
            files,
            vocab_size,
            gaps,
            n_rows: None,
            special_starts: specials.iter().filter_map(|(token, _)| token.chars().next()).collect(),
            specials,
            special_ids,
            eos,
            bos,
            pad,
            adds_bos: false,
            named,
            continues_plainly: true,
        };
        tokenizer.adds_bos = match (bos, config["add_bos_token"].as_bool()) {
            (None, _) => false,
            (Some(_), Some(adds)) => adds,
            (Some(bos), None) => {
                let ids = |specials| tokenizer.markup.encode("a", specials).map(|text| text.get_ids().first().copied());
                matches!((ids(true), ids(false)), (Ok(Some(with)), Ok(without)) if with == bos && without != Some(bos))
            }
        };
        let (line, letter, both) = (tokenizer.encode("\n")?, tokenizer.encode("x")?, tokenizer.encode("\nx")?);
        tokenizer.continues_plainly = [line, letter].concat() == both;
        Ok(tokenizer)
    }

    /// Writes the tokenizer's files into an existing folder, as they were read: `AutoTokenizer` of transformers loads it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))?;
        }
        Ok(())
    }

    /// The largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a model with `n_rows` embedding rows knows every id a text can have, and those that end, begin and pad
    /// texts. Other special tokens may lie beyond: Gemma 3's text models have a tokenizer that also marks images.
    ///
    /// A model may have more rows than there are tokens: published ones often do, so that their sizes are round.
    ///
    /// # Errors
    /// When there is an id the model does not know.
    pub fn check_vocabulary(&self, n_rows: usize) -> Result<()> {
        let is_needed =
            |id: u32| !self.special_ids.contains(&id) || [self.bos, self.pad].contains(&Some(id)) || self.eos.contains(&id);
        let beyond = (n_rows..self.vocab_size).map(|id| id as u32).filter(|id| self.gaps.binary_search(id).is_err());
        let Some(id) = beyond.into_iter().find(|id| is_needed(*id)) else { return Ok(()) };
        Err(Error::invalid_data(format!(
            "the tokenizer has {} tokens, but the model's vocabulary holds {n_rows}: `{}` has id {id}",
            self.vocab_size,
            self.token(id).unwrap_or_default()
        ))
        .with_hint("tokenizer and model are from different folders; take both from the same one"))
    }

    /// The tokenizer for a model with `n_rows` embedding rows: no id beyond them ever comes out of it.
    ///
    /// # Errors
    /// As [`Tokenizer::check_vocabulary`].
    pub fn for_model(mut self, n_rows: usize) -> Result<Self> {
        self.check_vocabulary(n_rows)?;
        self.n_rows = Some(n_rows);
        Ok(self)
    }

    /// The ids below `n_rows` that no token has: rows that fill a model's vocabulary up. They spell nothing, so they must
    /// not be generated.
    pub fn ids_without_token(&self, n_rows: usize) -> Vec<u32> {
        let gaps = self.gaps.iter().copied().filter(|id| (*id as usize) < n_rows);
        gaps.chain((self.vocab_size..n_rows).map(|id| id as u32)).collect()
    }

    /// The ids of a text; nothing is added, and spellings of special tokens are ordinary text.
    /// (Added tokens that are not special, such as Qwen's `<think>`, are still single tokens.)
    ///
    /// # Errors
    /// When the tokenizer cannot keep a special token's spelling apart from the special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_with_ends(text)?.0)
    }

    /// The ids of a text, and for each token the byte where it ends.
    pub(crate) fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
        let (ids, ends) = run(&self.plain, text)?;
        if let Some(id) = ids.iter().find(|id| self.special_ids.contains(id)) {
            let token = self.token(*id).unwrap_or_default();
            return Err(Error::invalid_data(format!(
                "a text contains `{token}`, which this tokenizer reads as its special token"
            ))
            .with_hint("remove it from the data"));
        }
        Ok((ids, ends))
    }

    /// The ids of a text that a template wrote: spellings of special tokens become those tokens; nothing is added.
    ///
    /// # Errors
    /// When the tokenizer fails on the text, or a special token is beyond the vocabulary of the model.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_markup_with_ends(text)?.0)
    }

    pub(crate) fn encode_markup_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
        let (ids, ends) = run(&self.markup, text)?;
        ids.iter().try_for_each(|id| self.check_row(*id))?;
        Ok((ids, ends))
    }

    /// Checks that the model has a row for a special token.
    pub(crate) fn check_row(&self, id: u32) -> Result<()> {
        match self.n_rows {
            Some(n_rows) if id as usize >= n_rows => Err(Error::invalid_data(format!(
                "the special token `{}` has id {id}, but the model's vocabulary holds {n_rows} tokens",
                self.token(id).unwrap_or_default()
            ))
            .with_hint("the chat template asks for a token that this model was not made with")),
            _ => Ok(()),
        }
    }

    /// The ids of a text that follows other text, so without the word-start mark some tokenizers put before a first word.
    pub(crate) fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if !self.continues_plainly {
            let line = self.encode("\n")?;
            let (ids, _) = self.encode_with_ends(&format!("\n{text}"))?;
            if let Some(rest) = ids.strip_prefix(line.as_slice()) {
                return Ok(rest.to_vec());
            }
        }
        self.encode(text)
    }

    /// The text of some ids, special tokens left out. Bytes that are not UTF-8 become `U+FFFD`.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.plain.decode(ids, true).unwrap_or_default()
    }

    /// The text of some ids with special tokens spelled out, for showing what a model sees.
    pub fn decode_with_specials(&self, ids: &[u32]) -> String {
        self.plain.decode(ids, false).unwrap_or_default()
    }

    /// The text of ids that follow other text: no leading space is lost.
    pub(crate) fn decode_continuation(&self, ids: &[u32]) -> String {
        if self.continues_plainly {
            return self.decode(ids);
        }
        let Ok(mut anchored) = self.encode("x") else { return self.decode(ids) };
        let before = self.decode(&anchored);
        anchored.extend_from_slice(ids);
        let text = self.decode(&anchored);
        text.strip_prefix(before.as_str()).map_or_else(|| self.decode(ids), str::to_owned)
    }

    /// Whether both have the same `tokenizer.json`, byte for byte.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.files.get(TOKENIZER_FILE) == other.files.get(TOKENIZER_FILE)
    }

    /// The end-of-sequence token, the tokenizer's own first.
    pub fn eos_id(&self) -> u32 {
        self.eos[0]
    }

    /// Every end-of-sequence token: the tokenizer's and those of `generation_config.json`. Generation stops at any.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The beginning-of-sequence token.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Whether this tokenizer starts an ordinary text with the beginning-of-sequence token.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The token that fills up short rows; the end-of-sequence token when there is none of its own. Never read by the model.
    pub fn pad_id(&self) -> u32 {
        self.pad.unwrap_or_else(|| self.eos_id())
    }

    /// The id of a token, special or not, by its exact spelling in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.plain.id_to_token(id)
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// The source of the chat template, if the tokenizer has one.
    pub fn chat_template_source(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Special tokens by the names templates use, for example `bos_token`.
    pub(crate) fn named_tokens(&self) -> &BTreeMap<String, String> {
        &self.named
    }

    /// The leftmost special token spelled in a text: where it starts, its spelling and id; the longest where several fit.
    pub(crate) fn find_special(&self, text: &str) -> Option<(usize, &str, u32)> {
        let starts = text.char_indices().filter(|(_, letter)| self.special_starts.contains(letter));
        starts.into_iter().find_map(|(start, _)| {
            let (token, id) = self.specials.iter().find(|(token, _)| text[start..].starts_with(token.as_str()))?;
            Some((start, token.as_str(), *id))
        })
    }

    /// `generation_config.json` as it was read.
    pub(crate) fn generation_config(&self) -> Option<Value> {
        self.files.get(GENERATION_FILE).and_then(|bytes| serde_json::from_slice(bytes).ok())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).field("eos", &self.eos).finish_non_exhaustive()
    }
}

fn run(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
    let encoding =
        tokenizer.encode(text, false).map_err(|error| Error::invalid_data("a text cannot be tokenised").with_source(error))?;
    Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(|(_, end)| *end).collect()))
}

fn read_optional_json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::invalid_data(format!("`{}` is not JSON", path.display())).with_source(error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// `bos_token`, `eos_token`, … of `tokenizer_config.json`, then of `special_tokens_map.json`; each a text or an object.
fn named_tokens(config: &Value, map: &Value) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for source in [map, config] {
        for (key, value) in source.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token")) {
            if let Some(token) = value.as_str().or_else(|| value["content"].as_str()) {
                named.insert(key.clone(), token.to_owned());
            }
        }
    }
    named
}

fn ids_in(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}

/// The file beside the tokenizer wins over `tokenizer_config.json`; of several named templates, the default one counts.
fn chat_template(config: &Value, file: Option<&Vec<u8>>) -> Result<Option<String>> {
    if let Some(bytes) = file {
        let text = String::from_utf8(bytes.clone())
            .map_err(|error| Error::invalid_data(format!("`{TEMPLATE_FILE}` is not UTF-8")).with_source(error))?;
        return Ok(Some(text));
    }
    let template = match &config["chat_template"] {
        Value::Array(templates) => {
            templates.iter().find(|entry| entry["name"] == "default").map_or(&Value::Null, |e| &e["template"])
        }
        other => other,
    };
    Ok(template.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::train_bpe;

    /// A trained tokenizer's folder with some files replaced; `None` removes one.
    fn folder(changes: &[(&str, Option<Value>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        train_bpe(std::iter::empty(), 300).expect("trained").save(dir.path()).expect("saved");
        for (name, content) in changes {
            let path = dir.path().join(name);
            match content {
                Some(Value::String(text)) => std::fs::write(path, text).expect("written"),
                Some(json) => std::fs::write(path, json.to_string()).expect("written"),
                None => std::fs::remove_file(path).expect("removed"),
            }
        }
        dir
    }

    #[test]
    fn every_end_of_sequence_token_is_kept_the_tokenizers_own_first() {
        let load = |changes: &[_]| Tokenizer::load(folder(changes).path());
        let config = |value: Value| (CONFIG_FILE, Some(value));
        let generation = |value: Value| (GENERATION_FILE, Some(json!({ "eos_token_id": value })));
        let eos = |changes: &[_]| load(changes).expect("loaded").eos_ids().to_vec();
        assert_eq!(eos(&[config(json!({ "eos_token": "<|im_end|>" })), generation(json!([0, 2, 1]))]), [2, 0, 1]);
        assert_eq!(eos(&[config(json!({})), generation(json!(1))]), [1]);
        let map =
            ("special_tokens_map.json", Some(json!({ "eos_token": { "content": "<|im_start|>" }, "pad_token": "<|im_end|>" })));
        let mapped = load(&[config(json!({})), (GENERATION_FILE, None), map]).expect("loaded");
        assert_eq!((mapped.eos_ids(), mapped.pad_id()), ([1].as_slice(), 2));
        let model = ("config.json", Some(json!({ "eos_token_id": 2 })));
        assert_eq!(eos(&[config(json!({})), (GENERATION_FILE, None), model]), [2]);
        assert_eq!(eos(&[config(json!({})), (GENERATION_FILE, None)]), [0], "the name GPT-2 leaves to its class");
        assert!(load(&[generation(json!(300))]).expect_err("no such id").message().contains("end-of-sequence id 300"));
    }

    #[test]
    fn the_template_file_wins_and_named_templates_are_read() {
        let source =
            |changes: &[_]| Tokenizer::load(folder(changes).path()).expect("loaded").chat_template_source().map(str::to_owned);
        let named = json!({ "eos_token": "<|endoftext|>", "chat_template": [
            { "name": "rag", "template": "r" }, { "name": "default", "template": "d" } ] });
        assert_eq!(source(&[(CONFIG_FILE, Some(named.clone())), (TEMPLATE_FILE, None)]).as_deref(), Some("d"));
        assert_eq!(source(&[(CONFIG_FILE, Some(named)), (TEMPLATE_FILE, Some(json!("file")))]).as_deref(), Some("file"));
        assert_eq!(source(&[(TEMPLATE_FILE, None)]), None);
    }

    #[test]
    fn what_is_missing_or_broken_is_said() {
        let message = |changes: &[_]| Tokenizer::load(folder(changes).path()).expect_err("refused").to_string();
        assert!(message(&[(TOKENIZER_FILE, None)]).contains("holds no tokenizer.json"));
        assert!(message(&[(TOKENIZER_FILE, Some(json!("{\"version\": ")))]).contains("`tokenizer.json` is not a tokenizer"));
        assert!(message(&[(CONFIG_FILE, Some(json!("nonsense")))]).contains("`tokenizer_config.json` is not JSON"));
    }

    #[test]
    fn files_are_written_back_byte_for_byte() {
        let dir = folder(&[(CONFIG_FILE, Some(json!("{ \"eos_token\" : \"<|endoftext|>\", \"mine\": 1 }")))]);
        let out = tempfile::tempdir().expect("a folder");
        Tokenizer::load(dir.path()).expect("loaded").save(out.path()).expect("saved");
        let hash = |dir: &tempfile::TempDir| farmhand_core::run::hash_path(dir.path()).expect("hashed");
        assert_eq!(hash(&dir), hash(&out));
    }
}
