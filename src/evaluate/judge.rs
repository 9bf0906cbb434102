//! From embeddings of images to the columns of a report.

use std::collections::{BTreeMap, BTreeSet};

use crate::pipeline::LoraArg;

use super::colour::Embedding;
use super::compared::{Key, key};
use super::earlier::counted;
use super::figures::Sets;
use super::make::{Role, Shown};
use super::measures::{
    Estimate, Figure, Figures, UnitVectors, agreement, among, change, closest_pair, likeness, mean, nearest,
};
use super::report::{Column, Image, Nearest, PromptFigures, Twin};

/// Embeddings of images, row by row.
#[derive(Clone)]
pub(super) struct Seen {
    /// For likeness to photos.
    pub subject: UnitVectors,
    /// For comparison of images with each other.
    pub scene: UnitVectors,
    /// CLIP embeddings.
    pub clip: Option<UnitVectors>,
}

impl Seen {
    /// Embeddings by the built-in measure.
    pub fn by_colour<'a>(images: impl Iterator<Item = &'a Embedding> + Clone) -> Seen {
        let rows = |of: fn(&Embedding) -> &Vec<f64>| {
            let width = images.clone().next().map_or(1, |first| of(first).len());
            let values: Vec<f64> = images.clone().flat_map(of).copied().collect();
            // Neither vector of an image is all zeros.
            UnitVectors::new(width, values).unwrap_or_else(|_| UnitVectors::none(width))
        };
        Seen { subject: rows(|e| &e.subject), scene: rows(|e| &e.scene), clip: None }
    }

    fn select(&self, rows: &[usize]) -> Seen {
        Seen {
            subject: self.subject.select(rows),
            scene: self.scene.select(rows),
            clip: self.clip.as_ref().map(|clip| clip.select(rows)),
        }
    }
}

/// Images of one model with their embeddings.
pub(super) struct Set {
    pub name: String,
    pub lora: Option<LoraArg>,
    pub shown: Vec<Shown>,
    pub seen: Seen,
    /// No figures are made of it.
    pub left_out: bool,
}

/// Differences from the base model's twins.
struct Gains {
    /// Likeness of images of the subject to the photos.
    likeness: Option<Estimate>,
    /// Likeness of class images to the photos.
    class: Option<Estimate>,
    /// Fidelity of images of the subject to their prompts.
    fidelity: Option<Estimate>,
}

/// Standard against which images are judged.
pub(super) struct Standard<'a> {
    /// Photos of the subject.
    pub photos: &'a Seen,
    /// CLIP embeddings of the prompts without the identifier.
    pub texts: Option<&'a UnitVectors>,
    /// Whether likeness is by colour alone.
    pub by_colour: bool,
    /// Images of the base model.
    pub base: &'a Set,
    /// Images that figures are over.
    pub compared: &'a BTreeSet<Key>,
}

impl Standard<'_> {
    /// The figure that stands for likeness.
    pub fn likeness(&self) -> Figure {
        if self.by_colour { Figure::Colour } else { Figure::Dino }
    }

    /// Likeness of the photos among themselves; empty for a single one.
    pub fn among_photos(&self) -> Figures {
        let clip = self.photos.clip.as_ref().and_then(among);
        let all = [(self.likeness(), among(&self.photos.subject)), (Figure::ClipI, clip)];
        all.into_iter().filter_map(|(figure, estimate)| Some((figure, estimate?))).collect()
    }

    /// Judges the images of `set`.
    pub fn judge(&self, set: &Set) -> Column {
        let is_base = std::ptr::eq(set, self.base);
        let images = self.images(set, is_base);
        let is_counted = |i: &usize| !set.left_out && self.compared.contains(&key(&set.shown[*i]));
        let rows: Vec<usize> = (0..set.shown.len()).filter(is_counted).collect();
        let subject: Vec<usize> = rows.iter().copied().filter(|&i| set.shown[i].role == Role::Subject).collect();
        let mut of_prompt: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        subject.iter().for_each(|&i| of_prompt.entry(set.shown[i].prompt).or_default().push(i));
        let prompts = of_prompt.into_iter();
        let prompts =
            prompts.map(|(prompt, rows)| PromptFigures { prompt, figures: self.figures(set, &rows, is_base) });
        let figures = self.figures(set, &rows, is_base);
        let of_subject: Vec<&Image> = subject.iter().map(|&i| &images[i]).collect();
        let copies = of_subject.iter().filter(|image| image.copies).count();
        let own = gain(&of_subject);
        let verdicts = match (is_base, set.left_out) {
            (true, _) => Vec::new(),
            (_, true) => vec![format!("Left out of the figures: it has {} only.", counted(images.len()))],
            _ => {
                let of_class = rows.iter().filter(|&&i| set.shown[i].role == Role::Class).map(|&i| &images[i]);
                let class = gain(&of_class.collect::<Vec<_>>());
                let gains = Gains { likeness: own, class, fidelity: self.fidelity_gain(set, &subject) };
                self.verdicts(&figures, gains, (copies, subject.len()))
            }
        };
        Column {
            name: set.name.clone(),
            lora: set.lora.as_ref().map(|lora| lora.path.to_string_lossy().into_owned()),
            scale: set.lora.as_ref().map(|lora| lora.scale),
            prompts: prompts.collect(),
            counted: rows.len(),
            figures,
            gain: own,
            copies,
            verdicts,
            images,
        }
    }

    /// Figures of the images `rows` of `set`.
    fn figures(&self, set: &Set, rows: &[usize], is_base: bool) -> Figures {
        let of = |role: Role| rows.iter().copied().filter(move |&i| set.shown[i].role == role).collect::<Vec<_>>();
        let prompts = |rows: &[usize]| rows.iter().map(|&i| set.shown[i].prompt).collect::<Vec<_>>();
        let [subject, class] = [Role::Subject, Role::Class].map(|role| set.seen.select(&of(role)));
        let prompt = prompts(&of(Role::Subject));
        let pair = |role: Role| {
            let (own, base) = self.paired(set, &of(role));
            (!own.is_empty() && !is_base)
                .then(|| (set.seen.scene.select(&own), self.base.seen.scene.select(&base), prompts(&own)))
        };
        let (class_pair, unrelated) = (pair(Role::Class), pair(Role::Unrelated));
        Sets {
            real: Some(&self.photos.subject),
            made: Some(&subject.subject),
            made_scene: Some(&subject.scene),
            prompt: Some(&prompt),
            clip_real: self.photos.clip.as_ref(),
            clip_made: subject.clip.as_ref(),
            clip_text: self.texts,
            class: Some(&class.subject),
            class_pair: class_pair.as_ref().map(|(own, base, _)| [own, base]),
            unrelated_pair: unrelated.as_ref().map(|(own, base, prompt)| ([own, base], &**prompt)),
            by_colour: self.by_colour,
        }
        .figures()
    }

    /// Rows of `set` among `rows` that have a twin of the base model, and the rows of these.
    fn paired(&self, set: &Set, rows: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let base: BTreeMap<_, usize> = self.base.shown.iter().enumerate().map(|(i, shown)| (key(shown), i)).collect();
        rows.iter().filter_map(|&i| Some((i, *base.get(&key(&set.shown[i]))?))).unzip()
    }

    fn images(&self, set: &Set, is_base: bool) -> Vec<Image> {
        let photos = self.photos;
        let like = likeness(&set.seen.subject, &photos.subject);
        let base_like = likeness(&self.base.seen.subject, &photos.subject);
        let clip = set.seen.clip.as_ref();
        let clip_like = clip.zip(photos.clip.as_ref()).map(|(own, photos)| likeness(own, photos));
        let closest = closest_pair(&photos.subject);
        let image = |(i, shown): (usize, &Shown)| {
            let nearest = nearest(&set.seen.subject, i, &photos.subject);
            let (_, twin) = self.paired(set, &[i]);
            let twin = twin.first().filter(|_| !is_base).map(|&at| Twin {
                file: self.base.shown[at].name.clone(),
                likeness: base_like[at],
                change: change(&set.seen.scene.select(&[i]), &self.base.seen.scene.select(&[at]))[0],
            });
            let of_subject = shown.role == Role::Subject;
            let fidelity = clip.zip(self.texts).filter(|_| of_subject);
            Image {
                role: shown.role,
                prompt: shown.prompt,
                seed: shown.seed,
                file: shown.name.clone(),
                likeness: like[i],
                clip_likeness: clip_like.as_ref().map(|clip| clip[i]),
                prompt_fidelity: fidelity.map(|(own, texts)| agreement(&own.select(&[i]), texts, &[shown.prompt])[0]),
                copies: of_subject && !is_base && nearest.zip(closest).is_some_and(|((_, own), most)| own > most),
                nearest: nearest.map(|(photo, likeness)| Nearest { photo, likeness }),
                base: twin,
            }
        };
        set.shown.iter().enumerate().map(image).collect()
    }

    /// Mean of the prompt fidelity of the images `rows` of `set` above that of the base model's twins. `None` without CLIP.
    fn fidelity_gain(&self, set: &Set, rows: &[usize]) -> Option<Estimate> {
        let (own, twins) = self.paired(set, rows);
        let prompts: Vec<usize> = own.iter().map(|&i| set.shown[i].prompt).collect();
        let of =
            |set: &Set, rows: &[usize]| Some(agreement(&set.seen.clip.as_ref()?.select(rows), self.texts?, &prompts));
        let (own, twins) = (of(set, &own)?, of(self.base, &twins)?);
        mean(&own.iter().zip(&twins).map(|(own, twin)| own - twin).collect::<Vec<_>>(), &prompts)
    }

    /// Judgements of a column in words.
    fn verdicts(&self, figures: &Figures, gains: Gains, (copies, images): (usize, usize)) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(Estimate { mean, standard_error, .. }) = gains.likeness {
            let error = standard_error.unwrap_or(f64::INFINITY);
            said.push(match () {
                () if standard_error.is_none() => "One image cannot tell whether it is more like the photos.".into(),
                () if mean > 2.0 * error => format!("More like the photos than the base model's images, by {mean:.3}."),
                () if mean < -2.0 * error => {
                    format!("Less like the photos than the base model's images, by {:.3}.", -mean)
                }
                () => "No more and no less like the photos than the base model's images, within two standard errors."
                    .into(),
            });
        }
        let is_sure = |gain: &Estimate| gain.standard_error.is_some_and(|error| gain.mean.abs() > 2.0 * error);
        if let Some(lost) = gains.fidelity.filter(is_sure).map(|gain| -gain.mean).filter(|lost| *lost > 0.0) {
            said.push(format!("Less true to the prompts than the base model's images, by {lost:.3} (CLIP_T)."));
        }
        if let Some(more) = gains.class.filter(is_sure).map(|gain| gain.mean).filter(|more| *more > 0.0) {
            said.push(format!("Class images are more like the photos than the base model's, by {more:.3} (PRES)."));
        }
        let plain = said.len();
        let own = figures.get(&self.likeness());
        let photos = among(&self.photos.subject);
        if let Some((own, photos)) = own.zip(photos).filter(|(own, photos)| own.mean > photos.mean) {
            let [own, photos] = [own.mean, photos.mean];
            said.push(format!("Copying: on average the images are more like the photos ({own:.3}) than these are like each other ({photos:.3})."));
        }
        if copies > 0 {
            said.push(format!("{copies} of {images} images are nearer to a photo than any two photos are to each other: compare them with the photo beside them."));
        }
        if said.len() > plain && self.by_colour {
            said.push("By colours alone, this only says that the same colours are there.".into());
        }
        said
    }
}

/// Mean of likeness to the photos above that of the base model's twins.
fn gain(images: &[&Image]) -> Option<Estimate> {
    let pairs = images.iter().filter_map(|image| Some((image.likeness - image.base.as_ref()?.likeness, image.prompt)));
    let (gains, prompts): (Vec<f64>, Vec<usize>) = pairs.unzip();
    mean(&gains, &prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images as rows of two values; prompts count up every two images.
    fn set(name: &str, rows: &[[f64; 2]], roles: &[Role]) -> Set {
        let shown = roles.iter().enumerate().map(|(i, &role)| Shown {
            role,
            prompt: if role == Role::Subject { i / 2 } else { 0 },
            seed: i as u64 % 2,
            name: format!("{name}-{i}"),
            path: Default::default(),
            colours: Embedding::new(1, 1, &[0; 3]),
            thumbnail: Vec::new(),
        });
        Set { name: name.into(), lora: None, shown: shown.collect(), seen: seen(rows), left_out: false }
    }

    fn keys(set: &Set) -> BTreeSet<Key> {
        set.shown.iter().map(key).collect()
    }

    fn seen(rows: &[[f64; 2]]) -> Seen {
        let unit = UnitVectors::new(2, rows.iter().flatten().copied()).unwrap();
        Seen { subject: unit.clone(), scene: unit, clip: None }
    }

    const ROLES: [Role; 6] = [Role::Subject, Role::Subject, Role::Subject, Role::Subject, Role::Class, Role::Class];

    #[test]
    fn images_are_held_against_their_twins_and_photos() {
        let photos = seen(&[[1.0, 0.0], [3.0, 4.0]]);
        let base = set("base", &[[0.0, 1.0]; 6], &ROLES);
        let all = keys(&base);
        let standard = Standard { photos: &photos, texts: None, by_colour: false, base: &base, compared: &all };
        let own = set("own", &[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], &ROLES);
        let column = standard.judge(&own);
        let mean = |figure| column.figures[&figure].mean;
        assert!((mean(Figure::Dino) - 0.6).abs() < 1e-12, "half of them 0.8, half 0.4");
        assert!((mean(Figure::Drift) - 0.5).abs() < 1e-12);
        assert_eq!((mean(Figure::Div), column.figures.get(&Figure::DriftUnrelated)), (0.0, None));
        assert!((column.gain.unwrap().mean - 0.2).abs() < 1e-12);
        assert_eq!(column.prompts.iter().map(|p| p.prompt).collect::<Vec<_>>(), [0, 1]);
        assert!((column.prompts[1].figures[&Figure::Dino].mean - 0.4).abs() < 1e-12);
        // The photos are 0.6 from each other; the first two images are a photo.
        assert_eq!(
            (column.copies, column.images.iter().map(|i| i.copies).collect::<Vec<_>>()),
            (4, vec![true, true, true, true, false, false])
        );
        assert!(column.verdicts.iter().any(|text| text.starts_with("4 of 4")), "{:?}", column.verdicts);
        // One class image is nearer to the photos, the other is not.
        assert!(!column.verdicts.join(" ").contains("Class images"), "{:?}", column.verdicts);
        let twin = column.images[0].base.as_ref().unwrap();
        assert_eq!((twin.file.as_str(), twin.change), ("base-0", 1.0));
        let base = standard.judge(&base);
        assert!(
            base.gain.is_none()
                && base.copies == 0
                && base.verdicts.is_empty()
                && !base.figures.contains_key(&Figure::Drift)
        );
    }

    #[test]
    fn likeness_above_the_photos_own_is_called_copying() {
        let photos = seen(&[[1.0, 0.0], [3.0, 4.0]]);
        let base = set("base", &[[0.0, -1.0]; 6], &ROLES);
        let all = keys(&base);
        let standard = Standard { photos: &photos, texts: None, by_colour: true, base: &base, compared: &all };
        // Between the photos: nearer to each than they are to each other.
        let column = standard.judge(&set("own", &[[2.0, 1.0]; 6], &ROLES));
        let said = column.verdicts.join(" ");
        assert!(said.contains("Copying: on average") && said.contains("the same colours"), "{said}");
        assert!(said.contains("More like the photos") && said.contains("Class images are more like"), "{said}");
        // One photo has no likeness among photos.
        let photos = seen(&[[1.0, 0.0]]);
        let standard = Standard { photos: &photos, texts: None, by_colour: true, base: &base, compared: &all };
        let column = standard.judge(&set("own", &[[1.0, 0.0]; 6], &ROLES));
        assert!(standard.among_photos().is_empty() && column.copies == 0);
        assert!(!column.verdicts.join(" ").contains("opying"));
    }

    #[test]
    fn an_interruption_leaves_images_that_all_have() {
        let photos = seen(&[[1.0, 0.0], [3.0, 4.0]]);
        // The images that the other has not are unlike those it has.
        let mut rows = [[0.0, 1.0]; 6];
        rows[3..].fill([1.0, 0.0]);
        let (base, own) = (set("base", &rows, &ROLES), set("own", &[[1.0, 0.0]; 3], &ROLES[..3]));
        let all = keys(&own);
        let standard = Standard { photos: &photos, texts: None, by_colour: false, base: &base, compared: &all };
        let column = standard.judge(&own);
        assert_eq!(column.figures.keys().copied().collect::<Vec<_>>(), [Figure::Dino, Figure::Div]);
        assert_eq!((column.images.len(), column.counted), (3, 3));
        let base = standard.judge(&base);
        assert_eq!((base.images.len(), base.counted, base.figures[&Figure::Dino].count), (6, 3, 3));
        assert!((base.figures[&Figure::Dino].mean - 0.4).abs() < 1e-12);
        let column = standard.judge(&Set { left_out: true, ..own });
        assert!(column.figures.is_empty() && column.gain.is_none() && column.prompts.is_empty());
        assert_eq!(column.verdicts, ["Left out of the figures: it has 3 images only."]);
    }

    #[test]
    fn lost_fidelity_to_prompts_is_said() {
        let photos = seen(&[[1.0, 0.0], [3.0, 4.0]]);
        let texts = UnitVectors::new(2, [1.0, 0.0, 1.0, 0.0]).unwrap();
        let with_clip = |name: &str, rows: &[[f64; 2]]| {
            let mut set = set(name, &[[0.0, 1.0]; 6], &ROLES);
            set.seen.clip = Some(seen(rows).subject);
            set
        };
        let base = with_clip("base", &[[1.0, 0.0], [4.0, 3.0], [1.0, 0.0], [4.0, 3.0], [1.0, 0.0], [1.0, 0.0]]);
        let all = keys(&base);
        let standard = Standard { photos: &photos, texts: Some(&texts), by_colour: false, base: &base, compared: &all };
        let said = |rows: &[[f64; 2]]| standard.judge(&with_clip("own", rows)).verdicts.join(" ");
        // Lower by 0.2 and 0.2, and by 0.4 and 0: the images of a prompt, of which there are two.
        let lower = said(&[[4.0, 3.0], [3.0, 4.0], [4.0, 3.0], [3.0, 4.0], [0.0, 1.0], [0.0, 1.0]]);
        assert!(lower.contains("Less true to the prompts than the base model's images, by 0.200 (CLIP_T)."), "{lower}");
        let uncertain = said(&[[3.0, 4.0], [4.0, 3.0], [1.0, 0.0], [4.0, 3.0], [0.0, 1.0], [0.0, 1.0]]);
        assert!(!uncertain.contains("prompts"), "{uncertain}");
        let higher = said(&[[1.0, 0.0]; 6]);
        assert!(!higher.contains("prompts"), "{higher}");
    }
}
