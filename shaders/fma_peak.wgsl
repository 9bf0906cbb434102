// Independent multiply-add chains in registers. Values: CHAINS.
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i >= p.count { return; }
    let x = x_at(i);
    //% for c in range(CHAINS)
    var v{{ c }} = {{ c }}.0;
    //% endfor
    for (var round = 0u; round < p.rounds; round++) {
        //% for c in range(CHAINS)
        v{{ c }} = fma(v{{ c }}, 0.5, x);
        //% endfor
    }
    var sum = 0.0;
    //% for c in range(CHAINS)
    sum += v{{ c }};
    //% endfor
    out_put(i, sum);
}
