// An image of `width` x `height` pixels of `channels` values each, NHWC, as bytes of colours, rows `stride` pixels apart:
// (colour + 1) / 2, where colour = bias + matrix * values. No template: a texture is made of it, not a tensor.
struct Params {
    matrix: mat4x4<f32>,
    bias: vec4<f32>,
    width: u32,
    height: u32,
    channels: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

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
    // Rounded as the host does it: images are to be the same bytes either way.
    let bytes = vec3<u32>(round(share * 255.0));
    out[at.y * p.stride + at.x] = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | 0xff000000u;
}
