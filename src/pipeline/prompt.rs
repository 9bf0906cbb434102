//! Words of prompts that mean something elsewhere: what other programs act on and this one does not, and what subjects are
//! called.

/// Words by which tutorials and papers call subjects.
pub(crate) const WELL_KNOWN: [&str; 5] = ["sks", "ohwx", "bnha", "olis", "phol"];

/// The prompt without the tags that load files elsewhere (`<lora:name:0.8>`), and those tags.
pub(crate) fn without_tags(prompt: &str) -> (String, Vec<&str>) {
    let (mut kept, mut tags, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        let inside = from.find('>').map(|end| &from[..=end]);
        let is_tag =
            |tag: &&str| ["<lora:", "<lyco:", "<hypernet:"].iter().any(|known| tag.to_lowercase().starts_with(known));
        match inside.filter(is_tag) {
            Some(tag) => {
                tags.push(tag);
                rest = &from[tag.len()..];
            }
            None => {
                kept.push('<');
                rest = &from[1..];
            }
        }
    }
    kept.push_str(rest);
    match tags.is_empty() {
        true => (kept, tags),
        false => (kept.split_whitespace().collect::<Vec<_>>().join(" "), tags),
    }
}

/// The first piece of `prompt` that stands for a weight, a schedule or a break elsewhere, and is words here.
pub(crate) fn unread_syntax(prompt: &str) -> Option<&str> {
    if let Some(word) = ["BREAK", "AND"].into_iter().find(|word| prompt.split_whitespace().any(|w| w == *word)) {
        return Some(word);
    }
    [('(', ')'), ('[', ']')].into_iter().find_map(|(open, close)| {
        prompt.match_indices(close).find_map(|(end, _)| {
            let begin = prompt[..end].rfind(open)?;
            let inside = &prompt[begin + 1..end];
            let weight = inside.rsplit_once(':').is_some_and(|(_, number)| number.trim().parse::<f64>().is_ok());
            let doubled = prompt[..begin].ends_with(open) && prompt[end + 1..].starts_with(close);
            (weight || doubled).then_some(&prompt[begin..=end])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_out_and_nothing_else() {
        assert_eq!(without_tags("a cat <lora:zorp:0.8> asleep"), ("a cat asleep".into(), vec!["<lora:zorp:0.8>"]));
        assert_eq!(without_tags("<LORA:a><lyco:b:1>x").1, ["<LORA:a>", "<lyco:b:1>"]);
        for plain in ["a <zorp> cat", "1 < 2  and 3 > 2", "<lora:open", "<|endoftext|>", ""] {
            assert_eq!(without_tags(plain), (plain.to_owned(), vec![]));
        }
    }

    #[test]
    fn weights_are_told_from_words_in_brackets() {
        for (prompt, found) in [
            ("a (red:1.2) cat", Some("(red:1.2)")),
            ("a ((red)) cat", Some("(red)")),
            ("[cat:dog:0.5]", Some("[cat:dog:0.5]")),
            ("a cat BREAK a dog", Some("BREAK")),
            ("a cat AND a dog", Some("AND")),
            ("a dog (husky), at 10:30", None),
            ("BREAKFAST", None),
            (") ( é", None),
        ] {
            assert_eq!(unread_syntax(prompt), found, "{prompt}");
        }
    }
}
