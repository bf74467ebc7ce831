//! A scalar on top of a language model's body: reward models read it at the last token, value models at every position.

use std::path::Path;

use farmhand_core::{Result, Seed};
use tch::{Device, Kind, Tensor};

use crate::adapter_folder::read_head;
use crate::architecture::{Init, ParameterSpec};
use crate::batch::TokenBatch;
use crate::config::ModelConfig;
use crate::language_model::{LanguageModel, normal, write_model_weights};
use crate::model_folders::ModelFolders;
use crate::weights::WeightFiles;

const WEIGHT: &str = "score.weight";
const BIAS: &str = "score.bias";

/// An affine map from a hidden state to one number.
#[derive(Debug)]
pub struct ScalarHead {
    /// `score.weight` `[1, d]` and `score.bias` `[1]`, sorted by name.
    parameters: [(String, Tensor); 2],
}

impl ScalarHead {
    /// A new head: weights normal with standard deviation 1/√(d + 1) (Stiennon et al., 2020,
    /// <https://arxiv.org/abs/2009.01325>), bias 0.
    pub fn random(hidden_size: usize, seed: Seed, device: Device) -> Self {
        let std = 1.0 / (hidden_size as f64 + 1.0).sqrt();
        let weight = normal(&[1, hidden_size as i64], std, seed.child_text("parameter", WEIGHT)).to_device(device);
        Self::new(weight, Tensor::zeros([1], (Kind::Float, device)))
    }

    /// A head that gives 0 everywhere.
    pub fn zeros(hidden_size: usize, device: Device) -> Self {
        let options = (Kind::Float, device);
        Self::new(Tensor::zeros([1, hidden_size as i64], options), Tensor::zeros([1], options))
    }

    pub(crate) fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { parameters: [(BIAS.to_owned(), bias), (WEIGHT.to_owned(), weight)] }
    }

    /// `[1, d]`.
    pub fn weight(&self) -> &Tensor {
        &self.parameters[1].1
    }

    /// `[1]`.
    pub fn bias(&self) -> &Tensor {
        &self.parameters[0].1
    }

    /// Its parameters, sorted by name.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Whether gradients are kept for its parameters; a new head is frozen.
    pub fn set_trainable(&self, trainable: bool) {
        for (_, tensor) in &self.parameters {
            let _ = tensor.set_requires_grad(trainable);
        }
    }

    /// Hidden states `[n, d]` → `[n]`.
    pub fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.to_kind(self.weight().kind()).linear(self.weight(), Some(self.bias())).squeeze_dim(-1)
    }
}

/// A body with a scalar head. It has no output head of its own; the embedding of a tied model stays where it is.
#[derive(Debug)]
pub struct ScalarModel {
    /// The transformer; only its hidden states are used.
    pub body: LanguageModel,
    /// The head.
    pub head: ScalarHead,
}

impl ScalarModel {
    /// Puts a head on a language model's body; an output head that is not tied is dropped.
    pub fn from_language_model(model: LanguageModel, head: ScalarHead) -> Self {
        Self { body: model.without_head(), head }
    }

    /// Reads a folder with a body and `score.weight`, as this crate writes it or transformers' sequence classifiers do.
    /// Without `score.bias` the bias is 0. The folder may also be that of an adapter with a head, see [`LanguageModel::load`].
    ///
    /// # Errors
    /// As [`LanguageModel::load`], and when there is no scalar head.
    pub fn load(dir: &Path, device: Device) -> Result<Self> {
        Self::load_from(&ModelFolders::of(dir)?, device)
    }

    /// As [`ScalarModel::load`] from folders that were looked up.
    pub(crate) fn load_from(folders: &ModelFolders, device: Device) -> Result<Self> {
        let config = ModelConfig::load(folders.whole())?;
        let mut files = WeightFiles::open(folders.whole())?;
        let d = config.hidden_size();
        let mut head = None;
        for (adapter, _) in folders.adapters() {
            head = read_head(adapter, d, device)?.or(head);
        }
        let head = match head {
            Some(head) => head,
            None => Self::read_head(&mut files, d, device)?,
        };
        let body = LanguageModel::load_with(config, &mut files, false, device)?;
        body.merge_adapters(folders)?;
        Ok(Self { body, head })
    }

    fn read_head(files: &mut WeightFiles, d: usize, device: Device) -> Result<ScalarHead> {
        let weight = files.read(WEIGHT, &ParameterSpec::new(WEIGHT, &[1, d], Init::Zeros), device).map_err(|error| {
            if files.contains(WEIGHT) {
                error
            } else {
                error.with_hint("this is a language model; train a reward model from it first")
            }
        })?;
        let bias = if files.contains(BIAS) {
            files.read(BIAS, &ParameterSpec::new(BIAS, &[1], Init::Zeros), device)?
        } else {
            Tensor::zeros([1], (Kind::Float, device))
        };
        Ok(ScalarHead::new(weight, bias))
    }

    /// Writes `config.json` and `model.safetensors`; transformers loads them as a sequence classifier with one label
    /// (which has no bias: it ignores `score.bias`).
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.body.config().clone().with_scalar_head().save(dir)?;
        let parameters = self.body.parameters().iter().chain(self.head.parameters());
        write_model_weights(dir, parameters, |name, tensor| self.body.merged_tensor(name, tensor))
    }

    /// A frozen model of its own with the same values.
    ///
    /// # Errors
    /// As [`LanguageModel::copy`].
    pub fn copy(&self) -> Result<Self> {
        let head = ScalarHead::new(self.head.weight().detach().copy(), self.head.bias().detach().copy());
        Ok(Self { body: self.body.copy()?, head })
    }

    /// All parameters, sorted by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut all: Vec<_> = self
            .body
            .parameters()
            .iter()
            .chain(self.head.parameters())
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Whether gradients are kept for the parameters of its body, or of its body's adapter if it has one, and for those of its
    /// head; a new model is frozen.
    pub fn set_trainable(&self, trainable: bool) {
        self.body.set_trainable(trainable);
        self.head.set_trainable(trainable);
    }

    /// The tensors that keep gradients, sorted by name.
    pub fn trained(&self) -> Vec<(String, Tensor)> {
        let head = self.head.parameters().iter().filter(|(_, tensor)| tensor.requires_grad());
        let mut trained = self.body.trained();
        trained.extend(head.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
        trained.sort_by(|a, b| a.0.cmp(&b.0));
        trained
    }

    /// One score a row, `[b]`, read at its last real token by recorded length; differentiable.
    pub fn last_token_scores(&self, batch: &TokenBatch) -> Tensor {
        self.head.forward(&self.body.hidden(batch).index_select(0, &batch.last_rows))
    }

    /// One value a response token, `[n]`, read at the position that predicts it, so before it is known; differentiable.
    pub fn response_values(&self, batch: &TokenBatch) -> Tensor {
        self.head.forward(&self.body.hidden(batch).index_select(0, &batch.predict_rows))
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::batch::BatchLayout;
    use crate::config::LlamaOptions;
    use crate::encoding::EncodedText;

    fn model(tied: bool) -> ScalarModel {
        let config = ModelConfig::tiny_llama(LlamaOptions { tie_embeddings: tied, ..Default::default() });
        let body = LanguageModel::random(config, Seed::root(1), Device::Cpu).expect("made");
        ScalarModel::from_language_model(body, ScalarHead::random(64, Seed::root(2), Device::Cpu))
    }

    fn batch(texts: &[EncodedText], layout: BatchLayout) -> TokenBatch {
        TokenBatch::new(&texts.iter().collect::<Vec<_>>(), layout, Device::Cpu).expect("made")
    }

    fn texts() -> Vec<EncodedText> {
        let text = |ids: std::ops::Range<u32>, start| EncodedText { ids: ids.collect(), response_start: start };
        vec![text(1..9, 3), text(40..45, 4), text(100..120, 9)]
    }

    #[test]
    fn scores_and_values_do_not_depend_on_padding_or_the_rest_of_the_batch() {
        let (model, texts) = (model(true), texts());
        let scores = no_grad(|| model.last_token_scores(&batch(&texts, BatchLayout::Packed)));
        let values = no_grad(|| model.response_values(&batch(&texts, BatchLayout::Packed)));
        let padded = no_grad(|| model.last_token_scores(&batch(&texts, BatchLayout::Padded)));
        assert!((padded - &scores).abs().max().double_value(&[]) < 1e-6);
        let mut seen = 0;
        for (row, text) in texts.iter().enumerate() {
            let alone = batch(std::slice::from_ref(text), BatchLayout::Packed);
            let score = no_grad(|| model.last_token_scores(&alone)).double_value(&[0]);
            assert!((score - scores.double_value(&[row as i64])).abs() < 1e-5);
            let n = alone.n_response_tokens() as i64;
            let difference = no_grad(|| model.response_values(&alone)) - values.narrow(0, seen, n);
            assert!(difference.abs().max().double_value(&[]) < 1e-5);
            seen += n;
        }
        assert_eq!(seen, values.numel() as i64);
    }

    #[test]
    fn a_saved_model_gives_the_same_scores_and_has_no_output_head() {
        for tied in [true, false] {
            let dir = tempfile::tempdir().expect("a folder");
            let (model, batch) = (model(tied), batch(&texts(), BatchLayout::Packed));
            let _ = no_grad(|| model.head.bias().shallow_clone().g_add_scalar_(0.5));
            model.save(dir.path()).expect("written");
            let again = ScalarModel::load(dir.path(), Device::Cpu).expect("readable");
            assert_eq!(again.last_token_scores(&batch), model.last_token_scores(&batch));
            assert!(again.parameters().iter().all(|(name, _)| name != "lm_head.weight"));
            assert_eq!(again.body.has_head(), tied);
        }
    }

    #[test]
    fn a_language_model_is_not_taken_for_a_scalar_model() {
        let dir = tempfile::tempdir().expect("a folder");
        model(true).body.save(dir.path()).expect("written");
        let error = ScalarModel::load(dir.path(), Device::Cpu).expect_err("no head");
        assert!(error.message().contains("score.weight"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("reward model")));
    }

    #[test]
    fn gradients_reach_the_body_and_the_head() {
        let (model, batch) = (model(true), batch(&texts(), BatchLayout::Packed));
        model.set_trainable(true);
        model.last_token_scores(&batch).sum(Kind::Float).backward();
        assert!(model.parameters().iter().all(|(_, tensor)| tensor.grad().defined()));
    }
}
