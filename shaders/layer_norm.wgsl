// Layer norm and its gradients: one row a thread, or for gamma and beta one channel of a chunk of rows. Values: stage.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 32u + lane;
    //% if stage in ["forward", "backward"]
    if i >= p.rows { return; }
    let first = i * p.c;
    //% endif
    //% if stage == "forward"
    var sum = 0.0;
    for (var k = 0u; k < p.c; k++) { sum += x_at(first + k); }
    let mean = sum / f32(p.c);
    var squares = 0.0;
    for (var k = 0u; k < p.c; k++) {
        let d = x_at(first + k) - mean;
        squares += d * d;
    }
    let rstd = inverseSqrt(squares / f32(p.c) + p.eps);
    for (var k = 0u; k < p.c; k++) { y_put(first + k, (x_at(first + k) - mean) * rstd * gamma_at(k) + beta_at(k)); }
    stats_put(2u * i, mean);
    stats_put(2u * i + 1u, rstd);
    //% elif stage == "backward"
    let mean = stats_at(2u * i);
    let rstd = stats_at(2u * i + 1u);
    var s1 = 0.0;
    var s2 = 0.0;
    for (var k = 0u; k < p.c; k++) {
        let g = dout_at(first + k) * gamma_at(k);
        s1 += g;
        s2 += g * (x_at(first + k) - mean) * rstd;
    }
    s1 /= f32(p.c);
    s2 /= f32(p.c);
    for (var k = 0u; k < p.c; k++) {
        let xhat = (x_at(first + k) - mean) * rstd;
        dx_put(first + k, rstd * (dout_at(first + k) * gamma_at(k) - s1 - xhat * s2));
    }
    //% elif stage == "params"
    if i >= p.pieces * p.c { return; }
    let piece = i / p.c;
    let k = i - piece * p.c;
    var s1 = 0.0;
    var s2 = 0.0;
    for (var row = piece * p.chunk; row < min((piece + 1u) * p.chunk, p.rows); row++) {
        let d = dout_at(row * p.c + k);
        s1 += d * (x_at(row * p.c + k) - stats_at(2u * row)) * stats_at(2u * row + 1u);
        s2 += d;
    }
    partial_put(2u * i, s1);
    partial_put(2u * i + 1u, s2);
    //% else
    if i >= p.c { return; }
    var s1 = 0.0;
    var s2 = 0.0;
    for (var piece = 0u; piece < p.pieces; piece++) {
        s1 += partial_at(2u * (piece * p.c + i));
        s2 += partial_at(2u * (piece * p.c + i) + 1u);
    }
    dgamma_put(i, s1);
    dbeta_put(i, s2);
    //% endif
}
