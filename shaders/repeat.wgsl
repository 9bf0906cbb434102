// Each row of x `times` times, or with `backward` the sum of each run of `times` rows. One element a thread.
// Values: backward.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let r = i / p.row;
    let c = i - r * p.row;
    //% if backward
    var sum = 0.0;
    for (var k = 0u; k < p.times; k++) { sum += x_at((r * p.times + k) * p.row + c); }
    out_put(i, sum);
    //% else
    out_put(i, x_at(r / p.times * p.row + c));
    //% endif
}
