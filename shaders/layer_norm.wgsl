// Layer norm, TEAM threads on ROWS rows at a time, which they keep in registers as SLOTS values each; with SLOTS = 0 one
// thread reads its rows twice. Values: W (4: vectors, 1: scalars) ROWS SLOTS TEAM WG.
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
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
    // From the row's first value: a mean far above the spread keeps its digits.
    let shift{{ r }} = x_at(row{{ r }} * {{ W }}u * p.columns);
    var sum{{ r }} = {{ V }}(0.0);
    var squares{{ r }} = {{ V }}(0.0);
    //% if SLOTS > 0
    //% for s in range(SLOTS)
    var v{{ r }}_{{ s }} = {{ V }}(0.0);
    {{ bound(s) }} { v{{ r }}_{{ s }} = x{{ at }}(first{{ r }} + {{ s * TEAM }}u) - shift{{ r }}; }
    sum{{ r }} += v{{ r }}_{{ s }};
    //% endfor
    let mean{{ r }} = team_sum(lane, {{ total("sum" ~ r) }}) / p.count;
    //% for s in range(SLOTS)
    {{ bound(s) }} {
        v{{ r }}_{{ s }} -= mean{{ r }};
        squares{{ r }} += v{{ r }}_{{ s }} * v{{ r }}_{{ s }};
    }
    //% endfor
    //% else
    {
        // Welford 1962, in each column of the vectors.
        var mean = {{ V }}(0.0);
        for (var c = 0u; c < p.columns; c++) {
            let v = x{{ at }}(first{{ r }} + c) - shift{{ r }};
            let d = v - mean;
            mean += d * (1.0 / f32(c + 1u));
            squares{{ r }} += d * (v - mean);
        }
        sum{{ r }} = mean;
    }
    let mean{{ r }} = {{ total("sum" ~ r) }} / {{ W }}.0;
    squares{{ r }} += f32(p.columns) * (sum{{ r }} - mean{{ r }}) * (sum{{ r }} - mean{{ r }});
    //% endif
    let rstd{{ r }} = inverseSqrt(team_sum(lane, {{ total("squares" ~ r) }}) / p.count + p.eps);
    if start == 0u { stats_put4(row{{ r }}, vec4<f32>(shift{{ r }}, mean{{ r }}, rstd{{ r }}, 0.0)); }
    //% endfor
    //% if SLOTS > 0
    //% for s in range(SLOTS)
    {{ bound(s) }} {
        let gamma = gamma{{ at }}(start + {{ s * TEAM }}u);
        let beta = beta{{ at }}(start + {{ s * TEAM }}u);
        //% for r in range(ROWS)
        y{{ put }}(first{{ r }} + {{ s * TEAM }}u, v{{ r }}_{{ s }} * rstd{{ r }} * gamma + beta);
        //% endfor
    }
    //% endfor
    //% else
    for (var c = 0u; c < p.columns; c++) {
        let gamma = gamma{{ at }}(c);
        let beta = beta{{ at }}(c);
        //% for r in range(ROWS)
        y{{ put }}(
            first{{ r }} + c,
            (x{{ at }}(first{{ r }} + c) - shift{{ r }} - mean{{ r }}) * rstd{{ r }} * gamma + beta,
        );
        //% endfor
    }
    //% endif
}
