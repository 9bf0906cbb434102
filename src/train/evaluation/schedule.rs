//! When a training is evaluated: as often as asked, unless that would take more than its share of the work. Work is counted
//! in the plans' FLOPs, so that a run is evaluated at the same steps on every machine, and after a resume.

use crate::error::Message;

use super::predictions;

/// Share of the training's work that predictions may take.
const PREDICTIONS: f64 = 0.1;
/// Share that images may take.
const IMAGES: f64 = 0.2;
/// Images of the subject of an evaluation, at most; before the first step as many of the class come with them.
const MOST_IMAGES: usize = 4;

/// FLOPs of the parts of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Optimizer step.
    pub step: u64,
    /// Prediction for one image.
    pub prediction: u64,
    /// Image, sampled and decoded.
    pub image: u64,
}

/// Steps after which a run is evaluated, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    every: usize,
    total: usize,
    /// Images of the subject of an evaluation.
    pub images: usize,
    /// Evaluations that are asked for between two with predictions, and between two with images.
    multiples: [usize; 2],
}

impl Schedule {
    /// Of a run of `total` steps that is to be evaluated `every` so many. The first and the last evaluation are made in any
    /// case.
    pub fn new(every: usize, total: usize, work: Work) -> Schedule {
        let plain = Schedule { every, total, images: MOST_IMAGES, multiples: [1, 1] };
        let allowed = |share: f64| share * total as f64 * work.step as f64;
        let most = (total / every.max(1)).max(1);
        let with = |multiple: usize, images: usize| Schedule { images, multiples: [1, multiple], ..plain };
        let predicting = |multiple: usize| {
            let count = predictions::count(MOST_IMAGES) * plain.count(multiple) + predictions::drift_count(MOST_IMAGES);
            count as f64 * work.prediction as f64
        };
        let predicted = (1..=most).find(|&multiple| predicting(multiple) <= allowed(PREDICTIONS)).unwrap_or(most);
        let multiples = || (1..=most).filter(|multiple| multiple % predicted == 0);
        let imaging = |multiple: usize, images: usize| {
            (images * (plain.count(multiple) + 2)) as f64 * work.image as f64 <= allowed(IMAGES)
        };
        // Fewer images first, then fewer evaluations; a single image says too little while there is another way.
        let mut ways = multiples().flat_map(|multiple| (2..=MOST_IMAGES).rev().map(move |images| (multiple, images)));
        let chosen = ways.find(|&(multiple, images)| imaging(multiple, images));
        let chosen =
            chosen.or_else(|| multiples().map(|multiple| (multiple, 1)).find(|&(m, images)| imaging(m, images)));
        let (multiple, images) = chosen.unwrap_or((most, 1));
        Schedule { multiples: [predicted, multiple], ..with(multiple, images) }
    }

    /// Evaluations at every `multiple`-th of the steps that are asked for.
    fn count(&self, multiple: usize) -> usize {
        let due = |step: &usize| self.is_due(*step, multiple);
        let asked = (1..=self.total / self.every.max(1)).map(|i| i * self.every).filter(|step| *step != self.total);
        asked.chain([self.total]).filter(due).count()
    }

    fn is_due(&self, step: usize, multiple: usize) -> bool {
        step == self.total || step == self.every || step.is_multiple_of(self.every * multiple)
    }

    /// Whether the loss and the drift are measured after `step` steps.
    pub fn predicts(&self, step: usize) -> bool {
        self.is_due(step, self.multiples[0]) || self.makes_images(step)
    }

    /// Whether images are made after `step` steps.
    pub fn makes_images(&self, step: usize) -> bool {
        self.is_due(step, self.multiples[1])
    }

    /// Scores of the run, of its first model apart.
    pub fn scores(&self) -> usize {
        self.count(self.multiples[1])
    }

    /// What is said of evaluations that are fewer than those that were asked for.
    pub fn note(&self) -> Option<Message> {
        let [predictions, images] = self.multiples.map(|multiple| multiple * self.every);
        let less = self.multiples != [1, 1] || self.images < MOST_IMAGES;
        let made = if self.images == 1 { "1 image".to_owned() } else { format!("{} images", self.images) };
        less.then(|| {
            format!(
                "evaluations measure loss and drift every {predictions} steps, and {made} every {images}: more would take \
                 above a tenth and a fifth of the training's work"
            )
            .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(prediction: u64, image: u64) -> Work {
        Work { step: 100, prediction, image }
    }

    /// Steps at which `schedule` makes images, and at which it predicts.
    fn steps(schedule: Schedule) -> [Vec<usize>; 2] {
        let of = |due: fn(&Schedule, usize) -> bool| (1..=schedule.total).filter(|&s| due(&schedule, s)).collect();
        [of(Schedule::makes_images), of(Schedule::predicts)]
    }

    #[test]
    fn what_is_asked_for_is_done_where_it_costs_little() {
        let schedule = Schedule::new(100, 450, work(1, 10));
        assert_eq!((schedule.images, schedule.note()), (4, None));
        assert_eq!(steps(schedule), [vec![100, 200, 300, 400, 450], vec![100, 200, 300, 400, 450]]);
    }

    #[test]
    fn shares_are_kept_and_the_lack_is_said() {
        for (every, total, image) in [(100, 1500, 900), (50, 200, 520), (10, 1500, 400), (7, 1000, 2000)] {
            let schedule = Schedule::new(every, total, work(30, image));
            let [images, predictions] = steps(schedule);
            let spent = (images.len() + 2) * schedule.images * image as usize;
            assert!(spent * 5 <= total * 100, "{every} {total} {image}: {schedule:?}");
            let spent = (predictions.len() * predictions::count(4) + predictions::drift_count(4)) * 30;
            assert!(spent * 10 <= total * 100, "{every} {total} {image}: {schedule:?}");
            assert!(images.iter().all(|step| predictions.contains(step)));
            assert!(schedule.note().is_some(), "{schedule:?}");
        }
    }

    #[test]
    fn short_runs_are_evaluated_at_their_ends() {
        let schedule = Schedule::new(2, 6, work(30, 500));
        assert_eq!((steps(schedule), schedule.images), ([vec![2, 6], vec![2, 6]], 1));
        assert_eq!(steps(Schedule::new(100, 6, work(30, 500))), [vec![6], vec![6]]);
        assert_eq!(steps(Schedule::new(1, 1, work(30, 500))), [vec![1], vec![1]]);
    }
}
