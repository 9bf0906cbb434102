//! Texts to embeddings: the text side of a CLIP.

use std::ops::Range;

use super::VisionModel;
use super::resident::{Part, Side, finite_rows, name_of, rows_of};
use crate::base::DType;
use crate::error::{Error, Result};
use crate::gpu::{Pool, Store};
use crate::graph::{Graph, Session};
use crate::io::ClipTokenizer;
use crate::models::{Taps, TextEncoder};
use crate::nn::{Param, Scope, Settings};
use crate::pipeline::context::Context;
use crate::pipeline::memory;
use crate::pipeline::text::PROMPTS;

impl VisionModel {
    fn text_encoder(&self) -> Result<(TextEncoder, Scope)> {
        let scope = Scope::new(Side::Texts.root(), Settings::default());
        Ok((TextEncoder::new(&scope, self.folder.text()?.config.clone())?, scope))
    }

    pub(super) fn text_params(&self) -> Result<Vec<Param>> {
        Ok(self.text_encoder()?.1.params())
    }

    /// Looks for every tensor of the text side.
    pub(super) fn check_text_tensors(&self) -> Result<()> {
        for from in self.text_params()?.iter().flat_map(|param| &param.sources) {
            self.folder.text_tensor(name_of(&from.key)?, &from.shape)?.check_type()?;
        }
        Ok(())
    }

    fn tokenizer(&self) -> Result<&ClipTokenizer> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let most = self.text_tokens();
        let tokenizer = self.folder.tokenizer()?.at_most(most);
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// Most tokens of a text; 0 for a model that reads none.
    pub fn text_tokens(&self) -> usize {
        self.folder.texts.as_ref().map_or(0, |text| text.config.max_position_embeddings)
    }

    /// Token ids that it knows; 0 for a model that reads no text.
    pub fn vocabulary(&self) -> usize {
        self.folder.texts.as_ref().map_or(0, |text| text.config.vocab_size)
    }

    /// Token ids of `texts` as CLIP's tokenizer gives them with padding and truncation to its full length (77), and what of a
    /// text was cut off.
    ///
    /// # Errors
    /// [`Error::File`] if the model reads no text, or its tokenizer is missing or gives tokens that the model does not know.
    pub fn tokenize(&self, texts: &[String]) -> Result<Vec<(Vec<u32>, Option<String>)>> {
        let known = self.folder.text()?.config.vocab_size;
        let tokenizer = self.tokenizer()?;
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let encoded = tokenizer.encode(text)?;
            if let Some(id) = encoded.ids.iter().find(|id| **id as usize >= known) {
                let message =
                    format!("its tokenizer gives token {id}, its text side knows {known}: parts of different models");
                return Err(Error::file(self.folder.path(), message));
            }
            rows.push((encoded.ids, encoded.truncated));
        }
        Ok(rows)
    }

    /// Embeddings of `texts`, [`VisionModel::width`] values each: projected and not normalized.
    pub(crate) async fn embed_texts(&self, context: &Context, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let rows: Vec<Vec<u32>> = self.tokenize(texts)?.into_iter().map(|(ids, _)| ids).collect();
        self.embed_tokens(context, &rows).await
    }

    /// Embeddings of token ids, all texts as long.
    pub(crate) async fn embed_tokens(&self, context: &Context, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        context.gpu.in_error_scopes(Box::pin(self.run_texts(context, rows))).await
    }

    fn plan_texts(&self, context: &Context, n: usize, tokens: usize) -> Result<Part> {
        self.resident.part(context, (Side::Texts, n, [1, tokens]), || {
            let (encoder, scope) = self.text_encoder()?;
            let mut g = Graph::new();
            let input = g.input("ids", [n, tokens], DType::U32);
            let ends = g.input("ends", [n, 1, tokens], DType::F32);
            // The norm is needed of the selected states alone.
            let encoded = encoder.encode(&mut g, input, Taps { skip: Some(0), ends: Some(ends) })?;
            let output = encoded.pooled.ok_or_else(|| Error::op("vision", "the text encoder pools nothing"))?;
            g.output(output);
            let (plan, params) = (context.planning().plan(&g)?, scope.params_in(&g));
            Ok(Part { plan, input, beside: vec![ends], output, params })
        })
    }

    async fn run_texts(&self, context: &Context, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let text = self.folder.text()?;
        let (tokens, most) = (rows.first().map_or(0, Vec::len), text.config.max_position_embeddings);
        if let Some(row) = rows.iter().find(|row| row.len() != tokens || row.is_empty() || row.len() > most) {
            let message = format!("a text has {} tokens: all must have as many, 1 to {most}", row.len());
            return Err(Error::argument(message));
        }
        let known = text.config.vocab_size;
        if let Some(id) = rows.iter().flatten().find(|id| **id as usize >= known) {
            return Err(Error::argument(format!("token {id}: the model knows {known} (0 to {})", known - 1)));
        }
        let n = PROMPTS.min(rows.len());
        let lengths: Vec<usize> = [n, rows.len() % n.max(1)].into_iter().filter(|n| *n > 0).collect();
        let parts = lengths.iter().map(|n| self.plan_texts(context, *n, tokens)).collect::<Result<Vec<_>>>()?;
        let Some(first) = parts.first() else { return Ok(Vec::new()) };
        let gpu = &context.gpu;
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| {
            finite_rows(&self.folder.text_tensor(name_of(key)?, shape)?, rows)
        };
        let weights = self.resident.weights(gpu, Side::Texts, &first.params, &fetch).await?;
        let weights = Store::beside(gpu, vec![weights]);
        let mut pool = Pool::default();
        pool.fit(gpu, &memory::pool(parts.iter().map(|part| &part.plan.arena)))?;
        let mut sessions = Vec::with_capacity(parts.len());
        for part in &parts {
            sessions.push(Session::new(gpu, part.plan.clone(), &mut pool, &weights).await?);
        }
        let mut embeddings = Vec::with_capacity(rows.len());
        for some in rows.chunks(n) {
            if context.cancel.is_cancelled() {
                return Err(Error::interrupted());
            }
            let at = usize::from(some.len() < n);
            let ends: Vec<f32> = some.iter().flat_map(|ids| select_end(ids, text.end)).collect();
            sessions[at].write_ids(parts[at].input, &some.concat())?;
            sessions[at].write(parts[at].beside[0], &ends)?;
            sessions[at].run().await?;
            embeddings.extend(rows_of(&sessions[at].read(parts[at].output).await?, self.width())?);
        }
        Ok(embeddings)
    }
}

/// Selection of the token whose state is the text's, as transformers takes it: the first `end`, or the first token where there
/// is none; without `end`, the first of the largest id.
fn select_end(ids: &[u32], end: Option<u32>) -> Vec<f32> {
    let largest = ids.iter().max();
    let wanted = end.as_ref().or(largest);
    let at = ids.iter().position(|id| Some(id) == wanted).unwrap_or(0);
    (0..ids.len()).map(|i| f32::from(u8::from(i == at))).collect()
}

#[cfg(test)]
mod tests {
    use super::select_end;

    #[test]
    fn the_end_of_a_text_is_found_as_transformers_finds_it() {
        let at = |ids: &[u32], end| select_end(ids, end).iter().position(|x| *x == 1.0);
        assert_eq!(at(&[5, 9, 7, 9], None), Some(1));
        assert_eq!(at(&[5, 9, 7, 7], Some(7)), Some(2));
        assert_eq!(at(&[5, 9, 9], Some(7)), Some(0));
        assert_eq!(select_end(&[1, 3], Some(3)), [0.0, 1.0]);
    }
}
