// Weighted mean squared error and its gradient. Values: stage.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 32u + lane;
    //% if stage == "partial"
    if i >= p.n * p.chunks { return; }
    let sample = i / p.chunks;
    let first = (i - sample * p.chunks) * p.chunk;
    var sum = 0.0;
    for (var k = first; k < min(first + p.chunk, p.each); k++) {
        let d = pred_at(sample * p.each + k) - aim_at(sample * p.each + k);
        sum += d * d;
    }
    partial_put(i, sum);
    //% elif stage == "join"
    if i > 0u { return; }
    var total = 0.0;
    for (var sample = 0u; sample < p.n; sample++) {
        var sum = 0.0;
        for (var k = 0u; k < p.chunks; k++) { sum += partial_at(sample * p.chunks + k); }
        let error = sum / f32(p.each);
        errors_put(sample, error);
        total += weights_at(sample) * error;
    }
    total_put(0u, total);
    //% else
    if i >= p.count { return; }
    let factor = 2.0 * weights_at(i / p.each) * dtotal_at(0u) / f32(p.each);
    dpred_put(i, (pred_at(i) - aim_at(i)) * factor);
    //% endif
}
