// out = value * f(gate), or with `backward` the gradient of [value, gate]. One element, or four, a thread.
// Values: f, vec4, backward.
//% include "lib/activation.wgsl"
//% if vec4
fn {{ f }}s(x: vec4<f32>) -> vec4<f32> { return vec4<f32>({{ f }}(x.x), {{ f }}(x.y), {{ f }}(x.z), {{ f }}(x.w)); }
fn d_{{ f }}s(x: vec4<f32>) -> vec4<f32> { return vec4<f32>(d_{{ f }}(x.x), d_{{ f }}(x.y), d_{{ f }}(x.z), d_{{ f }}(x.w)); }
//% endif
//% set f = f ~ "s" if vec4 else f
//% set four = "4" if vec4 else ""
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let at = i + i / p.width * p.width;
    let value = x_at{{ four }}(at);
    let gate = x_at{{ four }}(at + p.width);
    //% if backward
    let d = dout_at{{ four }}(i);
    out_put{{ four }}(at, d * {{ f }}(gate));
    out_put{{ four }}(at + p.width, d * value * d_{{ f }}(gate));
    //% else
    out_put{{ four }}(i, value * {{ f }}(gate));
    //% endif
}
