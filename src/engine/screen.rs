//! Pictures of a job that stay on the device: textures of what forms and of what is done.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gpu::{Colours, Gpu, Painter, StoredBuffer};

/// Where a job paints.
pub(super) struct Screen {
    painter: Painter,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    previews: Vec<wgpu::Texture>,
    pictures: Vec<wgpu::Texture>,
}

impl Screen {
    pub fn new(gpu: &Gpu) -> Screen {
        Screen { painter: Painter::new(gpu), shown: Mutex::default() }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paints a latent of `[width, height]` as the preview of picture number `index`, over the one before.
    pub fn preview(&self, index: usize, latent: &StoredBuffer, colours: &Colours, size: [usize; 2]) {
        let mut shown = self.shown();
        while shown.previews.len() <= index {
            shown.previews.push(self.painter.texture(size));
        }
        self.painter.paint(latent, colours, &shown.previews[index]);
    }

    /// Adds a finished picture of `[width, height]`.
    pub fn show(&self, picture: &StoredBuffer, size: [usize; 2]) {
        let texture = self.painter.texture(size);
        self.painter.paint(picture, &Colours::RGB, &texture);
        self.shown().pictures.push(texture);
    }

    /// What the pictures that were begun look like, in order.
    pub fn previews(&self) -> Vec<wgpu::Texture> {
        self.shown().previews.clone()
    }

    /// The finished ones, in order.
    pub fn pictures(&self) -> Vec<wgpu::Texture> {
        self.shown().pictures.clone()
    }
}
