//! Images of a job that stay on the device: textures of what forms and of what is done.

use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::base::lock;
use crate::error::Result;
use crate::gpu::{Colours, Gpu, Painter, StoredBuffer};

/// Where a job paints.
#[derive(Default)]
pub(crate) struct TextureSink {
    painter: OnceLock<Painter>,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    previews: Vec<wgpu::Texture>,
    pictures: Vec<wgpu::Texture>,
}

impl TextureSink {
    /// Compiles what paints: before the first image.
    pub async fn prepare(&self, gpu: &Gpu) -> Result<()> {
        let painter = Painter::new(gpu).await?;
        self.painter.get_or_init(|| painter);
        Ok(())
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        lock(&self.shown)
    }

    /// Paints a latent of `[width, height]` as the preview of image number `index`, over the one before.
    pub fn preview(&self, index: usize, latent: &StoredBuffer, colours: &Colours, size: [usize; 2]) {
        let Some(painter) = self.painter.get() else { return };
        let mut shown = self.shown();
        while shown.previews.len() <= index {
            shown.previews.push(painter.texture(size));
        }
        painter.paint(latent, colours, &shown.previews[index]);
    }

    /// Adds a finished image of `[width, height]`.
    pub fn show(&self, picture: &StoredBuffer, size: [usize; 2]) {
        let Some(painter) = self.painter.get() else { return };
        let texture = painter.texture(size);
        painter.paint(picture, &Colours::RGB, &texture);
        self.shown().pictures.push(texture);
    }

    /// What the images that were begun look like, in order.
    pub fn previews(&self) -> Vec<wgpu::Texture> {
        self.shown().previews.clone()
    }

    /// The finished ones, in order.
    pub fn pictures(&self) -> Vec<wgpu::Texture> {
        self.shown().pictures.clone()
    }
}
