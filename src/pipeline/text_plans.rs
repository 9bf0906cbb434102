//! Text encoders of a model: their plans for some prompts, and what of them is read.

use crate::base::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::models::TextEncoder;
use crate::nn::{Mode, Param, Scope, Settings};

use super::Model;
use super::hidden::HiddenShape;
use super::planning::{Part, Planning};
use super::text::{EncoderPart, EncoderParts, NAMES, TextModel, TextParts, TextSpec};

/// Inputs and results of a text encoder in a graph.
struct Recorded {
    ids: Tensor,
    hidden: Tensor,
    /// Selection of end tokens and pooled embeddings, where they are read.
    pooled: Option<(Tensor, Tensor)>,
}

impl Model {
    /// Tokens of a prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.texts.first().map_or(0, |text| text.tokenizer.length())
    }

    /// Shape of what the text encoders make of a prompt of `tokens` tokens.
    pub(crate) fn hidden_shape(&self, tokens: usize) -> HiddenShape {
        let widths = self.texts.iter().map(|text| text.config.hidden_size).collect();
        HiddenShape { tokens, widths, pooled: self.pooled_width().unwrap_or(0) }
    }

    /// Text encoder `index`, and all parameters that it has, read or not.
    pub(crate) fn text_part(&self, index: usize, settings: Settings) -> Result<(TextEncoder, Scope)> {
        let text = self.texts.get(index).ok_or_else(|| Error::op("text", format!("has no text encoder {index}")))?;
        let scope = Scope::new(text.place.part.name(), settings);
        Ok((TextEncoder::new(&scope, text.config.clone())?, scope))
    }

    /// Parameters of text encoder `index` that are read to encode prompts.
    pub(crate) fn text_params(&self, index: usize, settings: Settings) -> Result<Vec<Param>> {
        let (encoder, scope) = self.text_part(index, settings)?;
        let mut g = Graph::new();
        self.record_text(&mut g, index, &encoder, [1, self.prompt_tokens()], None)?;
        Ok(scope.params_in(&g))
    }

    /// The text encoders of the prompts `spec`, [`PROMPTS`](super::text::PROMPTS) at once, with the adapters of `settings`.
    pub(crate) async fn plan_texts(
        &self,
        settings: &Settings,
        planning: Planning<'_>,
        spec: TextSpec,
    ) -> Result<TextParts> {
        let mut encoders = Vec::with_capacity(self.texts.len());
        for index in 0..self.texts.len() {
            let (mut parts, mut kinds, mut batches) = (Vec::new(), Vec::new(), Vec::new());
            for (range, clip_skip) in spec.batches() {
                let kind = (range.len(), clip_skip);
                let known = kinds.iter().position(|known| *known == kind);
                if known.is_none() {
                    let shape = [range.len(), spec.tokens];
                    parts.push(self.plan_text(index, settings.clone(), planning, shape, clip_skip)?);
                    kinds.push(kind);
                    planning.breathe().await;
                }
                batches.push((known.unwrap_or(kinds.len() - 1), range));
            }
            encoders.push(EncoderParts { parts, batches });
        }
        Ok(TextParts { encoders })
    }

    fn plan_text(
        &self,
        index: usize,
        settings: Settings,
        planning: Planning<'_>,
        shape: [usize; 2],
        clip_skip: Option<usize>,
    ) -> Result<EncoderPart> {
        let dtype = self.dtype(planning.caps);
        let settings = Settings { dtype, eight_bits: self.eight_bits(dtype), ..settings };
        let training = settings.mode == Mode::Training;
        let (encoder, scope) = self.text_part(index, settings)?;
        let mut g = Graph::new();
        let Recorded { ids: input, hidden: output, pooled } =
            self.record_text(&mut g, index, &encoder, shape, clip_skip)?;
        g.output(output);
        if let Some((_, pooled)) = pooled {
            g.output(pooled);
        }
        // A training's own weights hold every adapter.
        let params = if training { scope.params() } else { scope.params_in(&g) };
        let name = NAMES[index.min(1)];
        let part = Part { name, plan: planning.plan(&g)?, input, output, params };
        Ok(EncoderPart { part, pooled, encoder: index })
    }

    /// Records text encoder `index` for ids `[prompts, tokens]`.
    fn record_text(
        &self,
        g: &mut Graph,
        index: usize,
        encoder: &TextEncoder,
        [prompts, tokens]: [usize; 2],
        clip_skip: Option<usize>,
    ) -> Result<Recorded> {
        let text = &self.texts[index];
        let ids = g.input("ids", [prompts, tokens], DType::U32);
        let ends = text.pooled_width().map(|_| g.input("ends", [prompts, 1, tokens], DType::F32));
        let encoded = encoder.encode(g, ids, text.taps(clip_skip, ends))?;
        let normed = clip_skip.is_some() && text.place.skip.is_none();
        // Families that read the last state read earlier ones through the final norm too.
        let hidden = if normed { encoder.normalize(g, encoded.hidden)? } else { encoded.hidden };
        Ok(Recorded { ids, hidden, pooled: ends.zip(encoded.pooled) })
    }

    /// Refuses to leave out more layers than a text encoder has.
    pub(crate) fn check_clip_skip(&self, clip_skip: Option<usize>) -> Result<()> {
        let room = |text: &TextModel| text.config.num_hidden_layers.saturating_sub(text.place.skip.unwrap_or(0));
        let most = self.texts.iter().map(room).min().unwrap_or(0);
        match clip_skip.filter(|&skip| skip > most) {
            Some(skip) => Err(Error::value("clip_skip", skip, format!("must be at most {most} with this model"))),
            None => Ok(()),
        }
    }
}
