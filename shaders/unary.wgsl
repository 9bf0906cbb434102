// out = f(x), or with `backward` out = dout * f'(x). Four elements a thread. Values: f, backward.
//% include "lib/activation.wgsl"
//% if f in ["gelu_tanh", "relu"]
//% include "lib/activation_more.wgsl"
//% endif
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.vectors { return; }
    let v = x_at4(i);
    //% if backward
    let d = dout_at4(i);
    out_put4(i, d * vec4<f32>(d_{{ f }}(v.x), d_{{ f }}(v.y), d_{{ f }}(v.z), d_{{ f }}(v.w)));
    //% else
    out_put4(i, vec4<f32>({{ f }}(v.x), {{ f }}(v.y), {{ f }}(v.z), {{ f }}(v.w)));
    //% endif
}
