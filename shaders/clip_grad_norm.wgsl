// The norm of several vectors and the factor that clips it, in a fixed order. Neighbouring threads read neighbouring
// numbers, and no thread adds more than one chunk of them. Values: stage.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_workgroup(w, nw);
    let i = group * 32u + lane;
    //% if stage == "partial"
    if i >= p.threads { return; }
    var sum = 0.0;
    let start = group * 32u * p.chunk;
    for (var k = start + lane; k < min(start + 32u * p.chunk, p.count); k += 32u) {
        let g = grad_at(k);
        sum += g * g;
    }
    partial_put(p.first + i, sum);
    //% elif stage == "fold"
    if i >= p.threads { return; }
    var sum = 0.0;
    for (var k = i; k < p.count; k += p.threads) { sum += partial_at(k); }
    folded_put(i, sum);
    //% else
    if i > 0u { return; }
    var sum = 0.0;
    for (var k = 0u; k < p.pieces; k++) { sum += partial_at(k); }
    let norm = sqrt(sum);
    norm_put(0u, norm);
    clip_put(0u, min(1.0, max_norm_at(0u) / (norm + 1e-6)));
    //% endif
}
