// Gradients of layer norm. x: TEAM threads a row. params: a thread takes one column, or four, of a block of rows and
// sums dout and dout * xhat. Values: stage W TEAM.
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% if stage == "x"
//% include "lib/team.wgsl"
//% macro total(v)
{{ "dot(" ~ v ~ ", vec4<f32>(1.0))" if W == 4 else v }}
//% endmacro
@compute @workgroup_size({{ TEAM if TEAM > 1 else 32 }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = team(w, nw, lane);
    if row >= p.rows { return; }
    let first = row * p.columns;
    let start = team_lane(lane);
    let s = stats_at4(row);
    var sum1 = {{ V }}(0.0);
    var sum2 = {{ V }}(0.0);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        let g = dout{{ at }}(first + c) * gamma{{ at }}(c);
        sum1 += g;
        sum2 += g * (x{{ at }}(first + c) - s.x - s.y);
    }
    let mean1 = team_sum(lane, {{ total("sum1") }}) / p.count;
    let mean2 = team_sum(lane, {{ total("sum2") }}) * s.z / p.count;
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        let xhat = (x{{ at }}(first + c) - s.x - s.y) * s.z;
        dx{{ put }}(first + c, s.z * (dout{{ at }}(first + c) * gamma{{ at }}(c) - mean1 - xhat * mean2));
    }
}
//% else
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i >= p.blocks * p.columns { return; }
    let block = i / p.columns;
    let column = i - block * p.columns;
    var sum1 = {{ V }}(0.0);
    var sum2 = {{ V }}(0.0);
    for (var row = block * p.block; row < min((block + 1u) * p.block, p.rows); row++) {
        let s = stats_at4(row);
        let d = dout{{ at }}(row * p.columns + column);
        sum1 += d;
        sum2 += d * ((x{{ at }}(row * p.columns + column) - s.x - s.y) * s.z);
    }
    d{{ put }}(i, sum1);
    d_xhat{{ put }}(i, sum2);
}
//% endif
