//! What the demo asks for: the subject in places, styles, outfits and shapes that no photo showed.

/// A subject's two phrases.
#[derive(Clone, Debug, PartialEq)]
pub struct Phrases {
    /// With its rare word: "a mscds cat".
    pub instance: String,
    /// Its class: "a cat".
    pub class: String,
}

/// A row of the sheet.
pub struct Scenes {
    /// What the row shows, in the terms of the DreamBooth paper (Ruiz et al. 2023, section 4.3).
    pub title: &'static str,
    /// One line about it.
    pub note: &'static str,
    /// A short label and the prompt of each picture.
    pub prompts: Vec<(String, String)>,
    /// How many of them `--check` judges, from the first.
    pub judged: usize,
}

impl Phrases {
    /// All rows, in the sheet's order.
    pub fn scenes(&self) -> Vec<Scenes> {
        let it = &self.instance;
        let rows = |labels: &[&str], prompt: &dyn Fn(&str) -> String| -> Vec<(String, String)> {
            labels.iter().map(|l| ((*l).to_owned(), prompt(l))).collect()
        };
        let after = |label: &str| format!("{it} {label}");
        let style = |label: &str| format!("a {label} of {it}");
        let mut property = rows(&["small", "big"], &|size| self.qualified(size));
        let others = ["panda", "tiger", "rabbit"].into_iter().filter(|a| *a != self.class_noun()).take(2);
        property.extend(others.map(|animal| (format!("crossed with a {animal}"), self.crossed(animal))));
        vec![
            Scenes {
                title: "Recontextualization",
                note: "The subject in places that no photo showed.",
                prompts: rows(&["on the beach", "in the snow", "at night", "in the forest"], &after),
                judged: 4,
            },
            Scenes {
                title: "Art rendition",
                note: "The subject in other styles.",
                prompts: rows(&["line drawing", "flat icon", "cartoon", "3d render"], &style),
                judged: 3,
            },
            Scenes {
                title: "Accessories",
                note: "The subject dressed up.",
                prompts: rows(&["a crown", "sunglasses", "a top hat", "a graduation cap"], &|l| {
                    after(&format!("wearing {l}"))
                }),
                judged: 3,
            },
            Scenes {
                title: "Property change",
                note: "The subject in another size, and what its word makes of another animal.",
                prompts: property,
                judged: 2,
            },
        ]
    }

    /// "a small mscds cat".
    fn qualified(&self, adjective: &str) -> String {
        match split_article(&self.instance) {
            Some((_, rest)) => format!("a {adjective} {rest}"),
            None => format!("{adjective} {}", self.instance),
        }
    }

    /// "a mscds panda".
    fn crossed(&self, animal: &str) -> String {
        let noun = self.class_noun();
        let word =
            self.instance.strip_suffix(noun).map(str::trim_end).filter(|w| !w.is_empty()).unwrap_or(&self.instance);
        format!("{word} {animal}")
    }

    fn class_noun(&self) -> &str {
        split_article(&self.class).map_or(self.class.as_str(), |(_, noun)| noun)
    }
}

fn split_article(phrase: &str) -> Option<(&str, &str)> {
    phrase.split_once(' ').filter(|(article, _)| ["a", "an", "the"].contains(article))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases(instance: &str, class: &str) -> Phrases {
        Phrases { instance: instance.into(), class: class.into() }
    }

    #[test]
    fn prompts_read_as_the_model_learned_to_read() {
        let scenes = phrases("a mscds cat", "a cat").scenes();
        let all: Vec<&str> = scenes.iter().flat_map(|s| &s.prompts).map(|(_, p)| p.as_str()).collect();
        for wanted in [
            "a mscds cat on the beach",
            "a line drawing of a mscds cat",
            "a mscds cat wearing a top hat",
            "a small mscds cat",
            "a mscds panda",
        ] {
            assert!(all.contains(&wanted), "{wanted} is not among {all:?}");
        }
        assert_eq!(scenes.iter().map(|s| s.judged).sum::<usize>(), 12);
    }

    #[test]
    fn other_subjects_phrases() {
        assert_eq!(phrases("a sks panda", "a panda").scenes()[3].prompts[2].1, "a sks tiger");
        assert_eq!(phrases("sks", "toy").crossed("panda"), "sks panda");
        assert_eq!(phrases("sks toy", "toy").qualified("big"), "big sks toy");
    }
}
