//! The choices that a study compares, each apart from a baseline.

use super::super::recipe::CLASS_PICTURES;
use super::super::scenes::Phrases;

/// Class images of the variation that has many.
pub const MANY_CLASS_PICTURES: usize = 200;

/// Words for the subject; those of the study are the subject's own and the first two others.
const WORDS: [&str; 4] = ["mscds", "sks", "ohwx", "zwx"];

/// A way to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Variation {
    /// Its folder.
    pub name: String,
    /// What it changes. For people.
    pub title: String,
    /// What the subject and its class are called.
    pub phrases: Phrases,
    /// 0, or 1 for the second subject.
    pub subject: usize,
    /// Class images that its training reads; `None` without prior preservation.
    pub class_pictures: Option<usize>,
}

/// Lists the baseline, then every variation of it; the second subject only where `other` names one.
pub fn variations(own: &Phrases, other: Option<&Phrases>) -> Vec<Variation> {
    let baseline = Variation {
        name: "baseline".into(),
        title: format!("baseline: “{}”, {CLASS_PICTURES} class images", own.instance),
        phrases: own.clone(),
        subject: 0,
        class_pictures: Some(CLASS_PICTURES),
    };
    let mut all = vec![
        baseline.clone(),
        Variation {
            name: "without-prior".into(),
            title: "without prior preservation".into(),
            class_pictures: None,
            ..baseline.clone()
        },
        Variation {
            name: format!("class-{MANY_CLASS_PICTURES}"),
            title: format!("{MANY_CLASS_PICTURES} class images"),
            class_pictures: Some(MANY_CLASS_PICTURES),
            ..baseline.clone()
        },
    ];
    for (word, instance) in other_words(own) {
        let phrases = Phrases { instance: instance.clone(), ..own.clone() };
        all.push(Variation {
            name: format!("word-{word}"),
            title: format!("called “{instance}”"),
            phrases,
            ..baseline.clone()
        });
    }
    all.extend(other.map(|other| Variation {
        name: "second-subject".into(),
        title: format!("second subject: “{}”", other.instance),
        phrases: other.clone(),
        subject: 1,
        ..baseline
    }));
    all
}

/// Two other words for the subject, with its prompt in them: the words that the class prompt lacks are replaced by one.
fn other_words(phrases: &Phrases) -> Vec<(&'static str, String)> {
    let class: Vec<&str> = phrases.class.split_whitespace().collect();
    let words: Vec<&str> = phrases.instance.split_whitespace().collect();
    let is_own = |word: &&str| !class.contains(word);
    let Some(first) = words.iter().position(&is_own) else { return Vec::new() };
    let others = WORDS.into_iter().filter(|other| !words.contains(other)).take(2);
    others
        .map(|other| {
            let place = |(i, word): (usize, &&'_ str)| match (i == first, is_own(word)) {
                (true, _) => Some(other.to_owned()),
                (false, true) => None,
                (false, false) => Some((*word).to_owned()),
            };
            (other, words.iter().enumerate().filter_map(place).collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases(instance: &str, class: &str) -> Phrases {
        Phrases { instance: instance.into(), class: class.into() }
    }

    #[test]
    fn one_choice_differs_from_the_baseline() {
        let all = variations(&phrases("a mscds cat", "a cat"), Some(&phrases("a sks dog", "a dog")));
        let names: Vec<&str> = all.iter().map(|variation| variation.name.as_str()).collect();
        assert_eq!(names, ["baseline", "without-prior", "class-200", "word-sks", "word-ohwx", "second-subject"]);
        let (base, rest) = all.split_first().unwrap();
        for variation in rest {
            let differs = [
                variation.phrases != base.phrases,
                variation.subject != base.subject,
                variation.class_pictures != base.class_pictures,
            ];
            let expected = if variation.name == "second-subject" { 2 } else { 1 };
            assert_eq!(differs.into_iter().filter(|differs| *differs).count(), expected, "{variation:?}");
        }
        assert_eq!(variations(&phrases("a mscds cat", "a cat"), None).len(), 5);
    }

    #[test]
    fn the_subjects_word_is_replaced() {
        let others =
            |instance, class| other_words(&phrases(instance, class)).into_iter().map(|o| o.1).collect::<Vec<_>>();
        assert_eq!(others("a sks dog", "a dog"), ["a mscds dog", "a ohwx dog"]);
        assert_eq!(others("a photo of zq xv dog", "a photo of dog"), ["a photo of mscds dog", "a photo of sks dog"]);
        assert_eq!(others("sks", "toy"), ["mscds", "ohwx"]);
        assert!(others("a dog", "a dog").is_empty());
    }
}
