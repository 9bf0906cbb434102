// out[s, b, :] = the sum of the rows of block b of sample s, x being [samples, rows, columns]. A thread adds one column,
// or with `vec4` four, of one block. `columns` counts what a thread adds. Values: vec4.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.threads { return; }
    let column = i % p.columns;
    let block = (i / p.columns) % p.blocks;
    let sample = i / (p.columns * p.blocks);
    let first = block * p.block_rows;
    let last = min(first + p.block_rows, p.rows);
    //% if vec4
    var sum = vec4<f32>();
    for (var row = first; row < last; row++) { sum += x_at4((sample * p.rows + row) * p.columns + column); }
    out_put4(i, sum);
    //% else
    var sum = 0.0;
    for (var row = first; row < last; row++) { sum += x_at((sample * p.rows + row) * p.columns + column); }
    out_put(i, sum);
    //% endif
}
