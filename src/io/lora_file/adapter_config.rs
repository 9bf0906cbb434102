//! PEFT's `LoraConfig`: in `adapter_config.json` beside the weights, or as `lora_adapter_metadata` in their header.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::keys::DORA;
use super::{LoraModule, ModuleKey, most_common};
use crate::error::{Error, Result};

/// The fields that decide a module's factor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterConfig {
    alpha: Option<f32>,
    /// The first that fits counts.
    alpha_pattern: Vec<(Pattern, f32)>,
    rslora: bool,
}

impl AdapterConfig {
    /// Parses the JSON object `map`, whose fields all begin with `prefix`. `None` if none does.
    pub fn parse(file: &str, map: &Map<String, Value>, prefix: &str) -> Result<Option<AdapterConfig>> {
        if !map.keys().any(|key| key.starts_with(prefix)) {
            return Ok(None);
        }
        let field = |name: &str| map.get(&format!("{prefix}{name}")).filter(|v| !v.is_null());
        let wrong = |name: &str, what: &str| Error::file(file, format!("field '{prefix}{name}' is not {what}"));
        let flag = |name: &str| match field(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(name, "true or false")),
        };
        let number = |name: &str, value: &Value| {
            let finite = |x: &f64| x.is_finite() && x.abs() <= f64::from(f32::MAX);
            value.as_f64().filter(finite).map(|x| x as f32).ok_or_else(|| wrong(name, "a number"))
        };
        if let Some(kind) = field("peft_type").filter(|kind| kind.as_str() != Some("LORA")) {
            return Err(Error::file(file, format!("holds a {kind} adapter, only LoRA is supported")));
        }
        if flag("use_dora")? {
            return Err(Error::file(file, format!("is of {DORA}: give a plain LoRA")));
        }
        let patterns = match field("alpha_pattern") {
            None => None,
            Some(value) => Some(value.as_object().ok_or_else(|| wrong("alpha_pattern", "an object"))?),
        };
        let patterns = patterns.into_iter().flatten();
        Ok(Some(AdapterConfig {
            alpha: field("lora_alpha").map(|value| number("lora_alpha", value)).transpose()?,
            alpha_pattern: patterns
                .map(|(k, v)| {
                    let regular = || {
                        format!(
                            "field '{prefix}alpha_pattern' has '{k}': regular expressions are not \
                                              read, write out the layers' names"
                        )
                    };
                    let pattern = Pattern::parse(k).ok_or_else(|| Error::file(file, regular()))?;
                    Ok((pattern, number("alpha_pattern", v)?))
                })
                .collect::<Result<_>>()?,
            rslora: flag("use_rslora")?,
        }))
    }

    /// The alpha of one layer, such that its factor is alpha / rank.
    pub fn alpha(&self, module: &ModuleKey, rank: usize) -> Option<f32> {
        let pattern = self.alpha_pattern.iter().find(|(pattern, _)| pattern.fits(&module.path));
        let alpha = pattern.map(|(_, alpha)| *alpha).or(self.alpha)?;
        // Rank-stabilised LoRA divides by the root of the rank (arXiv 2312.03732).
        Some(if self.rslora { alpha * (rank as f32).sqrt() } else { alpha })
    }
}

/// Pattern as in PEFT's `get_pattern_key` (`(.*\.)?(KEY)$`), where KEY is a plain name: the end of a path, or all of it
/// with `^`.
#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    name: String,
    whole: bool,
}

impl Pattern {
    /// `None` for other regular expressions.
    fn parse(key: &str) -> Option<Pattern> {
        let (whole, name) = key.strip_prefix('^').map_or((false, key), |name| (true, name));
        // An escaped dot is the dot that it stands for; one that is not escaped means no other either.
        let name = name.strip_suffix('$').unwrap_or(name).replace("\\.", ".");
        (!name.contains(['^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\']))
            .then_some(Pattern { name, whole })
    }

    fn fits(&self, path: &str) -> bool {
        let Pattern { name, whole } = self;
        match whole {
            true => path == name || path.strip_prefix("text_model.") == Some(name),
            false => path.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        }
    }
}

/// The `LoraConfig` of a part's modules: the most common rank and alpha, and patterns for the others. Every path
/// loses the prefix `root`, for readers whose model has none.
pub fn describe<'a>(
    modules: impl Iterator<Item = (&'a ModuleKey, &'a LoraModule)> + Clone,
    root: &str,
) -> Map<String, Value> {
    // A whole number stays one: LoraConfig declares its alpha as an integer.
    let plain = |alpha: f32| if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let alpha = |m: &LoraModule| m.alpha.unwrap_or(m.rank() as f32);
    let common_rank = most_common(modules.clone().map(|(_, m)| m.rank())).unwrap_or(1);
    // Bits order positive floats as their values; here they only need an order.
    let common_alpha = most_common(modules.clone().map(|(_, m)| alpha(m).to_bits())).map_or(1.0, f32::from_bits);
    let (mut ranks, mut alphas, mut targets) = (Map::new(), Map::new(), BTreeSet::new());
    for (key, module) in modules {
        let path = key.path.strip_prefix(root).unwrap_or(&key.path);
        targets.insert(path.to_owned());
        if module.rank() != common_rank {
            ranks.insert(path.into(), json!(module.rank()));
        }
        if alpha(module) != common_alpha {
            alphas.insert(path.into(), plain(alpha(module)));
        }
    }
    let config = json!({
        "alpha_pattern": alphas, "bias": "none", "lora_alpha": plain(common_alpha), "lora_dropout": 0.0,
        "peft_type": "LORA", "r": common_rank, "rank_pattern": ranks, "target_modules": targets, "use_dora": false, "use_rslora": false,
    });
    if let Value::Object(map) = config { map } else { Map::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::PartId;

    fn parse(text: &str, prefix: &str) -> Result<Option<AdapterConfig>> {
        let map: Map<String, Value> = serde_json::from_str(text).unwrap();
        AdapterConfig::parse("c.json", &map, prefix)
    }

    #[test]
    fn alphas_are_found() {
        let json = r#"{"unet.r":8,"unet.lora_alpha":4,"unet.use_rslora":false,
            "unet.alpha_pattern":{"mid.to_q":2,"^a.to_k":1}}"#;
        let config = parse(json, "unet.").unwrap().unwrap();
        let alpha = |path: &str| config.alpha(&ModuleKey { part: PartId::UNET, path: path.into() }, 8);
        assert_eq!(alpha("x.mid.to_q"), Some(2.0));
        assert_eq!(alpha("x.amid.to_q"), Some(4.0));
        assert_eq!((alpha("a.to_k"), alpha("b.a.to_k")), (Some(1.0), Some(4.0)));
        assert_eq!(parse(json, "text_encoder.").unwrap(), None);
        // Two that fit: the first counts, whatever their order by name.
        let json = r#"{"lora_alpha":4,"alpha_pattern":{"to_q":3,"mid\\.to_q$":2}}"#;
        let config = parse(json, "").unwrap().unwrap();
        let alpha = |path: &str| config.alpha(&ModuleKey { part: PartId::UNET, path: path.into() }, 8);
        assert_eq!((alpha("x.mid.to_q"), alpha("x.to_k")), (Some(3.0), Some(4.0)));
        let config = parse(r#"{"lora_alpha":4,"alpha_pattern":{"mid\\.to_q$":2,"to_q":3}}"#, "").unwrap().unwrap();
        assert_eq!(config.alpha(&ModuleKey { part: PartId::UNET, path: "x.mid.to_q".into() }, 8), Some(2.0));
        let key = ModuleKey { part: PartId::UNET, path: "p".into() };
        assert_eq!(parse(r#"{"lora_alpha":6,"use_rslora":true}"#, "").unwrap().unwrap().alpha(&key, 4), Some(12.0));
        assert_eq!(parse(r#"{"r":6}"#, "").unwrap().unwrap().alpha(&key, 4), None);
    }

    #[test]
    fn faults_are_named() {
        for (json, expected) in [
            (r#"{"lora_alpha":"x"}"#, "c.json: field 'lora_alpha' is not a number"),
            (r#"{"lora_alpha":1e300}"#, "c.json: field 'lora_alpha' is not a number"),
            (r#"{"alpha_pattern":[]}"#, "c.json: field 'alpha_pattern' is not an object"),
            (
                r#"{"alpha_pattern":{".*\\.to_(q|k)":1}}"#,
                "c.json: field 'alpha_pattern' has '.*\\.to_(q|k)': regular expressions are not read, write out the \
                 layers' names",
            ),
            (r#"{"use_rslora":3}"#, "c.json: field 'use_rslora' is not true or false"),
            (r#"{"peft_type":"LOHA"}"#, "c.json: holds a \"LOHA\" adapter, only LoRA is supported"),
        ] {
            assert_eq!(parse(json, "").unwrap_err().to_string(), expected);
        }
        let dora = parse(r#"{"use_dora":true}"#, "").unwrap_err().to_string();
        assert!(dora.starts_with("c.json: is of DoRA, which rescales"), "{dora}");
    }
}
