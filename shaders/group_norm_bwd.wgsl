// Gradients of group norm. Values: stage x2 silu.
//% include "lib/activation.wgsl"
//% if stage in ["partial", "params"]
fn value(row: u32, c: u32) -> f32 {
    //% if x2
    if c >= p.c1 { return x2_at(row * p.c2 + c - p.c1); }
    //% endif
    return x_at(row * p.c1 + c);
}
//% endif
//% if stage in ["partial", "params", "apply"]
// The gradient by the affine result at channel c, from the gradient by the activation's.
fn before(xhat: f32, c: u32, d: f32) -> f32 {
    //% if silu
    return d * d_silu(xhat * gamma_at(c) + beta_at(c));
    //% else
    return d;
    //% endif
}
//% endif
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    let channels = p.c1 + p.c2;
    let per = channels / p.groups;
    //% if stage == "partial"
    // Sums over one group and chunk of g = gradient by xhat, and of g * xhat.
    if i >= p.samples * p.chunks * p.groups { return; }
    let group = i % p.groups;
    let piece = i / p.groups;
    let sample = piece / p.chunks;
    let chunk = piece - sample * p.chunks;
    let mean = stats_at(2u * (sample * p.groups + group));
    let rstd = stats_at(2u * (sample * p.groups + group) + 1u);
    var s1 = 0.0;
    var s2 = 0.0;
    for (var pixel = chunk * p.chunk; pixel < min((chunk + 1u) * p.chunk, p.pixels); pixel++) {
        let row = sample * p.pixels + pixel;
        for (var k = 0u; k < per; k++) {
            let c = group * per + k;
            let xhat = (value(row, c) - mean) * rstd;
            let g = before(xhat, c, dout_at(row * channels + c)) * gamma_at(c);
            s1 += g;
            s2 += g * xhat;
        }
    }
    sums_put(2u * i, s1);
    sums_put(2u * i + 1u, s2);
    //% elif stage == "join"
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let group = i - sample * p.groups;
    var s1 = 0.0;
    var s2 = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        let at = 2u * ((sample * p.chunks + chunk) * p.groups + group);
        s1 += partial_at(at);
        s2 += partial_at(at + 1u);
    }
    sums_put(2u * i, s1);
    sums_put(2u * i + 1u, s2);
    //% elif stage == "apply"
    if i >= p.threads { return; }
    let row = i / p.width;
    let c = p.first + i - row * p.width;
    let at = 2u * (row / p.pixels * p.groups + c / per);
    let rstd = stats_at(at + 1u);
    let xhat = (x_at(i) - stats_at(at)) * rstd;
    let g = before(xhat, c, dout_at(row * channels + c)) * gamma_at(c);
    let count = f32(p.pixels * per);
    dx_put(i, rstd * (g - sums_at(at) / count - xhat * (sums_at(at + 1u) / count)));
    //% elif stage == "params"
    if i >= p.pieces * channels { return; }
    let piece = i / channels;
    let c = i - piece * channels;
    var s1 = 0.0;
    var s2 = 0.0;
    for (var row = piece * p.chunk; row < min((piece + 1u) * p.chunk, p.samples * p.pixels); row++) {
        let at = 2u * (row / p.pixels * p.groups + c / per);
        let xhat = (value(row, c) - stats_at(at)) * stats_at(at + 1u);
        let d = before(xhat, c, dout_at(row * channels + c));
        s1 += d * xhat;
        s2 += d;
    }
    sums_put(2u * i, s1);
    sums_put(2u * i + 1u, s2);
    //% else
    if i >= channels { return; }
    var s1 = 0.0;
    var s2 = 0.0;
    for (var piece = 0u; piece < p.pieces; piece++) {
        s1 += partial_at(2u * (piece * channels + i));
        s2 += partial_at(2u * (piece * channels + i) + 1u);
    }
    dgamma_put(i, s1);
    dbeta_put(i, s2);
    //% endif
}
