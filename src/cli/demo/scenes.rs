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
    /// What the row shows.
    pub title: &'static str,
    /// One line about it.
    pub note: &'static str,
    /// A short label and the prompt of each image.
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
        let worn = |label: &str| after(&format!("wearing {label}"));
        let sized = |label: &str| {
            let (size, place) = label.split_once(' ').unwrap_or((label, ""));
            format!("{} {place}", self.qualified(size))
        };
        let mut property = rows(&["big in the snow", "small on the grass"], &sized);
        property.extend(rows(&["on a red background", "in the sky"], &after));
        vec![
            Scenes {
                title: "Somewhere else",
                note: "Places that no photo showed.",
                prompts: rows(&["on the beach", "in the snow", "at night", "on the grass"], &after),
                judged: 4,
            },
            Scenes {
                title: "Dressed up",
                note: "With what the model knows from others.",
                prompts: rows(&["a crown", "sunglasses", "a top hat", "a graduation cap"], &worn),
                judged: 3,
            },
            Scenes { title: "Larger, smaller, elsewhere", note: "Sizes and grounds.", prompts: property, judged: 2 },
            Scenes {
                title: "Drawn another way",
                note: "The model's four styles.",
                prompts: rows(&["flat icon", "3d render", "line drawing", "cartoon"], &style),
                judged: 3,
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
            "a big mscds cat in the snow",
            "a mscds cat in the sky",
        ] {
            assert!(all.contains(&wanted), "{wanted} is not among {all:?}");
        }
        assert_eq!(scenes.iter().map(|s| s.judged).sum::<usize>(), 12);
    }

    #[test]
    fn other_subjects_phrases() {
        assert_eq!(phrases("sks", "toy").scenes()[2].prompts[1].1, "small sks on the grass");
        assert_eq!(phrases("sks toy", "toy").qualified("big"), "big sks toy");
    }
}
