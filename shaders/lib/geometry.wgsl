//% if geometry != "rows"
// Where an output row lies: sample, row and column of its picture.
fn position(m: u32) -> vec3<u32> {
    let line = m / p.out_w;
    let sample = line / p.out_h;
    return vec3<u32>(sample, line - sample * p.out_h, m - line * p.out_w);
}

// The row of x (pixels in NHWC order) that `tap` of the kernel reads for an output position, or -1 outside.
fn source_row(at: vec3<u32>, tap: u32) -> i32 {
    let kh = tap / p.kw;
    let kw = tap - kh * p.kw;
    //% if geometry == "conv"
    let y = i32(at.y * p.stride + kh) - i32(p.pad_top);
    let x = i32(at.z * p.stride + kw) - i32(p.pad_left);
    if y < 0 || x < 0 || y >= i32(p.in_h << p.up) || x >= i32(p.in_w << p.up) { return -1; }
    return i32(at.x * p.in_h * p.in_w) + (y >> p.up) * i32(p.in_w) + (x >> p.up);
    //% else
    // The transposed convolution: which output of the forward pass read this input through this tap.
    let y = i32(at.y + p.pad_top) - i32(kh);
    let x = i32(at.z + p.pad_left) - i32(kw);
    if y < 0 || x < 0 { return -1; }
    let oy = u32(y) / p.stride;
    let ox = u32(x) / p.stride;
    if oy * p.stride != u32(y) || ox * p.stride != u32(x) || oy >= p.in_h || ox >= p.in_w { return -1; }
    return i32((at.x * p.in_h + oy) * p.in_w + ox);
    //% endif
}
//% endif
