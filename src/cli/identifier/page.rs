//! The report for people: a page that needs nothing but the images beside it.

use portray::Identifiers;

use super::cells::{legend, listed, percent, rarity};

/// Layout: a card for each word, which narrow screens show below each other, and paper two in a row.
const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:72rem;color:#1b1b1f;background:#fff}\
h1{font-size:1.5rem;line-height:1.2}ol{list-style:none;padding:0;display:grid;gap:1rem;\
grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}\
li{border:1px solid #c8c8d0;border-radius:8px;padding:1rem;break-inside:avoid}h2{font-size:1.1rem;margin:0 0 .5rem}\
figure{margin:0}.pair{display:grid;grid-template-columns:1fr 1fr;gap:.5rem}img{width:100%;height:auto;display:block}\
figcaption{font-size:.85rem;color:#55555f}dl{margin:.75rem 0 0;display:grid;grid-template-columns:auto 1fr;gap:0 .75rem}\
dt{color:#55555f}dd{margin:0;overflow-wrap:anywhere}.class{max-width:16rem}\
@media(prefers-color-scheme:dark){body{color:#e8e8ee;background:#18181c}li{border-color:#44444c}dt,figcaption{color:#a8a8b4}}\
@media print{body{color:#000;background:#fff;max-width:none}ol{grid-template-columns:1fr 1fr}}";

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Renders `found`; `image` names the file of an image by its number.
pub fn page(found: &Identifiers, image: impl Fn(usize) -> String) -> String {
    let figure = |index: usize| match found.pictures.get(index) {
        Some(picture) => {
            let (file, prompt) = (image(index), escaped(&picture.prompt));
            let (width, height) = (picture.width, picture.height);
            format!(
                "<figure><img src=\"{file}\" width=\"{width}\" height=\"{height}\" alt=\"Image of &quot;{prompt}&quot;\">\
                 <figcaption>{prompt}</figcaption></figure>"
            )
        }
        None => String::new(),
    };
    let mut cards = String::new();
    for (index, word) in found.words.iter().enumerate() {
        let tokens: Vec<String> = word.tokens.iter().map(|token| format!("{} ({})", token.text, token.id)).collect();
        let rows = [
            ("prior", percent(word.prior.score, word.prior.error)),
            ("with the class", percent(word.prior.with_class, None)),
            ("alone", percent(word.prior.alone, None)),
            ("tokens", tokens.join(" ")),
            ("merge", rarity(word)),
            ("looks like", listed(&word.resembles)),
            ("near in text", listed(&word.nearest)),
        ];
        let rows: String =
            rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escaped(value))).collect();
        let (name, first, second) = (escaped(&word.word), figure(1 + 2 * index), figure(2 + 2 * index));
        let rank = index + 1;
        cards += &format!("<li><h2>{rank}. {name}</h2><div class=\"pair\">{first}{second}</div><dl>{rows}</dl></li>\n");
    }
    let class = escaped(&found.class);
    let legend: String = legend(found).iter().map(|line| format!("<p>{}</p>", escaped(line))).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Words for a {class}</title>\n<style>{STYLE}</style>\n<h1>Words for a {class}, best first</h1>\n\
         {legend}\n<div class=\"class\">{}</div>\n<ol>\n{cards}</ol>\n</html>\n",
        figure(0)
    )
}
