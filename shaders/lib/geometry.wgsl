//% if geometry != "rows"
// Where an output row lies: sample, row and column of its image.
fn position(m: u32) -> vec3<u32> {
    let line = m / p.out_w;
    let sample = line / p.out_h;
    return vec3<u32>(sample, line - sample * p.out_h, m - line * p.out_w);
}

// The row of x (pixels in NHWC order) that `tap` of the kernel reads for an output position, or -1 outside. Without
// branches: SwiftShader compiles a few early returns for ever.
fn source_row(at: vec3<u32>, tap: u32) -> i32 {
    let kh = tap / p.kw;
    let kw = tap - kh * p.kw;
    //% if geometry == "conv"
    // What lies above or left of the image wraps to a number beyond it.
    let y = at.y * p.stride + kh - p.pad_top;
    let x = at.z * p.stride + kw - p.pad_left;
    let row = (at.x * p.in_h + (y >> p.up)) * p.in_w + (x >> p.up);
    return select(-1, i32(row), (y < (p.in_h << p.up)) & (x < (p.in_w << p.up)));
    //% else
    // The transposed convolution: which output of the forward pass read this input through this tap.
    let y = at.y + p.pad_top - kh;
    let x = at.z + p.pad_left - kw;
    let oy = y / p.stride;
    let ox = x / p.stride;
    let row = (at.x * p.in_h + oy) * p.in_w + ox;
    let read = (oy * p.stride == y) & (ox * p.stride == x);
    return select(-1, i32(row), read & (oy < p.in_h) & (ox < p.in_w));
    //% endif
}
//% endif
