//! What came of a variation, read from its evaluation's report.

use std::path::{Path, PathBuf};

use portray::low_level::io::image;
use portray::{Error, Picture, Result};
use serde_json::{Value, json};

use super::factors::Variation;

/// Name, title in tables, and meaning of each figure of the study.
pub const FIGURES: [(&str, &str, &str); 4] = [
    ("COLOUR", "likeness", "likeness of the subject's images to the photos"),
    (
        "PRES",
        "class like the photos",
        "likeness of the class's images to the photos: it rises where the class becomes the subject",
    ),
    ("DIV", "diversity", "how different the images of one prompt are"),
    ("DRIFT", "drift", "how far the class's images are from the base model's of the same seeds"),
];

/// A figure of every seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(pub Vec<f64>);

impl Values {
    /// Mean, and standard error where there are several.
    pub fn estimate(&self) -> (f64, Option<f64>) {
        let n = self.0.len() as f64;
        let mean = self.0.iter().sum::<f64>() / n;
        let squares: f64 = self.0.iter().map(|x| (x - mean).powi(2)).sum();
        (mean, (self.0.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
    }

    /// The differences from `other`, seed by seed.
    pub fn minus(&self, other: &Values) -> Values {
        Values(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }
}

/// What came of a variation.
pub struct Outcome {
    /// The variation.
    pub variation: Variation,
    /// The base model's figures, in the order of [`FIGURES`]; it has no drift.
    pub base: Vec<Option<f64>>,
    /// Those of every seed.
    pub values: Vec<Values>,
    /// The first seed's images: the first of every prompt for the subject, then those of the class.
    files: Vec<PathBuf>,
}

/// Whether the evaluation in `folder` came to its end.
pub fn is_complete(folder: &Path) -> bool {
    report(folder).is_ok_and(|report| report["complete"] == true)
}

fn report(folder: &Path) -> Result<Value> {
    let path = folder.join("report.json");
    let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::file(&path, e.to_string()))
}

impl Outcome {
    /// Reads the evaluation of `variation` in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if its report cannot be read or lacks a figure.
    pub fn read(variation: &Variation, folder: &Path) -> Result<Outcome> {
        let report = report(folder)?;
        let columns = report["columns"].as_array().cloned().unwrap_or_default();
        let figure = |column: &Value, name: &str| column["figures"][name]["mean"].as_f64();
        let (base, rest) = columns.split_first().ok_or_else(|| lacking(folder, "columns"))?;
        let of_all = |name: &str| {
            let each = rest.iter().map(|column| figure(column, name).ok_or_else(|| lacking(folder, name)));
            each.collect::<Result<Vec<f64>>>().map(Values)
        };
        let images = rest.first().and_then(|first| first["images"].as_array()).cloned().unwrap_or_default();
        let of_role = |role: &str| images.iter().filter(move |image| image["role"] == role).collect::<Vec<_>>();
        let mut firsts: Vec<&Value> = Vec::new();
        for image in of_role("subject") {
            if firsts.iter().all(|first| first["prompt"] != image["prompt"]) {
                firsts.push(image);
            }
        }
        firsts.truncate(4);
        let shown = firsts.into_iter().chain(of_role("class"));
        Ok(Outcome {
            variation: variation.clone(),
            base: FIGURES.iter().map(|(name, ..)| figure(base, name)).collect(),
            values: FIGURES.iter().map(|(name, ..)| of_all(name)).collect::<Result<_>>()?,
            files: shown.filter_map(|image| image["file"].as_str()).map(|file| folder.join(file)).collect(),
        })
    }

    /// Title and the figures that matter most, for the sheet.
    pub fn label(&self) -> String {
        let mean = |index: usize| self.values[index].estimate().0;
        format!("{}: likeness {:.2}, drift {:.2}", self.variation.title, mean(0), mean(3))
    }

    /// Opens the images of the sheet.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be read.
    pub fn pictures(&self) -> Result<Vec<Picture>> {
        let open = |(index, path): (usize, &PathBuf)| {
            let image::Picture { width, height, rgb } = image::Picture::open(path)?;
            Ok(Picture { width, height, rgb, prompt: String::new(), seed: 0, index, parameters: String::new() })
        };
        self.files.iter().enumerate().map(open).collect()
    }

    /// Its values as JSON, seed by seed.
    pub fn to_json(&self) -> Value {
        let mut values = serde_json::Map::new();
        for (((name, ..), base), of_seeds) in FIGURES.iter().zip(&self.base).zip(&self.values) {
            values.insert((*name).to_owned(), json!({"base": base, "seeds": of_seeds.0}));
        }
        let Variation { name, phrases, class_pictures, .. } = &self.variation;
        json!({"name": name, "prompt": phrases.instance, "class_pictures": class_pictures, "figures": values})
    }
}

fn lacking(folder: &Path, what: &str) -> Error {
    Error::file(folder.join("report.json"), format!("has no {what}: remove the file, and the study makes it again"))
}

#[cfg(test)]
mod tests {
    use super::super::super::scenes::Phrases;
    use super::super::factors::variations;
    use super::*;

    #[test]
    fn values_are_read_seed_by_seed() {
        let folder = tempfile::tempdir().unwrap();
        let phrases = Phrases { instance: "a sks dog".into(), class: "a dog".into() };
        let variation = &variations(&phrases, None)[0];
        let column = |likeness: f64| {
            let figures = FIGURES.map(|(name, ..)| (name.to_owned(), json!({"mean": likeness, "count": 2})));
            let image = |role: &str, prompt: usize, file: &str| json!({"role": role, "prompt": prompt, "file": file});
            let images =
                [image("subject", 0, "a"), image("subject", 0, "b"), image("subject", 1, "c"), image("class", 0, "d")];
            json!({"figures": figures.into_iter().collect::<serde_json::Map<_, _>>(), "images": images})
        };
        let write = |columns: &[Value], complete: bool| {
            let report = json!({"complete": complete, "columns": columns});
            std::fs::write(folder.path().join("report.json"), report.to_string()).unwrap();
        };
        assert!(!is_complete(folder.path()));
        write(&[column(0.1), column(0.5), column(0.7)], false);
        assert!(!is_complete(folder.path()));
        write(&[column(0.1), column(0.5), column(0.7)], true);
        assert!(is_complete(folder.path()));
        let outcome = Outcome::read(variation, folder.path()).unwrap();
        assert_eq!((outcome.base[0], &outcome.values[2]), (Some(0.1), &Values(vec![0.5, 0.7])));
        assert_eq!(outcome.files, ["a", "c", "d"].map(|file| folder.path().join(file)));
        assert_eq!(outcome.to_json()["figures"]["DRIFT"]["seeds"], json!([0.5, 0.7]));
        write(&[column(0.1), json!({"figures": {}})], true);
        let error = Outcome::read(variation, folder.path()).err().unwrap().to_string();
        assert!(error.contains("report.json") && error.contains("COLOUR"), "{error}");
    }

    #[test]
    fn estimates_and_paired_differences() {
        let values = Values(vec![0.1, 0.3, 0.2, 0.4]);
        let (mean, error) = values.estimate();
        assert!((mean - 0.25).abs() < 1e-12 && (error.unwrap() - (1.0f64 / 60.0).sqrt() / 2.0).abs() < 1e-12);
        let shifted = Values(values.0.iter().map(|x| x + 0.5).collect());
        let (mean, error) = shifted.minus(&values).estimate();
        assert!((mean - 0.5).abs() < 1e-12 && error.unwrap() < 1e-12, "seeds are paired");
        assert_eq!(Values(vec![0.2]).estimate(), (0.2, None));
    }
}
