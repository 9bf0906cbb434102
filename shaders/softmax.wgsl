// Softmax of one row a thread.
@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 32u + lane;
    if i >= p.rows { return; }
    let first = i * p.c;
    var largest = x_at(first);
    for (var k = 1u; k < p.c; k++) { largest = max(largest, x_at(first + k)); }
    var sum = 0.0;
    for (var k = 0u; k < p.c; k++) { sum += exp(x_at(first + k) - largest); }
    let scale = 1.0 / sum;
    for (var k = 0u; k < p.c; k++) { out_put(first + k, exp(x_at(first + k) - largest) * scale); }
}
