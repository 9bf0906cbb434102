// A picture of `width` x `height` pixels of `channels` values each, NHWC, as colours of a texture:
// (colour + 1) / 2, where colour = bias + matrix * values. No template: it writes a texture, not a tensor.
struct Params {
    matrix: mat4x4<f32>,
    bias: vec4<f32>,
    width: u32,
    height: u32,
    channels: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var out: texture_storage_2d<rgba8unorm, write>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= p.width || at.y >= p.height { return; }
    let first = (at.y * p.width + at.x) * p.channels;
    var values = vec4<f32>(0.0);
    for (var c = 0u; c < min(p.channels, 4u); c++) {
        values[c] = x[first + c];
    }
    let colour = p.bias.xyz + (p.matrix * values).xyz;
    let share = clamp(colour * 0.5 + 0.5, vec3<f32>(0.0), vec3<f32>(1.0));
    // Whole steps, as the host rounds: stores may round another way, and pictures are to be the same bytes.
    textureStore(out, at.xy, vec4<f32>(round(share * 255.0) / 255.0, 1.0));
}
