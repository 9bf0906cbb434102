// out = x * factor[0], four elements a thread.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i < p.vectors { out_put4(i, x_at4(i) * factor_at(0u)); }
}
