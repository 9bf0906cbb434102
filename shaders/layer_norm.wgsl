// Layer norm, TEAM threads a row. Values: W (4: vectors, 1: scalars) TEAM.
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
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
    // From the row's first value: a mean far above the spread keeps its digits.
    let shift = x_at(row * {{ W }}u * p.columns);
    var sum = {{ V }}(0.0);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) { sum += x{{ at }}(first + c) - shift; }
    let mean = team_sum(lane, {{ total("sum") }}) / p.count;
    var squares = {{ V }}(0.0);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        let d = x{{ at }}(first + c) - shift - mean;
        squares += d * d;
    }
    let rstd = inverseSqrt(team_sum(lane, {{ total("squares") }}) / p.count + p.eps);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        y{{ put }}(first + c, (x{{ at }}(first + c) - shift - mean) * rstd * gamma{{ at }}(c) + beta{{ at }}(c));
    }
    if start == 0u { stats_put4(row, vec4<f32>(shift, mean, rstd, 0.0)); }
}
