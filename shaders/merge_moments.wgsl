// out[i] = the moments of what a[i] and b[i] are the moments of: first value, mean less that, squared distances to the
// mean, count (Chan, Golub and LeVeque 1979). A vector a thread.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let a = a_at4(i);
    let b = b_at4(i);
    let share = b.w / (a.w + b.w);
    let d = b.x - a.x + b.y - a.y;
    out_put4(i, vec4<f32>(a.x, a.y + d * share, a.z + b.z + d * d * a.w * share, a.w + b.w));
}
