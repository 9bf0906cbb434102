// Gradients of group norm, a thread as in the forward: one column, or four, of a block of rows.
// sums: of dz, the gradient by the affine result, and of dz * xhat, column by column.
// join: those of a group, weighted by gamma, become the means of the gradient by xhat and of it times xhat,
// put behind the group's statistics.
// apply: the gradient by x and x2. Values: stage W x2 silu TEAM WG.
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% set STRIDE = 2 if stage == "apply" else 1
//% include "lib/group_norm.wgsl"
//% if stage == "join"
//% include "lib/team.wgsl"
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = team(w, nw, lane);
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let column = (i - sample * p.groups) * p.per;
    let first = sample * p.blocks * p.channels + column;
    var s1 = 0.0;
    var s2 = 0.0;
    for (var e = team_lane(lane); e < p.blocks * p.per; e += {{ TEAM }}u) {
        let block = e / p.per;
        let c = e - block * p.per;
        let at = first + block * p.channels + c;
        let gamma = gamma_at(column + c);
        s1 += gamma * dz_at(at);
        s2 += gamma * dz_xhat_at(at);
    }
    s1 = team_sum(lane, s1);
    s2 = team_sum(lane, s2);
    if team_lane(lane) > 0u { return; }
    let total = f32(p.rows * p.per);
    with_means_put4(2u * i, stats_at4(i));
    with_means_put4(2u * i + 1u, vec4<f32>(s1 / total, s2 / total, 0.0, 0.0));
}
//% else
//% macro walk(x, dx, row_width, column)
{
    //% if stage == "sums"
    var s1 = {{ V }}(0.0);
    var s2 = {{ V }}(0.0);
    //% endif
    for (var row = first; row < last; row++) {
        let xhat = ({{ x }}{{ at }}(row * {{ row_width }} + {{ column }}) - c.shift - c.mean) * c.rstd;
        //% if silu
        let z = xhat * c.gamma + c.beta;
        let s = 1.0 / (1.0 + exp(-z));
        let dz = dout{{ at }}(row * p.columns + column) * (s + z * s * (1.0 - s));
        //% else
        let dz = dout{{ at }}(row * p.columns + column);
        //% endif
        //% if stage == "sums"
        s1 += dz;
        s2 += dz * xhat;
        //% else
        {{ dx }}{{ put }}(row * {{ row_width }} + {{ column }}, c.rstd * (c.gamma * dz - mean1 - xhat * mean2));
        //% endif
    }
    //% if stage == "sums"
    dz{{ put }}(i, s1);
    dz_xhat{{ put }}(i, s2);
    //% endif
}
//% endmacro
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i >= p.samples * p.blocks * p.columns { return; }
    let piece = i / p.columns;
    let column = i - piece * p.columns;
    let sample = piece / p.blocks;
    let first = sample * p.rows + (piece - sample * p.blocks) * p.block;
    let last = min(first + p.block, (sample + 1u) * p.rows);
    let c = constants(sample, column);
    //% if stage == "apply"
    //% if W == 4
    var mean1: vec4<f32>;
    var mean2: vec4<f32>;
    //% for k in range(4)
    let m{{ k }} = stats_at4(2u * (sample * p.groups + (4u * column + {{ k }}u) / p.per) + 1u);
    mean1[{{ k }}] = m{{ k }}.x;
    mean2[{{ k }}] = m{{ k }}.y;
    //% endfor
    //% else
    let m = stats_at4(2u * (sample * p.groups + column / p.per) + 1u);
    let mean1 = m.x;
    let mean2 = m.y;
    //% endif
    //% endif
    //% if x2
    if column >= p.columns1 {
        {{ walk("x2", "dx2", "p.columns2", "column - p.columns1") }}
        return;
    }
    //% endif
    {{ walk("x", "dx", "p.columns1", "column") }}
}
//% endif
