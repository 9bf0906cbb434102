//! The table of figures from sets of embeddings, with what cannot be measured and why.

use super::measures::{self, Estimate, Figure, Figures, UnitVectors, agreement, change, diversity, likeness};

/// Embeddings to measure. What is absent leaves figures out.
#[derive(Clone, Copy, Default)]
pub struct Sets<'a> {
    /// Photos of the subject.
    pub real: Option<&'a UnitVectors>,
    /// Images of the subject.
    pub made: Option<&'a UnitVectors>,
    /// Images of the subject as they are compared with each other: for most models the same embeddings.
    pub made_scene: Option<&'a UnitVectors>,
    /// Prompt of each image of the subject.
    pub prompt: Option<&'a [usize]>,
    /// CLIP embeddings of the photos.
    pub clip_real: Option<&'a UnitVectors>,
    /// CLIP embeddings of the images of the subject.
    pub clip_made: Option<&'a UnitVectors>,
    /// CLIP embeddings of the prompts without the identifier.
    pub clip_text: Option<&'a UnitVectors>,
    /// Class images.
    pub class: Option<&'a UnitVectors>,
    /// Class images and the base model's of the same seeds, as they are compared with each other.
    pub class_pair: Option<[&'a UnitVectors; 2]>,
    /// Images of unrelated prompts, the base model's of the same seeds, and the prompt of each.
    pub unrelated_pair: Option<([&'a UnitVectors; 2], &'a [usize])>,
    /// Whether likeness to the photos is by colour alone.
    pub by_colour: bool,
}

impl Sets<'_> {
    /// Measures every figure whose parts are there.
    pub fn figures(&self) -> Figures {
        let zeros = |rows: &UnitVectors| vec![0; rows.len()];
        let one = |rows: Option<&UnitVectors>| rows.map(zeros).unwrap_or_default();
        let alone = one(self.made);
        let prompt = self.prompt.unwrap_or(&alone);
        let to = |images: Option<&UnitVectors>, photos: Option<&UnitVectors>, prompt: &[usize]| {
            measures::mean(&likeness(images?, photos?), prompt)
        };
        let drift = |[images, base]: [&UnitVectors; 2], prompt: &[usize]| measures::mean(&change(images, base), prompt);
        let of = |texts: &UnitVectors| measures::mean(&agreement(self.clip_made?, texts, self.prompt?), self.prompt?);
        let first = if self.by_colour { Figure::Colour } else { Figure::Dino };
        let clip_prompt = if self.prompt.is_some() { prompt } else { &one(self.clip_made) };
        let all: [(Figure, Option<Estimate>); 7] = [
            (first, to(self.made, self.real, prompt)),
            (Figure::ClipI, to(self.clip_made, self.clip_real, clip_prompt)),
            (Figure::ClipT, self.clip_text.and_then(of)),
            (Figure::Pres, to(self.class, self.real, &one(self.class))),
            (Figure::Div, self.made_scene.and_then(|made| diversity(made, self.prompt?))),
            (Figure::Drift, self.class_pair.and_then(|pair| drift(pair, &zeros(pair[0])))),
            (Figure::DriftUnrelated, self.unrelated_pair.and_then(|(pair, prompt)| drift(pair, prompt))),
        ];
        all.into_iter().filter_map(|(figure, estimate)| Some((figure, estimate?))).collect()
    }
}
