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
    preview: Option<wgpu::Texture>,
    pictures: Vec<wgpu::Texture>,
}

impl Screen {
    pub fn new(gpu: &Gpu) -> Screen {
        Screen { painter: Painter::new(gpu), shown: Mutex::default() }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paints a latent of `[width, height]` as the preview, in place of the one before.
    pub fn preview(&self, latent: &StoredBuffer, colours: &Colours, size: [usize; 2]) {
        let mut shown = self.shown();
        let fits = |t: &wgpu::Texture| [t.width() as usize, t.height() as usize] == size;
        let texture = shown.preview.take().filter(fits).unwrap_or_else(|| self.painter.texture(size));
        self.painter.paint(latent, colours, &texture);
        shown.preview = Some(texture);
    }

    /// Adds a finished picture of `[width, height]`.
    pub fn show(&self, picture: &StoredBuffer, size: [usize; 2]) {
        let texture = self.painter.texture(size);
        self.painter.paint(picture, &Colours::RGB, &texture);
        self.shown().pictures.push(texture);
    }

    /// What the picture that is being made looks like.
    pub fn latest(&self) -> Option<wgpu::Texture> {
        self.shown().preview.clone()
    }

    /// The finished ones, in order.
    pub fn pictures(&self) -> Vec<wgpu::Texture> {
        self.shown().pictures.clone()
    }
}
