//! Figures of a personalization, from embeddings alone.
//!
//! Definitions after Ruiz et al. 2023 ("DreamBooth", section 4.2): similarities are cosines. A mean over images comes with
//! its standard error: over prompts where there are several, because images of one prompt resemble each other, else over
//! images. A mean over pairs of images of one prompt gets its error from the jackknife over these images.

use std::collections::BTreeMap;

/// Name of a figure, in the order in which tables list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Figure {
    /// Likeness to the photos: mean cosine of DINO embeddings of images and photos.
    #[serde(rename = "DINO")]
    Dino,
    /// Likeness to the photos by the built-in colour measure.
    #[serde(rename = "COLOUR")]
    Colour,
    /// Likeness to the photos: mean cosine of CLIP embeddings of images and photos.
    #[serde(rename = "CLIP_I")]
    ClipI,
    /// Prompt fidelity: mean cosine of CLIP embeddings of images and of their prompts without the identifier.
    #[serde(rename = "CLIP_T")]
    ClipT,
    /// Mean cosine of class images and photos: how much of the subject other members of its class have.
    #[serde(rename = "PRES")]
    Pres,
    /// Diversity: mean of 1 - cosine of two images of one prompt.
    #[serde(rename = "DIV")]
    Div,
    /// Mean of 1 - cosine of a class image and the base model's of the same seed.
    #[serde(rename = "DRIFT")]
    Drift,
    /// Mean of 1 - cosine of an image of an unrelated prompt and the base model's of the same seed.
    #[serde(rename = "DRIFT_UNRELATED")]
    DriftUnrelated,
}

impl Figure {
    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Dino => "DINO",
            Figure::Colour => "COLOUR",
            Figure::ClipI => "CLIP_I",
            Figure::ClipT => "CLIP_T",
            Figure::Pres => "PRES",
            Figure::Div => "DIV",
            Figure::Drift => "DRIFT",
            Figure::DriftUnrelated => "DRIFT_UNRELATED",
        }
    }
}

/// Mean of a figure.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Mean over all that was counted.
    pub mean: f64,
    /// Standard error of the mean; `None` where there is too little to know it.
    pub standard_error: Option<f64>,
    /// Images, or pairs of images, in the mean.
    pub count: usize,
}

/// Figures that could be measured.
pub type Figures = BTreeMap<Figure, Estimate>;

/// Embeddings of length 1, one row per image or text.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitVectors {
    width: usize,
    values: Vec<f64>,
}

impl UnitVectors {
    /// Scales each of the rows of `width` values to length 1.
    ///
    /// # Errors
    /// Index of a row without a direction: all zeros, or longer than f64 holds.
    pub fn new(width: usize, values: impl IntoIterator<Item = f64>) -> Result<UnitVectors, usize> {
        let mut values: Vec<f64> = values.into_iter().collect();
        for (i, row) in values.chunks_mut(width.max(1)).enumerate() {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            if !(length > 0.0 && length.is_finite()) {
                return Err(i);
            }
            row.iter_mut().for_each(|x| *x /= length);
        }
        Ok(UnitVectors { width, values })
    }

    /// Holds no row yet.
    pub fn none(width: usize) -> UnitVectors {
        UnitVectors { width, values: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Cosine of row `i` and row `j` of `other`.
    pub fn cosine(&self, i: usize, other: &UnitVectors, j: usize) -> f64 {
        let row = |of: &UnitVectors, i: usize| i * of.width..(i + 1) * of.width;
        let (a, b) = (&self.values[row(self, i)], &other.values[row(other, j)]);
        a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>().clamp(-1.0, 1.0)
    }

    /// Copy of the rows `rows`.
    pub fn select(&self, rows: &[usize]) -> UnitVectors {
        let values = rows.iter().flat_map(|&i| &self.values[i * self.width..(i + 1) * self.width]).copied().collect();
        UnitVectors { width: self.width, values }
    }

    /// Appends the rows of `other`, of the same width.
    pub fn extend(&mut self, other: &UnitVectors) {
        self.width = other.width;
        self.values.extend_from_slice(&other.values);
    }
}

/// Mean cosine of each row of `images` with all of `photos`.
pub fn likeness(images: &UnitVectors, photos: &UnitVectors) -> Vec<f64> {
    let mean = |i| (0..photos.len()).map(|j| images.cosine(i, photos, j)).sum::<f64>() / photos.len() as f64;
    if photos.is_empty() { Vec::new() } else { (0..images.len()).map(mean).collect() }
}

/// Cosine of each row of `images` with the text of its prompt.
pub fn agreement(images: &UnitVectors, texts: &UnitVectors, prompt: &[usize]) -> Vec<f64> {
    prompt.iter().enumerate().map(|(i, &p)| images.cosine(i, texts, p)).collect()
}

/// 1 - cosine of each row of `images` with the same row of `others`.
pub fn change(images: &UnitVectors, others: &UnitVectors) -> Vec<f64> {
    (0..images.len().min(others.len())).map(|i| 1.0 - images.cosine(i, others, i)).collect()
}

/// Index of the photo that row `i` of `images` is most like, and their cosine.
pub fn nearest(images: &UnitVectors, i: usize, photos: &UnitVectors) -> Option<(usize, f64)> {
    let cosines = (0..photos.len()).map(|j| (j, images.cosine(i, photos, j)));
    cosines.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Largest cosine of two different rows.
pub fn closest_pair(rows: &UnitVectors) -> Option<f64> {
    let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    pairs.map(|(i, j)| rows.cosine(i, rows, j)).max_by(f64::total_cmp)
}

/// Mean of `values`, `values[i]` of prompt `prompt[i]`. `None` for none.
pub fn mean(values: &[f64], prompt: &[usize]) -> Option<Estimate> {
    let mut sums: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for (value, &prompt) in values.iter().zip(prompt) {
        let sum = sums.entry(prompt).or_default();
        *sum = (sum.0 + value, sum.1 + 1);
    }
    if sums.len() > 1 {
        return pooled(&sums.into_values().collect::<Vec<_>>());
    }
    let single: Vec<(f64, usize)> = values.iter().map(|value| (*value, 1)).collect();
    pooled(&single)
}

/// Mean of all values in groups, given as sums and counts, with the standard error of a ratio of sums: groups are drawn, not
/// values (Cochran 1977, "Sampling Techniques", section 6.3).
fn pooled(groups: &[(f64, usize)]) -> Option<Estimate> {
    let (total, count) = groups.iter().fold((0.0, 0), |(sum, n), group| (sum + group.0, n + group.1));
    let used = groups.iter().filter(|group| group.1 > 0).count();
    let mean = (count > 0).then(|| total / count as f64)?;
    let squares: f64 = groups.iter().map(|(sum, n)| (sum - *n as f64 * mean).powi(2)).sum();
    let standard_error = (used > 1).then(|| (used as f64 / (used - 1) as f64 * squares).sqrt() / count as f64);
    Some(Estimate { mean, standard_error, count })
}

/// Mean cosine of two different rows, each pair once. `None` for fewer than two rows.
pub fn among(rows: &UnitVectors) -> Option<Estimate> {
    pairs(rows.len(), |i, j| rows.cosine(i, rows, j))
}

/// Mean of 1 - cosine of two images of one prompt, over all prompts. `None` if no prompt has two images.
pub fn diversity(images: &UnitVectors, prompt: &[usize]) -> Option<Estimate> {
    let mut of_prompt: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    prompt.iter().enumerate().for_each(|(i, &p)| of_prompt.entry(p).or_default().push(i));
    let of_one = |rows: &Vec<usize>| pairs(rows.len(), |i, j| 1.0 - images.cosine(rows[i], images, rows[j]));
    let each: Vec<Estimate> = of_prompt.values().filter_map(of_one).collect();
    match each[..] {
        [one] => Some(one),
        _ => pooled(&each.iter().map(|e| (e.mean * e.count as f64, e.count)).collect::<Vec<_>>()),
    }
}

/// Mean of `value` over pairs of `count` images, with the jackknife's standard error from three images on.
fn pairs(count: usize, value: impl Fn(usize, usize) -> f64) -> Option<Estimate> {
    let mut of_image = vec![0.0; count];
    let mut total = 0.0;
    for i in 0..count {
        for j in 0..i {
            let v = value(i, j);
            total += v;
            of_image[i] += v;
            of_image[j] += v;
        }
    }
    let pairs = count * count.saturating_sub(1) / 2;
    let mean = (pairs > 0).then(|| total / pairs as f64)?;
    let standard_error = (count > 2).then(|| {
        let left = (pairs - (count - 1)) as f64;
        let without: Vec<f64> = of_image.iter().map(|own| (total - own) / left).collect();
        let centre = without.iter().sum::<f64>() / count as f64;
        let squares: f64 = without.iter().map(|x| (x - centre).powi(2)).sum();
        ((count - 1) as f64 / count as f64 * squares).sqrt()
    });
    Some(Estimate { mean, standard_error, count: pairs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(rows: &[[f64; 2]]) -> UnitVectors {
        UnitVectors::new(2, rows.iter().flatten().copied()).unwrap()
    }

    fn mean_of_one(values: &[f64]) -> Option<Estimate> {
        mean(values, &vec![0; values.len()])
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} for {b}");
    }

    #[test]
    fn identical_images_give_one_and_zero() {
        let images = unit(&[[3.0, 4.0]; 4]);
        close(mean_of_one(&likeness(&images, &images)).unwrap().mean, 1.0);
        close(among(&images).unwrap().mean, 1.0);
        close(closest_pair(&images).unwrap(), 1.0);
        for estimate in [diversity(&images, &[0, 0, 1, 1]), mean_of_one(&change(&images, &images))] {
            let estimate = estimate.unwrap();
            close(estimate.mean, 0.0);
            close(estimate.standard_error.unwrap(), 0.0);
        }
    }

    #[test]
    fn rows_without_a_direction_are_named() {
        assert_eq!(UnitVectors::new(2, [1.0, 0.0, 0.0, 0.0]), Err(1));
        assert_eq!(UnitVectors::new(1, [f64::INFINITY]), Err(0));
        assert_eq!(UnitVectors::new(1, [f64::NAN]), Err(0));
    }

    #[test]
    fn a_mean_of_one_prompt_has_the_error_of_its_images_and_of_several_that_of_prompts() {
        let values = [0.1, 0.3, 0.5, 0.9];
        let one = mean_of_one(&values).unwrap();
        // Sample deviation over the square root of four.
        let deviation = (values.iter().map(|v| (v - 0.45f64).powi(2)).sum::<f64>() / 3.0).sqrt();
        close(one.mean, 0.45);
        close(one.standard_error.unwrap(), deviation / 2.0);
        // Means 0.2 and 0.7: their deviation is 0.25 * sqrt(2), and there are two.
        let two = mean(&values, &[0, 0, 1, 1]).unwrap();
        close(two.mean, 0.45);
        close(two.standard_error.unwrap(), 0.25);
        assert_eq!(mean(&[0.5], &[3]).unwrap().standard_error, None);
        assert_eq!(mean(&[], &[]), None);
    }

    #[test]
    fn pairs_are_of_one_prompt_and_counted_once() {
        let images = unit(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]);
        let by_prompt = diversity(&images, &[0, 0, 1, 1]).unwrap();
        assert_eq!((by_prompt.mean, by_prompt.count), (0.5, 2));
        close(diversity(&images, &[0, 1, 0, 1]).unwrap().mean, 0.5);
        close(diversity(&images, &[0, 1, 1, 0]).unwrap().mean, 0.5);
        close(diversity(&images, &[0, 1, 0, 0]).unwrap().mean, 0.0);
        assert_eq!(diversity(&images, &[0, 1, 2, 3]), None);
        // Of one prompt: pairs 1 1 1 0 0 0 without each image 0, 2/3, 2/3, 2/3 wherever the odd one is left out.
        let all = diversity(&images, &[5; 4]).unwrap();
        assert_eq!((all.mean, all.count), (0.5, 6));
        let without = [2.0 / 3.0, 0.0, 2.0 / 3.0, 2.0 / 3.0];
        let squares: f64 = without.iter().map(|x| (x - 0.5f64).powi(2)).sum();
        close(all.standard_error.unwrap(), (0.75 * squares).sqrt());
        assert_eq!(among(&unit(&[[1.0, 0.0]])), None);
    }

    #[test]
    fn the_nearest_photo_is_found() {
        let (images, photos) = (unit(&[[1.0, 1.0], [0.0, 2.0]]), unit(&[[1.0, 0.0], [1.0, 2.0]]));
        assert_eq!(nearest(&images, 0, &photos).unwrap().0, 1);
        assert_eq!(nearest(&images, 1, &unit(&[])), None);
        assert_eq!(agreement(&images, &unit(&[[0.0, 1.0]]), &[0, 0])[1], 1.0);
    }
}
