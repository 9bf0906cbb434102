//! JSON as Python writes it: `json.dump` puts the bare words NaN, Infinity and -Infinity where a float is none of the
//! numbers that JSON has, and Windows editors put a byte order mark in front.

use std::borrow::Cow;

/// The words, longest first.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses `text`. A bare word is read as null, which every reader of configurations takes for "not set": that is what
/// an infinite default means.
///
/// # Errors
/// When `text` is not JSON otherwise; line and column are those of `text`.
pub fn parse<T: serde::de::DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(&strict(text))
}

/// Reads the fields of `json` into `T`, each of whose fields has a default.
///
/// # Errors
/// A sentence that names the field that is wrong, its value, and what it must be.
pub fn fields<T: serde::de::DeserializeOwned>(json: &serde_json::Value) -> Result<T, String> {
    serde_json::from_value(json.clone()).map_err(|e| {
        // Every field has a default, so the one that is wrong is wrong alone too.
        let alone = |(name, value): (&String, &serde_json::Value)| {
            let wrong = serde_json::from_value::<T>(serde_json::json!({ name: value })).is_err();
            wrong.then(|| format!("{name} is {value}: "))
        };
        let field = json.as_object().and_then(|fields| fields.iter().find_map(alone)).unwrap_or_default();
        format!("{field}{e}")
    })
}

/// `text` with each bare word outside strings replaced by null.
fn strict(text: &str) -> Cow<'_, str> {
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !in_string && let Some(word) = WORDS.iter().find(|word| rest.starts_with(**word)) {
            // Padded, so that the columns of what follows stay.
            out.push_str(&format!("{:<1$}", "null", word.len()));
            rest = &rest[word.len()..];
            continue;
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn bare_words_are_null_and_strings_stay() {
        let read = |text: &str| parse::<Value>(text).unwrap();
        assert_eq!(read(r#"{"a": -Infinity, "b":Infinity,"c" : NaN}"#), json!({"a": null, "b": null, "c": null}));
        assert_eq!(read("[NaN,-Infinity\n,1]"), json!([null, null, 1]));
        let strings = r#"{"NaN": "Infinity \" NaN \\", "-Infinity": [NaN, "\\\"NaN"]}"#;
        assert_eq!(read(strings), json!({"NaN": "Infinity \" NaN \\", "-Infinity": [null, "\\\"NaN"]}));
        assert_eq!(read("\u{feff}{\"ä\": NaN}"), json!({"ä": null}));
    }

    #[test]
    fn what_is_not_json_is_refused_where_it_is() {
        for text in ["{\"a\": NaNo}", "{\"a\": +Infinity}", "{\"a\": nan}", "{\"a\": --Infinity}", "NaN NaN", ""] {
            assert!(parse::<Value>(text).is_err(), "{text}");
        }
        let at = |text: &str| parse::<Value>(text).unwrap_err().column();
        assert_eq!(at("{\"a\": -Infinity, oops}"), at("{\"a\": 123456789, oops}"));
    }
}
