//! Images as textures of the device, made from a tensor's memory without a copy to the host.

use super::buffers::StoredBuffer;
use super::{Buffer, Gpu, Watch};
use crate::error::Result;

/// Conversion of a pixel's values to a colour: `bias + sum of value[c] * rows[c]`, from -1 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours {
    /// Contribution of each channel, at most four.
    pub rows: [[f32; 3]; 4],
    /// Constant part.
    pub bias: [f32; 3],
    /// Values per pixel.
    pub channels: u32,
}

impl Colours {
    /// Conversion of three values that are the colour.
    pub const RGB: Colours =
        Colours { rows: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0; 3]], bias: [0.0; 3], channels: 3 };
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    matrix: [[f32; 4]; 4],
    bias: [f32; 4],
    size: [u32; 2],
    channels: u32,
    stride: u32,
}

/// Painter of textures. It writes a buffer that is copied to the texture: writing a storage texture would save the
/// copy, but lavapipe (Mesa 22.3) leaks 135 kB of host memory with every such dispatch.
pub(crate) struct Painter {
    gpu: Gpu,
    pipeline: wgpu::ComputePipeline,
}

/// Format of images: 8 bits per channel. A host may also view it as sRGB.
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

impl Painter {
    /// Creates a painter; compiles its pipeline unless an earlier job did.
    pub async fn new(gpu: &Gpu) -> Result<Painter> {
        Ok(Painter { gpu: gpu.clone(), pipeline: gpu.paint_pipeline().await? })
    }

    /// Creates a texture of `[width, height]` pixels to paint on.
    pub fn texture(&self, [width, height]: [usize; 2]) -> wgpu::Texture {
        self.gpu.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("image"),
            size: wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::COPY_DST | wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[wgpu::TextureFormat::Rgba8UnormSrgb],
        })
    }

    /// Paints the image in `from`, of the texture's size.
    pub fn paint(&self, from: &StoredBuffer, colours: &Colours, texture: &wgpu::Texture) {
        let stride = stride(texture.width());
        let row = |r: [f32; 3]| [r[0], r[1], r[2], 0.0];
        let params = Params {
            matrix: colours.rows.map(row),
            bias: row(colours.bias),
            size: [texture.width(), texture.height()],
            channels: colours.channels,
            stride,
        };
        let uniform: Buffer = self.gpu.buffer("paint", size_of::<Params>() as u64, wgpu::BufferUsages::UNIFORM);
        self.gpu.queue.write_buffer(&uniform, 0, bytemuck::bytes_of(&params));
        let values = wgpu::BufferBinding {
            buffer: &from.buffer,
            offset: from.offset,
            size: std::num::NonZeroU64::new(from.bytes),
        };
        let bytes = u64::from(stride) * u64::from(texture.height()) * 4;
        let painted = self.gpu.buffer("painted", bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let bind_group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("paint"),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                entry(0, uniform.as_entire_binding()),
                entry(1, wgpu::BindingResource::Buffer(values)),
                entry(2, painted.as_entire_binding()),
            ],
        });
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(texture.width().div_ceil(8), texture.height().div_ceil(8), 1);
        }
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(stride * 4), rows_per_image: None };
        let from = wgpu::TexelCopyBufferInfo { buffer: &painted, layout };
        encoder.copy_buffer_to_texture(from, texture.as_image_copy(), texture.size());
        self.gpu.queue.submit([encoder.finish()]);
    }
}

/// Pixels per row in a buffer for an image of `width`.
fn stride(width: u32) -> u32 {
    width.next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT / 4)
}

impl Gpu {
    /// Returns the pipeline that paints textures, made by the first job that needs it.
    async fn paint_pipeline(&self) -> Result<wgpu::ComputePipeline> {
        if let Some(known) = self.painting().clone() {
            return Ok(known);
        }
        let mut watch = Watch::new(self);
        let made = watch.during(|| pipeline(&self.device));
        let made = watch.finish_with(made).await?;
        *self.painting() = Some(made.clone());
        Ok(made)
    }

    /// Reads a painted texture back: RGB, row by row.
    pub(crate) async fn read_texture(&self, texture: &wgpu::Texture) -> Result<Vec<u8>> {
        let (width, stride) = (texture.width() as usize, stride(texture.width()));
        let bytes = u64::from(stride) * u64::from(texture.height()) * 4;
        let buffer = self.buffer("image", bytes, wgpu::BufferUsages::COPY_SRC);
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(stride * 4), rows_per_image: None };
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
        self.queue.submit([encoder.finish()]);
        let rgba = self.read(&buffer, 0, bytes).await?;
        let rows = rgba.chunks(stride as usize * 4).map(|row| &row[..width * 4]);
        Ok(rows.flat_map(|row| row.chunks(4)).flat_map(|p| [p[0], p[1], p[2]]).collect())
    }
}

fn pipeline(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("paint"),
        source: wgpu::ShaderSource::Wgsl(include_str!("../../shaders/paint.wgsl").into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("paint"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}
