// sum += value, or with `keep` sum = value where flag is 0. Four elements a thread. Values: keep.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.vectors { return; }
    var old = sum_at4(i);
    //% if keep
    // What is forgotten may be a NaN, so it is not multiplied away.
    if flag_at(0u) == 0.0 { old = vec4<f32>(0.0); }
    //% endif
    sum_put4(i, old + value_at4(i));
}
