// The norm of several vectors and the factor that clips it. Values: stage. Sums are compensated (Neumaier), so that one
// thread may add many squares of very different size.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 32u + lane;
    //% if stage == "partial"
    if i >= p.threads { return; }
    var sum = 0.0;
    for (var k = i * p.chunk; k < min((i + 1u) * p.chunk, p.count); k++) {
        let g = grad_at(k);
        sum += g * g;
    }
    partial_put(p.first + i, sum);
    //% else
    if i > 0u { return; }
    var sum = 0.0;
    var lost = 0.0;
    for (var k = 0u; k < p.pieces; k++) {
        let x = partial_at(k);
        let t = sum + x;
        lost += select((x - t) + sum, (sum - t) + x, sum >= x);
        sum = t;
    }
    let norm = sqrt(sum + lost);
    norm_put(0u, norm);
    clip_put(0u, min(1.0, max_norm_at(0u) / (norm + 1e-6)));
    //% endif
}
