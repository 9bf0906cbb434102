//! `report.md`: what was done, how long it took and what was measured.

use super::super::args::DemoArgs;
use super::super::table;
use super::check::Figures;
use super::recipe::{CLASS_PICTURES, GUIDANCE, LEARNING_RATE, RANK, SAMPLER};
use super::studio::{Studio, Training};
use super::subject::Subject;

/// All that the report speaks of.
pub struct Report<'a> {
    /// The subject.
    pub subject: &'a Subject,
    /// The demo's options.
    pub args: &'a DemoArgs,
    /// Where the work was done, with its times.
    pub studio: &'a Studio<'a>,
    /// Losses with prior preservation.
    pub with_prior: Training,
    /// Losses without, which `--check` asks for.
    pub without_prior: Option<Training>,
    /// What `--check` measured.
    pub figures: Option<&'a Figures>,
}

impl Report<'_> {
    /// The report as Markdown.
    pub fn text(&self) -> String {
        let phrases = &self.subject.phrases;
        let mut text = format!(
            "# Demo: “{}”\n\n\
             {} images of the subject, trained into {} as “{}”: a LoRA of rank {RANK} on the attention layers, \
             learning rate {LEARNING_RATE}, {} steps of one image of the subject and one of {CLASS_PICTURES} class images (“{}”). The \
             images are in `sheet.png` ({sampling} steps of {sampler}, guidance {GUIDANCE}), the LoRA in `lora.safetensors`. Adapter: {}.\n\n",
            phrases.instance,
            self.subject.photos.len(),
            self.studio.model_name(),
            phrases.instance,
            self.args.steps,
            phrases.class,
            self.studio.adapter(),
            sampling = self.args.sampling_steps,
            sampler = SAMPLER.name(),
        );
        text.push_str(&self.losses());
        text.push_str(&self.times());
        text.push_str(&self.check());
        text
    }

    fn losses(&self) -> String {
        let window = (self.args.steps / 6).max(1);
        let row = |name: &str, losses: &[f64]| {
            let (first, last) = (&losses[..window.min(losses.len())], &losses[losses.len().saturating_sub(window)..]);
            format!("| {name} | {} | {} |\n", mean(first), mean(last))
        };
        format!("## Losses\n\n| mean squared error | first {window} steps | last {window} steps |\n|---|---|---|\n")
            + &row("subject, with prior preservation", &self.with_prior.instance)
            + &row("class, with prior preservation", &self.with_prior.prior)
            + &self.without_prior.as_ref().map_or(String::new(), |t| row("subject, without", &t.instance))
            + "\nSingle steps jump with the noise level that they drew.\n\n"
    }

    fn times(&self) -> String {
        let mut text = String::from("## Times\n\n| what | time |\n|---|---|\n");
        for (what, seconds) in &self.studio.times {
            text.push_str(&format!("| {what} | {} |\n", table::seconds(*seconds)));
        }
        let total: f64 = self.studio.times.iter().map(|(_, s)| s).sum();
        text.push_str(&format!("| in all | {} |\n\n", table::seconds(total)));
        text
    }

    fn check(&self) -> String {
        let Some(f) = self.figures else {
            return "Run `portray demo --check` to have the result judged.\n".into();
        };
        let mut text = format!(
            "## Check\n\n| what | measured | bar | |\n|---|---|---|---|\n{}\n",
            f.verdicts()
                .iter()
                .map(|v| format!(
                    "| {} | {:.2} | {} | {} |\n",
                    v.what,
                    v.measured,
                    v.bar,
                    if v.met { "met" } else { "**missed**" }
                ))
                .collect::<String>()
        );
        text.push_str(&format!(
            "Class images (“{}”, 12 seeds that training did not use):\n\n\
             | | before | with prior preservation | without |\n|---|---|---|---|\n\
             | mean squared pixel change | | {:.4} | {:.4} |\n\
             | diversity: mean squared distance to their mean image | {:.4} | {:.4} | {:.4} |\n\n",
            self.subject.phrases.class,
            f.change_with,
            f.change_without,
            f.diversity_before,
            f.diversity_with,
            f.diversity_without,
        ));
        text.push_str(
            "Likeness to the photos, background left out (`portray::low_level::evaluate::colour`); larger is more alike:\n\n",
        );
        text.push_str("| prompt | base model | personalized | |\n|---|---|---|---|\n");
        for (prompt, base, tuned) in &f.likeness {
            let mark = if tuned > base { "closer" } else { "not closer" };
            text.push_str(&format!("| {prompt} | {base:.3} | {tuned:.3} | {mark} |\n"));
        }
        text
    }
}

fn mean(values: &[f64]) -> String {
    if values.is_empty() { "-".into() } else { format!("{:.4}", values.iter().sum::<f64>() / values.len() as f64) }
}
