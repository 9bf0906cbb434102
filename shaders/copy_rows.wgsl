// Copies a range of every sample's rows to a range of another tensor's: out[s, to + r] = x[s, from + r] for r < rows.
// `columns` counts values, or with `vec4` vectors of four. Values: vec4.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.samples * p.rows * p.columns { return; }
    let row = i / p.columns;
    let sample = row / p.rows;
    let column = i - row * p.columns;
    let source = (sample * p.x_rows + p.from_row + row - sample * p.rows) * p.columns + column;
    let target_ = (sample * p.out_rows + p.to_row + row - sample * p.rows) * p.columns + column;
    //% if vec4
    out_put4(target_, x_at4(source));
    //% else
    out_put(target_, x_at(source));
    //% endif
}
