// Pixel i of `to` is pixel floor(i * from / to); with `backward`, the transpose: the sum over i of those that read a
// pixel. One channel, or four, a thread. Values: vec4, backward.
//% set four = "4" if vec4 else ""
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let c = i % p.channels;
    let pixel = i / p.channels;
    let x = pixel % p.to_w;
    let y = pixel / p.to_w % p.to_h;
    let b = pixel / p.to_w / p.to_h;
    //% if backward
    // Those that read y are ceil(y * from / to) up to, not including, ceil((y + 1) * from / to).
    let y_end = ((y + 1u) * p.from_h + p.to_h - 1u) / p.to_h;
    let x_end = ((x + 1u) * p.from_w + p.to_w - 1u) / p.to_w;
    let x_start = (x * p.from_w + p.to_w - 1u) / p.to_w;
    var sum = {{ "vec4<f32>(0.0)" if vec4 else "0.0" }};
    for (var sy = (y * p.from_h + p.to_h - 1u) / p.to_h; sy < y_end; sy++) {
        for (var sx = x_start; sx < x_end; sx++) {
            sum += x_at{{ four }}(((b * p.from_h + sy) * p.from_w + sx) * p.channels + c);
        }
    }
    out_put{{ four }}(i, sum);
    //% else
    let sy = y * p.from_h / p.to_h;
    let sx = x * p.from_w / p.to_w;
    out_put{{ four }}(i, x_at{{ four }}(((b * p.from_h + sy) * p.from_w + sx) * p.channels + c));
    //% endif
}
