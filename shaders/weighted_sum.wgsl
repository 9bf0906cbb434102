// out = alpha * a (+ beta * b), four elements a thread. Values: two.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.vectors { return; }
    var sum = p.alpha * a_at4(i);
    //% if two
    sum += p.beta * b_at4(i);
    //% endif
    out_put4(i, sum);
}
