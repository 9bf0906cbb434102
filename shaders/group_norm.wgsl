// Group norm in three stages. Values: stage x2, and for `partial` whole, for `apply` silu vec.
//% include "lib/activation.wgsl"
//% if stage == "partial"
// Channel c of pixel row `row`, of both sources side by side.
fn value(row: u32, c: u32) -> f32 {
    //% if x2
    if c >= p.c1 { return x2_at(row * p.c2 + c - p.c1); }
    //% endif
    return x_at(row * p.c1 + c);
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
    // Mean and centred squares of one group over one chunk of pixels.
    if i >= p.samples * p.chunks * p.groups { return; }
    let group = i % p.groups;
    let piece = i / p.groups;
    let sample = piece / p.chunks;
    let chunk = piece - sample * p.chunks;
    let first = chunk * p.chunk;
    let last = min(first + p.chunk, p.pixels);
    let count = f32((last - first) * per);
    var sum = 0.0;
    for (var pixel = first; pixel < last; pixel++) {
        for (var c = 0u; c < per; c++) { sum += value(sample * p.pixels + pixel, group * per + c); }
    }
    let mean = sum / count;
    var squares = 0.0;
    for (var pixel = first; pixel < last; pixel++) {
        for (var c = 0u; c < per; c++) {
            let d = value(sample * p.pixels + pixel, group * per + c) - mean;
            squares += d * d;
        }
    }
    //% if whole
    partial_put(2u * i, mean);
    partial_put(2u * i + 1u, inverseSqrt(squares / count + p.eps));
    //% else
    partial_put(2u * i, mean);
    partial_put(2u * i + 1u, squares);
    //% endif
    //% elif stage == "join"
    // Chan, Golub and LeVeque 1979: means and centred squares of disjoint chunks.
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let group = i - sample * p.groups;
    var total = 0.0;
    var mean = 0.0;
    var squares = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        let at = 2u * ((sample * p.chunks + chunk) * p.groups + group);
        let count = f32((min((chunk + 1u) * p.chunk, p.pixels) - chunk * p.chunk) * per);
        let d = partial_at(at) - mean;
        let both = total + count;
        mean += d * (count / both);
        squares += partial_at(at + 1u) + d * d * (total * (count / both));
        total = both;
    }
    stats_put(2u * i, mean);
    stats_put(2u * i + 1u, inverseSqrt(squares / total + p.eps));
    //% else
    if i >= p.threads { return; }
    //% if vec
    let c = (i % (channels / 4u)) * 4u;
    let row = i / (channels / 4u);
    //% else
    let c = i % channels;
    let row = i / channels;
    //% endif
    let s = row / p.pixels * p.groups;
    //% if vec
    //% if x2
    var v: vec4<f32>;
    if c >= p.c1 { v = x2_at4((row * p.c2 + c - p.c1) >> 2u); } else { v = x_at4((row * p.c1 + c) >> 2u); }
    //% else
    var v = x_at4((row * p.c1 + c) >> 2u);
    //% endif
    //% for k in range(4)
    {
        let at = 2u * (s + (c + {{ k }}u) / per);
        v[{{ k }}] = (v[{{ k }}] - stats_at(at)) * stats_at(at + 1u) * gamma_at(c + {{ k }}u) + beta_at(c + {{ k }}u);
        //% if silu
        v[{{ k }}] = silu(v[{{ k }}]);
        //% endif
    }
    //% endfor
    y_put4(i, v);
    //% else
    //% if x2
    var v: f32;
    if c >= p.c1 { v = x2_at(row * p.c2 + c - p.c1); } else { v = x_at(row * p.c1 + c); }
    //% else
    var v = x_at(row * p.c1 + c);
    //% endif
    let at = 2u * (s + c / per);
    v = (v - stats_at(at)) * stats_at(at + 1u) * gamma_at(c) + beta_at(c);
    //% if silu
    v = silu(v);
    //% endif
    y_put(i, v);
    //% endif
    //% endif
}
