// Partial sums of a * b: a workgroup adds the elements of its lanes' strided walk. A second dispatch, without b, adds
// the partial sums. Values: two.
var<workgroup> part: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_workgroup(w, n);
    var sum = 0.0;
    for (var i = group * 64u + lane; i < p.count; i += p.stride) {
        //% if two
        sum += a_at(i) * b_at(i);
        //% else
        sum += a_at(i);
        //% endif
    }
    part[lane] = sum;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if lane < half { part[lane] += part[lane + half]; }
        workgroupBarrier();
    }
    if lane == 0u { out_put(group, part[0]); }
}
