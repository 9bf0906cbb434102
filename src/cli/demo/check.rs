//! `demo --check`: whether the subject was learned and its class kept.

use portray::Picture;
use portray::low_level::evaluate::colour;

/// Images of the class prompt, the same seeds in each.
pub struct Drift {
    /// By the base model.
    pub before: Vec<Picture>,
    /// After training with prior preservation.
    pub with: Vec<Picture>,
    /// After training without it.
    pub without: Vec<Picture>,
}

/// Everything that was measured.
pub struct Figures {
    /// Mean squared pixel change of the class images, with prior preservation.
    pub change_with: f64,
    /// The same without it.
    pub change_without: f64,
    /// Mean squared distance of the class images to their mean image, before training.
    pub diversity_before: f64,
    /// After training with prior preservation.
    pub diversity_with: f64,
    /// After training without it.
    pub diversity_without: f64,
    /// Prompt, likeness to the photos of the base model's image and of the personalized one; larger is more
    /// alike.
    pub likeness: Vec<(String, f64, f64)>,
}

/// One bar and whether it is met.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is judged.
    pub what: &'static str,
    /// What was measured.
    pub measured: f64,
    /// The bar, with its direction: "at most 0.80".
    pub bar: String,
    /// Whether it is met.
    pub met: bool,
}

impl Figures {
    /// Measures. `base` and `tuned` are images of the same prompts and seeds.
    pub fn measure(drift: &Drift, base: &[Picture], tuned: &[Picture], photos: &[Picture]) -> Figures {
        let pairs = base.iter().zip(tuned);
        Figures {
            change_with: colour::change(&drift.before, &drift.with),
            change_without: colour::change(&drift.before, &drift.without),
            diversity_before: colour::diversity(&drift.before),
            diversity_with: colour::diversity(&drift.with),
            diversity_without: colour::diversity(&drift.without),
            likeness: pairs
                .map(|(b, t)| (t.prompt.clone(), colour::likeness(b, photos), colour::likeness(t, photos)))
                .collect(),
        }
    }

    /// Personalized images that are more like the photos than the base model's.
    pub fn closer(&self) -> usize {
        self.likeness.iter().filter(|(_, base, tuned)| tuned > base).count()
    }

    /// The four bars.
    pub fn verdicts(&self) -> Vec<Verdict> {
        // Written so that a NaN meets no bar.
        let at_most = |what, measured: f64, bar: f64| Verdict {
            what,
            measured,
            bar: format!("at most {bar:.2}"),
            met: measured <= bar,
        };
        let at_least = |what, measured: f64, bar: f64| Verdict {
            what,
            measured,
            bar: format!("at least {bar:.2}"),
            met: measured >= bar,
        };
        let judged = self.likeness.len();
        let closer = self.closer();
        vec![
            at_most(
                "class images' change with prior preservation / without",
                self.change_with / self.change_without,
                0.8,
            ),
            at_least(
                "class images' diversity kept with prior preservation",
                self.diversity_with / self.diversity_before,
                0.7,
            ),
            at_least("diversity with prior preservation / without", self.diversity_with / self.diversity_without, 1.3),
            Verdict {
                what: "personalized images closer to the photos than the base model's",
                measured: closer as f64,
                bar: format!("at least 10 of {judged}"),
                met: judged >= 12 && closer >= 10,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> Figures {
        // What PyTorch with PEFT gave on the bundled model.
        Figures {
            change_with: 0.040,
            change_without: 0.071,
            diversity_before: 0.072,
            diversity_with: 0.060,
            diversity_without: 0.034,
            likeness: (0..12).map(|i| (format!("p{i}"), 0.5, 0.6)).collect(),
        }
    }

    #[test]
    fn good_figures_pass() {
        assert!(reference().verdicts().iter().all(|v| v.met));
    }

    #[test]
    fn each_bar_can_fail() {
        let fails = |spoil: &dyn Fn(&mut Figures)| {
            let mut figures = reference();
            spoil(&mut figures);
            figures.verdicts().iter().map(|v| v.met).collect::<Vec<_>>()
        };
        assert_eq!(fails(&|f| f.change_with = 0.060), [false, true, true, true]);
        assert_eq!(fails(&|f| f.diversity_before = 0.090), [true, false, true, true]);
        assert_eq!(fails(&|f| f.diversity_without = 0.050), [true, true, false, true]);
        assert_eq!(fails(&|f| f.likeness.iter_mut().take(3).for_each(|l| l.2 = 0.4)), [true, true, true, false]);
        assert_eq!(fails(&|f| f.likeness.clear()), [true, true, true, false]);
        assert_eq!(fails(&|f| f.diversity_with = f64::NAN), [true, false, false, true]);
        assert_eq!(fails(&|f| f.change_without = f64::NAN), [false, true, true, true]);
    }
}
