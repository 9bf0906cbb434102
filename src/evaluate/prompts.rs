//! Prompts that a subject is shown in: built-in lists and files with `{subject}` and `{class}`.

use std::path::Path;

use crate::error::{Error, Result, message, option};
use crate::io::Source;

/// Places and backgrounds of both built-in lists. Both are the prompts of the DreamBooth paper's data set
/// (<https://github.com/google/dreambooth>, `dataset/prompts_and_classes.txt`, CC-BY-4.0).
const SCENES: [&str; 10] = [
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on the beach",
    "a {subject} on a cobblestone street",
    "a {subject} on top of pink fabric",
    "a {subject} on top of a wooden floor",
    "a {subject} with a city in the background",
    "a {subject} with a mountain in the background",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
];

/// Further scenes for objects.
const OBJECTS: [&str; 10] = [
    "a {subject} with a wheat field in the background",
    "a {subject} with a tree and autumn leaves in the background",
    "a {subject} with the Eiffel Tower in the background",
    "a {subject} floating on top of water",
    "a {subject} floating in an ocean of milk",
    "a {subject} on top of green grass with sunflowers around it",
    "a {subject} on top of a mirror",
    "a {subject} on top of the sidewalk in a crowded street",
    "a {subject} on top of a dirt road",
    "a {subject} on top of a white rug",
];

/// Clothes for live subjects.
const LIVE: [&str; 10] = [
    "a {subject} wearing a red hat",
    "a {subject} wearing a santa hat",
    "a {subject} wearing a rainbow scarf",
    "a {subject} wearing a black top hat and a monocle",
    "a {subject} in a chef outfit",
    "a {subject} in a firefighter outfit",
    "a {subject} in a police outfit",
    "a {subject} wearing pink glasses",
    "a {subject} wearing a yellow shirt",
    "a {subject} in a purple wizard outfit",
];

/// Changed properties, in both lists.
const PROPERTIES: [&str; 5] =
    ["a red {subject}", "a purple {subject}", "a shiny {subject}", "a wet {subject}", "a cube shaped {subject}"];

/// Names of the built-in lists.
pub const BUILT_IN: [&str; 2] = ["dreambooth-live", "dreambooth-objects"];

/// Longest prompt that is read, in bytes: far above what a text encoder takes.
const LONGEST: usize = 4096;

/// Prompt of an evaluation.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prompt {
    /// Text for the model.
    pub text: String,
    /// The same text without the identifier, which prompt fidelity compares with; `None` without a class prompt.
    pub plain: Option<String>,
}

/// Words that fill templates: the subject's and the class's prompt without their articles.
struct Words {
    subject: String,
    class: Option<String>,
}

/// Reads the prompts of `list`: the name of a built-in list or a file; `None` is `prompt` itself. Also returns a sentence on
/// lines that name no subject.
///
/// # Errors
/// [`Error::File`] with the number of a line that is malformed or holds an unknown placeholder; [`Error::Usage`] if a template
/// needs a class prompt and there is none.
pub fn read(list: Option<&Path>, prompt: &str, class: Option<&str>) -> Result<(Vec<Prompt>, Option<String>)> {
    let Some(list) = list else {
        let plain = class.map(|class| class.trim().to_owned());
        return Ok((vec![Prompt { text: prompt.trim().to_owned(), plain }], None));
    };
    let words = Words { subject: without_article(prompt), class: class.map(without_article) };
    let more = match list.to_str() {
        Some(name) if name == BUILT_IN[0] => LIVE,
        Some(name) if name == BUILT_IN[1] => OBJECTS,
        _ => return read_file(list, &words),
    };
    let templates = SCENES.iter().chain(&more).chain(&PROPERTIES);
    // A built-in template holds no other placeholder.
    let filled = templates.map(|template| fill(template, &words).map_err(Error::argument));
    Ok((filled.collect::<Result<_>>()?, None))
}

fn read_file(path: &Path, words: &Words) -> Result<(Vec<Prompt>, Option<String>)> {
    let source = Source::open(path).map_err(|e| match e {
        Error::File { path, message } if !crate::io::files::is_taken(&path) => {
            let lists = format!(" (built-in lists: {})", BUILT_IN.join(", "));
            Error::File { path, message: message + lists }
        }
        other => other,
    })?;
    let bytes = source.bytes()?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| Error::file(path, "is not UTF-8 text: a prompt a line is expected"))?;
    let (mut prompts, mut strange) = (Vec::new(), Vec::new());
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() {
            continue;
        }
        let fault = |fault: String| Error::file(path, format!("line {number}: {fault}"));
        if line.len() > LONGEST {
            return Err(fault(format!(
                "is {} bytes long, {LONGEST} are the most: expected a prompt a line",
                line.len()
            )));
        }
        if line.contains("{class}") && words.class.is_none() {
            let needed = message![option("class_prompt"), ": what {class} stands for"];
            return Err(Error::usage(
                "class_prompt",
                message![format!("{}: line {number} needs ", path.display()), needed],
            ));
        }
        let prompt = fill(line, words).map_err(fault)?;
        if !prompt.text.contains(&words.subject) {
            strange.push(number.to_string());
        }
        prompts.push(prompt);
    }
    if prompts.is_empty() {
        return Err(Error::file(path, "holds no prompts: expected one a line, such as 'a {subject} on the beach'"));
    }
    Ok((prompts, strange_lines(path, &strange, words)))
}

/// Says that lines name no subject.
fn strange_lines(path: &Path, numbers: &[String], words: &Words) -> Option<String> {
    let (lines, name) = (if numbers.len() == 1 { "line" } else { "lines" }, path.display());
    let listed = numbers.join(", ");
    let what = format!("{{subject}} nor '{}'", words.subject);
    (!numbers.is_empty())
        .then(|| format!("{name}: {lines} {listed} with neither {what}: the images count as images of the subject"))
}

/// Fills `template`.
///
/// # Errors
/// What is wrong with its placeholders, and which there are.
fn fill(template: &str, words: &Words) -> Result<Prompt, String> {
    const KNOWN: &str = "{subject} and {class} are known";
    let (mut text, mut plain, mut rest) = (String::new(), String::new(), template);
    let class = words.class.as_deref();
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        plain.push_str(before);
        let Some(end) = from.strip_prefix('{').and_then(|inside| inside.find('}')) else {
            return Err(format!("'{}' without its partner: {KNOWN}", &from[..1]));
        };
        let (name, after) = (&from[1..=end], &from[end + 2..]);
        match name {
            "subject" => text.push_str(&words.subject),
            "class" => text.push_str(class.unwrap_or_default()),
            _ => return Err(format!("unknown placeholder {{{name}}}: {KNOWN}")),
        }
        plain.push_str(class.unwrap_or_default());
        rest = after;
    }
    text.push_str(rest);
    plain.push_str(rest);
    // A prompt that spells the subject out has its identifier there.
    let plain = class.map(|class| plain.replace(&words.subject, class));
    Ok(Prompt { text, plain })
}

/// `prompt` without an article at its beginning: templates have their own.
fn without_article(prompt: &str) -> String {
    let prompt = prompt.trim();
    let article = ["a ", "an ", "the "]
        .into_iter()
        .find(|article| prompt.get(..article.len()).is_some_and(|start| start.eq_ignore_ascii_case(article)));
    prompt[article.map_or(0, str::len)..].trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn texts(list: &Path) -> Vec<(String, String)> {
        let (prompts, _) = read(Some(list), "a sks dog", Some("a dog")).unwrap();
        prompts.into_iter().map(|prompt| (prompt.text, prompt.plain.unwrap())).collect()
    }

    #[test]
    fn built_in_lists_are_the_papers() {
        for (name, some) in
            [("dreambooth-live", "a sks dog in a chef outfit"), ("dreambooth-objects", "a sks dog on top of a mirror")]
        {
            let prompts = texts(Path::new(name));
            assert_eq!(prompts.len(), 25);
            assert!(prompts.iter().any(|(text, _)| text == some), "{name}");
            assert!(prompts.iter().all(|(text, plain)| text.replace("sks dog", "dog") == *plain));
            let distinct: std::collections::BTreeSet<_> = prompts.into_iter().collect();
            assert_eq!(distinct.len(), 25);
        }
    }

    #[test]
    fn a_file_holds_a_prompt_a_line() {
        let prompts = file("\u{feff}a {subject} asleep\r\n\n  the {subject}, a {class}  \nA sks dog's bowl\n");
        let expected = [
            ("a sks dog asleep", "a dog asleep"),
            ("the sks dog, a dog", "the dog, a dog"),
            ("A sks dog's bowl", "A dog's bowl"),
        ];
        let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(texts(prompts.path()), expected);
        let (prompts, said) = read(Some(file("a cat\n{subject}\na cat").path()), "the sks dog", None).unwrap();
        assert_eq!((prompts[1].text.as_str(), prompts[1].plain.as_deref()), ("sks dog", None));
        assert!(said.unwrap().contains("lines 1, 3 with neither"));
    }

    #[test]
    fn faults_are_named_with_their_line() {
        let faults = [
            (
                "a {subject}\n\na {subjekt} here",
                "line 3: unknown placeholder {subjekt}: {subject} and {class} are known",
            ),
            ("a {} b", "line 1: unknown placeholder {}"),
            ("a {subject} {b", "line 1: '{' without its partner"),
            ("a b}", "line 1: '}' without its partner"),
            (" \n", "holds no prompts"),
        ];
        for (text, said) in faults {
            let error = read(Some(file(text).path()), "a sks dog", Some("a dog")).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = read(Some(file("a {class}").path()), "a sks dog", None).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("class_prompt"), "{error}");
        let error = read(Some(Path::new("dreambooth-dogs")), "a sks dog", None).unwrap_err().to_string();
        assert!(error.contains("dreambooth-live, dreambooth-objects"), "{error}");
        let long = "x".repeat(LONGEST + 1);
        assert!(read(Some(file(&long).path()), "a dog", None).unwrap_err().to_string().contains("4097 bytes"));
    }

    #[test]
    fn without_a_list_the_prompt_itself_is_shown() {
        let (prompts, said) = read(None, " a sks dog in {braces}", Some("a dog")).unwrap();
        let expected = Prompt { text: "a sks dog in {braces}".into(), plain: Some("a dog".into()) };
        assert_eq!((prompts, said), (vec![expected], None));
        for (prompt, bare) in
            [("A sks dog", "sks dog"), ("an x", "x"), ("another x", "another x"), ("äh", "äh"), ("a", "a")]
        {
            assert_eq!(without_article(prompt), bare);
        }
    }
}
