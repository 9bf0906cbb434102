// Gradients of layer norm. x: TEAM threads on ROWS rows at a time, in registers as in the forward unless SLOTS = 0.
// params: a thread takes one column, or four, of a block of rows and sums dout and dout * xhat.
// Values: stage W ROWS SLOTS TEAM WG.
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% if stage == "x"
//% include "lib/team.wgsl"
//% macro total(v)
{{ "dot(" ~ v ~ ", vec4<f32>(1.0))" if W == 4 else v }}
//% endmacro
//% macro bound(s)
{{ "if start + " ~ s * TEAM ~ "u < p.columns" if TEAM > 1 }}
//% endmacro
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = team(w, nw, lane) * {{ ROWS }}u;
    if row0 >= p.rows { return; }
    let start = team_lane(lane);
    //% for r in range(ROWS)
    //% if r > 0
    let row{{ r }} = min(row0 + {{ r }}u, p.rows - 1u);
    //% endif
    let first{{ r }} = row{{ r }} * p.columns + start;
    let stats{{ r }} = stats_at4(row{{ r }});
    var g_sum{{ r }} = {{ V }}(0.0);
    var gx_sum{{ r }} = {{ V }}(0.0);
    //% endfor
    //% if SLOTS > 0
    //% for s in range(SLOTS)
    //% for r in range(ROWS)
    var g{{ r }}_{{ s }} = {{ V }}(0.0);
    var xhat{{ r }}_{{ s }} = {{ V }}(0.0);
    //% endfor
    {{ bound(s) }} {
        let gamma = gamma{{ at }}(start + {{ s * TEAM }}u);
        //% for r in range(ROWS)
        g{{ r }}_{{ s }} = dout{{ at }}(first{{ r }} + {{ s * TEAM }}u) * gamma;
        xhat{{ r }}_{{ s }} = (x{{ at }}(first{{ r }} + {{ s * TEAM }}u) - stats{{ r }}.x - stats{{ r }}.y) * stats{{ r }}.z;
        g_sum{{ r }} += g{{ r }}_{{ s }};
        gx_sum{{ r }} += g{{ r }}_{{ s }} * xhat{{ r }}_{{ s }};
        //% endfor
    }
    //% endfor
    //% else
    for (var c = 0u; c < p.columns; c++) {
        let gamma = gamma{{ at }}(c);
        //% for r in range(ROWS)
        let g{{ r }} = dout{{ at }}(first{{ r }} + c) * gamma;
        g_sum{{ r }} += g{{ r }};
        gx_sum{{ r }} += g{{ r }} * ((x{{ at }}(first{{ r }} + c) - stats{{ r }}.x - stats{{ r }}.y) * stats{{ r }}.z);
        //% endfor
    }
    //% endif
    //% for r in range(ROWS)
    let mean_g{{ r }} = team_sum(lane, {{ total("g_sum" ~ r) }}) / p.count;
    let mean_gx{{ r }} = team_sum(lane, {{ total("gx_sum" ~ r) }}) / p.count;
    //% endfor
    //% if SLOTS > 0
    //% for s in range(SLOTS)
    {{ bound(s) }} {
        //% for r in range(ROWS)
        dx{{ put }}(
            first{{ r }} + {{ s * TEAM }}u,
            stats{{ r }}.z * (g{{ r }}_{{ s }} - mean_g{{ r }} - xhat{{ r }}_{{ s }} * mean_gx{{ r }}),
        );
        //% endfor
    }
    //% endfor
    //% else
    for (var c = 0u; c < p.columns; c++) {
        let gamma = gamma{{ at }}(c);
        //% for r in range(ROWS)
        let xhat{{ r }} = (x{{ at }}(first{{ r }} + c) - stats{{ r }}.x - stats{{ r }}.y) * stats{{ r }}.z;
        dx{{ put }}(
            first{{ r }} + c,
            stats{{ r }}.z * (dout{{ at }}(first{{ r }} + c) * gamma - mean_g{{ r }} - xhat{{ r }} * mean_gx{{ r }}),
        );
        //% endfor
    }
    //% endif
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
