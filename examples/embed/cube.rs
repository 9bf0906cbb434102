//! A cube with an image on its faces: what the application renders by itself.

use portray::wgpu;

pub struct Cube {
    pipeline: wgpu::RenderPipeline,
    sampler: wgpu::Sampler,
    uniform: wgpu::Buffer,
    /// A grey pixel, until there is an image.
    blank: wgpu::Texture,
}

const DEPTH: wgpu::TextureFormat = wgpu::TextureFormat::Depth32Float;

const SHADER: &str = "
struct Corner { @builtin(position) at: vec4<f32>, @location(0) uv: vec2<f32>, @location(1) light: f32 }
@group(0) @binding(0) var<uniform> view: mat4x4<f32>;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var linear: sampler;

@vertex fn corner(@builtin(vertex_index) index: u32) -> Corner {
    let face = index / 6u;
    let uv = array(vec2(0.0, 0.0), vec2(1.0, 0.0), vec2(1.0, 1.0), vec2(0.0, 0.0), vec2(1.0, 1.0), vec2(0.0, 1.0))[index % 6u];
    let flat = vec3(uv * 2.0 - 1.0, 1.0) * vec3(1.0, -1.0, 1.0);
    // The six faces: three axes, either side, each a turn of the first, so that all pictures stand upright.
    let turned = array(flat, vec3(-flat.x, flat.y, -flat.z), vec3(flat.z, flat.y, -flat.x), vec3(-flat.z, flat.y, flat.x),
        vec3(flat.x, flat.z, -flat.y), vec3(flat.x, -flat.z, flat.y))[face];
    let light = array(1.0, 1.0, 0.8, 0.8, 0.6, 0.6)[face];
    return Corner(view * vec4(turned, 1.0), uv, light);
}

@fragment fn colour(c: Corner) -> @location(0) vec4<f32> {
    return vec4(textureSample(picture, linear, c.uv).rgb * c.light, 1.0);
}
";

impl Cube {
    pub fn new(device: &wgpu::Device, format: wgpu::TextureFormat) -> Cube {
        let source = wgpu::ShaderSource::Wgsl(SHADER.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("cube"), source });
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("cube"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("corner"),
                compilation_options: Default::default(),
                buffers: &[],
            },
            primitive: Default::default(),
            depth_stencil: Some(wgpu::DepthStencilState {
                format: DEPTH,
                depth_write_enabled: Some(true),
                depth_compare: Some(wgpu::CompareFunction::Less),
                stencil: Default::default(),
                bias: Default::default(),
            }),
            multisample: Default::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: Some("colour"),
                compilation_options: Default::default(),
                targets: &[Some(format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let sampler = device.create_sampler(&wgpu::SamplerDescriptor {
            mag_filter: wgpu::FilterMode::Linear,
            min_filter: wgpu::FilterMode::Linear,
            ..Default::default()
        });
        let uniform = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("view"),
            size: 64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let blank = texture(device, wgpu::TextureFormat::Rgba8Unorm, [1, 1], wgpu::TextureUsages::TEXTURE_BINDING);
        Cube { pipeline, sampler, uniform, blank }
    }

    /// Draws it, turned by `turn` radians, on `target`.
    pub fn draw(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        target: &wgpu::Texture,
        picture: Option<&wgpu::Texture>,
        turn: f32,
    ) {
        let size = [target.width(), target.height()];
        queue.write_buffer(&self.uniform, 0, &view(turn, size[0] as f32 / size[1] as f32));
        let depth =
            texture(device, DEPTH, size, wgpu::TextureUsages::RENDER_ATTACHMENT).create_view(&Default::default());
        // An sRGB target takes linear light: there the sampler decodes the image.
        let picture = picture.unwrap_or(&self.blank);
        let decoded = target.format().is_srgb();
        let picture = picture.create_view(&wgpu::TextureViewDescriptor {
            format: decoded.then_some(wgpu::TextureFormat::Rgba8UnormSrgb),
            ..Default::default()
        });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("cube"),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: self.uniform.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: wgpu::BindingResource::TextureView(&picture) },
                wgpu::BindGroupEntry { binding: 2, resource: wgpu::BindingResource::Sampler(&self.sampler) },
            ],
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("cube"),
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &target.create_view(&Default::default()),
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color { r: 0.02, g: 0.02, b: 0.03, a: 1.0 }),
                        store: wgpu::StoreOp::Store,
                    },
                })],
                depth_stencil_attachment: Some(wgpu::RenderPassDepthStencilAttachment {
                    view: &depth,
                    depth_ops: Some(wgpu::Operations { load: wgpu::LoadOp::Clear(1.0), store: wgpu::StoreOp::Discard }),
                    stencil_ops: None,
                }),
                ..Default::default()
            });
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.draw(0..36, 0..1);
        }
        queue.submit([encoder.finish()]);
    }
}

fn texture(
    device: &wgpu::Device,
    format: wgpu::TextureFormat,
    [width, height]: [u32; 2],
    usage: wgpu::TextureUsages,
) -> wgpu::Texture {
    device.create_texture(&wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage,
        view_formats: if format == DEPTH { &[] } else { &[wgpu::TextureFormat::Rgba8UnormSrgb] },
    })
}

/// A turn about the upright axis, a tilt, five units back, and a perspective; by columns, as WGSL has it.
fn view(turn: f32, aspect: f32) -> Vec<u8> {
    let ((s, c), (ts, tc)) = (turn.sin_cos(), 0.45f32.sin_cos());
    let (near, far, zoom, back) = (0.1, 20.0, 2.2, 5.0);
    let depth = far / (near - far);
    // Rows of the rotation, then the projection of what it gives.
    let rows = [[c, 0.0, s], [s * ts, tc, -c * ts], [-s * tc, ts, c * tc]];
    let column = |i: usize| [rows[0][i] * zoom / aspect, rows[1][i] * zoom, rows[2][i] * depth, -rows[2][i]];
    let shift = [0.0, 0.0, -back * depth + near * depth, back];
    [column(0), column(1), column(2), shift].concat().iter().flat_map(|x| x.to_le_bytes()).collect()
}
