// out = factor * x, repeated along the batch.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i < p.count { out_put(i, factor_at(0u) * x_at(i % p.each)); }
}
