//! The window's surface: a page, and images on it.

use std::sync::Arc;

use image::RgbImage;
use portray::low_level::pipeline::cache_folder;
use portray::{Engine, EngineOptions, Error, Picture, Result, required_features, required_limits, wgpu};
use winit::window::Window;

use super::page::Place;
use crate::cli::args::Global;
use crate::cli::stop;

const SHADER: &str = "
struct Corner { @builtin(position) at: vec4<f32>, @location(0) uv: vec2<f32> }
// Left, top, width and height of the quad, where the window is 2 wide and 2 high.
@group(0) @binding(0) var<uniform> place: vec4<f32>;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var linear: sampler;

@vertex fn corner(@builtin(vertex_index) index: u32) -> Corner {
    let uv = vec2(f32(index & 1u), f32(index >> 1u));
    return Corner(vec4(place.x + uv.x * place.z, place.y - uv.y * place.w, 0.0, 1.0), uv);
}

@fragment fn colour(c: Corner) -> @location(0) vec4<f32> {
    return vec4(textureSample(picture, linear, c.uv).rgb, 1.0);
}
";

/// A window's surface on a device that the engine works on too.
pub struct Stage {
    window: Arc<Window>,
    instance: wgpu::Instance,
    surface: wgpu::Surface<'static>,
    format: wgpu::TextureFormat,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::RenderPipeline,
    sampler: wgpu::Sampler,
}

impl Stage {
    /// Opens the adapter that the options name for `window`, and the engine on it.
    ///
    /// # Errors
    /// Where the adapter cannot draw on the window's display.
    pub fn new(
        global: &Global,
        window: Arc<Window>,
        display: winit::event_loop::OwnedDisplayHandle,
    ) -> Result<(Stage, Engine)> {
        let device_error = |e: &dyn std::fmt::Display| Error::Device(e.to_string());
        let descriptor = wgpu::InstanceDescriptor::new_with_display_handle_from_env(Box::new(display));
        let instance = wgpu::Instance::new(descriptor);
        let surface = instance.create_surface(window.clone()).map_err(|e| device_error(&e))?;
        let adapter =
            pollster::block_on(portray::low_level::gpu::choose_adapter(&instance, global.adapter.as_deref()))?;
        let formats = surface.get_capabilities(&adapter).formats;
        let name = adapter.get_info().name;
        let Some(format) = formats.first().copied() else {
            return Err(Error::Device(format!("{name} cannot draw on this display")));
        };
        let descriptor = wgpu::DeviceDescriptor {
            required_features: required_features(&adapter),
            // A window over several monitors is larger than what WebGPU promises of a texture.
            required_limits: wgpu::Limits {
                max_texture_dimension_2d: adapter.limits().max_texture_dimension_2d,
                ..required_limits(&adapter)
            },
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| device_error(&e))?;
        let options = EngineOptions::default();
        let mut engine = Engine::from_device(adapter.get_info(), device.clone(), queue.clone(), &options);
        if let Ok(cache) = cache_folder() {
            engine = pollster::block_on(engine.measured(&cache.join("variants")))?;
        }
        let engine = engine.with_cancel(stop::token());
        let lost = engine.clone();
        device.set_device_lost_callback(move |_, why| lost.device_lost(&why));
        let pipeline = pipeline(&device, format.remove_srgb_suffix());
        let sampler = device.create_sampler(&wgpu::SamplerDescriptor {
            mag_filter: wgpu::FilterMode::Linear,
            min_filter: wgpu::FilterMode::Linear,
            ..Default::default()
        });
        let stage = Stage { window, instance, surface, format, device, queue, pipeline, sampler };
        stage.configure();
        Ok((stage, engine))
    }

    /// Pixels of the window that are drawn.
    pub fn size(&self) -> [u32; 2] {
        let size = self.window.inner_size();
        drawn([size.width, size.height], self.device.limits().max_texture_dimension_2d)
    }

    /// After the window's size has changed.
    pub fn configure(&self) {
        let [width, height] = self.size();
        self.surface.configure(
            &self.device,
            &wgpu::SurfaceConfiguration {
                usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
                format: self.format,
                color_space: Default::default(),
                width,
                height,
                present_mode: wgpu::PresentMode::AutoVsync,
                desired_maximum_frame_latency: 1,
                alpha_mode: wgpu::CompositeAlphaMode::Auto,
                view_formats: vec![self.format.remove_srgb_suffix()],
            },
        );
    }

    /// An image as a texture.
    pub fn upload(&self, picture: &Picture) -> wgpu::Texture {
        let rgba: Vec<u8> = picture.rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        self.texture(&rgba, [picture.width as u32, picture.height as u32])
    }

    /// A page as a texture.
    pub fn upload_page(&self, page: &RgbImage) -> wgpu::Texture {
        let rgba: Vec<u8> = page.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2], 255]).collect();
        self.texture(&rgba, [page.width(), page.height()])
    }

    fn texture(&self, rgba: &[u8], [width, height]: [u32; 2]) -> wgpu::Texture {
        let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
        let texture = self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("image"),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(width * 4), rows_per_image: None };
        self.queue.write_texture(texture.as_image_copy(), rgba, layout, size);
        texture
    }

    /// Shows the page with `pictures` on it, and lets the device say what it has done. False where the window has to be
    /// drawn again.
    ///
    /// # Errors
    /// When the device fails.
    pub fn show(&mut self, page: &wgpu::Texture, pictures: &[(wgpu::Texture, Place)]) -> Result<bool> {
        let frame = match self.surface.get_current_texture() {
            wgpu::CurrentSurfaceTexture::Success(frame) | wgpu::CurrentSurfaceTexture::Suboptimal(frame) => frame,
            wgpu::CurrentSurfaceTexture::Timeout | wgpu::CurrentSurfaceTexture::Occluded => {
                self.poll()?;
                return Ok(false);
            }
            other => {
                if matches!(other, wgpu::CurrentSurfaceTexture::Lost) {
                    let surface = self.instance.create_surface(self.window.clone());
                    self.surface = surface.map_err(|e| Error::Device(format!("the window's surface was lost: {e}")))?;
                }
                self.configure();
                return Ok(false);
            }
        };
        let view = frame.texture.create_view(&wgpu::TextureViewDescriptor {
            format: Some(self.format.remove_srgb_suffix()),
            ..Default::default()
        });
        let [width, height] = self.size().map(|n| n as f32);
        let whole = Place { x: 0.0, y: 0.0, width, height };
        let quads: Vec<wgpu::BindGroup> = std::iter::once((page, whole))
            .chain(pictures.iter().map(|(texture, place)| (texture, *place)))
            .map(|(texture, place)| self.quad(texture, place, [width, height]))
            .collect();
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("window"),
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                        store: wgpu::StoreOp::Store,
                    },
                })],
                ..Default::default()
            });
            pass.set_pipeline(&self.pipeline);
            for quad in &quads {
                pass.set_bind_group(0, quad, &[]);
                pass.draw(0..4, 0..1);
            }
        }
        self.queue.submit([encoder.finish()]);
        self.window.pre_present_notify();
        self.queue.present(frame);
        self.poll()?;
        Ok(true)
    }

    /// Lets the device say what it has done.
    ///
    /// # Errors
    /// When the device fails.
    pub fn poll(&self) -> Result<()> {
        self.device.poll(wgpu::PollType::Poll).map(drop).map_err(|e| Error::Device(e.to_string()))
    }

    /// `texture` at `place` of a window of `width` x `height`.
    fn quad(&self, texture: &wgpu::Texture, place: Place, [width, height]: [f32; 2]) -> wgpu::BindGroup {
        let rectangle = [
            place.x / width * 2.0 - 1.0,
            1.0 - place.y / height * 2.0,
            place.width / width * 2.0,
            place.height / height * 2.0,
        ];
        let uniform = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("place"),
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&uniform, 0, &rectangle.map(f32::to_le_bytes).concat());
        let view = texture.create_view(&Default::default());
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("quad"),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                entry(0, uniform.as_entire_binding()),
                entry(1, wgpu::BindingResource::TextureView(&view)),
                entry(2, wgpu::BindingResource::Sampler(&self.sampler)),
            ],
        })
    }
}

/// What is drawn of a window of `size` where a texture has at most `most` pixels a side.
fn drawn(size: [u32; 2], most: u32) -> [u32; 2] {
    size.map(|side| side.clamp(1, most))
}

fn pipeline(device: &wgpu::Device, format: wgpu::TextureFormat) -> wgpu::RenderPipeline {
    let source = wgpu::ShaderSource::Wgsl(SHADER.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("quad"), source });
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some("quad"),
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: Some("corner"),
            compilation_options: Default::default(),
            buffers: &[],
        },
        primitive: wgpu::PrimitiveState { topology: wgpu::PrimitiveTopology::TriangleStrip, ..Default::default() },
        depth_stencil: None,
        multisample: Default::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: Some("colour"),
            compilation_options: Default::default(),
            targets: &[Some(format.into())],
        }),
        multiview_mask: None,
        cache: None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_window_may_be_larger_than_a_texture() {
        assert_eq!(super::drawn([11520, 2160], 8192), [8192, 2160]);
        assert_eq!(super::drawn([0, 70], 8192), [1, 70]);
    }
}
